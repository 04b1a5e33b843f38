"""What needs processes of its own.

interpreted.py: every Triton kernel on CPU tensors. parallel_worker.py: sharded
weights in 2 and 4 gloo processes against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def test_kernels_in_the_interpreter():
    """Triton reads TRITON_INTERPRET once, when it is imported."""
    pytest.importorskip("triton", reason="Triton is not installed")
    cases = Path(__file__).with_name("interpreted.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
@pytest.mark.parametrize("world", [2, 4])
def test_processes_agree_with_one(world, tmp_path):
    worker = Path(__file__).with_name("parallel_worker.py")
    lines = [[sys.executable, str(worker), str(rank), str(world), str(tmp_path / "meet")]
             for rank in range(world)]
    running = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for line in lines]
    errors = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0] * world, "\n".join(errors)[-4000:]
