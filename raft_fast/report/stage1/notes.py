"""What a reader must know before trusting what stage 1 made."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

REASONS = 3  # for rows that were set aside, that a sentence names


def notes(summary: dict[str, Any], rejected: Sequence[str] = ()) -> list[str]:
    """Parts missing, slices, shared roles, rows set aside for the reasons in `rejected`; sentences."""
    if not summary:
        return ["Stage 1 left no summary: the training answers were used as they came."]
    found = []
    if summary.get("fuser_is_judge"):
        found.append("One model plays fuser and judge: it scores its own fusions, so its scores "
                     "are no independent opinion.")
    rows = summary.get("rows") or {}
    if rows and rows["used"] < rows["total"]:
        found.append(f"Stage 1 used {rows['used']} of {rows['total']} rows "
                     "(--max_rows 0 takes all).")
    if rejected:
        told = "; ".join(f"{count} {reason}" for reason, count in Counter(rejected).most_common(REASONS))
        found.append(f"Rows of the data that were set aside, in rejected.jsonl: {len(rejected):,} ({told}).")
    failed = sum((summary.get("failed_scores") or {}).values())
    if failed:
        found.append(f"{failed} judge replies held no score and were not counted.")
    return found
