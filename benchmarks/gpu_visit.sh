#!/usr/bin/env bash
# One whole visit to a machine with a GPU: tests, sanitizer, benchmarks, tile choice, results.
#   MODEL=HuggingFaceTB/SmolLM2-135M-Instruct TEXT=faq.jsonl benchmarks/gpu_visit.sh
# Run from the root of the repository with raft-fast[test] installed. Without MODEL, random ids only.
set -uo pipefail
failed=0
step() { echo "== $*"; "$@" || { echo "!! failed: $*"; failed=1; }; }

step nvidia-smi
step python -m benchmarks.compile_report
step python -m pytest tests/kernels -q
if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck; do
        step compute-sanitizer --tool "$tool" --error-exitcode 1 \
            python -m pytest tests/kernels/test_kernel_gpu.py -q -k small
    done
else
    echo "!! compute-sanitizer is not installed: skipped"
fi
for d in 3072 4096; do
    step python -m benchmarks.head --device cuda --n 8192 --d "$d" --v 128256 --dtype bfloat16 \
        --repeats 20
    if [ -n "${MODEL:-}" ]; then
        step python -m benchmarks.head --device cuda --n 8192 --d "$d" --v 128256 --dtype bfloat16 \
            --repeats 20 --model "$MODEL" --text "$TEXT" --enlarge
    fi
done
step python -m benchmarks.tune_tiles
step python -m benchmarks.scaling --device cuda --d 4096 --dtype bfloat16 --scale 8
exit "$failed"
