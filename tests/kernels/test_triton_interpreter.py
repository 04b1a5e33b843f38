"""Every Triton kernel on CPU tensors, in a process of its own.

Triton reads TRITON_INTERPRET once, when it is imported; what runs there is interpreted.py.
"""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.version import Version


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
    cases = Path(__file__).with_name("interpreted.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
