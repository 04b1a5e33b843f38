"""Stage 2, the paper's algorithm: roll out, ask the teacher, balance the losses, step."""

import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raft_fast.data.dataset import Row, fingerprint_rows
from raft_fast.distillation.callbacks import Callback, MetricsLog, TrainingState
from raft_fast.distillation.checkpoint import Resumable
from raft_fast.distillation.examples import Example
from raft_fast.distillation.losses import Term
from raft_fast.distillation.planning import plan, rows_per_step
from raft_fast.distillation.rollouts import BatchedRollouts, RolloutBuffer, RolloutEngine
from raft_fast.distillation.step import Clock, Stepper, run_halving
from raft_fast.distillation.student import adamw, checkpoint_activations, schedule
from raft_fast.distillation.student_pass import StudentPass
from raft_fast.distillation.teacher import Teacher
from raft_fast.distillation.weights import FullWeights, spread
from raft_fast.engines import Sampling, stable_seed
from raft_fast.models.chat import Chat
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes


def train(student: Any, teacher: Teacher | None, chat: Chat, rows: Sequence[Row],
          terms: Sequence[Term], options: TrainOptions, seed: int, run_dir: Path,
          callbacks: Sequence[Callback] = (), weights: Any = None,
          rollout_engine: RolloutEngine | None = None) -> bool:
    """Train `student` in place on `rows`, resuming from the run's newest checkpoint.

    terms: what is minimised (a recipe gives them); one that is taught needs the teacher. weights: what of the
    student is trained and saved (default: all). rollout_engine: default `BatchedRollouts`. Writes
    metrics.jsonl and checkpoints/. Every process of a run calls this with the same arguments; the first
    one writes and calls the callbacks, except those that are `everywhere`. Returns whether training has come
    to its end, False if a callback stopped it before. Raises UserError if loss or gradient are not finite
    twice in a row, if all checkpoints of a run are damaged, cannot be read or are of other rows, and if the
    engine samples from another model."""
    processes, size = Processes(), rows_per_step(options, run_dir)
    steps = plan(rows, options, seed, size)
    student.train()
    if teacher is not None:
        chat = chat.below(teacher.head.weight.shape[0])  # it could not read other ids
    if options.gradient_checkpointing:
        checkpoint_activations(student)
    student_pass = spread(StudentPass(student, terms, chat.pad_id, by_gradient=options.balance == "gradient"),
                          options.parallelism, processes)
    optimizer = adamw(student, options)
    scheduler = schedule(optimizer, options, len(steps))
    stepper = Stepper(student_pass, terms, teacher, chat, optimizer, options)
    rollouts, draws = None, max(term.draws for term in terms)
    if draws:
        sampling = Sampling(options.max_completion_length, options.rollout_temperature)
        engine = rollout_engine or BatchedRollouts(chat, sampling)
        rollouts = RolloutBuffer(engine, chat, steps, options, seed, draws)
    state = TrainingState(run_dir, student, weights or FullWeights(student), len(steps),
                          callbacks=[MetricsLog(run_dir), *callbacks])
    run = Resumable(state, stepper, scheduler, rollouts, size, fingerprint_rows(rows))
    run.restore()
    state.notify("on_begin")

    for step in range(state.step, state.step if state.finished else len(steps)):
        own_seed = stable_seed(seed, step, processes.rank)
        torch.manual_seed(own_seed)  # a resumed run needs no other random state
        clock = Clock(student.device)
        optimizer.zero_grad(set_to_none=True)  # rollouts need the room
        with clock.part("rollout_seconds"):  # Eq. 6, for as many steps as one refill feeds
            trajectories = rollouts.take(step, student) if rollouts else []
        examples = [stepper.example(row, trajectories[draws * place : draws * (place + 1)])
                    for place, row in enumerate(steps[step])]
        metrics = run_halving(stepper, examples, own_seed)  # Eqs. 7-12
        if not metrics["skipped"]:
            scheduler.step()

        state.step, state.rows = step + 1, steps[step]
        state.trajectories, state.examples = trajectories, examples
        # every row comes once before any comes again
        state.metrics = {"step": step + 1, **metrics, "rows_seen": min(len(rows), (step + 1) * size),
                         "peak_memory_bytes": peak_memory(student.device),
                         "rollout_seconds": clock.read()["rollout_seconds"] if rollouts else None,
                         "rollout_logprob_gap": rollouts.gap if rollouts else None}
        state.metrics |= speeds(state.metrics, rollouts.drawn_tokens if rollouts else 0, examples)
        state.notify("on_step")
        due = options.save_steps > 0 and state.step % options.save_steps == 0
        if due or state.step == len(steps) or state.stop or state.finished:
            ended = state.finished
            state.notify("on_save", run.save())
            if state.finished != ended:  # by a callback, and a resumed run must know
                run.save()
        if state.stop or state.finished:
            break
    state.notify("on_end")
    return state.step == state.total or state.finished is not None


def speeds(metrics: dict[str, Any], drawn: int, examples: Sequence[Example]) -> dict[str, Any]:
    """Tokens of the step's three parts and tokens per second, None where a part had nothing to do.

    rollout: tokens `drawn`, for this and later steps; teacher and train: tokens read, prompts included."""
    tokens = {"rollout": drawn,
              "teacher": sum(len(view.ids) for example in examples for view in example.teachers),
              "train": metrics["tokens"]}
    speed = {part: count / seconds if count and (seconds := metrics[f"{part}_seconds"]) else None
             for part, count in tokens.items()}
    return {"rollout_tokens": tokens["rollout"], "teacher_tokens": tokens["teacher"],
            **{f"{part}_tokens_per_second": value for part, value in speed.items()}}


def peak_memory(device: torch.device) -> int:
    """Bytes: CUDA's peak, or the process's peak resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
