"""What the benchmarks share: time percentiles, extra memory, processes of their own, tables, and JSON results
with the command and the machine they came from."""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

# Freed blocks go back to the system at once, so that resident memory shows every allocation.
HONEST_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "0"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Stages = tuple[Callable[..., Any], ...]


def parser(doc: str | None, **integers: int) -> argparse.ArgumentParser:
    """A command line described by its module's docstring, with one option for each of `integers`."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in integers.items():
        made.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    return made


def in_turns(cases: dict[str, Stages], repeats: int, device: str) -> dict[str, list[dict[str, float]]]:
    """Milliseconds at 20, 50 and 80 % of each case's stages and, last, of their sum.

    A case is a chain: each stage gets what the one before returned. The cases take turns within
    every round, so that a neighbour's load falls on all of them; the first round only warms up.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(repeats + 1):
        for name, stages in cases.items():
            given: tuple[Any, ...] = ()
            spent = []
            for stage in stages:
                _wait(device)
                start = time.perf_counter()
                given = (stage(*given),)
                _wait(device)
                spent.append((time.perf_counter() - start) * 1e3)
            del given
            times[name].append([*spent, sum(spent)])
    return {name: [_percentiles(column) for column in zip(*rounds[1:], strict=True)]
            for name, rounds in times.items()}


def _percentiles(times: tuple[float, ...]) -> dict[str, float]:
    ordered = torch.tensor(times, dtype=torch.float64)
    return {f"ms_p{p}": round(float(ordered.quantile(p / 100)), 3) for p in (20, 50, 80)}


def extra_memory(run: Callable[[], Any], device: str) -> int:
    """Peak bytes above what was held at the start, results included."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        out = run()
        torch.cuda.synchronize()
        del out
        return int(torch.cuda.max_memory_allocated() - before)
    peak, stop = [_resident()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.0005):
            peak[0] = max(peak[0], _resident())

    before = peak[0]
    watcher = threading.Thread(target=watch)
    watcher.start()
    out = run()
    stop.set()
    watcher.join()
    del out
    return peak[0] - before


def apart(module: str, *words: str, **environment: str) -> Any:
    """What `python -m benchmarks.MODULE WORDS` prints last, as JSON, from a process of its own, whose errors
    and progress are shown. Raises SystemExit where it fails."""
    line = [sys.executable, "-m", f"benchmarks.{module}", *words]
    done = subprocess.run(line, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(line[1:])} failed ({done.returncode})")
    return json.loads(done.stdout.splitlines()[-1])


def record(name: str, device: str, found: dict[str, Any], case: str | None = None,
           folder: Path | None = None) -> Path:
    """Write `found` with its command and machine to NAME.json in `folder` (default: the machine's own), as a
    `case` beside the file's others where one is given. Prints and returns the path."""
    path = (folder or results_folder(device)) / f"{name}.json"
    about = {"command": command(), "machine": machine(device), "load": os.getloadavg()[0], **found}
    if case is not None:
        about = (json.loads(path.read_text()) if path.is_file() else {}) | {case: about}
    path.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(f"written to {os.path.relpath(path)}", flush=True)
    return path


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], width: int = 150) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=width).print(table)


def machine(device: str) -> dict[str, Any]:
    """What a figure depends on."""
    about: dict[str, Any] = {
        "cpu": _cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__,
        "python": platform.python_version(), "commit": _commit(),
    }
    try:
        import triton

        about["triton"] = triton.__version__
    except ImportError:
        about["triton"] = None
    if device == "cuda":
        about |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    return about


def results_root() -> Path:
    """benchmarks/results/, or RESULTS_DIR where set."""
    return Path(os.environ.get("RESULTS_DIR", Path(__file__).parent / "results"))


def results_folder(device: str) -> Path:
    """benchmarks/results/<machine>/ (RESULTS_DIR/<machine>/ where set), named after the GPU or the CPU."""
    name = torch.cuda.get_device_name() if device == "cuda" else \
        f"{_cpu_name()} {torch.get_num_threads()} threads"
    slug = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    folder = results_root() / slug
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def command() -> str:
    """The command line, as someone else would type it."""
    script = Path(sys.argv[0])
    module = script.parent.name if script.stem == "__main__" else script.stem
    return f"python -m benchmarks.{module} {' '.join(sys.argv[1:])}".strip()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    try:
        return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True,
                              text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
