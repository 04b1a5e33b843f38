"""The sentence encoder φ (Eq. 2): texts to unit vectors, answers of any length included."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raft_fast.models.fetch import SENTENCE_ENCODER, fingerprint
from raft_fast.models.whole import check_encoder, load_reports, why
from raft_fast.run.errors import UserError

ROOM_FOR_CUTS = 2  # tokens: a piece may come out a little longer when it is tokenized by itself


class Encoder:
    """A sentence-transformers model. Safe to use from several threads; they take turns."""

    def __init__(
        self, path: Path | str, device: str = "cpu", *, prompt: str = "", dtype: str = "float32",
        batch_size: int = 32,
    ) -> None:
        """`prompt` stands before every text: the name of one of the model's own, or a text.

        Raises UserError for a model that cannot be loaded or a prompt that it does not have.
        """
        from sentence_transformers import SentenceTransformer

        with load_reports() as reports:
            try:
                self.model = SentenceTransformer(
                    str(path), device=device, trust_remote_code=False,
                    model_kwargs={"dtype": dtype, "use_safetensors": True})
            except Exception as error:  # a folder can be wrong in any way
                reason = why(error, Path(path), reports)
                raise UserError(f"--encoder {path}: cannot be loaded: {reason}") from error
        check_encoder(f"--encoder {path}", Path(path), self.model, reports)
        self.prompt = _prompt(self.model, prompt)
        self.batch_size, self.device = batch_size, device
        content = fingerprint(Path(path), SENTENCE_ENCODER) if Path(path).is_dir() else str(path)
        self.identity = f"{content} {dtype} {self.prompt!r}"  # not where it lies: folders are moved
        self._turn = threading.Lock()

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [len(texts), dimension]; zeros for an empty text and for one of which
        the model makes no finite vector.

        A text longer than the model reads at once (256 tokens for MiniLM) is embedded in pieces; its
        vector is the mean of theirs, weighted by their tokens.
        """
        with self._turn:
            pieces = [_pieces(self.model, text, self.prompt) for text in texts]
            flat = [piece for parts in pieces for piece, _ in parts]
            vectors = self._encode(flat)
        weights = [tokens for parts in pieces for _, tokens in parts]
        owners = np.repeat(np.arange(len(texts)), [len(parts) for parts in pieces])
        pooled = np.zeros((len(texts), vectors.shape[1]), np.float64)
        np.add.at(pooled, owners, vectors * np.array(weights, np.float64).reshape(-1, 1))
        return unit(pooled)

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> list[float]:
        """cos(φ(left_i), φ(right_i)) for each pair."""
        if not left:
            return []
        vectors = self.embed([*left, *right])
        return [float(s) for s in (vectors[: len(left)] * vectors[len(left) :]).sum(-1)]

    def _encode(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.model.get_embedding_dimension() or 0), np.float32)
        return unit(self.model.encode(texts, prompt=self.prompt, batch_size=self.batch_size,
                                      show_progress_bar=False, convert_to_numpy=True))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; zeros where a row is zero or not finite."""
    wide = np.where(np.isfinite(vectors).all(-1, keepdims=True), vectors, 0.0).astype(np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    return (wide / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def _prompt(model: object, wanted: str) -> str:
    """One of the model's own prompts by its name, or a text of the user's (it ends with a space or colon)."""
    known: dict[str, str] = getattr(model, "prompts", None) or {}
    if not wanted:
        return known.get(getattr(model, "default_prompt_name", None) or "", "")
    if wanted in known:
        return known[wanted]
    if wanted.endswith((" ", ":")):
        return wanted
    names = ", ".join(name for name in known if known[name]) or "none"
    raise UserError(f"--encoder_prompt {wanted}: is not a prompt of the encoder (it has: {names}); a text of "
                    "your own must end with a space or a colon")


def _pieces(model: object, text: str, prompt: str) -> list[tuple[str, int]]:
    """The text in pieces that the model reads whole, each with its number of tokens."""
    if not text.strip():
        return []
    tokenizer = model.tokenizer  # type: ignore[attr-defined]
    longest = getattr(model, "max_seq_length", None) or tokenizer.model_max_length
    used = len(tokenizer(prompt)["input_ids"])  # the prompt and the special tokens
    if not getattr(tokenizer, "is_fast", False):
        return [(text, 1)]  # knows no offsets: the model reads the beginning
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True,
                        verbose=False)["offset_mapping"]
    room = longest - used - ROOM_FOR_CUTS
    if len(offsets) <= room + ROOM_FOR_CUTS or room < 1:
        return [(text, max(len(offsets), 1))]
    pieces, begin = [], 0
    while begin < len(offsets):
        end = min(begin + room, len(offsets))
        while end < len(offsets) and end > begin + room // 2 and not _starts_word(text, offsets[end][0]):
            end -= 1  # back to where a word begins
        stop = offsets[end][0] if end < len(offsets) else len(text)
        pieces.append((text[offsets[begin][0] : stop], end - begin))
        begin = end
    return pieces


def _starts_word(text: str, place: int) -> bool:
    return place == 0 or text[place].isspace() or text[place - 1].isspace()
