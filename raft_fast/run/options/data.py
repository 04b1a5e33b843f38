"""Rows, their screening, and the models they are for."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from raft_fast.run.options.option import Group, Part, option

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MEMORY = "<memory>"  # --data and --heldout_data of a run whose rows were passed to RAFTTrainer
Action = Literal["flag", "drop", "off"]


@dataclass
class DataOptions(Group):
    """Rows"""

    pins: ClassVar[Part] = "rows"

    data: str | None = None
    """Your rows: a .jsonl, .json, .parquet, .csv or .tsv file or a `datasets` name, with the columns
    question/answer, prompt/completion or messages, and optionally category."""
    max_rows: int = option(0, least=0, must="0 (all) or more")
    """Use at most this many rows (of the training rows, where some are held out), spread evenly over the
    categories; 0 takes all."""
    max_bad_rows: float = option(0.1, pins="nothing", least=0, most=1)
    """Continue while at most this share of the rows is bad; bad rows are set aside in rejected.jsonl."""
    seed: int = option(0, least=-2**63, below=2**63, must="a whole number of 64 bits")
    """Seed of all random draws."""
    output_dir: str | None = option(None, pins="nothing")
    """Where everything is written. Default: runs/<config> (train), refined/<data> (refine),
    evaluations/<run> (evaluate)."""


@dataclass
class ModelOptions(Group):
    """Model"""

    pins: ClassVar[Part] = "refinement"

    model: str = SMOLLM2
    """The instruct model: a folder or a hub name. train and refine: student, teacher and rewriter;
    evaluate: the trained model, RUN/model."""
    encoder: str = MINILM
    """Sentence encoder of the semantic filter and of evaluation: a folder or a
    sentence-transformers name."""
    encoder_prompt: str = ""
    """Prefix of every text that is encoded: the name of one of the encoder's own prompts (STS, query), or
    a text that ends with a space or a colon ("query: "). Default: what the encoder's config says."""
    encoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of the encoder."""
    encoder_batch_size: int = option(32, pins="nothing", least=1)
    """Texts encoded at once."""
    revision: str | None = None
    """Revision of the model on the hub."""
    device: str = option("auto", pins="nothing")
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""
    attn_implementation: str = option("auto", pins="nothing")
    """auto (sdpa where the model supports it, else eager), sdpa (sequences packed without padding where the
    model allows), flash_attention_2 (packed; needs flash-attn) or eager (padded)."""


@dataclass
class ScreenOptions(Group):
    """Duplicates and overlap"""

    pins: ClassVar[Part] = "rows"

    duplicates: Action = "flag"
    """Rows with the same or nearly the same question as an earlier row: flag them in screen.json, drop them,
    or off."""
    overlap: Action = "flag"
    """Rows that repeat a prompt of an evaluation suite (train: or a held-out row): as --duplicates. Suites
    and held-out rows are never dropped."""
    duplicate_similarity: float = option(0.97, above=0, most=1)
    """Questions whose cosine similarity is at least this are nearly the same; it depends on the encoder."""
    overlap_share: float = option(0.5, above=0, most=1)
    """Two texts overlap if they share at least this fraction of the shorter one's 13-word sequences."""
