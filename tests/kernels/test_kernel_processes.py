"""What needs processes of its own.

interpreted.py: every Triton kernel on CPU tensors. parallel_worker.py: sharded
weights in 2 and 4 gloo processes against one.
"""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch
from packaging.version import Version

distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no distributed")


def why_not() -> str | None:
    """Why Triton's interpreter cannot run here, if it cannot."""
    try:
        triton, numpy = Version(version("triton")), Version(version("numpy"))
    except PackageNotFoundError:
        return "Triton is not installed"
    if triton < Version("3.7") and numpy >= Version("2.4"):  # int() of an array, which NumPy 2.4 refuses
        return f"the interpreter of Triton {triton} fails with NumPy {numpy}; NumPy 2.3 works"
    return None


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_kernels_in_the_interpreter():
    """Triton reads TRITON_INTERPRET once, when it is imported."""
    cases = Path(__file__).with_name("interpreted.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]


@distributed
@pytest.mark.parametrize("world", [2, 4])
def test_processes_agree_with_one(world, tmp_path):
    worker = Path(__file__).with_name("parallel_worker.py")
    lines = [[sys.executable, str(worker), str(rank), str(world), str(tmp_path / "meet")]
             for rank in range(world)]
    running = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for line in lines]
    errors = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0] * world, "\n".join(errors)[-4000:]
