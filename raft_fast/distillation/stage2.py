"""Stage 2 from preflight checks and rows with answers to a trained model: teacher, student, RUN/model."""

import math
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row, read_rejected
from raft_fast.data.records import own_file
from raft_fast.distillation.callbacks import Callback, SoftStop
from raft_fast.distillation.loop import train
from raft_fast.distillation.losses import Term
from raft_fast.distillation.planning import estimate, fitting, rows_per_step, show_memory, step_count
from raft_fast.distillation.rollouts import RolloutEngine
from raft_fast.distillation.student import make_student
from raft_fast.distillation.teacher import Teacher, shared_rows
from raft_fast.distillation.watching import StepsInProgress
from raft_fast.distillation.weights import longest_sequence
from raft_fast.engines.hf import HFEngine
from raft_fast.engines.load import engine_of, load_engine, reader_of
from raft_fast.models.architecture import head_of, positions
from raft_fast.models.chat import check_same_tokenizer
from raft_fast.models.fetch import own_folder
from raft_fast.models.load import pick_device
from raft_fast.run.errors import require
from raft_fast.run.fetch import check_upload
from raft_fast.run.files import write_jsonl
from raft_fast.run.folder import has_steps, pin_inputs
from raft_fast.run.option import check
from raft_fast.run.options import MEMORY, Options
from raft_fast.run.processes import Processes
from raft_fast.run.progress import Reporter


def check_stage2(options: Options, run_dir: Path, processes: int, in_memory: Collection[str] = ()) -> None:
    """Raises UserError for missing packages, options that this device or number of processes does not
    support, an upload without a token, and, in a new run, files and folders that are not there. (A resumed
    run tells what has changed.) `in_memory`: options that name loaded models."""
    train = options.train
    pick_device(options.model.device)
    check_processes(options, processes)
    if options.adapter.use_peft:
        require("peft", "lora")
    check_upload(options.watch, run_dir)
    check("://" not in train.teacher, "--teacher", train.teacher,
          "a folder or hub name: a server shows no logits")
    if run_dir.exists():
        return
    if options.data.data not in (None, MEMORY):
        own_file(str(options.data.data))
    if "model" not in in_memory:
        own_folder(options.model.model)
    own_folder(options.model.encoder, "--encoder")
    if train.distillation and train.teacher != "self" and "teacher" not in in_memory:
        own_folder(train.teacher, "--teacher")


def check_processes(options: Options, processes: int) -> None:
    """Raises UserError for options that are not supported with this number of processes."""
    if processes == 1:
        return
    check(":" not in options.model.device, "--device", options.model.device,
          f"auto or cuda for {processes} processes: each takes the GPU of its local rank")
    if options.train.parallelism == "fsdp2":
        check(not options.adapter.use_peft, "--parallelism fsdp2 --use_peft", True,
              "--parallelism ddp: adapters are small, and FSDP2 trains whole models")
        check(not options.watch.eval_steps, "--parallelism fsdp2 --eval_steps", options.watch.eval_steps,
              "0, or --parallelism ddp: the first process evaluates alone and needs whole weights")


def load_teacher(options: Options, original: HFEngine, given: Any = None) -> HFEngine | None:
    """The frozen teacher as an engine: `given`, a loaded model with the student's tokenizer, or the one that
    --teacher names; None if nothing is distilled.

    Raises UserError if its tokenizer is not the student's, or has fewer than --teacher_top_k tokens."""
    if not options.train.distillation:
        return None
    teacher = reader_of(original, options.model)
    if given is not None:
        teacher = engine_of(given, original.chat.tokenizer, options.train.teacher, options.model,
                            options.engines)
    elif options.train.teacher != "self":
        teacher = load_engine(options.train.teacher, options.model, None, 32, options.engines, "--teacher")
        check_same_tokenizer(original.chat.tokenizer, teacher.chat.tokenizer)
    shared_rows(options.train.teacher_top_k, *(head_of(one.model).weight.shape[0]
                                               for one in (teacher, original)))
    return teacher


def train_student(rows: list[Row], terms: Sequence[Term], options: Options, original: HFEngine,
                  frozen: HFEngine | None, run_dir: Path, reporter: Reporter,
                  callbacks: Sequence[Callback] = (), *, given: Any = None, peft_config: Any = None,
                  rollout_engine: RolloutEngine | None = None) -> HFEngine | None:
    """Minimise `terms` on `rows` and write RUN/model; returns the trained model as an engine, None if a
    callback stopped training before its end. `original` is the model before training, `frozen` the teacher;
    `given` and `peft_config` as in `make_student`."""
    training, chat, teacher, processes = options.train, original.chat, None, Processes()
    with ExitStack() as end:
        student = make_student(original.model, options.model, options.adapter, options.data.seed, given,
                               peft_config)
        end.callback(student.release)
        model = student.model
        if frozen is not None:
            teacher = Teacher(frozen.model, chat, training.teacher_top_k, training.distillation_temperature,
                              head_of(model).weight.shape[0], student.teaching(frozen.model))
            processes.first(lambda: pin_inputs(run_dir, {"the teacher": frozen.identity}, has_steps))
        most = longest_sequence(model, training.parallelism, processes)
        least = positions(frozen.model) if frozen is not None else math.inf
        with reporter.phase("count tokens", len(rows), "rows") as advance:
            found = processes.first(lambda: fitting(rows, chat, terms, training, most, least, advance))
        rows, long, sizes = found
        if long:
            processes.first(lambda: write_jsonl([*read_rejected(run_dir), *long], run_dir / "rejected.jsonl"))
            reporter.say(f"{len(long)} rows are too long and set aside; the first: {long[0].reason}")
        if processes.is_first:
            show_memory(estimate(model, sizes, training, processes.size), model.device)
        steps = step_count(len(rows), training, rows_per_step(training, run_dir))
        with reporter.phase("train", steps, "steps") as advance, SoftStop() as stopping:
            ended = train(model, teacher, chat, rows, terms, training, options.data.seed, run_dir,
                          [StepsInProgress(advance), *callbacks, stopping], student.weights, rollout_engine)
        if not ended:
            return None
        return HFEngine(student.finish(run_dir, chat), chat, f"{run_dir}", options.evaluate.eval_batch_size)
