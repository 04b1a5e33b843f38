"""Loading: models, tokenizers, engines and the encoder, by the names users give them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raft_fast.at_start import VLLM
from raft_fast.chat import Chat, check_rows
from raft_fast.embedding import Encoder
from raft_fast.engines import Engine, Message
from raft_fast.errors import UserError, first_line
from raft_fast.fetch import cache_dir, fetch_model
from raft_fast.fingerprint import fingerprint
from raft_fast.head import check_head
from raft_fast.options import SMOLLM2, EngineOptions, ModelOptions
from raft_fast.quantization import Quantization, quantization_config
from raft_fast.whole import load_whole

if TYPE_CHECKING:
    from raft_fast.engines.hf import HFEngine


def pick_device(name: str) -> torch.device:
    """auto is the first GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: cannot be used here ({first_line(error)})") from error
    return device


def load_model(folder: Path, options: ModelOptions, dtype: torch.dtype,
               quantization: Quantization = "none", option: str = "--model") -> Any:
    """A causal language model in `dtype` on the chosen device, whole (`load_whole`); `option` named it."""
    from raft_fast.attention import pack_attention

    _quiet()
    device, told = pick_device(options.device), f"{option} {folder}"
    quantizer = quantization_config(quantization, device)
    placed = {"quantization_config": quantizer, "device_map": {"": device}} if quantizer else {}
    attention = None if options.attn_implementation == "auto" else options.attn_implementation
    model = load_whole(folder, told, dtype=dtype, attn_implementation=attention, **placed).eval()
    if not quantizer:
        model.to(device)
    check_head(model, str(folder))
    pack_attention(model)
    return model


def load_chat(folder: Path, model: Any, template_kwargs: dict[str, Any] | None = None) -> Chat:
    """The tokenizer's chat template, with every eos id of the model's generation config, which is given the
    template's own end of turn. `template_kwargs` go to the template (enable_thinking, ...)."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--model {folder}: its tokenizer cannot be loaded: {error}") from error
    check_rows(tokenizer, min(layer.weight.shape[0] for layer in (
        model.get_input_embeddings(), model.get_output_embeddings())), str(folder))
    chat = Chat(tokenizer, model.generation_config, str(folder), template_kwargs)
    chat.name_end(model.generation_config)
    return chat


def frozen_dtype(device: torch.device) -> torch.dtype:
    """For models that are only read: bf16 on a GPU; CPUs without bf16 units are slower in it."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_engine(
    spec: str, options: ModelOptions, shared: Engine | None = None, batch_size: int = 32,
    engines: EngineOptions | None = None, option: str = "model",
) -> Engine:
    """The engine a user names: self (`shared` where there is one, else --model), a folder, a hub
    name, MODEL@URL / URL of an OpenAI-compatible server (see `OpenAIEngine.connect`), or vllm:MODEL.
    `option` named it, for errors."""
    engines = engines or EngineOptions()
    if "://" in spec:
        from raft_fast.engines.openai import OpenAIEngine

        return OpenAIEngine.connect(spec, engines)
    if spec.startswith(VLLM):
        from raft_fast.engines.vllm import VLLMEngine

        kwargs = engines.of(spec, spec.removeprefix(VLLM)).chat_template_kwargs
        return VLLMEngine.load(spec.removeprefix(VLLM), kwargs)
    if spec == "self" and shared is not None:
        return shared
    return load_local(spec, options, engines, batch_size, option=option)


def load_local(
    spec: str, options: ModelOptions, engines: EngineOptions, batch_size: int = 32,
    quantization: Quantization = "none", option: str = "model",
) -> "HFEngine":
    """--model where `spec` is self, else a folder or a hub name, as an engine of this process."""
    from raft_fast.engines.continuous import ContinuousEngine
    from raft_fast.engines.hf import HFEngine

    name, revision, option = (
        (options.model, options.revision, "--model") if spec == "self" else (spec, None, option))
    folder = fetch_model(name, revision, option)
    model = load_model(folder, options, frozen_dtype(pick_device(options.device)), quantization, option)
    source = f" ({folder.name})" if folder.is_relative_to(cache_dir()) else ""  # not from the hub: say so
    own = engines.of(spec, name)
    chat = load_chat(folder, model, own.chat_template_kwargs)
    told = f" {json.dumps(chat.template_kwargs, sort_keys=True)}" if chat.template_kwargs else ""
    identity = f"{name}{source}@{fingerprint(folder)}{told}" + (
        "" if quantization == "none" else f" {quantization}")
    if own.generation == "continuous":
        return ContinuousEngine(model, chat, identity, batch_size)
    return HFEngine(model, chat, identity, batch_size, own.generation_tokens)


def load_encoder(options: ModelOptions) -> Encoder:
    """The sentence encoder φ that --encoder names."""
    _quiet()
    return Encoder(fetch_model(options.encoder, option="--encoder"), str(pick_device(options.device)),
                   prompt=options.encoder_prompt, dtype=options.encoder_dtype,
                   batch_size=options.encoder_batch_size)


def _quiet() -> None:
    """Our own progress says enough."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def load_tokens(spec: str, options: ModelOptions) -> Callable[[Sequence[Message]], int] | None:
    """How many tokens a conversation has for the model that `spec` names, without its weights; None
    for a server, and where there is no tokenizer with a chat template to be had."""
    from transformers import AutoTokenizer

    if "://" in spec:
        return None
    name, revision = (options.model, options.revision) if spec == "self" else (spec, None)
    own = fetch_model(name, revision) if name == SMOLLM2 and revision is None else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(own, revision=revision, trust_remote_code=False)
        chat = Chat(tokenizer, None, name)
    except Exception:  # of the hub client too, which raises what its HTTP library does
        return None
    return lambda messages: len(chat.student_prompt(messages))
