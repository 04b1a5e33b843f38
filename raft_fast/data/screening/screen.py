"""Look through rows before anything is done with them: screen.json, and what is dropped."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Rejected, Row
from raft_fast.data.screening.duplicates import duplicates
from raft_fast.data.screening.findings import Finding, Kind, reason
from raft_fast.data.screening.overlap import overlap
from raft_fast.data.screening.questions import Questions
from raft_fast.data.screening.references import Reference
from raft_fast.data.vectors import SentenceEncoder
from raft_fast.run.files import write_json
from raft_fast.run.options import ScreenOptions
from raft_fast.run.progress import Reporter

FILE, VECTORS = "screen.json", "screen"
WHAT = {"duplicate": ("duplicates", "near-duplicate questions"), "overlap": ("overlap", "overlapping rows")}


@dataclass(frozen=True)
class Screened:
    """Places of the rows that are not to be used, ascending, and why."""

    dropped: list[int]
    rejected: list[Rejected]


def screen(
    rows: Collection[Row], references: Mapping[str, Sequence[Reference]], options: ScreenOptions,
    encoder: SentenceEncoder, folder: Path, reporter: Reporter, source: str = "training rows",
) -> Screened:
    """Find rows that ask what an earlier one asks, and rows that repeat a reference.

    `references` by the name of their suite; they are never dropped. Writes `folder`/screen.json (nothing,
    where both parts are off) and keeps the questions' vectors in `folder`/screen. `source` is whence the
    rows are, for the reasons. A row that overlaps and is dropped for it makes no other a duplicate.
    """
    (folder / FILE).unlink(missing_ok=True)
    if options.duplicates == options.overlap == "off":
        return Screened([], [])
    vectors = folder / VECTORS
    vectors.mkdir(parents=True, exist_ok=True)
    with reporter.phase("screen questions", len(rows), "rows") as advance:
        questions = Questions.of(rows, encoder, vectors / "questions.npy", advance)
    found: list[Finding] = []
    if options.overlap != "off":
        for number, (name, texts) in enumerate(references.items()):
            with reporter.phase(f"compare with {name}", len(texts) + len(rows), "texts") as advance:
                found += overlap(rows, questions, texts, encoder, vectors / f"references-{number}.npy",
                                 options.duplicate_similarity, options.overlap_share, advance)
    dropped = {one.place for one in found} if options.overlap == "drop" else set()
    if options.duplicates != "off":
        with reporter.phase("find duplicates", len(questions.vectors), "questions") as advance:
            found += duplicates(questions, options.duplicate_similarity, encoder.device, dropped, advance)
    if options.duplicates == "drop":
        dropped |= {one.place for one in found if one.kind == "duplicate"}
    entries = _entries(found, rows, options)
    write_json(_summary(entries, len(rows), len(dropped), references, options), folder / FILE)
    for kind in WHAT:
        if line := told(entries, kind, options):
            reporter.say(line)
    why: dict[str, str] = {}
    for entry in entries:
        if entry["dropped"]:
            why.setdefault(entry["row_id"], reason(entry))
    return Screened(sorted(dropped), [Rejected(source, None, text) for text in why.values()])


def told(entries: Iterable[dict[str, Any]], kind: str, options: ScreenOptions) -> str:
    """What was found, in a line; empty where nothing was."""
    option, what = WHAT[kind]
    rows = {entry["row_id"] for entry in entries if entry["kind"] == kind}
    if not rows:
        return ""
    if getattr(options, option) == "drop":
        return f"{what}: {len(rows)} dropped, see rejected.jsonl"
    return f"{what}: {len(rows)} flagged in {FILE}; --{option} drop removes them"


def _entries(found: Sequence[Finding], rows: Iterable[Row], options: ScreenOptions) -> list[dict[str, Any]]:
    """The findings with row_ids, in the rows' order."""
    needed = {one.place for one in found} | {one.other for one in found if isinstance(one.other, int)}
    row_ids = {place: row.row_id for place, row in enumerate(rows) if place in needed}
    action: dict[Kind, str] = {"duplicate": options.duplicates, "overlap": options.overlap}
    return [one.as_json(row_ids, action[one.kind] == "drop")
            for one in sorted(found, key=lambda one: one.place)]


def _summary(
    entries: Sequence[dict[str, Any]], rows: int, dropped: int, references: Mapping[str, Sequence[Reference]],
    options: ScreenOptions,
) -> dict[str, Any]:
    def count(kind: str) -> int:
        return len({entry["row_id"] for entry in entries if entry["kind"] == kind})

    return {
        "rows": rows, "dropped": dropped,
        "duplicates": None if options.duplicates == "off" else count("duplicate"),
        "overlap": None if options.overlap == "off" else count("overlap"),
        "compared_with": {} if options.overlap == "off" else {
            name: len(texts) for name, texts in references.items()},
        "options": dict(vars(options)),
        "flagged": list(entries),
    }
