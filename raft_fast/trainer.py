"""RAFT in Python: `RAFTTrainer` reads top to bottom like the paper's figure (arXiv 2606.00147).

Hold rows out, refine the answers (stage 1), train on them while the frozen original model, shown the answer,
teaches the student on its own words (stage 2), then measure what was learnt and what was kept."""

import copy
import dataclasses
import math
import os
import shutil
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers.trainer_utils import TrainOutput

from raft_fast.data.dataset import InMemory, only_prompts, screen_rows, spread, take_rendered, take_rows
from raft_fast.distillation import rows_per_step
from raft_fast.distillation.callbacks import TrainerEvents, sorted_callbacks, trackers_of
from raft_fast.distillation.checkpoint import check_resume, checkpoints
from raft_fast.distillation.stage2 import check_stage2, load_teacher, train_student
from raft_fast.distillation.student import check_student, options_of
from raft_fast.distillation.weights import check_shards
from raft_fast.engines.load import engine_of, load_engine, reader_of
from raft_fast.evaluation import evaluate
from raft_fast.evaluation.during_training import watchers
from raft_fast.evaluation.ifbench import fetched_suites
from raft_fast.models import load
from raft_fast.recipes import find, needs_answers, terms_of
from raft_fast.refinement.answers import answer_rows, check_names
from raft_fast.report.page import finish
from raft_fast.run.config import SIGNATURE, Arguments, read
from raft_fast.run.errors import GO_ON, UserError
from raft_fast.run.fetch import push, repository
from raft_fast.run.folder import only_process, open_run, pin_inputs, save_costs
from raft_fast.run.options import MEMORY, Options
from raft_fast.run.processes import Processes
from raft_fast.run.progress import Reporter, console


class RAFTConfig(Arguments):
    """Every option of `python -m raft_fast.train` as a keyword (--help explains them); lists may stand for
    names with commas between them. output_dir: default runs/RECIPE. recipe: a name (default raft), or a class
    or object as in `raft_fast.recipes`, whose defaults hold for options that are not given. Raises UserError
    for an unknown keyword, with the nearest name, and for an invalid value."""

    __signature__ = SIGNATURE

    def __init__(self, output_dir: str | os.PathLike[str] | None = None, recipe: Any = None,
                 **options: Any) -> None:
        self.method = find("raft" if recipe is None else recipe)
        kind, self.name = type(self.method), self.method.name
        named = recipe if isinstance(recipe, str) else f"{kind.__module__}:{kind.__qualname__}"
        chosen = {} if recipe is None else {"recipe": named}
        super().__init__({"output_dir": output_dir, **chosen, **options}, self.method.defaults)

    @classmethod
    def from_options(cls, options: Options, name: str) -> "RAFTConfig":
        """The options of the command line, with the name of its configuration."""
        config = cls.__new__(cls)
        config.__dict__.update(options.flat(), name=name, given=None, method=find(options.train.recipe))
        return config

    def changed(self, **options: Any) -> "RAFTConfig":
        """These options with others; what was set as an attribute stays, defaults follow the recipe."""
        before = vars(RAFTConfig(**(self.given or {})))
        edits = {name: value for name, value in self.options().flat().items() if value != before[name]}
        return RAFTConfig(**{**(self.given or {}), **edits, **options})


