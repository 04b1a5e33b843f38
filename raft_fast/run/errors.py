"""Errors of a user as one line, and signals: how a command ends."""

import errno
import functools
import importlib.util
import os
import re
import signal
import sys
import threading
from collections.abc import Callable

from raft_fast.run.terminal import masked, visible

EXIT_BAD_INPUT = 2
EXIT_SIGNAL = 128  # and the signal's number: 130 for Ctrl-C, 143 for SIGTERM
GO_ON = "run the same command again to go on"
WORKER = "raft-fast worker"  # the name of threads that may be inside an engine when the program ends


class UserError(Exception):
    """Bad input. The message is one line that names the file, line, key or argument and what to do."""


class Stopped(BaseException):
    """A signal ended the program; `done` says what was kept. Not to be caught, like KeyboardInterrupt."""

    def __init__(self, signum: int, done: str = "finished work is on disk") -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}: {done}; {GO_ON}")
        self.exit_code = EXIT_SIGNAL + signum


def entry(main: Callable[[], None]) -> Callable[[], None]:
    """Turn errors that a user can fix into one line on stderr and an exit code; bugs keep their traceback."""

    def terminated(signum: int, frame: object) -> None:
        raise Stopped(signum)

    @functools.wraps(main)
    def run() -> None:
        # read when torch loads OpenMP: waiting threads that spin take the core from those that work
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        before = signal.signal(signal.SIGTERM, terminated)
        try:
            main()
        except Stopped as stopped:
            _stop(str(stopped), stopped.exit_code)
        except KeyboardInterrupt:
            _stop(f"interrupted: finished work is on disk; {GO_ON}", EXIT_SIGNAL + signal.SIGINT)
        except UserError as error:
            _stop(f"error: {' '.join(str(error).split())}", EXIT_BAD_INPUT)
        except Exception as error:
            if (reason := _disk_trouble(error)) is None:
                raise
            _stop(f"error: {reason}: make room or choose another --output_dir, then run the same "
                  "command again (finished work is kept)", EXIT_BAD_INPUT)
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


def _disk_trouble(error: Exception) -> str | None:
    """The system's message and the path for a full or unwritable disk; None for anything else."""
    code, where = getattr(error, "errno", None), getattr(error, "filename", None)
    if told := re.search(r"\(os error (\d+)\)", str(error)):  # how safetensors passes it on
        code = int(told[1])
    if code not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return None
    return os.strerror(code) + (f" at {where}" if where else "")


def _stop(line: str, code: int) -> None:
    print(visible(masked(line)), file=sys.stderr, flush=True)
    if any(thread.name.startswith(WORKER) for thread in threading.enumerate()):
        # the interpreter would abort under a thread that is inside a model
        sys.stdout.flush()
        os._exit(code)
    raise SystemExit(code)


def first_line(error: Exception) -> str:
    """The first line of a library's error without credentials, or its type if it says nothing."""
    return masked(next(iter(str(error).strip().splitlines()), "") or type(error).__name__)


def require(module: str, extra: str) -> None:
    """Raises UserError with the install line if an optional package is missing."""
    if importlib.util.find_spec(module) is None:
        raise UserError(f"{module} is needed for this: pip install -c constraints.txt -e '.[{extra}]'")
