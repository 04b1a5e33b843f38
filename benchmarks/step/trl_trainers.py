"""TRL's trainers as contenders: their own loop and loss, with our rollout engine and a stopwatch inside.

- `SDFTTrainer` (experimental) is the nearest to RAFT: on-policy, a frozen teacher that is shown the answer,
  KL on K ids, renormalised. It takes the student's K ids where RAFT takes the teacher's, through both
  models' full logits; it has no T², no SFT term and no λ.
- `DistillationTrainer` has the leaner loss (both heads tile by tile, no full logits) over the whole
  vocabulary; its teacher sees what the student sees.
"""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.step.ours import STILL, TEMPERATURE, Job, chat_of, load
from raft_fast.distillation.rollouts import BatchedRollouts, Draw
from raft_fast.engines import Sampling, stable_seed
from raft_fast.models.chat import REFERENCE_PROMPT


def run(job: Job, name: str) -> list[dict[str, Any]]:
    """Every step's seconds and tokens of TRL's trainer `name`."""
    from datasets import Dataset

    logging.getLogger("trl").setLevel(logging.ERROR)
    student = load(job, torch.float32, packed=False)
    teacher = load(job, job.frozen_dtype, packed=False).requires_grad_(False)
    chat, watch = chat_of(job, student), Stopwatch(job.device)
    steps, engine = job.plan()[: job.steps], BatchedRollouts(chat, Sampling(job.max_completion_length, 1.0))
    rows = [row for step in steps for row in step]
    table = Dataset.from_list([{"prompt": row.prompt, "privileged_context": row.completion} for row in rows])

    def sample(model: Any, prompts: list[list[int]]) -> list[list[int]]:
        """The trajectories that our own loop samples in this step."""
        step = len(watch.steps)
        draws = [Draw(chat.student_prompt(row.prompt), stable_seed(job.seed, step, row.row_id))
                 for row in steps[step]]
        if prompts != [draw.prompt for draw in draws]:
            raise SystemExit("TRL's prompts are not ours")
        with watch.part("rollout"):
            engine.sync(model)
            return [trajectory.ids for trajectory in engine.sample(draws)]

    with tempfile.TemporaryDirectory() as folder:
        make = {"SDFTTrainer": _sdft, "DistillationTrainer": _distillation}[name]
        trainer = make(job, watch, sample, folder, student, teacher, table, chat.tokenizer)
        trainer.train()
    return watch.steps


def _settings(job: Job, folder: str) -> dict[str, Any]:
    """What the program's own loop does too: AdamW in one kernel, clipping, one log entry a step."""
    return {"output_dir": folder, "max_steps": job.steps, "per_device_train_batch_size": job.rows,
            "gradient_accumulation_steps": 1, "learning_rate": STILL, "lr_scheduler_type": "constant",
            "optim": "adamw_torch_fused", "weight_decay": 0.01, "max_grad_norm": 1.0, "logging_steps": 1,
            "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "shuffle_dataset": False,
            "bf16": job.frozen_dtype == torch.bfloat16, "use_cpu": job.device == "cpu", "seed": job.seed,
            "gradient_checkpointing": job.gradient_checkpointing, "temperature": TEMPERATURE,
            "max_completion_length": job.max_completion_length}


class Stopwatch(TrainerCallback):
    """Seconds of steps and parts; the device is waited for at every mark."""

    def __init__(self, device: str) -> None:
        self.device, self.steps = device, []  # type: ignore[var-annotated]
        self.parts: dict[str, float] = {}
        self.tokens: dict[str, int] = {}

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times a block."""
        start = self.now()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + self.now() - start

    def loss_begins(self, inputs: dict[str, Any]) -> None:
        """Here training begins; `inputs` hold the masks of what is read."""
        drawn = int(inputs["completion_mask"].sum())
        read = int(inputs["prompt_mask"].sum()) + drawn
        shown = inputs.get("teacher_attention_mask")
        self.tokens = {"rollout_tokens": drawn, "student_tokens": read,
                       "teacher_tokens": read if shown is None else int(shown.sum())}
        self.loss_began = self.now()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.last = self.now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = self.now()
        train = now - self.loss_began - self.parts["teacher"]
        self.steps.append({"seconds": now - self.last, "train_seconds": train, **self.tokens,
                           **{f"{part}_seconds": seconds for part, seconds in self.parts.items()}})
        self.last, self.parts = now, {}


def _timed(trainer: Any, watch: Stopwatch, forward: str) -> Any:
    """The trainer with the stopwatch where its loss begins and around the teacher's pass: its method
    `forward` without gradients."""
    class Timed(trainer):
        def compute_loss(self, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            watch.loss_begins(inputs)
            return super().compute_loss(model, inputs, *rest, **more)

    def timed(self: Any, *of: Any, **more: Any) -> Any:
        if torch.is_grad_enabled():
            return getattr(trainer, forward)(self, *of, **more)
        with watch.part("teacher"):
            return getattr(trainer, forward)(self, *of, **more)

    setattr(Timed, forward, timed)
    return Timed


def _sdft(job: Job, watch: Stopwatch, sample: Any, folder: str, student: Any, teacher: Any, table: Any,
          tokenizer: Any) -> Any:
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    class Ours(_timed(SDFTTrainer, watch, "_forward_logits")):  # type: ignore[misc]
        def _setup_teacher_model(self) -> None:
            """As for `teacher_model_kind="base"`, without a folder to load it from."""
            self.teacher_model = self.accelerator.prepare_model(teacher, evaluation_mode=True)

        def _generate_transformers(self, prompt_ids: Any) -> Any:
            return prompt_ids, sample(self.model, prompt_ids)

    template = REFERENCE_PROMPT.format(answer="{privileged_context}", question="{prompt}")
    # alpha 0 is KL(teacher || student), the direction of Eq. 10
    settings = SDFTConfig(**_settings(job, folder), num_generations=1, max_prompt_length=None,
                          teacher_prompt_template=template, distillation_mode="topk_logits",
                          distillation_topk=job.top_k, distillation_alpha=0.0, distillation_is_clip=None)
    return Ours(model=student, args=settings, train_dataset=table, processing_class=tokenizer,
                callbacks=[watch])


def _distillation(job: Job, watch: Stopwatch, sample: Any, folder: str, student: Any, teacher: Any,
                  table: Any, tokenizer: Any) -> Any:
    from trl import DistillationConfig, DistillationTrainer

    class Ours(_timed(DistillationTrainer, watch, "_get_last_hidden_state")):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            return sample(self.model, prompt_ids)

    settings = DistillationConfig(**_settings(job, folder), beta=0.0)
    return Ours(model=student, teacher_model=teacher, args=settings, train_dataset=table,
                processing_class=tokenizer, callbacks=[watch])
