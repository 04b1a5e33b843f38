"""2 and 4 gloo processes against one: vocabulary-parallel heads and sharded weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_triton_interpreter import why_not


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
@pytest.mark.parametrize(("world", "backend"), [(2, "torch"), (4, "torch"), (2, "triton")])
def test_processes_agree_with_one(world, backend, tmp_path):
    if backend == "triton" and (reason := why_not()):
        pytest.skip(reason)
    worker = Path(__file__).with_name("parallel_worker.py")
    lines = [[sys.executable, str(worker), str(rank), str(world), str(tmp_path / "meet"), backend]
             for rank in range(world)]
    environment = os.environ | {"TRITON_INTERPRET": "1" if backend == "triton" else "0"}
    running = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment)
               for line in lines]
    errors = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0] * world, "\n".join(errors)[-4000:]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed")
def test_on_a_gpu_a_layout_is_read_once(monkeypatch):
    """Reading it waits; a layout that is wrong is read, and refused, every time."""
    from raft_kernels import vocab_parallel

    class Rows:
        shape, device, is_cuda = (20, 8), "cpu", True

    class Group:
        pass

    asked = []
    monkeypatch.setattr(vocab_parallel, "_gathered", lambda own, group: asked.append(own) or own)
    one, other = Group(), Group()
    for _ in range(3):
        vocab_parallel._check_rows(0, Rows(), 16, one)
    assert len(asked) == 1
    vocab_parallel._check_rows(0, Rows(), 16, other)
    vocab_parallel._check_rows(0, Rows(), 17, one)
    assert len(asked) == 3
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^first_row was"):
            vocab_parallel._check_rows(0, Rows(), 21, one)
    assert len(asked) == 5
