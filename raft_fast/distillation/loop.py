"""Stage 2, the paper's algorithm: roll out, ask the teacher, balance two losses, step."""

import json
import os
import random
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler

from raft_fast.chat import Chat
from raft_fast.dataset import Rejected, Row, write_jsonl
from raft_fast.distillation.balance import EmaBalance, FixedBalance
from raft_fast.distillation.checkpoint import restore, save_checkpoint
from raft_fast.distillation.rollout import sample_trajectories
from raft_fast.distillation.step import Stepper, stopwatch
from raft_fast.distillation.teacher import Teacher
from raft_fast.errors import UserError
from raft_fast.options import TrainOptions

BAD_STEPS = 2  # steps in a row without a finite gradient before a run stops


def train(student: Any, teacher: Teacher | None, chat: Chat, rows: Sequence[Row],
          options: TrainOptions, seed: int, run_dir: Path, advance: Callable[..., None]) -> None:
    """Train `student` in place on `rows`, resuming from the run's newest checkpoint.

    `teacher` None leaves the KL term out (plain SFT). Writes metrics.jsonl and checkpoints/.
    Raises UserError where the gradient is not finite twice in a row.
    """
    torch.manual_seed(seed)
    steps = plan(rows, options, seed)
    student.train()
    if options.gradient_checkpointing:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = adamw(student, options)
    scheduler = schedule(optimizer, options, len(steps))
    stepper = Stepper(student, teacher, chat, make_balance(options), optimizer, options)

    first, buffer = resume(run_dir, stepper, scheduler)
    log = MetricsLog(run_dir / "metrics.jsonl", keep=first)
    advance(first)
    for step in range(first, len(steps)):
        with stopwatch(student.device) as rollout_seconds:
            if teacher and step not in buffer:  # Eq. 6, for as many steps as one refill feeds
                fed = range(step, min(step + options.steps_per_generation, len(steps)))
                buffer = refill(student, chat, steps, fed, options, seed)
        trajectories = buffer.get(step, [[]] * len(steps[step]))
        examples = [stepper.example(row, trajectory)
                    for row, trajectory in zip(steps[step], trajectories, strict=True)]
        metrics = stepper.run(examples)  # Eqs. 7-12
        if not metrics["skipped"]:
            scheduler.step()

        log.write({"step": step + 1, **metrics, "peak_memory_bytes": peak_memory(student.device),
                   "rollout_seconds": rollout_seconds[0] if teacher else None})
        advance(1, note=log.describe())
        if log.bad_steps >= BAD_STEPS:
            raise UserError(f"the gradient was not finite in steps {step} and {step + 1}: lower "
                            f"--learning_rate; the last good checkpoint is in {run_dir}/checkpoints")
        if step + 1 == len(steps) or (options.save_steps and (step + 1) % options.save_steps == 0):
            state = {"balance": stepper.balance.state(), "scheduler": scheduler.state_dict(),
                     "buffer": {str(fed): ids for fed, ids in buffer.items() if fed > step}}
            save_checkpoint(run_dir / "checkpoints", step + 1, student, optimizer, state,
                            options.save_total_limit)


def plan(rows: Sequence[Row], options: TrainOptions, seed: int) -> list[list[Row]]:
    """The rows of every optimizer step: each epoch in an order of its own, the last step may be short."""
    size = options.per_device_train_batch_size * options.gradient_accumulation_steps
    steps: list[list[Row]] = []
    for epoch in range(options.num_train_epochs):
        order = list(rows)
        random.Random(f"{seed} {epoch}").shuffle(order)
        steps += [order[start : start + size] for start in range(0, len(order), size)]
    return steps if options.max_steps < 0 else steps[: options.max_steps]


def fitting(rows: Sequence[Row], chat: Chat, options: TrainOptions,
            positions: int) -> tuple[list[Row], list[Rejected]]:
    """Rows whose three views fit, and the others with the reason.

    The SFT view must fit into --max_length, and with the longest trajectory also the student's and the
    teacher's view into the model's `positions`. Raises UserError where no row fits.
    """
    fit, long = [], []
    for row in rows:
        answered = len(chat.sft_view(row.prompt, row.completion).ids)
        prompts = [chat.teacher_prompt(row.prompt, row.completion), chat.student_prompt(row.prompt)]
        sampled = max(map(len, prompts)) + options.max_completion_length
        if answered > options.max_length:
            reason = f"prompt and answer have {answered} tokens, more than --max_length {options.max_length}"
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
           seed: int) -> dict[int, list[list[int]]]:
    """Trajectories for the steps in `fed`, all sampled from the student as it is now."""
    requests = [(step, row) for step in fed for row in steps[step]]
    drawn = iter(sample_trajectories(student, chat, requests, options.max_completion_length,
                                     options.rollout_temperature, seed))
    return {step: [next(drawn) for _ in steps[step]] for step in fed}


def resume(run_dir: Path, stepper: Stepper, scheduler: Any) -> tuple[int, dict[int, list[list[int]]]]:
    """(steps already done, rollouts still waiting)."""
    state = restore(run_dir / "checkpoints", stepper.student, stepper.optimizer)
    if state is None:
        return 0, {}
    stepper.balance.load(state["balance"])
    scheduler.load_state_dict(state["scheduler"])
    for group, lr in zip(stepper.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = lr  # a loaded schedule does not touch the optimizer until its next step
    return state["step"], {int(step): ids for step, ids in state["buffer"].items()}


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


def peak_memory(device: torch.device) -> int:
    """Bytes: CUDA's peak, or the process's peak resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class MetricsLog:
    """metrics.jsonl: one JSON object a step, appended as it happens; the first `keep` lines stay."""

    def __init__(self, path: Path, keep: int) -> None:
        lines = path.read_text(encoding="utf-8").splitlines()[:keep] if path.is_file() else []
        write_jsonl((json.loads(line) for line in lines), path)
        self.file = path.open("a", encoding="utf-8")
        self.last: dict[str, Any] = {}
        self.bad_steps = 0

    def write(self, metrics: dict[str, Any]) -> None:
        self.last = metrics
        self.bad_steps = self.bad_steps + 1 if metrics["skipped"] else 0
        self.file.write(json.dumps(metrics, allow_nan=False) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())  # a checkpoint never knows steps that the log does not

    def describe(self) -> str:
        shown = {"loss": "loss", "sft_loss": "sft", "kl_loss": "kl", "lambda": "λ"}
        return "  ".join(f"{label} {self.last[key]:.3g}" for key, label in shown.items()
                         if self.last[key] is not None)