class RAFTTrainer:
    """Refines, trains and evaluates, with the same folder, numbers and resumption as the command line.

    model: a name, a folder, or a loaded causal language model of transformers, which is trained in place and
    in its own precision, while a frozen copy rewrites, teaches and is evaluated. With an adapter there is no
    copy: the adapter is removed after training, and `trainer.model` is then the merged model.
    train_dataset, eval_dataset: a `datasets.Dataset` or a list of dictionaries, with the columns
    question/answer, prompt/completion, messages, or those of a refined file. Rows with prompt or question
    alone are distilled on-policy from a `teacher`. Without eval_dataset rows are held out. To resume, pass
    the same rows and weights again. peft_config: a LoraConfig; replaces use_peft and the lora_ options.
    processing_class: the tokenizer. Default: the one saved with the model, found by its name_or_path.
    callbacks: `raft_fast.Callback`s, and `TrainerCallback`s of transformers (see `TrainerEvents`).
    teacher: a name or a loaded model, which is frozen (TRL calls it teacher_model). Default: the model before
    training. rollout_engine: a `RolloutEngine`. recipe: as in RAFTConfig.
    Raises UserError, here and in every method, for anything that the command would refuse."""

    def __init__(self, model: Any = None, args: RAFTConfig | None = None, train_dataset: Any = None,
                 eval_dataset: Any = None, peft_config: Any = None, processing_class: Any = None,
                 callbacks: Sequence[Any] | None = None, teacher: Any = None, rollout_engine: Any = None,
                 recipe: Any = None, *, teacher_model: Any = None) -> None:
        if not isinstance(args, RAFTConfig | None):
            raise UserError(f"args: must be a RAFTConfig, is {type(args).__name__}")
        teacher = teacher_model if teacher is None else teacher
        self._rows = None if train_dataset is None else InMemory("train_dataset", train_dataset)
        self._eval_rows = None if eval_dataset is None else InMemory("eval_dataset", eval_dataset)
        self.args = copy.copy(args) if args else RAFTConfig()
        if recipe is not None:
            self.args = self.args.changed(recipe=recipe)
        elif (self.args.given is not None and "recipe" not in self.args.given
              and (teacher or self.args.teacher) not in ("self", model)
              and (source := self._rows or self.args.data) and only_prompts(source)):
            self.args = self.args.changed(recipe="on_policy", sft=False)
        self._in_memory: set[str] = set()  # options whose names stand for loaded models
        self._model: Any = None
        self._model = self._named("model", model)
        self._teacher = self._named("teacher", teacher)
        self._rollout_engine = rollout_engine
        for option, rows in (("data", self._rows), ("heldout_data", self._eval_rows)):
            if rows is not None:
                setattr(self.args, option, MEMORY)
        if self.args.data is None and self.args.given is not None:
            raise UserError("train_dataset is missing: pass a datasets.Dataset, or RAFTConfig(data=FILE)")
        self._peft_config = peft_config
        if peft_config is not None:
            self.args.__dict__.update(vars(options_of(peft_config)))
        self.options, self.run_dir = self.args.options(), self.args.folder
        self._terms = terms_of(self.args.method, self.options.train)
        self.processing_class = getattr(processing_class, "tokenizer", processing_class)
        if self._model is not None and self.processing_class is None:
            self.processing_class = load.tokenizer_of(self._model)
        self._callbacks, theirs = sorted_callbacks(callbacks or ())
        told: Any = copy.copy(self.args)
        told.output_dir = str(self.run_dir)
        self._events = TrainerEvents(theirs, told, self.processing_class,
                                     trackers_of(self.options.watch.report_to))
        self._original: Any = None  # engines of the model before training and after
        self._trained: Any = None
        self._encoder: Any = None
        self._heldout: Sequence[Any] = []
        self._ended, self._weights = False, ""

    def train(self, resume_from_checkpoint: str | Path | bool | None = None) -> Any:
        """Refine and train: every stage but the evaluation, up to RUN/model.

        A run in output_dir is resumed from its newest complete checkpoint. resume_from_checkpoint: True
        requires a checkpoint, False a folder without a run; a path must be that of the run or of its newest
        checkpoint. Raises UserError if another process works in the folder, or its run has other options."""
        processes, reporter = self._begin()
        options, run_dir = self.options, self.run_dir
        with ExitStack() as held, load.left_as_it_was(self._model):
            processes.first(lambda: preflight(options, run_dir, processes.size, self._in_memory))
            processes.first(lambda: check_resume(resume_from_checkpoint, run_dir))
            processes.first(lambda: held.enter_context(only_process(run_dir)))
            changed = processes.first(lambda: open_run(run_dir, options.groups))
            self._ended = changed is not None and (run_dir / "evaluation.json").is_file()
            if self._ended:
                reporter.say(f"{run_dir} is finished: nothing is left to do")
                self._events.recall(run_dir)
            else:
                reporter.say(f"{'New run in' if changed is None else 'Going on with the run in'} {run_dir}")
                if changed:
                    reporter.say(f"with other options than before: {'; '.join(changed)}")
                try:
                    self._train(processes, reporter)
                finally:
                    if processes.is_first:
                        save_costs(run_dir, reporter)
        step, history = processes.first(lambda: (self.state.global_step, self.state.log_history))
        losses = [line["loss"] for line in history if line.get("loss") is not None]
        mean = sum(losses) / len(losses) if losses else math.nan
        return TrainOutput(step, mean, {"train_loss": mean})

    def _train(self, processes: Any, reporter: Reporter) -> None:
        """From rows to RUN/model."""
        options, run_dir, method = self.options, self.run_dir, self.args.method
        rows_per_step(options.train, run_dir)  # refuses other rows a step before anything is loaded
        data = processes.first(lambda: take_rows(options.data, options.train, run_dir, reporter, self._rows,
                                                 self._eval_rows, not needs_answers(method, options)))
        with reporter.phase("load models"):
            # frozen: it rewrites, it teaches, and the trained model is compared with it
            original = self._original = processes.first_then_others(self._load_original)
            check_shards(original.model, options.train.parallelism, processes)
            check_student(original.model, options.adapter, options.train, self._peft_config)
            if processes.is_first:  # only stage 1 and the evaluation ask it
                self._encoder = load.load_encoder(options.model)
            reader = reader_of(original, options.model)
            teacher = processes.first_then_others(lambda: load_teacher(options, reader, self._teacher))
        processes.first(lambda: pin_inputs(run_dir, {"the model": original.identity}))
        reporter.say(f"model: {original.identity}")
        data = processes.first(lambda: take_rendered(data, original.chat, options, run_dir, reporter))
        data = processes.first(lambda: screen_rows(
            data, options.screen, fetched_suites(reporter) if options.evaluate.general_prompts >= 0 else {},
            self._encoder, run_dir, reporter))
        rows = processes.first(lambda: answer_rows(data, options, reader, self._encoder, run_dir, reporter,
                                                   method.answers))
        self._heldout = spread(data.heldout, options.evaluate.eval_rows, options.data.seed)
        watching = watchers(options.watch, original, self._heldout, reporter) if processes.is_first else []
        self._trained = train_student(
            rows, self._terms, options, original, teacher, run_dir, reporter,
            [*self._callbacks, self._events, *watching], given=self._model,
            peft_config=self._peft_config, rollout_engine=self._rollout_engine)
        self._ended = self._trained is not None
        if not self._ended:
            reporter.say(f"stopped by a callback: {GO_ON}")

    def evaluate(self) -> dict[str, float]:
        """Compare the trained model with the one before training; writes evaluation.json, the model card and
        report.html, and uploads with --push_to_hub. Returns the means of the trained model as
        eval_PART_METRIC, those of the model before with _base behind."""
        processes, reporter = self._begin()
        options, run_dir = self.options, self.run_dir
        self._check_trained()
        if not processes.first((run_dir / "evaluation.json").is_file):
            self._original.batch_size = options.evaluate.eval_batch_size
            try:
                processes.first(lambda: evaluate(self._original, self._trained, self._heldout,
                                                 options.evaluate, self._encoder, reporter, run_dir))
            finally:
                if processes.is_first:
                    save_costs(run_dir, reporter)
        numbers: dict[str, float] = processes.first(lambda: finish(run_dir, options, reporter))
        self.state.log_history.append({**numbers, "step": self.state.global_step})
        return numbers

    @property
    def state(self) -> Any:
        """transformers' TrainerState; its log_history has every step and evaluation."""
        return self._events.state

    @property
    def model(self) -> Any:
        """The trained model; before training ends the one that it begins with."""
        with load.left_as_it_was(None):
            if self._ended and self._trained is None:  # an earlier process has trained it
                self._trained = load_engine(str(self.run_dir / "model"), self.options.model, exact=True)
            if self._trained is not None:
                return self._trained.model
            if self._model is not None:
                return self._model
            self._original = self._load_original()
        return self._original.model

    def save_model(self, output_dir: str | Path | None = None) -> None:
        """Copy RUN/model, as training saved it: merged, with tokenizer and card, for transformers to load."""
        self._check_trained()
        if output_dir is not None:
            Processes().first(lambda: shutil.copytree(self.run_dir / "model", output_dir, dirs_exist_ok=True))

    def push_to_hub(self, commit_message: str = "Trained with raft-fast", private: bool | None = None,
                    token: str | None = None, revision: str | None = None, **ignored: Any) -> str:
        """Upload RUN/model to hub_model_id (default: the folder's name); returns its URL. token: default
        HF_TOKEN. What transformers writes into its card is ignored. Raises UserError if the upload fails."""
        self._check_trained()
        watch = self.options.watch
        name = str(repository(dataclasses.replace(watch, push_to_hub=True), self.run_dir))
        kept = watch.hub_private_repo if private is None else private
        return Processes().first(lambda: push(self.run_dir / "model", name, kept, commit_message, token,
                                              revision))

    def _begin(self) -> tuple[Any, Reporter]:
        """The processes of this run, joined, and a reporter of what the call does."""
        processes = Processes.start(use_gpu=load.pick_device(self.options.model.device).type == "cuda")
        console.quiet = not processes.is_first
        return processes, Reporter()

    def _named(self, option: str, model: Any) -> Any:
        """A loaded model, whose name the option becomes; None if it is a name or absent."""
        if isinstance(model, str | os.PathLike):
            setattr(self.args, option, read(option, model))
        elif model is not None:
            load.check_loaded(option, model)
            if model is not self._model:  # as teacher it is the model before training
                setattr(self.args, option, model.name_or_path or MEMORY)
                self._in_memory.add(option)
                return model
            setattr(self.args, option, "self")
        return None

    def _load_original(self) -> Any:
        """The model before training as an engine. Raises UserError if a loaded model has been trained a
        little and there is no checkpoint to go on from."""
        options, tokenizer = self.options, self.processing_class
        loaded, size = self._model, options.refine.refine_batch_size
        whole = loaded is not None and not options.adapter.use_peft
        if self._original is None:
            if loaded is None:
                return load_engine("self", options.model, None, size, options.engines,
                                   tokenizer=tokenizer, exact=True)
            self._weights = load.fingerprint_loaded(loaded, tokenizer)
            return engine_of(loaded, tokenizer, options.model.model, options.model, options.engines, size,
                             trained=whole)
        if whole and not checkpoints(self.run_dir / "checkpoints") and (
                load.fingerprint_loaded(loaded, tokenizer) != self._weights):
            raise UserError("model: training changed its weights and ended before the first checkpoint: load "
                            "it again, and make a new RAFTTrainer")
        return self._original

    def _check_trained(self) -> None:
        if not self._ended:
            raise UserError("nothing is trained yet: call train() first (again, if a callback stopped it)")


def preflight(options: Options, run_dir: Path, processes: int = 1, in_memory: Collection[str] = ()) -> None:
    """Fail before rows are read, models are loaded or paid APIs are called: what each room checks."""
    check_names(options, run_dir)
    check_stage2(options, run_dir, processes, in_memory)
