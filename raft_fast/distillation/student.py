"""The model that is trained, a copy of the original or the original with peft's LoRA inside, whose own
weights stay the teacher's; and its optimizer."""

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from transformers import get_scheduler

from raft_fast.distillation.teacher import Teaching
from raft_fast.distillation.weights import FullWeights, read_safetensors, whole_model
from raft_fast.models.architecture import beside_text
from raft_fast.models.chat import Chat
from raft_fast.models.fetch import fetch_model
from raft_fast.models.load import frozen_dtype, load_model
from raft_fast.models.whole import check_written
from raft_fast.run.errors import UserError, require
from raft_fast.run.files import write_folder
from raft_fast.run.options import AdapterOptions, ModelOptions, TrainOptions
from raft_fast.run.processes import Processes

ADAPTER_FILE = "adapter_model.safetensors"  # the name that peft loads
ALL_LINEAR = "all-linear"
MAMBA = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")  # peft refuses their out_proj
# fields of peft's LoraConfig that say where products of matrices are added, how large, and how they begin
ALLOWED = ("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "r",
           "lora_alpha", "lora_dropout", "target_modules", "target_parameters", "exclude_modules",
           "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "use_rslora",
           "fan_in_fan_out", "runtime_config")
INITIAL = [("init_lora_weights", how) for how in (True, False, "gaussian", "orthogonal")]
EXPRESSION = re.compile(r"[\\*+?()\[\]{}|^$]")


class Adapter:
    """An adapter inside `model`, whose layers are wrapped in place; the model's own weights are frozen.

    Checkpoints hold it alone: a few megabytes that peft loads too. `config`: a LoraConfig of peft
    instead of the one that `options` describe (see `options_of`). Raises UserError if peft is missing or
    layers that were named have no adapter."""

    def __init__(self, model: Any, options: AdapterOptions, base_name: str | None = None,
                 config: Any = None) -> None:
        require("peft", "lora")
        from peft import LoraConfig, get_peft_model

        names = options.lora_target_modules
        # as in peft, a text that cannot be a layer's name is an expression for whole names
        layers = [] if config or names == ALL_LINEAR or EXPRESSION.search(names) else [
            name.strip() for name in names.split(",") if name.strip()]
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        config = copy.deepcopy(config) or LoraConfig(
            task_type="CAUSAL_LM", r=options.lora_r, lora_alpha=options.lora_alpha,
            lora_dropout=options.lora_dropout, target_modules=layers or names)
        config.exclude_modules = config.exclude_modules or _excluded(model, names == ALL_LINEAR)
        try:
            with warnings.catch_warnings():
                # of what peft sets itself: an old name in transformers, GPT-2's layers, experts
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
                warnings.filterwarnings("ignore", ".*(fan_in_fan_out|(rank|alpha)_pattern)")
                self.peft = cast(Any, get_peft_model(model, config))  # its stubs take methods for tensors
        except (ValueError, re.error) as error:
            raise UserError(f"--lora_target_modules {names}: {error}") from error
        config.base_model_name_or_path = base_name  # not a folder of the cache
        self.model = self.peft.get_base_model()
        wrapped = [name for name, layer in self.model.named_modules() if hasattr(layer, "lora_A")]
        for asked in sorted(config.target_modules or ()) if layers else ():  # without peft's experts
            if not any(f".{name}".endswith(f".{asked}") for name in wrapped):
                raise UserError(f"--lora_target_modules {names}: no layer is called {asked}, or it cannot "
                                "have an adapter")
        if hasattr(self.model.get_output_embeddings(), "lora_A") or (
                tied and hasattr(self.model.get_input_embeddings(), "lora_A")):
            raise UserError(f"--lora_target_modules {names}: the head (or the embeddings, if they are also "
                            "the head) cannot have an adapter; leave it out")

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model before training: without adapter, dropout, gradient checkpointing and gradients."""
        training = self.model.training
        self.model.eval()  # checkpointing acts in training mode alone
        try:
            with torch.no_grad(), self.peft.disable_adapter():
                yield
        finally:
            self.model.train(training)

    def save(self, folder: Path) -> None:
        """adapter_config.json and adapter_model.safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._tensors(), folder / ADAPTER_FILE)
        self.peft.peft_config["default"].save_pretrained(str(folder))

    def read(self, folder: Path) -> dict[str, torch.Tensor]:
        return read_safetensors(folder, self._tensors())

    def put(self, tensors: dict[str, torch.Tensor]) -> None:
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self.peft, tensors)

    def remove(self) -> None:
        """Take the adapter out again: the model has its own layers, untouched."""
        self.peft.unload()
        self.model.eval().requires_grad_(False)

    def _tensors(self) -> dict[str, torch.Tensor]:
        from peft import get_peft_model_state_dict

        found = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        return {name: value.contiguous() for name, value in found.items()}


