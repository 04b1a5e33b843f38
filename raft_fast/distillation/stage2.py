"""Stage 2 from rows with answers to a trained model: the teacher, the student, the steps, RUN/model."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row, read_rejected
from raft_fast.distillation.callbacks import Callback, SoftStop
from raft_fast.distillation.loop import train
from raft_fast.distillation.losses import Term
from raft_fast.distillation.memory import estimate
from raft_fast.distillation.planning import fitting, measure, rows_per_step, step_count
from raft_fast.distillation.rollouts import RolloutEngine
from raft_fast.distillation.sharding import longest_sequence
from raft_fast.distillation.student import Student, make_student
from raft_fast.distillation.teacher import Teacher, shared_rows
from raft_fast.distillation.watching import StepsInProgress
from raft_fast.engines.hf import HFEngine
from raft_fast.engines.load import engine_of, load_local
from raft_fast.models.architecture import head_of, positions
from raft_fast.models.chat import check_same_tokenizer
from raft_fast.run.files import write_jsonl
from raft_fast.run.folder import has_steps, pin_inputs
from raft_fast.run.options import Options
from raft_fast.run.processes import Processes
from raft_fast.run.progress import Reporter


def load_teacher(options: Options, original: HFEngine, given: Any = None) -> HFEngine | None:
    """The frozen teacher as an engine: `given`, a loaded model with the student's tokenizer, or the one that
    --teacher names; None if nothing is distilled.

    Raises UserError if its tokenizer is not the student's, or has fewer than --teacher_top_k tokens.
    """
    if not options.train.distillation:
        return None
    teacher = original
    if given is not None:
        teacher = engine_of(given, original.chat.tokenizer, options.train.teacher, options.model,
                            options.engines)
    elif options.train.teacher != "self":
        teacher = load_local(options.train.teacher, options.model, options.engines,
                             quantization=options.train.teacher_quantization, option="--teacher")
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
    student = make_student(original.model, options.model, options.adapter, options.data.seed, given,
                           peft_config)
    try:
        return _train(student, rows, terms, options, original, frozen, run_dir, reporter, callbacks,
                      rollout_engine)
    finally:
        student.release()


def _train(student: Student, rows: list[Row], terms: Sequence[Term], options: Options, original: HFEngine,
           frozen: HFEngine | None, run_dir: Path, reporter: Reporter, callbacks: Sequence[Callback],
           rollout_engine: RolloutEngine | None) -> HFEngine | None:
    training, chat, teacher, processes = options.train, original.chat, None, Processes()
    model = student.model
    if frozen is not None:
        teacher = Teacher(frozen.model, chat, training.teacher_top_k,
                          training.distillation_temperature, student_vocab=head_of(model).weight.shape[0],
                          teaching=student.teaching(frozen.model))
        processes.first(lambda: pin_inputs(run_dir, {"the teacher": frozen.identity}, has_steps))
    with reporter.phase("count tokens", len(rows), "rows") as advance:
        lengths = processes.first(lambda: measure(rows, chat, terms, training, advance))
    takes = longest_sequence(model, training.parallelism, processes)
    rows, long = fitting(rows, lengths, training, takes,
                         positions(frozen.model) if frozen is not None else math.inf)
    if long:
        processes.first(lambda: write_jsonl([*read_rejected(run_dir), *long], run_dir / "rejected.jsonl"))
        reporter.say(f"{len(long)} rows are too long and set aside; the first: {long[0].reason}")
    if training.distillation and training.sft:
        reporter.say("λ includes a step's own losses if the step is one micro-batch (Eqs. 11-12), else the "
                     "averages of the step before: lambda_exact in metrics.jsonl")
    if processes.is_first:
        kept = {row.row_id: lengths[row.row_id] for row in rows}
        estimate(model, frozen and frozen.model, kept, training, processes.size).show()
    steps = step_count(len(rows), training, rows_per_step(training, run_dir))
    with reporter.phase("train", steps, "steps") as advance, SoftStop() as stopping:
        ended = train(model, teacher, chat, rows, terms, training, options.data.seed, run_dir,
                      [StepsInProgress(advance), *callbacks, stopping], student.weights, rollout_engine)
    if not ended:
        return None
    return HFEngine(student.finish(run_dir, chat), chat, f"{run_dir}", options.evaluate.eval_batch_size)
