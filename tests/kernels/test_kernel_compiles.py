"""Ahead of time for GPUs that are not here: what is compiled, and what is called wrong.

All kernels and targets: `python -m benchmarks.compile_report`, for minutes; CI runs it with `--quick`."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks import launches
from benchmarks.compile_report import complaints, narrow_offsets

ROOT = Path(__file__).parents[2]


def test_tensor_core_kernels_compile_for_hopper():
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.compile_report", "--target", "sm_90", "--quick",
         "--kernel", "_tile_grad_hidden", "--jobs", "1"],
        cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'kernels'}:{ROOT}"},
    )
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert "HGMMA" in run.stdout


def test_the_committed_report_is_green_and_what_is_wrong_would_be_in_it():
    report = json.loads((ROOT / "benchmarks/results/compile-report.json").read_text())
    assert report["wrong"] == [c for row in report["rows"] for c in complaints(row)] == []
    good = report["rows"][0] | {"spills": 0}
    assert complaints(good | {"stack": 8}) == []  # bytes that nothing touches
    for change, complaint in (
            ({"spills": 3, "stack": 8}, "3 loads or stores of spilled registers, 8 bytes of stack"),
            ({"tensor_core": "HGMMA missing"}, "HGMMA missing"),
            ({"narrow_offsets": ["%a * %b"]}, "offset in 32 bits: %a")):
        (found,) = complaints(good | change)
        assert complaint in found


NARROW = """
import triton, triton.language as tl

@triton.jit
def kernel(pointer, stride, n, WIDE: tl.constexpr):
    row = tl.program_id(0)
    if WIDE:
        row = row.to(tl.int64)
    i = tl.program_id(1) * 64 + tl.arange(0, 64)
    tl.store(pointer + row * stride + i, 1.0, mask=i < n)"""


@pytest.mark.parametrize("wide", [True, False])
def test_a_product_of_offsets_in_32_bits_is_seen(tmp_path, wide, monkeypatch):
    """The offset of row 2^16 of 2^16 numbers: 0 in 32 bits."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    (tmp_path / "narrow_kernel.py").write_text(NARROW)
    monkeypatch.syspath_prepend(tmp_path)
    kernel = importlib.import_module("narrow_kernel").kernel
    sys.modules.pop("narrow_kernel")
    source = ASTSource(fn=kernel, constexprs={"WIDE": wide}, signature={
        "pointer": "*fp32", "stride": "i32", "n": "i32", "WIDE": "constexpr"})
    ttir = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ttir"]
    assert (narrow_offsets(ttir) == []) == wide


def test_every_kernel_and_every_dtype_is_among_the_choices():
    """Each of the launchers' kernels, and for those of the head each dtype and wide strides."""
    seen = {name: [v for v in launches.choices() if v.kernel == name] for name in launches.KERNELS}
    inner = {"_tanh", "_pack", "_unpack", "_keep_k_largest"}  # called by kernels alone
    assert {name for name, variants in seen.items() if not variants} == inner
    for name in ("_logits", "_grad_hidden", "_grad_weight", "_tile_logits", "_tile_grad_hidden"):
        assert {kind for v in seen[name] for _, kind in v.signature} >= {"*bf16", "*fp16", "*fp32", "i64"}
    constants = [dict(v.constants) for v in seen["_filter"]]
    assert {c["CAPACITY"] for c in constants} == {2048, 4096}
    assert {(c["HAS_BIAS"], c["HAS_SOFTCAP"]) for c in constants} == {
        (a, b) for a in (True, False) for b in (True, False)}
    assert {dict(v.constants)["K_PADDED"] for v in seen["_finish"]} >= {2, 8, 32, 64, 512, 2048}
