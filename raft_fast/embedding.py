"""The sentence encoder φ (Eq. 2): cosine similarity of answers."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raft_fast.errors import UserError


class Encoder:
    """A sentence-transformers model. It reads a text's first `max_seq_length` tokens (256 for MiniLM)."""

    def __init__(self, path: Path | str, device: str = "cpu") -> None:
        from sentence_transformers import SentenceTransformer

        self._turn = threading.Lock()  # fast tokenizers take one thread at a time
        try:
            self.model = SentenceTransformer(str(path), device=device, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise UserError(f"--encoder {path}: cannot be loaded: {error}") from error

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [len(texts), dimension]."""
        with self._turn:
            return self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False,
                                     convert_to_numpy=True).astype(np.float32)

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        """cos(φ(left_i), φ(right_i)) for each pair."""
        if not left:
            return []
        return [float(s) for s in (self.embed(left) * self.embed(right)).sum(-1)]
