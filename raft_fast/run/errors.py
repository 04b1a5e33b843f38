"""Errors of a user as one line, signals, and foreign text: without control characters and credentials."""

import base64
import errno
import functools
import html
import importlib.util
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from urllib.parse import quote, unquote

VISIBLE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160))
           if code not in (9, 10)}
_OF = "(?:api|access|auth|secret|private)"
_NAMES = (f"(?:{_OF}?(?:key|secrets?|passwords?|passwd|passphrase|pwd|token|auth|authorization|sig|signature"
          f"|credentials?|bearer)|{_OF}[_-]?(?:key|token)s)")
SECRET = re.compile(rf"(?:^|[\W_]){_NAMES}$", re.IGNORECASE)
LEAST = 8  # characters of a value that is masked: shorter ones are placeholders (EMPTY), and parts of words
LONG = 16
MASK = "***"
key_variables: set[str] = set()
"""Environment variables that hold a key, whatever they are called."""

_IN_URL = re.compile(rf"(?<=://)[^\s/?#\"'<>]*@|(?<=[?&;])([\w.%-]*{_NAMES}=)[^&;\s\"'<>]+",
                     re.IGNORECASE)


def visible(text: str) -> str:
    """The text with control characters, but tab and newline, replaced by U+FFFD."""
    return text.translate(VISIBLE)


def masked(text: str) -> str:
    """The text with *** for credentials: those in URLs, and the values of environment variables that are
    named like one, or are in `key_variables`; also half of a value, and its usual encodings. Mask before
    truncating: less than half of a value is not recognised."""
    text = _IN_URL.sub(lambda found: f"{found[1]}{MASK}" if found[1] else f"{MASK}@", text)
    values = frozenset(_values())
    return _pattern(values).sub(MASK, text) if values else text


def without_keys(text: str) -> str:
    """A reply with *** for the keys that were sent to servers, if they are long enough not to be words."""
    keys = (os.environ.get(name, "").strip() for name in key_variables)
    values = frozenset(key for key in keys if len(key) >= LONG)
    return _pattern(values).sub(MASK, text) if values else text


def _values() -> Iterator[str]:
    for name, value in os.environ.items():
        value, found = value.strip(), []
        if name.lower().endswith("_proxy"):
            user = unquote(value.rpartition("@")[0].rpartition("://")[2])
            found = [user, user.partition(":")[2]]
        elif name in key_variables or (SECRET.search(name) and name != "PWD" and not os.path.exists(value)):
            found = [value]
        yield from (one for one in found if len(one) >= LEAST)


@functools.lru_cache(4)
def _pattern(values: frozenset[str]) -> re.Pattern[str]:
    forms = {form for value in values for form in _forms(value) if len(form) >= LEAST}
    half = {form: max(LEAST, len(form) // 2) for form in forms}
    heads = "|".join(sorted(re.escape(form[: half[form]]) for form in forms))
    tails = "|".join(sorted(re.escape(form[-half[form] :]) for form in forms))
    return re.compile(rf"(?:{heads})[^\s\"'<>,;&@]*|{tails}", re.IGNORECASE)


def _forms(value: str) -> Iterator[str]:
    """The value as servers echo it: plain, escaped, and inside of base64 at any offset."""
    yield from (value, quote(value, "", errors="surrogateescape"), html.escape(value))
    yield json.dumps(value)[1:-1]
    data = value.encode("utf-8", "surrogateescape")
    for skipped in range(3):
        text = base64.b64encode(bytes(skipped) + data).decode()
        text = text[(0, 2, 3)[skipped] : len(text) - (0, 3, 2)[(skipped + len(data)) % 3]]
        yield from (text, text.translate(str.maketrans("+/", "-_")))


EXIT_BAD_INPUT = 2
EXIT_SIGNAL = 128  # and the signal's number: 130 for Ctrl-C, 143 for SIGTERM
GO_ON = "run the same command again to resume"
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
        # read when torch loads OpenMP: to wake a thread takes as long as a small product, so it spins a while
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ.setdefault("GOMP_SPINCOUNT", "30000")
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
