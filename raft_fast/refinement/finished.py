"""A folder that stage 1 has finished: what another start of the command would make otherwise there."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raft_fast.refinement.outputs import CONFIG, DECISIONS, REFINED, SUMMARY
from raft_fast.refinement.shards import FREE, decisive
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_yaml
from raft_fast.run.folder import differing, first_of

ROWS = ("data", "max_rows", "max_bad_rows", "seed")  # which rows are taken; the rows themselves are compared
PROMPTS = "prompts"  # known by their words, not by their folder
FIX = "restore it, or delete it to write the answers again (replies in journal.jsonl are used again)"
OPEN = {*FREE, "max_bad_rows", "overwrite", PROMPTS}


def keep_finished(folder: Path, options: Mapping[str, Any], defaults: Mapping[str, Any], data: str,
                  prompts: Mapping[str, str]) -> None:
    """Raises UserError, naming what differs, where the folder holds finished answers that these options
    would replace by others.

    `options` and their `defaults` are by name, `data` is the hash of the rows, `prompts` are their versions.
    """
    if not all((folder / name).is_file() for name in (SUMMARY, CONFIG, DECISIONS, REFINED)):
        return
    summary = read_json(folder / SUMMARY, FIX)
    # an option that is younger than the folder had its default then
    there = {**defaults, **read_yaml(folder / CONFIG, FIX)}
    names, told = sorted({*options} - OPEN), []
    if summary.get("data") not in (None, data):
        told = _differing(ROWS, there, options) or [f"the rows of {options['data']} have changed"]
        names = [name for name in names if name not in ROWS]
    told += _differing(names, there, options)
    if summary.get(PROMPTS, prompts) != prompts:
        told.append("the words of the prompts differ")
    if told:
        raise UserError(
            f"--output_dir {folder}: holds finished answers of other options ({first_of(told)}); choose "
            "another --output_dir, or --overwrite true to replace them (replies in its journal.jsonl are "
            "used again)")


def _differing(names: Iterable[str], there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    told = [name for name in names if decisive(name, there.get(name)) != decisive(name, here.get(name))]
    return differing(told, there, here)
