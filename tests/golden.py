"""What a tiny run leaves and says. `python tests/golden.py RUN` writes it down again, from a finished run of
test_end_to_end.py: on purpose, and with a line in the CHANGELOG."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

FILE = Path(__file__).with_suffix(".json")
ENTRIES = ("train", "refine", "evaluate", "paraphrase")
NOT_REPEATED = re.compile(".*(seconds?|gap|bytes)")  # times, memory, and what is rounding alone


def facts(run: Path) -> dict:
    """Names, keys, types and the metrics of a finished run."""
    files = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "files": files,
        "columns": {name: {field.name: str(field.type) for field in pq.read_schema(run / name)}
                    for name in files if name.endswith(".parquet")},
        "keys": {name: sorted(json.loads((run / name).read_text().partition("\n")[0] if name.endswith("l")
                                         else (run / name).read_text()))
                 for name in ("evaluation.json", "generations.jsonl", "inputs.json", "metrics.jsonl",
                              "refine/decisions.jsonl", "refine/summary.json", "rejected.jsonl")},
        "metrics": [{key: value for key, value in step.items() if not NOT_REPEATED.fullmatch(key)}
                    for step in metrics],
        "options": {entry: options(entry) for entry in ENTRIES},
    }


def options(entry: str) -> list[str]:
    """The options that --help names."""
    said = subprocess.run([sys.executable, "-m", f"raft_fast.{entry}", "--help"], check=True, text=True,
                          capture_output=True, cwd=FILE.parents[1]).stdout
    return sorted(set(re.findall(r"^  (?:-\w, )?(--\w+)", said, re.MULTILINE)))


def documented(name: str) -> set[str]:
    """The keys that docs/FILES.md gives a file of stage 2: code in the first column of its table."""
    section = (FILE.parents[1] / "docs/FILES.md").read_text().split("## What stage 2 writes\n")[1]
    table = re.split(r"^##", section.split(f"### {name}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    keys = [key for line in table.splitlines() if line.startswith("| `")
            for key in re.findall(r"`([^`]+)`", line.split("|")[1])]
    assert len(keys) == len(set(keys))
    return set(keys)


if __name__ == "__main__":
    FILE.write_text(json.dumps(facts(Path(sys.argv[1])), indent=1, ensure_ascii=False) + "\n")
