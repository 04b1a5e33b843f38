"""Loading models, tokenizers and the sentence encoder φ (Eq. 2), which reads texts of any length."""

import copy
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raft_fast.models.architecture import check_head
from raft_fast.models.chat import Chat, check_rows
from raft_fast.models.fetch import SENTENCE_ENCODER, fetch_model, fingerprint
from raft_fast.models.whole import check_encoder, load_reports, load_whole, why
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import ModelOptions

ROOM_FOR_CUTS = 2  # tokens: a piece may come out a little longer when it is tokenized by itself


class Encoder:
    """A sentence-transformers model. Safe to use from several threads; they take turns."""

    def __init__(self, path: Path | str, device: str = "cpu") -> None:
        """Raises UserError for a model that cannot be loaded."""
        from sentence_transformers import SentenceTransformer

        with load_reports() as reports:
            try:
                self.model: Any = SentenceTransformer(
                    str(path), device=device, trust_remote_code=False,
                    model_kwargs={"dtype": "float32", "use_safetensors": True})
            except Exception as error:  # a folder can be wrong in any way
                raise UserError(f"--encoder {path}: cannot be loaded: {why(error, reports)}") from error
        check_encoder(f"--encoder {path}", self.model, reports)
        self.prompt = self.model.prompts.get(self.model.default_prompt_name or "", "")
        self.device = device
        content = fingerprint(Path(path), SENTENCE_ENCODER) if Path(path).is_dir() else str(path)
        self.identity = f"{content} float32 {self.prompt!r}"  # not where it lies: folders are moved
        self._turn = threading.Lock()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [len(texts), dimension]; zeros for an empty text and for one of which the
        model makes no finite vector. That of a text longer than the model reads at once (256 tokens for
        MiniLM) is the mean of its pieces' vectors, weighted by their tokens."""
        with self._turn:
            pieces = [(row, *piece) for row, text in enumerate(texts) for piece in self._pieces(text)]
            if not pieces:
                return np.zeros((len(texts), self.model.get_embedding_dimension() or 0), np.float32)
            owners, parts, weights = zip(*pieces, strict=True)
            vectors = unit(self.model.encode(list(parts), prompt=self.prompt, show_progress_bar=False,
                                             convert_to_numpy=True))
        pooled = np.zeros((len(texts), vectors.shape[1]), np.float64)
        np.add.at(pooled, list(owners), vectors * np.array(weights, np.float64)[:, None])
        return unit(pooled)

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        """cos(φ(left_i), φ(right_i)) for each pair."""
        vectors = self.embed([*left, *right])
        return [float(s) for s in (vectors[: len(left)] * vectors[len(left) :]).sum(-1)]

    def _pieces(self, text: str) -> list[tuple[str, int]]:
        """The text in pieces that the model reads whole, each with its number of tokens."""
        if not text.strip():
            return []
        tokenizer = self.model.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            return [(text, 1)]  # knows no offsets: the model reads the beginning
        longest = getattr(self.model, "max_seq_length", None) or tokenizer.model_max_length
        room = longest - len(tokenizer(self.prompt)["input_ids"])  # beside the prompt and the special tokens
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True,
                            verbose=False)["offset_mapping"]
        if len(offsets) <= room or room <= ROOM_FOR_CUTS:
            return [(text, max(len(offsets), 1))]
        cuts, room = [0], room - ROOM_FOR_CUTS
        while cuts[-1] + room < len(offsets):
            end = cuts[-1] + room
            words = (at for at in range(end, end - room // 2, -1)  # back to where a word begins
                     if text[offsets[at][0]].isspace() or text[offsets[at][0] - 1].isspace())
            cuts.append(next(words, end))
        starts = [*(offsets[at][0] if at else 0 for at in cuts), len(text)]
        return [(text[begin:end], after - at) for (begin, end), (at, after) in zip(
            pairwise(starts), pairwise([*cuts, len(offsets)]), strict=True)]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; zeros where a row is zero or not finite."""
    wide = np.where(np.isfinite(vectors).all(-1, keepdims=True), vectors, 0.0).astype(np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    return (wide / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


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


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies in bf16: AMX or AVX512-BF16. Others are slower in it."""
    units: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def frozen_dtype(options: ModelOptions, exact: bool = False) -> torch.dtype:
    """For models that are only read. `exact` ones, which are compared, stay in float32 on a CPU."""
    on_gpu = pick_device(options.device).type == "cuda"
    half = options.precision == "bf16" or (options.precision == "auto" and (on_gpu or cpu_has_bf16()))
    return torch.bfloat16 if half and (on_gpu or not exact) else torch.float32


def frozen_copy(model: Any, dtype: torch.dtype) -> Any:
    """A copy in `dtype` as transformers would load it: `model.to(dtype)` rounds rotary frequencies too."""
    copied = copy.deepcopy(model) if model.dtype == dtype else type(model).from_pretrained(
        None, config=copy.deepcopy(model.config), state_dict=model.state_dict(), dtype=dtype)
    copied.generation_config = model.generation_config
    return copied.eval().requires_grad_(False)


def load_model(folder: Path, options: ModelOptions, dtype: torch.dtype, option: str = "--model") -> Any:
    """The causal language model that `option` names, whole (`load_whole`), in `dtype` on --device."""
    attention = None if options.attn_implementation == "auto" else options.attn_implementation
    model = load_whole(folder, f"{option} {folder}", dtype=dtype, attn_implementation=attention)
    return made_ready(model, options, str(folder))


def made_ready(model: Any, options: ModelOptions, name: str) -> Any:
    """A loaded model on --device, in evaluation mode, packing sequences if it can."""
    from raft_fast.models.attention import pack_attention

    model.eval().to(pick_device(options.device))
    model.bf16_products = frozen_dtype(options, exact=True) == torch.bfloat16
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
    """16 hex digits over a loaded model and tokenizer: names, shapes, dtypes, some 4096 numbers a tensor."""
    digest = hashlib.sha256(fingerprint_tokenizer(tokenizer).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor if type(tensor) is torch.Tensor else tensor.dequantize()  # torchao's
        numbers = plain.flatten()[:: max(1, tensor.numel() // 4096)]
        digest.update(numbers.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
