"""A teacher of fewer bits, by transformers' own quantizers."""

from typing import Any, Literal

import torch

from raft_fast.run.errors import UserError, require

Quantization = Literal["none", "int8", "nf4"]


def quantization_config(kind: Quantization, device: torch.device) -> Any:
    """What `from_pretrained` takes; None for "none". Embeddings and head keep their precision.

    int8 is torchao's weight-only quantization, on CPUs and GPUs; nf4 is bitsandbytes' 4 bits. Raises
    UserError where the library is missing, or cannot do it on this device.
    """
    if kind == "none":
        return None
    if kind == "nf4":
        from transformers import BitsAndBytesConfig

        if device.type != "cuda":
            raise UserError("--teacher_quantization nf4: bitsandbytes' 4 bits need a GPU; int8 works here")
        require("bitsandbytes", "quantization")
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                  bnb_4bit_compute_dtype=torch.bfloat16)
    require("torchao", "quantization")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())
