"""What was found about a row, and in which words it is told."""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["duplicate", "overlap"]
Measure = Literal["same_words", "similarity", "ngrams"]
MEASURES = {"same_words": "the same words", "similarity": "similarity {:.3f}",
            "ngrams": "{:.0%} of the 13-word sequences"}


@dataclass(frozen=True)
class Finding:
    """The row at `place` repeats another text.

    `other` is the row's place for a duplicate, {"suite", "index" or "row_id"} for an overlap. `value`:
    cosine similarity, or the share of the shorter text's 13-word sequences; 1 for the same words.
    """

    place: int
    kind: Kind
    other: int | dict[str, Any]
    measure: Measure
    value: float

    def as_json(self, row_ids: dict[int, str], dropped: bool) -> dict[str, Any]:
        """The entry of screen.json."""
        other = {"row_id": row_ids[self.other]} if isinstance(self.other, int) else self.other
        return {"row_id": row_ids[self.place], "kind": self.kind, "with": other,
                "measure": self.measure, "value": self.value, "dropped": dropped}


def reason(entry: dict[str, Any]) -> str:
    """Why a row was set aside, from its entry in screen.json."""
    other, how = entry["with"], MEASURES[entry["measure"]].format(entry["value"])
    if entry["kind"] == "duplicate":
        what, option = f"asks what row_id {other['row_id']} asks", "--duplicates"
    else:
        named = f"row_id {other['row_id']}" if "row_id" in other else f"prompt {other['index']}"
        what, option = f"overlaps with {named} of {other['suite']}", "--overlap"
    return f"row_id {entry['row_id']}: {what} ({how}); {option} flag keeps it"
