"""Rows: where they come from, how many, and the seed."""

from dataclasses import dataclass

from raft_fast.run.options.check import check


@dataclass
class DataOptions:
    """Rows"""

    data: str | None = None
    """Your rows: a .jsonl, .json, .parquet, .csv or .tsv file or a `datasets` name, with the columns
    question/answer, prompt/completion or messages, and category where there is one."""
    max_rows: int = 0
    """Use at most this many rows (of the training rows, where there are some), spread evenly over
    the categories; 0 takes all."""
    max_bad_rows: float = 0.1
    """Go on while at most this share of the rows is bad; they are set aside in rejected.jsonl."""
    seed: int = 0
    """Seed of everything that is drawn."""
    output_dir: str | None = None
    """Where everything is written. Default: runs/<config> (train), refined/<data> (refine),
    evaluations/<run> (evaluate)."""

    def __post_init__(self) -> None:
        check(-2**63 <= self.seed < 2**63, "--seed", self.seed, "a whole number of 64 bits")
        check(self.max_rows >= 0, "--max_rows", self.max_rows, "0 (all) or more")
        check(0 <= self.max_bad_rows <= 1, "--max_bad_rows", self.max_bad_rows, "a share in [0, 1]")
