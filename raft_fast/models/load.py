"""Loading models, tokenizers and the sentence encoder."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from raft_fast.models.architecture import check_head
from raft_fast.models.chat import Chat, check_rows
from raft_fast.models.embedding import Encoder
from raft_fast.models.fetch import fetch_model
from raft_fast.models.whole import load_whole, why
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import ModelOptions


def pick_device(name: str) -> torch.device:
    """auto is the first GPU, if any."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: cannot be used here ({first_line(error)})") from error
    return device


def frozen_dtype(device: torch.device) -> torch.dtype:
    """For models that are only read: bf16 on a GPU; CPUs without bf16 units are slower in it."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_model(folder: Path, options: ModelOptions, dtype: torch.dtype, option: str = "--model") -> Any:
    """The causal language model that `option` names, whole (`load_whole`), in `dtype` on --device."""
    attention = None if options.attn_implementation == "auto" else options.attn_implementation
    model = load_whole(folder, f"{option} {folder}", dtype=dtype, attn_implementation=attention)
    return made_ready(model, pick_device(options.device), str(folder))


def made_ready(model: Any, device: torch.device | None, name: str) -> Any:
    """A loaded model on `device` (None: where it is), in evaluation mode, packing sequences if it can."""
    from raft_fast.models.attention import pack_attention

    model.eval()
    if device is not None:
        model.to(device)
    check_head(model, name)
    pack_attention(model)
    return model


def load_chat(folder: Path, model: Any, template_kwargs: dict[str, Any] | None = None,
              tokenizer: Any = None) -> Chat:
    """The chat of `tokenizer` (default: the folder's), whose end of turn becomes one of the model's. Raises
    UserError for tokens and ends of answers that the model has no rows for."""
    tokenizer = tokenizer or load_tokenizer(folder)
    rows = min(layer.weight.shape[0] for layer in (
        model.get_input_embeddings(), model.get_output_embeddings()))
    check_rows(tokenizer, rows, str(folder))
    given = model.generation_config.eos_token_id
    if any(type(token) is not int or not 0 <= token < rows
           for token in (given if isinstance(given, list) else [given]) if token is not None):
        raise UserError(f"--model {folder}: generation_config.json: eos_token_id {json.dumps(given)}: must "
                        f"be ids of tokens, whole numbers below {rows} (rows of its embeddings)")
    chat = Chat(tokenizer, model.generation_config, str(folder), template_kwargs)
    chat.name_end(model.generation_config)
    return chat


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises UserError if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as in `load_whole`
        raise UserError(f"--model {folder}: its tokenizer cannot be loaded: {why(error, [])}") from error


def load_encoder(options: ModelOptions) -> Encoder:
    """The sentence encoder φ that --encoder names."""
    return Encoder(fetch_model(options.encoder, option="--encoder"), str(pick_device(options.device)))


def check_loaded(option: str, model: Any) -> None:
    """Raises UserError for anything but a language model of transformers that can be used as `option`."""
    why = ("is no causal language model of transformers" if not hasattr(model, "name_or_path")
           else "has an adapter already; pass the model alone (peft's get_base_model or merge_and_unload)"
           if hasattr(model, "peft_config") else "is quantized, and can be neither trained nor merged"
           if option == "model" and getattr(model, "is_quantized", False) else None)
    if why:
        raise UserError(f"{option}: {type(model).__name__} {why}")


def tokenizer_of(model: Any) -> Any:
    """The tokenizer of a loaded model, by its name. Raises UserError if none has that name."""
    if not model.name_or_path:
        raise UserError("processing_class is missing, and the model has no name to load its tokenizer by")
    return load_tokenizer(fetch_model(model.name_or_path, option="processing_class is missing, and model"))


@contextmanager
def left_as_it_was(model: Any) -> Iterator[None]:
    """Afterwards transformers' progress bars and the weights of `model` that need gradients are as before."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    needed = [(weight, weight.requires_grad) for weight in model.parameters()] if model is not None else []
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        for weight, gradient in needed:
            weight.requires_grad_(gradient)


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """16 hex digits over a loaded tokenizer's vocabulary and chat template."""
    told = json.dumps([sorted(tokenizer.get_vocab().items()), tokenizer.chat_template])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


@torch.no_grad()
def fingerprint_loaded(model: Any, tokenizer: Any) -> str:
    """16 hex digits over a loaded model and its tokenizer: names, shapes, dtypes and about 4096 evenly spaced
    numbers of every tensor."""
    digest = hashlib.sha256(fingerprint_tokenizer(tokenizer).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor if type(tensor) is torch.Tensor else tensor.dequantize()  # torchao's
        numbers = plain.flatten()[:: max(1, tensor.numel() // 4096)]
        digest.update(numbers.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
