"""What all methods share and is made once: rows, refined answers, the base's own answers and scores."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.quality.disk import BASE_ANSWERS
from benchmarks.quality.measures import Measured, measure
from benchmarks.quality.suite import MAKE, Cell, Suite
from raft_fast import paraphrase
from raft_fast.data.dataset import Row, fingerprint_rows, read_table, spread, write_rows
from raft_fast.data.training_rows import Data, screen_rows, take_rows
from raft_fast.engines.hf import HFEngine
from raft_fast.engines.load import load_local
from raft_fast.evaluation.domain import DomainScores
from raft_fast.evaluation.drift import Probes, draw_probes, measure_drift
from raft_fast.evaluation.exam import Answers, Exam, set_exam, sit
from raft_fast.evaluation.general import GeneralScores
from raft_fast.evaluation.paraphrases import of_trained
from raft_fast.evaluation.suites import fetched_suites
from raft_fast.evaluation.weights import weight_distance
from raft_fast.models.load import load_encoder
from raft_fast.refinement.answers import answer_rows
from raft_fast.run.files import write_json, write_jsonl
from raft_fast.run.options import Options, ParaphraseOptions
from raft_fast.run.progress import Reporter


@dataclass(frozen=True)
class Shared:
    """The ground that all cells stand on."""

    folder: Path
    options: Options
    data: Data
    original: HFEngine
    encoder: Any
    exam: Exam
    base: Answers
    probes: Probes
    reporter: Reporter

    def identity(self) -> str:
        """Tells apart whatever changes a cell's outcome from outside of its options."""
        return digest([fingerprint_rows(self.data.train), *map(fingerprint_rows, self.exam.rows.values()),
                       self.original.identity, self.probes.as_json(),
                       [prompt.key for prompt in self.exam.general.prompts] if self.exam.general else None])

    def rows(self, cell: Cell) -> list[Row]:
        """The cell's training rows with the answers it trains on. Stage 1 is done once for each of its
        settings; the journal is one for all, so that no reply is asked for twice."""
        options = replace(cell.options, data=self.options.data)  # all seeds train on the same rows
        screen = self.options.screen
        dropped = [vars(screen)] if "drop" in (screen.duplicates, screen.overlap) else []
        key = digest([vars(options.refine), options.train.data_source, *dropped])
        path = self.folder / f"refined-{key}.parquet"
        if options.train.data_source == "gold":
            return answer_rows(self.data, options, self.original, self.encoder, self.folder,
                                     self.reporter)
        if not path.is_file():
            write_rows(answer_rows(self.data, options, self.original, self.encoder, self.folder,
                                         self.reporter), path)
        return read_table(str(path), 0.0).rows

    def examine(self, engine: HFEngine, name: str, place: dict[str, Any],
                keep: Path | None = None) -> Measured:
        """Ask a model everything and hold it against the base; raw answers go to `keep`."""
        answers = sit(self.exam, engine, name, self.reporter)
        if keep is not None:
            write_jsonl(answers.records(name), keep)
        values = measure(answers, measure_drift(self.original, engine, self.probes, self.reporter))
        moved = weight_distance(self.original.model, engine.model)
        return Measured(**place, values=values, extra={"weights": moved})


def prepare(suite: Suite, folder: Path, reporter: Reporter) -> Shared:
    """Read and screen the rows, load the models, let the base answer; all but the loading is kept in
    `folder`. Rows are flagged in screen.json, and dropped only where the suite's options say so."""
    options = suite.shared_options()
    options = replace(options, data=replace(options.data, data=find_rows(suite.data)))
    folder.mkdir(parents=True, exist_ok=True)
    data = take_rows(options.data, options.train, folder, reporter)
    with reporter.phase("load models"):
        original = load_local("self", options.model, options.engines, options.evaluate.eval_batch_size)
        encoder = load_encoder(options.model)
    suites = fetched_suites(reporter) if options.evaluate.general_prompts >= 0 else {}
    data = screen_rows(data, options.screen, suites, encoder, folder, reporter)
    heldout = spread(data.heldout, options.evaluate.eval_rows, options.data.seed)
    exam = set_exam(heldout, options.evaluate, encoder, reporter)
    asked = [vars(options.evaluate), fingerprint_rows(heldout), original.identity]
    if suite.paraphrases:
        reworded = find_paraphrases(suite.paraphrases, data, options, original, encoder, folder, reporter)
        exam = replace(exam, rows=exam.rows | {"paraphrases": reworded})
        asked.append(fingerprint_rows(reworded))
    key = digest(asked)
    base = _kept(folder / f"base-{key}.json", lambda: _saved(sit(exam, original, "base", reporter)))
    write_jsonl(_loaded(base).records("base"), folder / BASE_ANSWERS)
    probes = _kept(folder / f"probes-{key}.json", lambda: draw_probes(
        exam.drift_prompts, original, options.evaluate.drift_max_new_tokens, reporter).as_json())
    return Shared(folder, options, data, original, encoder, exam, _loaded(base), Probes.load(probes),
                  reporter)


def find_paraphrases(name: str, data: Data, options: Options, original: HFEngine, encoder: Any,
                     folder: Path, reporter: Reporter) -> list[Row]:
    """The reworded questions of rows that are trained on, as many as held-out rows are asked; the model
    makes them in `folder`/paraphrases where the suite says so, once."""
    if name == MAKE:
        made = folder / "paraphrases"
        if not (made / paraphrase.FILE).is_file():
            paraphrase.make(data.train, str(options.data.data), original, encoder, ParaphraseOptions(),
                            options.data.seed, made, reporter)
        name = str(made / paraphrase.FILE)
    found = of_trained(read_table(name, 0.0).rows, data.train, name)
    reporter.say(f"{len(found)} of {len(data.train)} trained questions in other words, from {name}")
    return spread(found, options.evaluate.eval_rows, options.data.seed)


def find_rows(data: str | None) -> str:
    """A file of rows: the user's own, or the named half of the package that the quickstart uses."""
    from raft_fast.run.fetch import quickstart_rows

    if data == "zaragoza-sv":
        return str(quickstart_rows("sv"))
    return str(quickstart_rows()) if data in (None, "zaragoza-en") else str(data)


def digest(value: Any) -> str:
    """Ten hex digits of anything JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What the file holds, made and written where there is none."""
    if not path.is_file():
        write_json(make(), path)
    return json.loads(path.read_text(encoding="utf-8"))


def _saved(answers: Answers) -> dict[str, Any]:
    return {"model": answers.model,
            "domains": {name: scores.records for name, scores in answers.domains.items()},
            "general": answers.general.records if answers.general else None}


def _loaded(saved: dict[str, Any]) -> Answers:
    return Answers(saved["model"],
                   {name: DomainScores.of(records) for name, records in saved["domains"].items()},
                   GeneralScores.of(saved["general"]) if saved["general"] else None)
