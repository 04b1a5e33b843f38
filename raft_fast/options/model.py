"""Which models, and where they run."""

from dataclasses import dataclass

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
    revision: str | None = None
    """Revision of the model on the hub."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""
    attn_implementation: str = "sdpa"
    """sdpa (sequences packed without padding where the model allows), flash_attention_2 (packed; needs
    flash-attn) or eager (padded)."""
