"""2 and 4 gloo processes against one: vocabulary-parallel heads and sharded weights."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
@pytest.mark.parametrize(("world", "backend"), [(2, "torch"), (4, "torch"), (2, "triton")])
def test_processes_agree_with_one(world, backend, tmp_path):
    if backend == "triton" and find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    worker = Path(__file__).with_name("parallel_worker.py")
    lines = [[sys.executable, str(worker), str(rank), str(world), str(tmp_path / "meet"), backend]
             for rank in range(world)]
    environment = os.environ | {"TRITON_INTERPRET": "1" if backend == "triton" else "0"}
    running = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment)
               for line in lines]
    errors = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0] * world, "\n".join(errors)[-4000:]
