"""RAFT from raw rows to a trained, evaluated model: `python -m raft_fast.train`.

Reads top to bottom like the paper's figure (arXiv 2606.00147): hold rows out, refine the answers
(stage 1), train on them while the frozen original model, shown the answer, teaches the student on
its own words (stage 2), then measure what was learnt and what was kept.
"""

import math
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import Row, spread
from raft_fast.data.training_rows import read_rejected, screen_rows, take_rendered, take_rows
from raft_fast.preflight import check_train
from raft_fast.refinement.answers import answer_rows, check_stage1
from raft_fast.run.config import parse
from raft_fast.run.errors import GO_ON, UserError, entry
from raft_fast.run.files import read_json, write_jsonl
from raft_fast.run.folder import has_steps, only_process, open_run, pin_inputs, save_costs
from raft_fast.run.options import (
    AdapterOptions,
    DataOptions,
    EngineOptions,
    EvaluateOptions,
    ModelOptions,
    Options,
    RefineOptions,
    ScreenOptions,
    TrainOptions,
    WatchOptions,
    check_given,
    check_rollouts,
    check_several,
)
from raft_fast.run.progress import Reporter, Silent

DESCRIPTION = """Fine-tune an instruct model on a domain by RAFT. Without options it runs the
quickstart: a small model and data set, minutes on two CPU cores. --data FILE takes your own rows (and
--config raft where you name no other): raw ones go through stage 1 first, refined ones are trained on
as they are. Interrupted, the same command goes on where it stopped. Started by torchrun or
`accelerate launch` it trains on many GPUs."""
GROUPS = [DataOptions, ModelOptions, EngineOptions, ScreenOptions, RefineOptions, TrainOptions,
          AdapterOptions, WatchOptions, EvaluateOptions]


@entry
def main() -> None:
    argv = sys.argv[1:]
    own_data = any(word.split("=")[0] == "--data" for word in argv)
    name, groups = parse("train", DESCRIPTION, GROUPS, argv, "raft" if own_data else "quickstart")
    options = Options(*groups)
    check_given(argv, options)
    run(name, options)


def run(name: str, options: Options, callbacks: Sequence[Any] = ()) -> Path:
    """Everything the command does, for a configuration called `name`; returns the run's folder. `callbacks`
    (`raft_fast.distillation.Callback`) listen to stage 2, before the program's own.

    Raises UserError where another command is at work in that folder.
    """
    from raft_fast.models.load import pick_device
    from raft_fast.run.processes import Processes

    on_gpu = pick_device(options.model.device).type == "cuda"
    processes = Processes.start(use_gpu=on_gpu)
    check_several(processes.size, options.model, options.train, options.adapter, options.watch)
    check_rollouts(processes.size, on_gpu, options.train)
    reporter = Reporter() if processes.is_first else Silent()
    run_dir = Path(options.data.output_dir or f"runs/{name}")
    with ExitStack() as held:
        processes.first(lambda: check_train(options, run_dir))
        processes.first(lambda: held.enter_context(only_process(run_dir)))
        from_rows_to_report(run_dir, options, processes, reporter, callbacks)
    processes.end()
    return run_dir


