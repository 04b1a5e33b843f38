"""Ahead of time for a GPU that is not here: the tensor-core kernels, without a spill.

All kernels and targets are `python -m benchmarks.compile_report`, which takes a minute or two.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("kernel", ["_tile_logits", "_tile_grad_hidden"])
def test_tensor_core_kernels_compile_for_hopper(kernel):
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.compile_report", "--target", "sm_90",
         "--kernel", kernel],
        cwd=root, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": f"{root / 'kernels'}:{root}"},
    )
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert kernel in run.stdout
