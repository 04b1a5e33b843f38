"""Which models, and where they run."""

from dataclasses import dataclass
from typing import Literal

from raft_fast.run.options.check import check

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class ModelOptions:
    """Model"""

    model: str = SMOLLM2
    """The instruct model: a folder or a hub name. train and refine: student, teacher and rewriter;
    evaluate: the trained model, RUN/model."""
    encoder: str = MINILM
    """Sentence encoder of the semantic filter and of evaluation: a folder or a
    sentence-transformers name."""
    encoder_prompt: str = ""
    """What the encoder reads before every text: the name of one of its own prompts (STS, query), or
    a text that ends with a space or a colon ("query: "). Default: what the encoder says itself."""
    encoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the encoder."""
    encoder_batch_size: int = 32
    """Texts that the encoder reads at once."""
    revision: str | None = None
    """Revision of the model on the hub."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""
    attn_implementation: str = "auto"
    """auto (sdpa where the model supports it, else eager), sdpa (sequences packed without padding where the
    model allows), flash_attention_2 (packed; needs flash-attn) or eager (padded)."""

    def __post_init__(self) -> None:
        check(self.encoder_batch_size >= 1, "--encoder_batch_size", self.encoder_batch_size, "at least 1")
