"""The model that is trained, a copy of the original or the original with an adapter inside; its optimizer."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler

from raft_fast.distillation.lora import Adapter, merged_weights
from raft_fast.distillation.teacher import Teaching
from raft_fast.distillation.weights import FullWeights, whole_model
from raft_fast.models.architecture import beside_text
from raft_fast.models.chat import Chat
from raft_fast.models.fetch import fetch_model
from raft_fast.models.load import frozen_dtype, load_model
from raft_fast.models.whole import check_written
from raft_fast.run.errors import UserError
from raft_fast.run.files import write_folder
from raft_fast.run.options import AdapterOptions, ModelOptions, TrainOptions
from raft_fast.run.processes import Processes


def make_student(original: Any, model: ModelOptions, adapter: AdapterOptions, seed: int,
                 given: Any = None, peft_config: Any = None) -> "FullStudent | LoraStudent":
    """`original` is the model before training; with --use_peft it becomes the student, else `given`, a loaded
    model, or otherwise a copy in float32."""
    if adapter.use_peft:
        torch.manual_seed(seed)  # the adapter begins with random weights
        return LoraStudent(Adapter(original, adapter, model.model, peft_config), model)
    own = given or load_model(fetch_model(model.model, model.revision), model, torch.float32)
    own.generation_config = original.generation_config  # which names the template's end of turn
    return FullStudent(own)


def check_student(original: Any, adapter: AdapterOptions, training: TrainOptions | None = None,
                  peft_config: Any = None) -> None:
    """Raises UserError before stage 1 if --use_peft asks for layers that `original` does not have, or
    --gradient_checkpointing for what it cannot do."""
    with torch.device("meta"):
        empty = type(original)(copy.deepcopy(original.config))
        empty.tie_weights()
        if training and training.gradient_checkpointing:
            checkpoint_activations(empty)
        if adapter.use_peft:
            Adapter(empty, adapter, config=peft_config)


class FullStudent:
    """A model whose weights are all trained, those apart that no text passes through: a copy of the original,
    or the caller's own, which keeps its precision."""

    def __init__(self, model: Any) -> None:
        self.model = model
        for name in beside_text(model):
            model.get_submodule(name).requires_grad_(False)
        self.weights = FullWeights(model)

    def teaching(self, teacher: Any) -> Teaching | None:
        """Opens the context in which `teacher` (a model) is the frozen original; None if it always is."""
        return None

    def finish(self, run_dir: Path, chat: Chat) -> Any:
        """Write RUN/model and return the trained model, frozen, at the precision the base is measured at.
        All processes take part."""
        model = whole_model(self.model)

        def write() -> None:
            _save(run_dir / "model", model, None, chat)
            check_written(run_dir / "model")

        Processes().first(write)
        model.zero_grad(set_to_none=True)
        dtype = frozen_dtype(model.device)
        frozen = model if model.dtype == dtype else copy.deepcopy(model)
        return frozen.eval().requires_grad_(False).to(dtype)

    def release(self) -> None:
        """Leave the original as it was, also if training did not come to its end."""


class LoraStudent:
    """The original with an adapter inside: one copy of the weights for student and teacher.

    RUN/model holds the merged model, which is also what is measured; RUN/adapter the adapter alone.
    """

    def __init__(self, adapter: Adapter, options: ModelOptions) -> None:
        self.model, self.options, self.weights = adapter.model, options, adapter

    def teaching(self, teacher: Any) -> Teaching | None:
        return self.weights.off if teacher is self.model else None

    def finish(self, run_dir: Path, chat: Chat) -> Any:
        def write() -> None:
            write_folder(run_dir / "adapter", self.weights.save)
            _save(run_dir / "model", self.model, dict(merged_weights(self.model)), chat)

        Processes().first(write)
        self.release()
        return load_model(run_dir / "model", self.options, frozen_dtype(self.model.device), option="model"
                          ).requires_grad_(False)

    def release(self) -> None:
        self.weights.remove()


def _save(folder: Path, model: Any, state: dict[str, torch.Tensor] | None, chat: Chat) -> None:
    """A folder of transformers with the tokenizer; `state` instead of the model's own weights."""
    def fill(partial: Path) -> None:
        model.save_pretrained(partial, state_dict=state)
        chat.tokenizer.save_pretrained(partial)

    write_folder(folder, fill)


def adamw(student: Any, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW; norms and biases are not decayed."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
              {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=True)  # one pass over four tensors


def schedule(optimizer: torch.optim.Optimizer, options: TrainOptions, steps: int) -> Any:
    """A learning rate schedule of transformers."""
    name = options.lr_scheduler_type.replace("constant", "constant_with_warmup")  # the same without
    return get_scheduler(name, optimizer, num_warmup_steps=options.warmup_steps, num_training_steps=steps)


def checkpoint_activations(student: Any) -> None:
    """Recompute activations in the backward pass. Raises UserError if the model cannot."""
    # the method's old name is deprecated in transformers
    enable = getattr(student, "activation_checkpointing_enable", student.gradient_checkpointing_enable)
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"--gradient_checkpointing: {type(student).__name__} does not support it; leave it "
                        "off") from error
