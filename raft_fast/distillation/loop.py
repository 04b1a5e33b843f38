"""Stage 2, the paper's algorithm: roll out, ask the teacher, balance two losses, step."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler, set_seed

from raft_fast.chat import Chat
from raft_fast.dataset import Rejected, Row
from raft_fast.distillation.balance import EmaBalance, FixedBalance
from raft_fast.distillation.callbacks import Callback, Callbacks, FirstOnly, TrainingState
from raft_fast.distillation.checkpoint import newest_state, restore, save_checkpoint
from raft_fast.distillation.clock import Clock
from raft_fast.distillation.metrics import MetricsLog, peak_memory, speeds
from raft_fast.distillation.out_of_memory import run_halving
from raft_fast.distillation.random_state import random_state, set_random_state
from raft_fast.distillation.rollout import RolloutBatch, sample_trajectories
from raft_fast.distillation.sharding import (
    WholeOptimizer,
    gather_optimizer,
    gather_weights,
    sampler,
    spread,
    weights_of,
)
from raft_fast.distillation.step import Stepper
from raft_fast.distillation.stopping import StopOnBadSteps
from raft_fast.distillation.student import StudentPass
from raft_fast.distillation.teacher import Teacher
from raft_fast.distillation.weights import Weights
from raft_fast.engines import stable_seed
from raft_fast.errors import UserError
from raft_fast.options import TrainOptions
from raft_fast.processes import Processes


def train(student: Any, teacher: Teacher | None, chat: Chat, rows: Sequence[Row],
          options: TrainOptions, seed: int, run_dir: Path, callbacks: Sequence[Callback] = (),
          weights: Weights | None = None) -> None:
    """Train `student` in place on `rows`, resuming from the run's newest checkpoint.

    `teacher` None leaves the KL term out (plain SFT). `weights` says what of the student is trained and
    saved (default: all of it). Writes metrics.jsonl and checkpoints/. Every process of a run calls this
    with the same arguments; the first one writes and has the callbacks. Raises UserError where loss or
    gradient are not finite twice in a row, and where no checkpoint of a run is whole.
    """
    processes, size = Processes(), rows_per_step(options, run_dir)
    seed_process(processes, seed, 0)  # dropout; rollouts have seeds of their own
    steps = plan(rows, options, seed, size)
    student.train()
    if options.gradient_checkpointing:
        checkpoint_activations(student)
    student_pass = StudentPass(student, chat.pad_id, by_gradient=options.balance == "gradient")
    student_pass = spread(student_pass, options.parallelism, processes)
    optimizer, weights = adamw(student, options), weights_of(student, weights)
    scheduler = schedule(optimizer, options, len(steps))
    stepper = Stepper(student_pass, teacher, chat, make_balance(options), optimizer, options)

    state = TrainingState(run_dir, student, weights, len(steps))
    sampling_batch = RolloutBatch()
    buffer = resume(state, stepper, scheduler, sampling_batch, seed)
    state.listeners = Callbacks([MetricsLog(run_dir), StopOnBadSteps(), *callbacks])
    listeners = FirstOnly(state.listeners, processes)
    listeners.on_begin(state)
    for step in range(state.step, state.step if state.finished else len(steps)):
        clock = Clock(student.device)
        sampling = teacher is not None and step not in buffer
        with clock.part("rollout_seconds"):
            if sampling:  # Eq. 6, for as many steps as one refill feeds
                fed = range(step, min(step + options.steps_per_generation, len(steps)))
                buffer = refill(student, chat, steps, fed, options, seed, sampling_batch)
        trajectories = buffer.get(step, [[]] * len(steps[step]))
        examples = [stepper.example(row, trajectory)
                    for row, trajectory in zip(steps[step], trajectories, strict=True)]
        metrics = run_halving(stepper, examples)  # Eqs. 7-12
        if not metrics["skipped"]:
            scheduler.step()

        state.step, state.rows, state.trajectories = step + 1, steps[step], trajectories
        state.metrics = {"step": step + 1, **metrics, "peak_memory_bytes": peak_memory(student.device),
                         "rollout_seconds": clock.read()["rollout_seconds"] if teacher else None}
        state.metrics |= speeds(state.metrics, buffer if sampling else {}, examples)
        listeners.on_step(state)
        if saving_is_due(state, options):
            kept = {"balance": stepper.balance.state(), "scheduler": scheduler.state_dict(),
                    "halved_to": stepper.halved_to, "processes": of_each_process(sampling_batch, processes),
                    "finished": state.finished, "rows_per_step": size,
                    "buffer": {str(fed): ids for fed, ids in buffer.items() if fed > step}}
            save = partial(save_checkpoint, run_dir / "checkpoints", step + 1, gather_weights(weights),
                           gather_optimizer(optimizer), kept, options.save_total_limit)
            listeners.on_save(state, processes.first(save))
        if state.stop or state.finished:
            break
    listeners.on_end(state)


def rows_per_step(options: TrainOptions, run_dir: Path) -> int:
    """Rows of an optimizer step over all processes; a run that goes on keeps what it began with, on
    however many processes it goes on."""
    size = options.per_device_train_batch_size * options.gradient_accumulation_steps * Processes().size
    return int(newest_state(run_dir / "checkpoints").get("rows_per_step", size))


def plan(rows: Sequence[Row], options: TrainOptions, seed: int, size: int) -> list[list[Row]]:
    """The `size` rows of every optimizer step: each epoch in an order of its own, the last step may be
    short."""
    steps: list[list[Row]] = []
    for epoch in range(options.num_train_epochs):
        order = list(rows)
        random.Random(f"{seed} {epoch}").shuffle(order)
        steps += [order[start : start + size] for start in range(0, len(order), size)]
    return steps if options.max_steps < 0 else steps[: options.max_steps]


def fitting(rows: Sequence[Row], chat: Chat, options: TrainOptions,
            positions: int) -> tuple[list[Row], list[Rejected]]:
    """Rows whose three views fit, and the others with the reason.

    The SFT view must fit into --max_length and into the model's `positions`, and with the longest
    trajectory also the student's and the teacher's view into the latter. Raises UserError where no row fits.
    """
    fit, long = [], []
    for row in rows:
        answered = len(chat.sft_view(row.prompt, row.completion).ids)
        prompts = [chat.teacher_prompt(row.prompt, row.completion), chat.student_prompt(row.prompt)]
        sampled = max(map(len, prompts)) + options.max_completion_length
        if answered > options.max_length:
            reason = f"prompt and answer have {answered} tokens, more than --max_length {options.max_length}"
        elif options.sft and answered > positions:
            reason = f"prompt and answer have {answered} tokens; the model takes {positions}"
        elif options.distillation and sampled > positions:
            reason = f"teacher prompt and trajectory may have {sampled} tokens; the model takes {positions}"
        else:
            fit.append(row)
            continue
        long.append(Rejected("training rows", None, f"row_id {row.row_id}: {reason}"))
    if not fit:
        raise UserError(f"no row can be trained on: {long[0].reason if long else 'there is none'}")
    return fit, long


def refill(student: Any, chat: Chat, steps: list[list[Row]], fed: range, options: TrainOptions,
           seed: int, batch: RolloutBatch) -> dict[int, list[list[int]]]:
    """Trajectories for the steps in `fed`, all sampled from the student as it is now; each process
    samples its share, and a draw is the same whoever makes it."""
    processes = Processes()
    share = processes.deal([(step, row) for step in fed for row in steps[step]])[processes.rank]
    drawn = iter(processes.collect(sample_trajectories(
        sampler(student), chat, share, options.max_completion_length, options.rollout_temperature, seed,
        batch)))
    return {step: [next(drawn) for _ in steps[step]] for step in fed}


def resume(state: TrainingState, stepper: Stepper, scheduler: Any, batch: RolloutBatch,
           seed: int) -> dict[int, list[list[int]]]:
    """Go back to the newest checkpoint; returns the rollouts still waiting."""
    kept = restore(state.run_dir / "checkpoints", state.weights, WholeOptimizer(stepper.optimizer))
    if kept is None:
        return {}
    state.step, state.finished = kept["step"], kept["finished"]
    stepper.balance.load(kept["balance"])
    if halved := kept.get("halved_to"):  # smaller micro-batches take λ from elsewhere
        stepper.limits = replace(stepper.limits, rows=min(halved, stepper.limits.rows))
    scheduler.load_state_dict(kept["scheduler"])
    go_on(kept.get("processes", []), batch, Processes(), [seed, state.step])
    for group, lr in zip(stepper.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = lr  # a loaded schedule does not touch the optimizer until its next step
    return {int(step): ids for step, ids in kept["buffer"].items()}


def of_each_process(batch: RolloutBatch, processes: Processes) -> list[dict[str, Any]]:
    """What a checkpoint keeps of every process; all take part."""
    return processes.collect([{"random": random_state(), "rollout_rows": batch.rows}])


def go_on(kept: Sequence[dict[str, Any]], batch: RolloutBatch, processes: Processes, seed: list[int]) -> None:
    """Put back what `of_each_process` gave; as many processes as there were are needed, others draw anew."""
    if len(kept) != processes.size:
        seed_process(processes, *seed)
        return
    own = kept[processes.rank]
    batch.rows = own["rollout_rows"]
    set_random_state(own["random"])


def seed_process(processes: Processes, *seed: int) -> None:
    """Dropout: every process draws its own, the first one as if it were alone."""
    set_seed(stable_seed(*seed, processes.rank) % 2**32)


def saving_is_due(state: TrainingState, options: TrainOptions) -> bool:
    """Every --save_steps, and where training ends."""
    every = options.save_steps and state.step % options.save_steps == 0
    return bool(every or state.step == state.total or state.stop or state.finished)


def checkpoint_activations(student: Any) -> None:
    """Recompute activations in the backward pass; the method's old name is deprecated in transformers."""
    enable = getattr(student, "activation_checkpointing_enable", student.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def make_balance(options: TrainOptions) -> EmaBalance | FixedBalance:
    """λ as the options ask; ema and gradient differ in what they are fed."""
    if options.balance == "fixed":
        return FixedBalance(options.fixed_lambda)
    return EmaBalance(options.ema_beta, options.lambda_max)


def adamw(student: Any, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW; norms and biases are not decayed."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)  # one pass over four tensors


def schedule(optimizer: torch.optim.Optimizer, options: TrainOptions, steps: int) -> Any:
    """A learning rate schedule of transformers."""
    name: str = options.lr_scheduler_type
    if name == "constant" and options.warmup_steps:
        name = "constant_with_warmup"
    return get_scheduler(name, optimizer, num_warmup_steps=options.warmup_steps,
                         num_training_steps=steps)
