"""What docs/FILES.md says that files of a run hold."""

import re
from pathlib import Path

FILES = Path(__file__).parents[1] / "docs/FILES.md"


def documented(name):
    """The keys of a file of stage 2: what stands in code in the first column of its table."""
    section = FILES.read_text().split("## What stage 2 writes\n")[1].split(f"### {name}\n")[1]
    table = re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]
    keys = [key for line in table.splitlines() if line.startswith("| `")
            for key in re.findall(r"`([^`]+)`", line.split("|")[1])]
    assert len(keys) == len(set(keys))
    return set(keys)