def from_rows_to_report(run_dir: Path, options: Options, processes: Any, reporter: Reporter,
                        callbacks: Sequence[Any] = ()) -> None:
    """Every stage whose outcome is not in the folder yet."""
    from raft_fast.distillation import rows_per_step
    from raft_fast.distillation.sharding import check_shards
    from raft_fast.distillation.student import check_adapter, check_checkpointing
    from raft_fast.engines.load import load_engine
    from raft_fast.evaluation.watchers import watchers
    from raft_fast.models.load import load_encoder

    start = processes.first(lambda: open_run(run_dir, options.groups))
    if start.resumed and (run_dir / "evaluation.json").is_file():
        reporter.say(f"{run_dir} is finished: nothing is left to do")
        return processes.first(lambda: finish(run_dir, options, reporter))
    reporter.say(f"{'Going on with the run in' if start.resumed else 'New run in'} {run_dir}")
    if start.changed:
        reporter.say(f"with other options than before: {'; '.join(start.changed)}")
    rows_per_step(options.train, run_dir)  # refuses other rows a step before anything is loaded
    try:
        data = processes.first(lambda: take_rows(options.data, options.train, run_dir, reporter))
        processes.first(lambda: check_stage1(data, options))
        with reporter.phase("load models"):
            # frozen: it rewrites, it teaches, and the trained model is compared with it
            original = processes.first_then_others(lambda: load_engine(
                "self", options.model, batch_size=options.refine.refine_batch_size, engines=options.engines))
            check_shards(original.model, options.train.parallelism, processes)
            check_adapter(original.model, options.adapter)
            check_checkpointing(original.model, options.train)
            encoder = None  # only stage 1 and the evaluation ask it
            if processes.is_first:
                encoder = load_encoder(options.model)
            teacher = processes.first_then_others(lambda: load_teacher(options, original))
        processes.first(lambda: pin_inputs(run_dir, {"the model": original.identity}))
        reporter.say(f"model: {original.identity}")
        data = processes.first(lambda: take_rendered(data, original.chat, options, run_dir, reporter))
        data = processes.first(lambda: screen_rows(data, options.screen, suites(options, reporter), encoder,
                                                   run_dir, reporter))
        answered = processes.first(lambda: answer_rows(data, options, original, encoder, run_dir, reporter))
        heldout = spread(data.heldout, options.evaluate.eval_rows, options.data.seed)
        watching = watchers(options.watch, original, heldout, run_dir, reporter, options.flat()) \
            if processes.is_first else []
        trained = train_student(answered, options, original, teacher, run_dir, reporter,
                                [*callbacks, *watching])
        if trained is None:
            return reporter.say(f"stopped by a callback: {GO_ON}")
        processes.first(lambda: evaluate_both(original, trained, heldout, options, encoder, run_dir,
                                              reporter))
    finally:
        if processes.is_first:
            save_costs(run_dir, reporter)
    processes.first(lambda: finish(run_dir, options, reporter))


def finish(run_dir: Path, options: Options, reporter: Reporter) -> None:
    """Model card and report from what the run has written; prints the table; uploads where asked to."""
    from raft_fast.evaluation.collapse import collapse_of
    from raft_fast.report.model_card import write_model_card
    from raft_fast.report.run_report import write_report
    from raft_fast.report.table import print_table
    from raft_fast.run.hub import push, repository

    evaluation = read_json(run_dir / "evaluation.json", "restore it, or delete it to evaluate again")
    write_model_card(run_dir)
    report = write_report(run_dir)
    print_table(evaluation)
    reporter.say(f"model  {run_dir / 'model'}\nreport {report}")
    collapse, name = collapse_of(run_dir), repository(options.watch, run_dir)
    if collapse:
        reporter.say(f"warning: training ended early: {collapse}")
    if name and collapse:
        raise UserError(f"--hub_model_id {name}: not uploaded, because training ended early ({collapse}); "
                        f"look at {report} first, then hf upload {name} {run_dir / 'model'}")
    if name:
        with reporter.phase("upload"):
            address = push(run_dir / "model", name, options.watch.hub_private_repo)
        reporter.say(f"hub    {address}")


def suites(options: Options, reporter: Reporter) -> dict[str, Any]:
    """The suites that the trained model will be asked, to compare the training rows with."""
    from raft_fast.evaluation.suites import fetched_suites

    return fetched_suites(reporter) if options.evaluate.general_prompts >= 0 else {}


