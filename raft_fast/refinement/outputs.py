"""The files of stage 1: decisions.jsonl, and refined.parquet and summary.json, which follow from it."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from raft_fast.data.dataset import RowWriter
from raft_fast.refinement.decisions import refined_row
from raft_fast.refinement.summary import Tally
from raft_fast.run.files import write_json

DECISIONS, REFINED, SUMMARY = "decisions.jsonl", "refined.parquet", "summary.json"
CONFIG, PARTIAL_CONFIG = "config.yaml", "config.partial.yaml"
PARTIAL_DECISIONS = "decisions.partial.jsonl"
PARTIAL_REFINED = "refined.partial.parquet"
PARTIAL_SUMMARY = "summary.partial.json"


class Outputs:
    """Written line by line under partial names; renamed when the block ends without an error.

    Otherwise what there is stays under the partial names, so that it is not taken for a whole.
    `settings` go into the summary beside what the lines come to; with `total_rows` as how many rows
    there were before a slice was taken.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], total_rows: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.total_rows = folder, settings, total_rows
        self.tally = Tally()
        self._lines = (folder / PARTIAL_DECISIONS).open("w", encoding="utf-8")
        self._rows = RowWriter(folder / REFINED, folder / PARTIAL_REFINED)

    def add(self, line: dict[str, Any]) -> None:
        """One row's decision."""
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._rows.write(refined_row(line))
        self.tally.add(line)

    def summary(self, finished: bool) -> dict[str, Any]:
        return {"finished": finished,
                "rows": {"used": self.tally.rows, "total": self.total_rows},
                **self.tally.as_json(), **self.settings}

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()
        if error is None:
            (self.folder / PARTIAL_DECISIONS).replace(self.folder / DECISIONS)
        self._rows.__exit__(kind, error, trace)
        write_json(self.summary(finished=error is None),
                   self.folder / (SUMMARY if error is None else PARTIAL_SUMMARY))
        if error is None:
            (self.folder / PARTIAL_SUMMARY).unlink(missing_ok=True)
