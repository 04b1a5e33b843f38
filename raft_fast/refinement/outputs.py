"""The files of stage 1: decisions.jsonl, what follows from it, shards that join, finished folders."""

import fcntl
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import RowWriter
from raft_fast.data.screening import SentenceEncoder
from raft_fast.refinement.candidates import Record, refined_rows
from raft_fast.refinement.golds import calibrate
from raft_fast.refinement.summary import Tally
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_jsonl, read_yaml, write_json, write_yaml
from raft_fast.run.folder import ENGINES, differing, first_of, meant
from raft_fast.run.option import pinned_by
from raft_fast.run.options import ALL_GROUPS
from raft_fast.run.progress import Reporter

DECISIONS, REFINED, SUMMARY, CONFIG = "decisions.jsonl", "refined.parquet", "summary.json", "config.yaml"
PARTIAL_DECISIONS, PARTIAL_REFINED = "decisions.partial.jsonl", "refined.partial.parquet"
PARTIAL_SUMMARY, PARTIAL_CONFIG = "summary.partial.json", "config.partial.yaml"
SHARDS, REJECTED, SCREENED = "shards", "rejected.jsonl", "screen.json"
AGAIN = "restore it, or delete it and refine this shard again (replies in journal.jsonl are used again)"
ANEW = "restore it, or delete it to write the answers again (replies in journal.jsonl are used again)"
PROMPTS = "prompts"  # compared by their words, not by their folder
ROWS = ("data", "max_rows", "seed")  # which rows are taken
# options that decide what is written; the rows themselves are compared, not what their file is called
PINNED = pinned_by(ALL_GROUPS, "rows", "refinement") - {"data"}


