"""LoRA by peft: small trained matrices inside a model whose own weights stay the teacher's."""

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file

from raft_fast.distillation.weights import read_safetensors
from raft_fast.models.architecture import beside_text
from raft_fast.run.errors import UserError, require
from raft_fast.run.options import AdapterOptions

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
    layers that were named have no adapter.
    """

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
    changes the model: taken out again, it would leave the teacher's weights rounded.
    """
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
