"""2 and 4 gloo processes against one: vocabulary-parallel heads and sharded weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
@pytest.mark.parametrize("world", [2, 4])
def test_processes_agree_with_one(world, tmp_path):
    worker = Path(__file__).with_name("parallel_worker.py")
    lines = [[sys.executable, str(worker), str(rank), str(world), str(tmp_path / "meet")]
             for rank in range(world)]
    running = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for line in lines]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * world, "\n".join(errors)[-4000:]
