"""Near-duplicate questions and overlap, as screen.json tells them."""

from pathlib import Path
from typing import Any

from raft_fast.report.stage1.files import read_screen

Section = dict[str, Any]
SHOWN = 50
MEASURES = {"same_words": "same words", "similarity": "similarity", "ngrams": "13-word sequences shared"}
ACTIONS = {"flag": "flagged", "drop": "dropped"}


def screened(folder: Path) -> Section | None:
    """What screening found, the first findings as a table; None where nothing was screened."""
    found = read_screen(folder)
    if not found:
        return None
    options, lines = found["options"], []
    if found["duplicates"] is not None:
        lines.append(("near-duplicate questions", found["duplicates"], ACTIONS[options["duplicates"]]))
    if found["overlap"] is not None:
        suites = ", ".join(f"{name} ({count:,} texts)" for name, count in found["compared_with"].items())
        lines.append((f"overlap with {suites}" if suites else "overlap: there was nothing to compare with",
                      found["overlap"], ACTIONS[options["overlap"]]))
    return {"rows": found["rows"], "lines": lines, "found": len(found["flagged"]),
            "table": [_line(entry) for entry in found["flagged"][:SHOWN]]}


def _line(entry: Section) -> Section:
    other = entry["with"]
    named = other.get("row_id", f"prompt {other.get('index')}")
    return {"row_id": entry["row_id"],
            "other": f"{named} ({other['suite']})" if "suite" in other else named,
            "measure": MEASURES[entry["measure"]], "value": entry["value"],
            "what": "dropped" if entry["dropped"] else "flagged"}
