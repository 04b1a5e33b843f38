"""The sentence encoder φ (Eq. 2): texts to unit vectors, answers of any length included."""

import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from raft_fast.models.fetch import SENTENCE_ENCODER, fingerprint
from raft_fast.models.whole import check_encoder, load_reports, why
from raft_fast.run.errors import UserError

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
