"""AdamW, its schedule, and activations that are recomputed."""

from typing import Any

import torch
from transformers import get_scheduler

from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions


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


def checkpoint_activations(student: Any) -> None:
    """Recompute activations in the backward pass; the method's old name is deprecated in transformers.
    Raises UserError where the model cannot."""
    enable = getattr(student, "activation_checkpointing_enable", student.gradient_checkpointing_enable)
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"--gradient_checkpointing: {type(student).__name__} does not support it; leave it "
                        "off, and lower --per_device_train_batch_size where memory is short") from error
