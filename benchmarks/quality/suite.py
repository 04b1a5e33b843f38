"""A suite file: methods x learning rates x seeds, and what they all have in common.

    data: null                    # a file of rows, zaragoza-en or zaragoza-sv; null: zaragoza-en
    options: {max_rows: 64}       # options of `raft_fast.train` that every cell has
    learning_rates: [1.0e-5]
    seeds: [0]
    checkpoints: 2                # evaluations a cell, evenly spread over its steps
    baseline: sft                 # the method that the others are compared with
    paraphrases: FILE             # trained questions in other words (raft_fast.paraphrase), a path from
                                  # here or from the suite's folder; make: the model makes them once
    methods:
      sft: {}                                                # configs/sft.yaml
      raft_k32: {config: raft, teacher_top_k: 32}            # options of its own
      sft_long: {config: sft, learning_rates: [1.0e-6], num_train_epochs: 4}
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raft_fast.recipes import find
from raft_fast.run.config import GROUPS, Options, parse
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_yaml

MAKE = "make"  # instead of a file of paraphrases
OWN_KEYS = ("config", "learning_rates", "seeds")
Settings = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training run: a method at a learning rate with a seed."""

    method: str
    learning_rate: float
    seed: int
    options: Options

    @property
    def name(self) -> str:
        return f"{self.method}-lr{self.learning_rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class Suite:
    """A suite file, checked."""

    name: str
    methods: dict[str, Settings]
    learning_rates: list[float]
    data: str | None = None
    options: Settings = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0])
    checkpoints: int = 1
    baseline: str = "sft"
    paraphrases: str | None = None

    def only(self, methods: Sequence[str] | None, seeds: Sequence[int] | None) -> "Suite":
        """The suite with fewer methods or other seeds. Raises UserError for an unknown method."""
        for method in methods or ():
            if method not in self.methods:
                raise UserError(f"--methods {method}: not in suite {self.name}; it has "
                                f"{', '.join(self.methods)}")
        chosen = {name: {key: value for key, value in own.items() if not (seeds and key == "seeds")}
                  for name, own in self.methods.items() if not methods or name in methods}
        return replace(self, methods=chosen, seeds=list(seeds or self.seeds))

    def on(self, data: str) -> "Suite":
        """The suite on other rows. A file of paraphrases rewords the suite's own rows and is left out."""
        options = {key: value for key, value in self.options.items() if key != "paraphrases"}
        return replace(self, data=data, options=options,
                       paraphrases=self.paraphrases if self.paraphrases == MAKE else None)

    def cells(self) -> list[Cell]:
        """Every run: all methods at the first learning rate and seed come before the next ones, so that
        a grid that is stopped early compares all methods."""
        found = []
        for method, own in self.methods.items():
            settings = {key: value for key, value in own.items() if key not in OWN_KEYS}
            options = self._parse(own.get("config", method), self.options | settings, f"method {method}")
            for rate_place, rate in enumerate(own.get("learning_rates", self.learning_rates)):
                for seed_place, seed in enumerate(own.get("seeds", self.seeds)):
                    found.append((seed_place, rate_place, Cell(method, rate, seed, replace(
                        options, data=replace(options.data, seed=seed),
                        train=replace(options.train, learning_rate=rate)))))
        return [cell for _, _, cell in sorted(found, key=lambda one: one[:2])]

    def shared_options(self) -> Options:
        """The options of what all cells share: rows, stage 1, evaluation."""
        return self._parse("raft", self.options, "options")

    def _parse(self, config: str, settings: Settings, where: str) -> Options:
        argv = ["--config", config]
        for key, value in settings.items():
            argv += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        try:
            return Options(*parse("train", "", GROUPS, argv,
                                  recipe_defaults=lambda name: find(name).defaults)[1])
        except UserError as error:
            raise UserError(f"suite {self.name}, {where}: {error}") from error


def load_suite(path: Path) -> Suite:
    """Read and check a suite file. Raises UserError that names the key."""
    if not path.is_file():
        raise UserError(f"--suite {path}: no such file")
    found = read_yaml(path, "it must have the keys methods and learning_rates")
    known = set(Suite.__dataclass_fields__) - {"name"}
    if not {"methods", "learning_rates"} <= set(found):
        raise UserError(f"--suite {path}: must have the keys methods and learning_rates")
    for key in found:
        if key not in known:
            raise UserError(f"--suite {path}: unknown key {key!r}; known are {', '.join(sorted(known))}")
    methods = {name: own or {} for name, own in found["methods"].items()}
    suite = Suite(path.stem, **{**found, "methods": methods})
    if suite.checkpoints < 1:
        raise UserError(f"--suite {path}: checkpoints {suite.checkpoints}: must be at least 1")
    if suite.baseline not in methods:
        raise UserError(f"--suite {path}: baseline {suite.baseline!r} is not among the methods")
    if suite.paraphrases not in (None, MAKE):
        places = [place / str(suite.paraphrases) for place in (Path(), path.parent)]
        there = [place for place in places if place.is_file()]
        if not there:
            raise UserError(f"--suite {path}: paraphrases {suite.paraphrases}: no such file; make lets the "
                            "model make them")
        suite = replace(suite, paraphrases=str(there[0]))
    suite.cells()  # a wrong option is found now, not hours later
    return suite
