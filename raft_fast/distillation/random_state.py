"""Every random generator a step may draw from, as plain JSON: a resumed run draws what it would have."""

import base64
import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """The states of python's, numpy's and torch's generators, on the CPU and on every GPU."""
    state: Any = np.random.get_state(legacy=True)  # a tuple; the stubs allow for the other form
    name, keys, *rest = state
    version, internal, gauss = random.getstate()
    return {"python": [version, list(internal), gauss],
            "numpy": [name, keys.tolist(), *rest],
            "torch": _text(torch.get_rng_state()),
            "cuda": [_text(state) for state in torch.cuda.get_rng_state_all()]}


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave; GPUs that are not here any more are left out."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_tensor(state["torch"]))
    for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_tensor(saved), device)


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
