"""Stage 2 (Eqs. 5-12)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raft_fast.run.options.check import check
from raft_fast.run.options.secrets import refuse_in_urls


@dataclass
class TrainOptions:
    """Stage 2: training (Eqs. 5-12)"""

    heldout: float = 0.1
    """Share of the rows held out for evaluation, taken from every category before anything else."""
    heldout_data: str | None = None
    """Rows to hold out instead of a share of --data: a file as --data, such as RUN/heldout.parquet of a run
    whose refined answers are trained on. Rows of --data that are among them are set aside."""
    data_source: Literal["fused", "rewrite", "gold"] = "fused"
    """Which answer to train on: the refined one, the filtered rewrite, or the gold answer."""
    sft: bool = True
    """Train on the answers by cross-entropy."""
    distillation: bool = True
    """Distil the frozen teacher on the student's own trajectories."""
    teacher: str = "self"
    """Frozen teacher: self (the model before training), or a folder or hub name of a model with the
    same tokenizer."""
    teacher_quantization: Literal["none", "int8", "nf4"] = "none"
    """Bits of a teacher of its own: int8 (torchao) on any device, nf4 (bitsandbytes) on a GPU. The teacher
    self is the model before training, which is in memory as it is."""
    teacher_sees_answer: bool = True
    """Show the teacher the training answer (Eq. 7); off, it sees what the student sees."""
    learning_rate: float = 5e-6
    """Peak learning rate of AdamW."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule of the learning rate after warm-up."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    max_grad_norm: float = 1.0
    """Clip the gradient's norm to this."""
    num_train_epochs: int = 3
    """Passes over the rows."""
    max_steps: int = -1
    """Optimizer steps, whatever --num_train_epochs asks: the rows come again for as many as it takes. -1: as
    the epochs ask."""
    per_device_train_batch_size: int = 16
    """Rows of a micro-batch on each device; each gives one SFT sequence and one trajectory."""
    max_tokens_per_micro_batch: int = 0
    """Student tokens, prompts included, that a micro-batch holds at most: rows above it are cut into more
    micro-batches. One micro-batch is one packed pass, so this bounds its memory whatever the rows'
    lengths. 0: no bound but the rows."""
    gradient_accumulation_steps: int = 1
    """Micro-batches of an optimizer step."""
    parallelism: Literal["ddp", "fsdp2"] = "ddp"
    """Started as several processes (torchrun): the student whole on each, or a part of every weight on
    each."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    steps_per_generation: int = 1
    """Optimizer steps fed by one round of rollouts; 1 is strictly on-policy."""
    max_completion_length: int = 256
    """Longest trajectory the student samples, in tokens."""
    max_length: int = 2048
    """Longest training sequence, prompt included; longer rows are set aside with their row_id."""
    rollout_temperature: float = 1.0
    """Sampling temperature of trajectories (the paper samples from the student itself: 1)."""
    rollout_engine: Literal["transformers", "continuous", "vllm", "vllm_server"] = "transformers"
    """Who samples trajectories: transformers (generate, batched by length, seeds repeat every draw);
    continuous (transformers' continuous batching, for a GPU); vllm (in this process, sharing its GPU);
    vllm_server (a `vllm serve` on GPUs of its own). The last three are faster and repeat no draw."""
    vllm_server_base_url: str = "http://localhost:8000"
    """Where the server of --rollout_engine vllm_server is; docs/RUNS.md shows how to start it."""
    vllm_gpu_memory_utilization: float = 0.3
    """Share of the GPU's memory that --rollout_engine vllm takes for weights and cache."""
    num_loss_tokens_to_skip: int = 0
    """First tokens of every trajectory that the distillation loss leaves out: what a thinking model always
    begins with. Teacher and student still read them."""
    distillation_temperature: float = 1.5
    """Both distributions are softened by this before they are compared (T of Eqs. 8-10)."""
    teacher_top_k: int = 512
    """How many of the teacher's most likely tokens are compared (K of Eq. 9)."""
    balance: Literal["ema", "gradient", "fixed"] = "ema"
    """lambda: moving averages of the two losses (Eqs. 11-12), of their gradient norms at the hidden
    states, or fixed."""
    ema_beta: float = 0.9
    """How slowly the moving averages follow the losses (beta of Eq. 11)."""
    fixed_lambda: float = 1.0
    """lambda where --balance is fixed."""
    lambda_max: float = 100.0
    """lambda never exceeds this."""
    save_steps: int = 100
    """Steps between checkpoints; one is always written at the end. 0: only then."""
    save_total_limit: int = 2
    """Newest checkpoints kept."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check(not isinstance(value, float) or math.isfinite(value), f"--{name}", value, "finite")
        check(0 < self.heldout < 1, "--heldout", self.heldout, "above 0 and below 1; to train on all "
              "rows name rows to hold out with --heldout_data FILE")
        check(self.heldout_data is None or Path(self.heldout_data).is_file(), "--heldout_data",
              self.heldout_data, "a file, such as RUN/heldout.parquet")
        check(self.sft or self.distillation, "--sft false --distillation", "false",
              "true for one of the two: with both off there is nothing to train")
        for name in ("learning_rate", "rollout_temperature", "distillation_temperature",
                     "max_grad_norm", "lambda_max"):
            check(getattr(self, name) > 0, f"--{name}", getattr(self, name), "above 0")
        for name in ("num_train_epochs", "per_device_train_batch_size", "steps_per_generation",
                     "gradient_accumulation_steps", "max_completion_length", "max_length",
                     "save_total_limit"):
            check(getattr(self, name) >= 1, f"--{name}", getattr(self, name), "at least 1")
        check(0 <= self.ema_beta < 1, "--ema_beta", self.ema_beta, "in [0, 1)")
        for name in ("save_steps", "warmup_steps", "weight_decay", "max_tokens_per_micro_batch",
                     "num_loss_tokens_to_skip"):
            check(getattr(self, name) >= 0, f"--{name}", getattr(self, name), "at least 0")
        check(self.num_loss_tokens_to_skip < self.max_completion_length, "--num_loss_tokens_to_skip",
              self.num_loss_tokens_to_skip, f"below --max_completion_length {self.max_completion_length}")
        url = self.vllm_server_base_url
        refuse_in_urls("--vllm_server_base_url", url if "://" in url else f"http://{url}",
                       "put user and password into ~/.netrc")
        check(0 < self.vllm_gpu_memory_utilization < 1, "--vllm_gpu_memory_utilization",
              self.vllm_gpu_memory_utilization, "between 0 and 1")
        check(0 <= self.fixed_lambda <= self.lambda_max, "--fixed_lambda", self.fixed_lambda,
              f"between 0 and --lambda_max {self.lambda_max}")
        check(self.teacher_quantization == "none" or self.teacher != "self", "--teacher_quantization",
              self.teacher_quantization, "none where --teacher is self (that model is kept for the "
              "evaluation anyway)")
        check(self.teacher_top_k >= 2, "--teacher_top_k", self.teacher_top_k,
              "at least 2 (renormalised KL at K = 1 is always zero)")
        check(self.max_steps == -1 or self.max_steps >= 1, "--max_steps", self.max_steps,
              "-1 or at least 1")
