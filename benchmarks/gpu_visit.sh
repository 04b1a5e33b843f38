#!/usr/bin/env bash
# A visit to a machine with a GPU, in stages that each fit a call of ten minutes:
#   benchmarks/gpu_visit.sh correct speed        # the first call
#   benchmarks/gpu_visit.sh sanitize
#   benchmarks/gpu_visit.sh tune
#   benchmarks/gpu_visit.sh whole_step           # needs trl
#   MODEL=HuggingFaceTB/SmolLM2-135M-Instruct benchmarks/gpu_visit.sh real
# Every command has its own limit, and writes its result when it ends: a later failure or a stop
# loses nothing. Results lie under benchmarks/results/ and, where OUT is set, packed there as one file.
# Liger is among the rivals where liger-kernel is installed.
# Without stages: all of them. DRY=16 (a hidden size) shows that the commands run: tiny shapes, on the CPU.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=0

if [ -n "${DRY:-}" ]; then
    device="--device cpu"; shape="--n 40 --v 300 --k 8"; dtype="--dtype float32"
    repeats="--repeats 1"
    tiles="--device cpu --dtype float16 --n 64 --d 16 --v 200 --k 6 --repeats 1 --limit 1"
    report="--quick --target sm_90 --kernel _tile_logits"
    job="--model random-llama-tiny --rows 2 --max_completion_length 4 --top_k 8"
    RESULTS_DIR=$(mktemp -d)
else
    device="--device cuda"; shape="--n 8192 --v 128256"; dtype="--dtype bfloat16"
    repeats="--repeats 20"
    tiles=""; report="--quick"
    job="--model random-llama-3b --rows 16 --max_completion_length 256 --steps 8"
fi
export RESULTS_DIR=${RESULTS_DIR:-$PWD/benchmarks/results}

# step SECONDS COMMAND...: at most so long, and on with the next whatever comes of it
step() {
    local limit=$1; shift
    printf '\n== %s\n' "$*"
    timeout --kill-after=5 "$limit" "$@" || { echo "!! failed ($?): $*"; failed=1; }
    if [ -n "${OUT:-}" ]; then tar -czf "$OUT/results.tgz" -C "$RESULTS_DIR" .; fi
}

correct() {  # about 4 minutes
    command -v nvidia-smi > /dev/null && step 20 nvidia-smi
    step 200 python3 -m pytest tests/kernels/test_kernel_gpu.py
    step 200 python3 -m benchmarks.compile_report $report --json "$RESULTS_DIR/compile-report-gpu.json"
}

speed() {  # about 5 minutes: DESIGN's shapes against the GEMM, dense, compiled dense and Liger
    for d in 3072 4096; do
        step 150 python3 -m benchmarks.head $device $shape $dtype --d "${DRY:-$d}" $repeats
    done
}

real() {  # about 5 minutes: the same on the ids of real text, where MODEL is given; TEXT: other rows
    [ -n "${MODEL:-}" ] || { echo "!! real needs MODEL: skipped"; return; }
    for d in 3072 4096; do
        step 200 python3 -m benchmarks.head $device $shape $dtype --d "$d" $repeats \
            --model "$MODEL" ${TEXT:+--text "$TEXT"} --enlarge
    done
}

sanitize() {  # at most 9 minutes
    command -v compute-sanitizer > /dev/null || { echo "!! no compute-sanitizer: skipped"; return; }
    for tool in memcheck racecheck synccheck initcheck; do
        step 130 compute-sanitizer --tool "$tool" --error-exitcode 1 \
            python3 -m pytest tests/kernels/test_kernel_gpu.py -k small
    done
}

tune() { step 400 env ${DRY:+TRITON_INTERPRET=1} python3 -m benchmarks.tune_tiles $tiles; }

whole_step() { step 560 python3 -m benchmarks.step $device $job; }  # a 3B model against TRL's trainers

stages=("$@")
[ ${#stages[@]} -gt 0 ] || stages=(correct speed real sanitize tune whole_step)
for stage in "${stages[@]}"; do
    case $stage in
        correct | speed | real | sanitize | tune | whole_step) "$stage" ;;
        *) echo "error: no stage '$stage'; there are correct speed real sanitize tune whole_step"; exit 2 ;;
    esac
done
exit "$failed"