def options_of(config: Any) -> AdapterOptions:
    """A LoraConfig of peft as AdapterOptions, which have fewer fields. Raises UserError for an adapter that
    changes the model's own weights: it could not be switched off, or merged as a sum of products."""
    require("peft", "lora")
    from peft import LoraConfig

    if not isinstance(config, LoraConfig):
        raise UserError(f"peft_config: must be a LoraConfig, is {type(config).__name__}")
    for name, value in vars(config).items():
        if name not in ALLOWED and value != getattr(LoraConfig(), name) and (name, value) not in INITIAL:
            raise UserError(f"peft_config: {name}={value!r} is not supported (an adapter is products of "
                            "matrices beside frozen weights); leave it out")
    asked = config.target_modules or "peft's own choice"
    return AdapterOptions(use_peft=True, lora_r=config.r, lora_alpha=config.lora_alpha,
                          lora_dropout=config.lora_dropout,
                          lora_target_modules=asked if isinstance(asked, str) else ",".join(sorted(asked)))


def _excluded(model: Any, all_linear: bool) -> str | None:
    """A pattern of layers that peft must leave alone: those beside the text, dt_proj (state spaces use its
    weight without calling it), routers (their outputs are tuples), and with all-linear what peft refuses."""
    refused = (".dt_proj", ".out_proj") if all_linear and model.config.model_type in MAMBA else ".dt_proj"
    names = [*beside_text(model), *(
        name for name, layer in model.named_modules() if name.endswith(refused)
        or (isinstance(layer, torch.nn.Linear) and "Router" in type(layer).__name__))]
    return f"({'|'.join(map(re.escape, names))})(\\..*)?" if names else None


@torch.no_grad()
def merged_weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The state of a model, by the names it has without an adapter; adapters are added to their weights.

    peft wraps a layer once, or a mixture's experts once for every parameter: `experts.base_layer.base_layer`.
    Sums are made in float32 and kept in the model's dtype, one at a time. Not by peft's own merge, which
    changes the model: taken out again, it would leave the teacher's weights rounded."""
    added, adapted = set[str](), {}
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            added.update(f"{name}.{own}" for own in layer.state_dict() if own.startswith("lora_"))
            adapted[f"{plain_name(name)}.{getattr(layer, 'parameter_name', 'weight')}"] = layer
    for name, value in model.state_dict(keep_vars=False).items():
        if name in added:
            continue
        if (layer := adapted.get(plain_name(name))) is not None:
            value = (value.float() + layer.get_delta_weight("default").float()).to(value.dtype)
        yield plain_name(name), value


def plain_name(name: str) -> str:
    """The name that a module or weight has without adapters."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


def make_student(original: Any, model: ModelOptions, adapter: AdapterOptions, seed: int,
                 given: Any = None, peft_config: Any = None) -> "FullStudent | LoraStudent":
    """`original` is the model before training; with --use_peft it becomes the student, else `given`, a loaded
    model, or otherwise a copy in float32."""
    if adapter.use_peft:
        torch.manual_seed(seed)  # the adapter begins with random weights
        return LoraStudent(Adapter(original, adapter, model.model, peft_config), model)
    own = given or load_model(fetch_model(model.model, model.revision), model, torch.float32)
    own.bf16_products = frozen_dtype(model) == torch.bfloat16
    own.generation_config = original.generation_config  # which names the template's end of turn
    return FullStudent(own, model)


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

    def __init__(self, model: Any, options: ModelOptions) -> None:
        self.model, self.options = model, options
        for name in beside_text(model):
            model.get_submodule(name).requires_grad_(False)
        self.weights = FullWeights(model)

    def teaching(self, teacher: Any) -> Teaching | None:
        """Opens the context in which `teacher` (a model) is the frozen original; None if it always is."""
        return None

    def finish(self, run_dir: Path, chat: Chat) -> Any:
        """Write RUN/model; returns the trained model, frozen, as precise as the base. All take part."""
        model = whole_model(self.model)

        def write() -> None:
            _save(run_dir / "model", model, None, chat)
            check_written(run_dir / "model")

        Processes().first(write)
        model.zero_grad(set_to_none=True)
        if model.dtype != (dtype := frozen_dtype(self.options, exact=True)):
            model = load_model(run_dir / "model", self.options, dtype, option="model")
        return model.eval().requires_grad_(False)

    def release(self) -> None:
        """Leave the original as it was, also if training did not come to its end."""


class LoraStudent:
    """The original with an adapter inside: one copy of the weights for student and teacher.

    RUN/model holds the merged model, which is also what is measured; RUN/adapter the adapter alone."""

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
        dtype = frozen_dtype(self.options, exact=True)
        return load_model(run_dir / "model", self.options, dtype, option="model").requires_grad_(False)

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
