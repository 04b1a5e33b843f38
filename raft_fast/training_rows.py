"""The rows of a run: read, held out, screened; what cannot be used is set aside by name."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raft_fast.dataset import Row, fingerprint_rows, read_table, split, spread, write_jsonl, write_rows
from raft_fast.errors import UserError
from raft_fast.fetch import quickstart_rows
from raft_fast.options import DataOptions, ScreenOptions
from raft_fast.progress import Reporter
from raft_fast.run import pin_inputs
from raft_fast.screening import Reference, rows_as_references, screen


@dataclass(frozen=True)
class Data:
    """Rows to train on, rows held out, and whether stage 1 has been over the training rows."""

    train: list[Row]
    heldout: list[Row]
    refined: bool
    total: int


def take_rows(options: DataOptions, heldout_share: float, run_dir: Path, reporter: Reporter) -> Data:
    """Read the rows, set bad ones aside, hold rows out of every category, take the slice asked for."""
    with reporter.phase("read rows"):
        source = options.data or str(quickstart_rows())
        table = read_table(source, options.max_bad_rows)
        train, heldout = split(table.rows, heldout_share, options.seed)
        if not train or not heldout:
            raise UserError(f"--data {source}: {len(table.rows)} rows are too few to hold some out; at "
                            "least one category needs two")
        pin_inputs(run_dir, {"the data": fingerprint_rows(table.rows)})
        chosen = spread(train, options.max_rows, options.seed)
        write_rows(heldout, run_dir / "heldout.parquet")
        write_jsonl(table.rejected, run_dir / "rejected.jsonl")
    reporter.say(f"{len(table.rows)} rows from {source}: training on {len(chosen)}"
                 + (f" of {len(train)} (--max_rows 0 takes all)" if len(chosen) < len(train) else "")
                 + f", {len(heldout)} held out, {len(table.rejected)} set aside")
    return Data(chosen, heldout, table.refined, len(train))


def screen_rows(data: Data, options: ScreenOptions, suites: Mapping[str, Sequence[Reference]], encoder: Any,
                run_dir: Path, reporter: Reporter) -> Data:
    """Training rows that repeat each other, held-out rows or one of the `suites`, flagged in
    RUN/screen.json or dropped. Raises UserError where all are dropped."""
    references = {**rows_as_references(data.heldout), **suites}
    screened = screen(data.train, references, options, encoder, run_dir, reporter)
    if not screened.dropped:
        return data
    dropped = set(screened.dropped)
    kept = [row for place, row in enumerate(data.train) if place not in dropped]
    if not kept:
        raise UserError("--duplicates, --overlap: no row is left to train on; see screen.json in "
                        f"{run_dir}, or flag them instead")
    write_jsonl([*read_rejected(run_dir), *screened.rejected], run_dir / "rejected.jsonl")
    return replace(data, train=kept)


def read_rejected(run_dir: Path) -> list[dict]:
    """Rows that this start of the command has set aside so far."""
    text = (run_dir / "rejected.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
