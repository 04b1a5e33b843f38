"""A teacher's targets in a safetensors file: small, written atomically, checked when read."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checks import bad

FORMAT = "raft_kernels.topk_targets/1"
INTEGERS = ((2**8, torch.uint8), (2**16, torch.uint16), (2**31, torch.int32), (2**63, torch.int64))
HALF_MAX = torch.finfo(torch.float16).max


def write(path: str | Path, ids: Tensor, logprobs: Tensor, temperature: float, over_vocabulary: bool,
          vocab_size: int | None, logprob_dtype: torch.dtype) -> None:
    """A file of those fields of TopKTargets, whole or not at all."""
    from safetensors.torch import save_file

    if logprob_dtype not in (torch.float16, torch.float32):
        raise bad("logprob_dtype", logprob_dtype, "torch.float16 or torch.float32")
    vocab = vocab_size
    if vocab is None:  # built without a look at the ids
        vocab = int(ids.max()) + 1 if ids.numel() else 0
    integer = next(dtype for size, dtype in INTEGERS if vocab <= size)
    tensors = {"ids": ids.to("cpu", integer).contiguous()}
    logprobs = logprobs.float().cpu()
    if logprob_dtype == torch.float16:
        tensors |= _relative(logprobs)
    else:
        tensors["logprobs"] = logprobs.contiguous()
    about = {"format": FORMAT, "temperature": temperature,
             "over_vocabulary": over_vocabulary, "vocab_size": vocab}
    unfinished = Path(f"{path}.{os.getpid()}.unfinished")
    try:
        save_file(tensors, unfinished, metadata={"topk_targets": json.dumps(about)})
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read(path: str | Path, device: torch.device | str) -> dict[str, Any]:
    """The arguments of TopKTargets, from a file in the format of `write`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {}).get("topk_targets", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:  # says which
        raise
    except (SafetensorError, json.JSONDecodeError, RecursionError, OSError) as error:
        raise unreadable(path, error) from error
    if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
        raise unreadable(path, f"its format is not {FORMAT}")
    if set(about) != {"temperature", "over_vocabulary", "vocab_size"}:
        raise unreadable(path, f"its metadata holds {sorted(about)}")
    if not isinstance(about["over_vocabulary"], bool) or not isinstance(about["vocab_size"], int):
        raise unreadable(path, f"its metadata is {about}")
    _check(tensors, path)
    logprobs = tensors["logprobs"].float()
    if "best" in tensors:
        logprobs = logprobs + tensors["best"]
    return {"ids": tensors["ids"].long(), "logprobs": logprobs, **about}


def unreadable(path: str | Path, reason: object) -> ValueError:
    return bad("path", f"{path} ({reason})", "a file written by TopKTargets.save")


def _relative(logprobs: Tensor) -> dict[str, Tensor]:
    """float16 below the row's best. What is finite stays so: 65504 below is as unlikely as any."""
    best = torch.where(logprobs.isfinite(), logprobs, -torch.inf).amax(-1, keepdim=True)
    best = torch.where(best.isfinite(), best, 0.0)  # -inf - -inf is NaN
    below = torch.where(
        logprobs.isfinite(), (logprobs - best).clamp(-HALF_MAX, HALF_MAX), logprobs)
    return {"logprobs": below.half(), "best": best}


def _check(tensors: dict[str, Tensor], path: str | Path) -> None:
    """Raise ValueError for other tensors, or tensors of another dtype or shape, than `write` gives."""
    relative = "best" in tensors
    if set(tensors) - {"best"} != {"ids", "logprobs"}:
        raise unreadable(path, f"it holds {sorted(tensors)}")
    dtypes = {"ids": [dtype for _, dtype in INTEGERS], "best": [torch.float32],
              "logprobs": [torch.float16 if relative else torch.float32]}
    for name, tensor in tensors.items():
        if tensor.dtype not in dtypes[name]:
            raise unreadable(path, f"its {name} are {tensor.dtype}")
    if relative and tensors["best"].shape != (*tensors["logprobs"].shape[:-1], 1):
        raise unreadable(path, f"its best are torch.float32 of shape {list(tensors['best'].shape)}")