class Outputs:
    """Written line by line under partial names; renamed when the block ends without an error.

    Otherwise what there is stays under the partial names, so that it is not taken for a whole. `settings`
    go into the summary beside what the lines come to, as does `total_rows`: how many rows there were before a
    slice was taken.
    """

    def __init__(self, folder: Path, settings: Record, total_rows: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.total_rows = folder, settings, total_rows
        self.tally = Tally()
        self._lines = (folder / PARTIAL_DECISIONS).open("w", encoding="utf-8")
        self._rows = RowWriter(folder / REFINED, folder / PARTIAL_REFINED)

    def add(self, line: Record) -> None:
        """One row's decision."""
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        for row in refined_rows(line):
            self._rows.write(row)
        self.tally.add(line)

    def summary(self, finished: bool) -> Record:
        return {"finished": finished,
                "rows": {"used": self.tally.rows, "total": self.total_rows},
                **self.tally.as_json(), **self.settings}

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._lines.close()
        if error is None:
            (self.folder / PARTIAL_DECISIONS).replace(self.folder / DECISIONS)
        self._rows.__exit__(kind, error, trace)
        write_json(self.summary(finished=error is None),
                   self.folder / (SUMMARY if error is None else PARTIAL_SUMMARY))
        if error is None:
            (self.folder / PARTIAL_SUMMARY).unlink(missing_ok=True)


def add_calibration(folder: Path, encoder: SentenceEncoder) -> Record:
    """Calibrate on the decisions in the folder and write it into its summary.json; returns the summary.

    Apart from refining, because shards are calibrated together, once they are joined.
    """
    fix = "run the same command again"
    summary: Record = read_json(folder / SUMMARY, fix, keys=["tau"])
    summary["calibration"] = calibrate(read_jsonl(folder / DECISIONS, fix), encoder, summary["tau"])
    write_json(summary, folder / SUMMARY)
    return summary


def keep_finished(folder: Path, options: Mapping[str, Any], defaults: Mapping[str, Any], data: str,
                  prompts: Mapping[str, str]) -> None:
    """Raises UserError, naming what differs, if the folder holds finished answers that these options would
    replace by others.

    `options` and their `defaults` are by name, `data` is the hash of the rows, `prompts` are their versions.
    """
    if not all((folder / name).is_file() for name in (SUMMARY, CONFIG, DECISIONS, REFINED)):
        return
    summary = read_json(folder / SUMMARY, ANEW)
    # an option that is younger than the folder had its default then
    there = {**defaults, **read_yaml(folder / CONFIG, ANEW)}
    names, told = sorted({*options} & PINNED - {PROMPTS}), []

    def differ(names: Iterable[str]) -> list[str]:
        return differing([name for name in names if meant(name, there.get(name))
                          != meant(name, options.get(name))], there, options)

    if summary.get("data") not in (None, data):
        told = differ(ROWS) or [f"the rows of {options['data']} have changed"]
        names = [name for name in names if name not in ROWS]
    told += differ(names)
    if summary.get(PROMPTS, prompts) != prompts:
        told.append("the words of the prompts differ")
    if told:
        raise UserError(
            f"--output_dir {folder}: holds finished answers of other options ({first_of(told)}); choose "
            "another --output_dir, or --overwrite true to replace them (replies in its journal.jsonl are "
            "used again)")


def shard_folder(output_dir: Path, shard: str) -> Path:
    """Where shard "i/n" of `output_dir` is refined."""
    return output_dir / SHARDS / shard.replace("/", "-of-")


def unfinished(output_dir: Path, like: Path | None = None) -> list[str]:
    """The shards "i/n" that are still to be refined; with `like`, the folder of a finished shard, also
    those whose files come from other options or rows. Raises UserError without shards, or with shards of
    different numbers."""
    found = [match for path in (output_dir / SHARDS).glob("*-of-*")
             if (match := re.fullmatch(r"(\d+)-of-(\d+)", path.name))]
    if not found:
        raise UserError(f"--output_dir {output_dir}: has no shards; refine them with --shard 1/n to n/n")
    counts = sorted({int(match[2]) for match in found})
    if len(counts) > 1:
        raise UserError(f"--output_dir {output_dir}: has shards of {counts[0]} and of {counts[1]}; "
                        f"remove those of one kind from {output_dir / SHARDS}")
    shards = [f"{number}/{counts[0]}" for number in range(1, counts[0] + 1)]
    return [shard for shard in shards if not _finished(shard_folder(output_dir, shard), like)]


def _finished(folder: Path, like: Path | None) -> bool:
    if not all((folder / name).is_file() for name in (CONFIG, DECISIONS, SUMMARY)):
        return False
    if like is None:
        return True
    one, other = _summary(like), _summary(folder)
    return (_differing(_config(like), _config(folder)) is None
            and all(one.get(key) == other.get(key) for key in ("data", "engines")))


def merge(output_dir: Path, reporter: Reporter) -> Record:
    """Join all shards into refined.parquet, decisions.jsonl and summary.json, the same bytes as from a
    run over all rows; returns the summary. One line of each shard is in memory at a time.

    Raises UserError if a shard is missing or was refined with other options.
    """
    if missing := unfinished(output_dir):
        raise UserError(f"--output_dir {output_dir}: shard {missing[0]} is not finished "
                        f"({len(missing)} are missing); refine it with --shard {missing[0]}")
    count = len(list((output_dir / SHARDS).glob("*-of-*")))
    folders = [shard_folder(output_dir, f"{number}/{count}") for number in range(1, count + 1)]
    configs, summaries = [_config(folder) for folder in folders], [_summary(folder) for folder in folders]
    settings = _must_fit(folders, configs, summaries)
    used = sum(summary["rows"]["used"] for summary in summaries)
    with (
        reporter.phase("join shards", used, "rows") as advance,
        Outputs(output_dir, settings, summaries[0]["rows"]["total"]) as outputs,
    ):
        for line in _in_turns([read_jsonl(folder / DECISIONS, AGAIN, ["row_id"]) for folder in folders]):
            outputs.add(line)
            advance(1)
        if outputs.tally.rows != used:
            raise UserError(f"--output_dir {output_dir}: its shards are not of the same rows; refine "
                            "them again from the same --data")
    write_yaml(configs[0] | {"shard": None, "output_dir": str(output_dir)}, output_dir / CONFIG)
    for name in (REJECTED, SCREENED):
        if (folders[0] / name).is_file():
            (output_dir / name).write_bytes((folders[0] / name).read_bytes())
    return outputs.summary(finished=True)


def _in_turns(files: Sequence[Iterator[Any]]) -> Iterator[Any]:
    """A line of each file after the other, until one has no more; shards were dealt out like this."""
    while True:
        for lines in files:
            if (line := next(lines, None)) is None:
                return
            yield line


def _must_fit(folders: Sequence[Path], configs: Sequence[Record], summaries: Sequence[Record]) -> Record:
    """The settings that all shards' summaries share. Raises UserError for shards that differ in an option, in
    what screening dropped, or in what options do not tell: engines behind an address, words of prompts,
    rows read."""
    counted = {"finished", "rows", *Tally().as_json()}
    settings = [{key: value for key, value in summary.items() if key not in counted}
                | {"total rows": summary["rows"]["total"]} for summary in summaries]
    dropped = _dropped(folders[0])
    for folder, config, here in zip(folders, configs, settings, strict=True):
        if (key := _differing(configs[0], config)) is not None:
            raise UserError(f"{folder}: was refined with --{key} {config.get(key)}, and "
                            f"{folders[0]} with {configs[0].get(key)}; refine one of them again")
        if _dropped(folder) != dropped:
            raise UserError(f"{folder}: dropped other rows as duplicates or overlap than {folders[0]}; an "
                            "evaluation suite may be missing on one machine. Refine one of them again")
        for key in {**settings[0], **here}.keys() - {"prices"}:  # one may have been told, another not
            if here.get(key) != settings[0].get(key):
                raise UserError(f"{folder}: has {key} {here.get(key)}, and {folders[0]} has "
                                f"{settings[0].get(key)}; refine one of them again")
    del settings[0]["total rows"]
    return settings[0]


def _differing(one: Record, other: Record) -> str | None:
    """The first option that counts and differs. A URL alone may serve any model: summary.json knows which."""
    def differs(name: str) -> bool:
        here, there = meant(name, one.get(name)), meant(name, other.get(name))
        return here != there and not (name in ENGINES and any("://" in spec for spec in (*here, *there)))

    return next((name for name in sorted({*one, *other} & PINNED) if differs(name)), None)


def _config(folder: Path) -> Record:
    return read_yaml(folder / CONFIG, AGAIN)


def _summary(folder: Path) -> Record:
    return dict(read_json(folder / SUMMARY, AGAIN, keys=["rows"]))


def _dropped(folder: Path) -> set[str]:
    """The row_ids that screening dropped."""
    if not (folder / SCREENED).is_file():
        return set()
    flagged = read_json(folder / SCREENED, AGAIN, keys=["flagged"])["flagged"]
    return {one["row_id"] for one in flagged if one["dropped"]}


@contextmanager
def joining(output_dir: Path) -> Iterator[None]:
    """Keeps two shards that finish together from joining at once. Raises UserError without shards."""
    if not (output_dir / SHARDS).is_dir():
        raise UserError(f"--output_dir {output_dir}: has no shards")
    with (output_dir / SHARDS / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
