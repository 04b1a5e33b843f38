"""What screening finds, and what it costs.

    python -m benchmarks.screening               # the quickstart's rows with the real encoder, and IFBench
    python -m benchmarks.screening --rows 5000   # made rows, with an encoder that takes no time

Everything above a similarity of 0.95 and a share of 5 % is reported, so that what lies just below the
defaults (0.97, 50 %) shows too. Made rows have 52 random words and are compared with 1,000 of their kind.
"""

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from raft_fast.data.dataset import Row, read_table, split
from raft_fast.data.neighbours import SentenceEncoder
from raft_fast.data.screening import Reference, rows_as_references, screen
from raft_fast.evaluation.ifbench import fetched_suites
from raft_fast.models.embedding import unit
from raft_fast.models.load import load_encoder
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.options import ModelOptions, ScreenOptions, TrainOptions
from raft_fast.run.progress import Reporter

LOOSE = ScreenOptions(duplicate_similarity=0.95, overlap_share=0.05)
REFERENCES, WORDS, DIMENSION = 1000, 52, 384


class Unlike:
    """An encoder for which no two texts say the same."""

    identity, device = "unlike", "cpu"
    dice = np.random.default_rng(0)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return unit(self.dice.normal(size=(len(texts), DIMENSION)))


def made(count: int, seed: int) -> list[Row]:
    """Rows of random words, half of them the question."""
    dice = random.Random(seed)
    texts = [[f"w{dice.randrange(50_000)}" for _ in range(WORDS)] for _ in range(count)]
    return [Row(str(number), [{"role": "user", "content": " ".join(text[: WORDS // 2])}],
                completion=(answer := " ".join(text[WORDS // 2 :])), gold=answer)
            for number, text in enumerate(texts)]


def screened(rows: Sequence[Row], references: Mapping[str, Sequence[Reference]],
             encoder: SentenceEncoder) -> dict[str, Any]:
    """What was found, and seconds and peak memory of every phase."""
    reporter = Reporter()
    with tempfile.TemporaryDirectory() as folder:
        screen(rows, references, LOOSE, encoder, Path(folder), reporter)
        told = json.loads((Path(folder) / "screen.json").read_text())
    phases = [{"phase": cost.name, "seconds": round(cost.seconds, 2), "peak_mib": cost.peak_bytes >> 20}
              for cost in reporter.costs]
    return {"rows": len(rows), "compared_with": told["compared_with"], "flagged": told["flagged"],
            "phases": phases, "seconds": round(sum(cost.seconds for cost in reporter.costs), 2)}


def main() -> None:
    """Print what was found and write JSON."""
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, help="so many made rows instead of the quickstart's")
    args = parser.parse_args()
    if args.rows:
        found = {"made": screened(made(args.rows, 0), rows_as_references(made(REFERENCES, 1)), Unlike())}
    else:
        rows, encoder = read_table(str(quickstart_rows()), 0.0).rows, load_encoder(ModelOptions())
        train, heldout = split(rows, TrainOptions().heldout, 0)
        known = rows_as_references(heldout) | fetched_suites(Reporter())
        found = {"all rows": screened(rows, {}, encoder), "training rows": screened(train, known, encoder)}
    print(json.dumps(found, indent=1))
    measure.record(f"screening-n{args.rows}" if args.rows else "screening", "cpu", found)


if __name__ == "__main__":
    main()
