"""Freed memory comes back without the system having to map it again."""

import ctypes
import inspect
import mmap
import subprocess
import sys

import pytest

from raft_fast.distillation import heap

SIZE, ROUNDS = 1 << 26, 8
PAGES = f"""
if keep:
    keep_freed_memory()
import resource
b"x" * {SIZE}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    b"x" * {SIZE}  # freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_a_large_block_made_again_touches_no_new_page():
    kept, plain = (int(subprocess.run(
        [sys.executable, "-c", f"{inspect.getsource(heap)}\nkeep = {keep}\n{PAGES}"],
        check=True, capture_output=True, text=True).stdout) for keep in (True, False))
    assert plain >= ROUNDS * SIZE / mmap.PAGESIZE
    assert kept < plain / 10