def load_teacher(options: Options, original: Any) -> Any:
    """The frozen teacher as an engine, or None where nothing is distilled.

    Raises UserError where its tokenizer is not the student's, or has fewer than --teacher_top_k tokens.
    """
    from raft_fast.distillation.teacher import shared_rows
    from raft_fast.engines.load import load_local
    from raft_fast.models.chat import check_same_tokenizer
    from raft_fast.models.head import head_of

    if not options.train.distillation:
        return None
    teacher = original
    if options.train.teacher != "self":
        teacher = load_local(options.train.teacher, options.model, options.engines,
                             quantization=options.train.teacher_quantization, option="--teacher")
        check_same_tokenizer(original.chat.tokenizer, teacher.chat.tokenizer)
    shared_rows(options.train.teacher_top_k, *(head_of(one.model).weight.shape[0]
                                               for one in (teacher, original)))
    return teacher


def train_student(rows: list[Row], options: Options, original: Any, frozen: Any, run_dir: Path,
                  reporter: Reporter, callbacks: Sequence[Any] = ()) -> Any:
    """Stage 2; returns the trained model as an engine and writes RUN/model. `callbacks` listen to it; None
    where one of them has stopped it before its end."""
    from raft_fast.distillation import (
        SoftStop,
        Teacher,
        estimate,
        fitting,
        measure,
        micro_batches,
        plan,
        rows_per_step,
        train,
    )
    from raft_fast.distillation.live import StepsInProgress
    from raft_fast.distillation.sharding import longest_sequence
    from raft_fast.distillation.show_memory import show_memory
    from raft_fast.distillation.student import make_student
    from raft_fast.engines.hf import HFEngine
    from raft_fast.models.architecture import positions
    from raft_fast.models.attention import shares_prompts
    from raft_fast.models.head import head_of
    from raft_fast.run.processes import Processes

    training, chat, teacher, processes = options.train, original.chat, None, Processes()
    student = make_student(original.model, options.model, options.adapter, options.data.seed)
    model = student.model
    if frozen is not None:
        teacher = Teacher(frozen.model, chat, training.teacher_top_k,
                          training.distillation_temperature, training.teacher_sees_answer,
                          student_vocab=head_of(model).weight.shape[0],
                          teaching=student.teaching(frozen.model))
        processes.first(lambda: pin_inputs(run_dir, {"the teacher": frozen.identity}, has_steps))
    with reporter.phase("count tokens", len(rows), "rows") as advance:
        lengths = processes.first(lambda: measure(rows, chat, training, advance))
    takes = longest_sequence(model, training.parallelism, processes)
    rows, long = fitting(rows, lengths, training, takes,
                         positions(frozen.model) if frozen is not None else math.inf)
    if long:
        processes.first(lambda: write_jsonl([*read_rejected(run_dir), *long], run_dir / "rejected.jsonl"))
        reporter.say(f"{len(long)} rows are too long and set aside; the first: {long[0].reason}")
    if training.distillation and training.sft:
        reporter.say("λ: a step of one micro-batch has its own losses in the averages (Eqs. 11-12 exactly), "
                     "one of several takes the averages of the step before"
                     + "; metrics.jsonl says of each step which held (lambda_exact)")
    steps = plan(rows, training, options.data.seed, rows_per_step(training, run_dir))
    if processes.is_first:
        cut = micro_batches(steps, lengths, training, shares_prompts(model))
        show_memory(estimate(model, frozen and frozen.model, cut, training, processes.size))
    with reporter.phase("train", len(steps), "steps") as advance, SoftStop() as stopping:
        ended = train(model, teacher, chat, rows, training, options.data.seed, run_dir,
                      [StepsInProgress(advance), *callbacks, stopping], student.weights)
    if not ended:
        return None
    return HFEngine(student.finish(run_dir, chat), chat, f"{run_dir}", options.evaluate.eval_batch_size)


def evaluate_both(original: Any, trained: Any, heldout: list[Row], options: Options, encoder: Any,
                  run_dir: Path, reporter: Reporter) -> None:
    """Base and trained model on held-out rows and on general instructions."""
    from raft_fast.evaluation import evaluate

    original.batch_size = options.evaluate.eval_batch_size
    evaluate(original, trained, heldout, options.evaluate, encoder, reporter, run_dir)


if __name__ == "__main__":
    main()
