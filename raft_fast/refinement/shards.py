"""Rows shared out over several runs, and their files joined into those of a run over all rows."""

import fcntl
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raft_fast.refinement.outputs import CONFIG, DECISIONS, SUMMARY, Outputs
from raft_fast.refinement.summary import Tally
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_jsonl, read_yaml, write_yaml
from raft_fast.run.folder import ENGINES, meant, without_address
from raft_fast.run.progress import Reporter

FOLDER, REJECTED = "shards", "rejected.jsonl"
SCREENED = "screen.json"
FIX = "restore it, or delete it and refine this shard again (replies in journal.jsonl are used again)"
# options that change how a shard is refined and not what comes out; the rows themselves are compared,
# not what their file is called
FREE = {"data", "shard", "output_dir", "retry_failed", "overwrite", "merge", "dry_run", "device",
        "refine_batch_size", "encoder_batch_size", "requests_in_flight", "requests_per_minute",
        "tokens_per_minute", "request_timeout", "connect_timeout", "max_retries", "price",
        "generation_tokens", "license", "language"}


def shard_folder(output_dir: Path, shard: str) -> Path:
    """Where shard "i/n" of `output_dir` is refined."""
    return output_dir / FOLDER / shard.replace("/", "-of-")


def unfinished(output_dir: Path, like: Path | None = None) -> list[str]:
    """The shards "i/n" that are still to be refined; with `like`, the folder of a finished shard, also
    those whose files come from other options or rows. Raises UserError where there is no shard, or
    shards of different numbers."""
    found = [match for path in (output_dir / FOLDER).glob("*-of-*")
             if (match := re.fullmatch(r"(\d+)-of-(\d+)", path.name))]
    if not found:
        raise UserError(f"--output_dir {output_dir}: has no shards; refine them with --shard 1/n to n/n")
    counts = sorted({int(match[2]) for match in found})
    if len(counts) > 1:
        raise UserError(f"--output_dir {output_dir}: has shards of {counts[0]} and of {counts[1]}; "
                        f"remove those of one kind from {output_dir / FOLDER}")
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


def merge(output_dir: Path, reporter: Reporter) -> dict[str, Any]:
    """Join all shards into refined.parquet, decisions.jsonl and summary.json, the same bytes as from a
    run over all rows; returns the summary. One line of each shard is in memory at a time.

    Raises UserError where a shard is missing or was refined with other options.
    """
    if missing := unfinished(output_dir):
        raise UserError(f"--output_dir {output_dir}: shard {missing[0]} is not finished "
                        f"({len(missing)} are missing); refine it with --shard {missing[0]}")
    count = len(list((output_dir / FOLDER).glob("*-of-*")))
    folders = [shard_folder(output_dir, f"{number}/{count}") for number in range(1, count + 1)]
    config = _same_config(folders)
    _same_screening(folders)
    summaries = [_summary(folder) for folder in folders]
    settings = _same_settings(folders, summaries)
    used = sum(summary["rows"]["used"] for summary in summaries)
    with (
        reporter.phase("join shards", used, "rows") as advance,
        Outputs(output_dir, settings, summaries[0]["rows"]["total"]) as outputs,
    ):
        for line in _in_turns([read_jsonl(folder / DECISIONS, FIX, ["row_id"]) for folder in folders]):
            outputs.add(line)
            advance(1)
        if outputs.tally.rows != used:
            raise UserError(f"--output_dir {output_dir}: its shards are not of the same rows; refine "
                            "them again from the same --data")
    write_yaml(config | {"shard": None, "output_dir": str(output_dir)}, output_dir / CONFIG)
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


def _same_config(folders: Sequence[Path]) -> dict[str, Any]:
    configs = [_config(folder) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        if (key := _differing(configs[0], config)) is not None:
            raise UserError(f"{folder}: was refined with --{key} {config.get(key)}, and "
                            f"{folders[0]} with {configs[0].get(key)}; refine one of them again")
    return configs[0]


def _differing(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first option that counts and differs."""
    return next((key for key in sorted({*one, *other} - FREE)
                 if _differs(key, decisive(key, one.get(key)), decisive(key, other.get(key)))), None)


def _differs(name: str, one: Any, other: Any) -> bool:
    """A URL alone may serve any model: summary.json knows which."""
    return one != other and not (name in ENGINES and any("://" in spec for spec in (*one, *other)))


def decisive(name: str, value: Any) -> Any:
    """What of an option's value decides what is written: of an engine its model, not its address."""
    if name != "engine_overrides":
        return meant(name, value)
    kept = {without_address(engine): {key: one for key, one in own.items() if key not in FREE}
            for engine, own in (value or {}).items()}
    return {engine: own for engine, own in kept.items() if own}


def _config(folder: Path) -> dict[str, Any]:
    return read_yaml(folder / CONFIG, FIX)


def _summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(folder / SUMMARY, FIX, keys=["rows"])
    return found


def _same_screening(folders: Sequence[Path]) -> None:
    """Rows are dealt out after some were dropped, so all shards must have dropped the same."""
    dropped = [_dropped(folder) for folder in folders]
    for folder, rows in zip(folders, dropped, strict=True):
        if rows != dropped[0]:
            raise UserError(f"{folder}: dropped other rows as duplicates or overlap than {folders[0]}; an "
                            "evaluation suite may be missing on one machine. Refine one of them again")


def _dropped(folder: Path) -> set[str]:
    """The row_ids that screening dropped."""
    if not (folder / SCREENED).is_file():
        return set()
    flagged = read_json(folder / SCREENED, FIX, keys=["flagged"])["flagged"]
    return {one["row_id"] for one in flagged if one["dropped"]}


def _same_settings(folders: Sequence[Path], summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the options do not tell: engines behind an address, words of the prompts, rows read."""
    counted = {"finished", "rows", *Tally().as_json()}
    settings = [{key: value for key, value in summary.items() if key not in counted}
                | {"total rows": summary["rows"]["total"]} for summary in summaries]
    for folder, here in zip(folders, settings, strict=True):
        for key in {**settings[0], **here}.keys() - {"prices"}:  # one may have been told, another not
            if here.get(key) != settings[0].get(key):
                raise UserError(f"{folder}: has {key} {here.get(key)}, and {folders[0]} has "
                                f"{settings[0].get(key)}; refine one of them again")
    del settings[0]["total rows"]
    return settings[0]


@contextmanager
def joining(output_dir: Path) -> Iterator[None]:
    """Two shards that finish together do not join, calibrate and report at once. Raises UserError where there
    is none."""
    if not (output_dir / FOLDER).is_dir():
        raise UserError(f"--output_dir {output_dir}: has no shards")
    with (output_dir / FOLDER / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
