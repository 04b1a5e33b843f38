"""Near-duplicate questions, and rows that overlap with held-out rows or evaluation suites: screen.json.

Texts are compared by their words, their 13-word sequences and the cosine similarity of their vectors; nearest
neighbours are found exactly, by matrix products in blocks (dev/PERFORMANCE.md)."""

import hashlib
import importlib.util
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raft_fast.data.rows import Rejected, Row
from raft_fast.data.texts import letters
from raft_fast.run.files import replacing, write_json
from raft_fast.run.options import ScreenOptions
from raft_fast.run.progress import Reporter

FILE, VECTORS = "screen.json", "screen"
HELDOUT = "held-out rows"
WHAT = {"duplicate": ("duplicates", "near-duplicate questions"), "overlap": ("overlap", "overlapping rows")}
MEASURES = {"same_words": "the same words", "similarity": "similarity {:.3f}",
            "ngrams": "{:.0%} of the 13-word sequences"}
GRAM_WORDS = 13  # long enough that two people seldom write it alike (Brown et al. 2020, appendix C)
# scripts written without spaces: each sign is a word
UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
EMBED_TEXTS = 1024  # texts embedded at once
BLOCK, BASE_ROWS = 1024, 32_768  # vectors of one matrix product: 128 MiB of scores
GPU_K = 2048  # the most neighbours that FAISS finds on a GPU
DIGITS = 4  # similarities are compared to these: batch size and device change the digits after
LONGER = 2  # a reference this much longer than any question is compared by words alone

Entry = dict[str, Any]
"""A row that repeats another text, in screen.json."""


class SentenceEncoder(Protocol):
    """φ of Eq. 2. Two encoders with one `identity` make the same vectors; `device` is where it runs."""

    identity: str
    device: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [len(texts), D]; zeros for a text without one."""
        ...


def embed_to_file(texts: Sequence[str], encoder: SentenceEncoder, path: Path,
                  advance: Callable[[int], None] = lambda steps: None) -> np.ndarray:
    """The vectors of the texts, float32 [texts, D], memory-mapped from `path` (.npy). The file ends with a
    hash of texts and encoder: with the same one it is used as it is, else it is made again."""
    digest = hashlib.sha256(encoder.identity.encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    with suppress(OSError), path.open("rb") as file:
        file.seek(-digest.digest_size, os.SEEK_END)
        if file.read() == digest.digest():
            advance(len(texts))
            return np.load(path, mmap_mode="r")
    blocks = []
    for begin in range(0, max(len(texts), 1), EMBED_TEXTS):
        blocks.append(encoder.embed(texts[begin : begin + EMBED_TEXTS]))
        advance(len(blocks[-1]))
    with replacing(path, "wb") as file:
        np.save(file, np.concatenate(blocks).astype(np.float32, copy=False))
        file.write(digest.digest())
    return np.load(path, mmap_mode="r")


def nearest(queries: np.ndarray, vectors: np.ndarray, k: int, device: str,
            among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """For queries, float32 [Q, D], the k vectors of float32 [N, D] (of those `among`, bool [N]) with the
    largest inner products, best first: (scores float32, ids int64), [Q, k] or as many as there are. Exact;
    by FAISS where it is installed, else by torch."""
    chosen = np.arange(len(vectors)) if among is None else np.flatnonzero(among)
    search = _by_faiss if importlib.util.find_spec("faiss") else _by_torch
    scores, ids = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for begin in range(0, len(chosen), BASE_ROWS):
        own = chosen[begin : begin + BASE_ROWS]
        found, places = search(np.array(queries), vectors[own], min(k, len(own)), device)
        scores, ids = np.hstack([scores, found]), np.hstack([ids, own[places]])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    return scores, ids


def _by_torch(queries: np.ndarray, base: np.ndarray, k: int, device: str) -> tuple[np.ndarray, np.ndarray]:
    import torch

    best = (torch.from_numpy(queries).to(device) @ torch.from_numpy(base).to(device).T).topk(k)
    return best.values.cpu().numpy(), best.indices.cpu().numpy()


def _by_faiss(queries: np.ndarray, base: np.ndarray, k: int, device: str) -> tuple[np.ndarray, np.ndarray]:
    import faiss

    index: Any = faiss.IndexFlatIP(base.shape[1])
    if device.startswith("cuda") and hasattr(faiss, "StandardGpuResources") and k <= GPU_K:
        gpu = int(device.partition(":")[2] or 0)
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), gpu, index)
    index.add(base)
    return index.search(queries, k)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Reference:
    """A text that training rows must not give away: question, answer if any, and name in screen.json."""

    question: str
    answer: str
    name: dict[str, Any]


def screen(rows: Sequence[Row], references: Mapping[str, Sequence[Reference]], options: ScreenOptions,
           encoder: SentenceEncoder, folder: Path, reporter: Reporter, source: str = "training rows"
          ) -> tuple[list[int], list[Rejected]]:
    """(places of the rows to drop, ascending, and why): rows that repeat an earlier question or a reference.

    `references` by suite are never dropped. Writes `folder`/screen.json (unless both parts are off) and keeps
    the questions' vectors in `folder`/screen. `source` names the rows in reasons. A row dropped for overlap
    makes no other row a duplicate."""
    (folder / FILE).unlink(missing_ok=True)
    if options.duplicates == options.overlap == "off":
        return [], []
    kept, least = folder / VECTORS, options.duplicate_similarity
    kept.mkdir(parents=True, exist_ok=True)
    with reporter.phase("screen questions", len(rows), "rows") as advance:
        vectors = embed_to_file([*map(question, rows)], encoder, kept / "questions.npy", advance)
    found: list[tuple[int, Entry]] = []
    for number, (name, texts) in enumerate(references.items() if options.overlap != "off" else ()):
        with reporter.phase(f"compare with {name}"):
            found += overlap(rows, vectors, texts, encoder, kept / f"references-{number}.npy", least,
                             options.overlap_share)
    if options.duplicates != "off":
        gone = {place for place, _ in found} if options.overlap == "drop" else set()
        with reporter.phase("find duplicates"):
            found += duplicates(rows, vectors, least, encoder.device, gone)
    found.sort(key=lambda one: one[0])
    dropped: dict[int, str] = {}
    for place, entry in found:
        entry["dropped"] = getattr(options, WHAT[entry["kind"]][0]) == "drop"
        if entry["dropped"]:
            dropped.setdefault(place, _reason(entry))
    counts = {option: None if getattr(options, option) == "off" else
              len({place for place, entry in found if entry["kind"] == kind})
              for kind, (option, _) in WHAT.items()}
    compared = {} if options.overlap == "off" else {name: len(texts) for name, texts in references.items()}
    write_json({"rows": len(rows), "dropped": len(dropped), **counts, "compared_with": compared,
                "options": dict(vars(options)), "flagged": [entry for _, entry in found]}, folder / FILE)
    for option, what in WHAT.values():
        if counts[option]:
            reporter.say(f"{what}: {counts[option]} " + (
                "dropped, see rejected.jsonl" if getattr(options, option) == "drop" else
                f"flagged in {FILE}; --{option} drop removes them"))
    return [*dropped], [Rejected(source, None, why) for why in dropped.values()]


def question(row: Row) -> str:
    """What is asked: the conversation without the system turn, which many rows share."""
    return "\n".join(turn["content"] for turn in row.prompt if turn["role"] != "system")


def rows_as_references(rows: Iterable[Row]) -> dict[str, Sequence[Reference]]:
    """Held-out rows."""
    return {HELDOUT: [Reference(question(row), row.gold, {"suite": HELDOUT, "row_id": row.row_id})
                      for row in rows]}


def words(text: str) -> list[str]:
    """The words of a text, without case, punctuation and compatibility forms."""
    return WORD.findall(letters(text))


def same_key(text: str) -> str:
    """Equal for texts of the same words; a text without words is its own key."""
    return " ".join(words(text)) or text.strip()


def grams(said: Sequence[str]) -> set[int]:
    """Every sequence of 13 words, hashed for this process; a shorter text is one sequence."""
    if not said:
        return set()
    return {hash(tuple(said[at : at + GRAM_WORDS])) for at in range(max(len(said) - GRAM_WORDS, 0) + 1)}


def _blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(place of the first, vectors) of a block at a time."""
    for begin in range(0, len(vectors), BLOCK):
        yield begin, np.array(vectors[begin : begin + BLOCK])


def overlap(rows: Iterable[Row], vectors: np.ndarray, references: Sequence[Reference],
            encoder: SentenceEncoder, path: Path, least: float, share: float) -> Iterator[tuple[int, Entry]]:
    """The nearest reference of every row, by each measure that finds it too near. `vectors`: the questions'.

    Words: question and answer share at least `share` of the shorter one's 13-word sequences. Meaning: the
    questions have the same words, or a similarity of at least `least`. Memory grows with references only."""
    if not references:
        return
    holders: dict[int, list[int]] = defaultdict(list)  # a sequence -> the references that hold it
    counts: list[int] = []
    same: dict[str, int] = {}
    for number, one in enumerate(references):
        found = grams(words(f"{one.question}\n{one.answer}"))
        counts.append(len(found))
        same.setdefault(same_key(one.question), number)
        for gram in found:
            holders[gram].append(number)
    # one far longer than any question is not nearly the same, and takes long to embed
    longest = LONGER * max(len(question(row)) for row in rows)
    short = [number for number, one in enumerate(references) if len(one.question) <= longest]
    scores, alike = np.zeros(len(vectors)), np.zeros(len(vectors), int)
    if short:
        theirs = embed_to_file([references[number].question for number in short], encoder, path)
        near = [nearest(block, theirs, 1, encoder.device) for _, block in _blocks(vectors)]
        scores, alike = (np.concatenate(parts)[:, 0] for parts in zip(*near, strict=True))
    for place, row in enumerate(rows):
        found = grams(words(f"{question(row)}\n{row.gold}"))
        common = Counter(number for gram in found for number in holders.get(gram, ()))
        value, number = max(((count / min(len(found), counts[number]), -number)
                             for number, count in common.items()), default=(0.0, 0))
        if common and round(value, DIGITS) >= share:
            yield place, _entry(row, "overlap", references[-number].name, "ngrams", value)
        if (named := same.get(same_key(question(row)))) is not None:
            yield place, _entry(row, "overlap", references[named].name, "same_words", 1.0)
        elif round(scores[place], DIGITS) >= least:
            name = references[short[alike[place]]].name
            yield place, _entry(row, "overlap", name, "similarity", scores[place])


def duplicates(rows: Sequence[Row], vectors: np.ndarray, least: float, device: str, gone: Collection[int]
               ) -> Iterator[tuple[int, Entry]]:
    """Rows whose question has the words of an earlier row's, or a similarity of at least `least` to one that
    is kept. `vectors`: the questions'. Rows at places in `gone` are skipped. Similarity is not transitive: a
    question near a duplicate is compared with kept ones only."""
    known: dict[int, tuple[str, str, float]] = {}  # words -> what the next row that has them repeats, and how
    kept = np.zeros(len(vectors), bool)
    for begin, block in _blocks(vectors):
        # similarities to the nearest kept question of earlier blocks, and to all questions of this one
        best, places = nearest(block, vectors[:begin], 1, device, kept[:begin])
        scores = np.round(np.hstack([best, block @ block.T]).astype(np.float64), DIGITS)
        own = np.arange(begin, begin + len(block))
        for at, place in enumerate(own.tolist()):
            if place in gone:
                continue
            row = rows[place]
            key = hash(same_key(question(row)))
            if key not in known:
                others = np.hstack([places[at], own])
                near = np.where(kept[others], scores[at], -np.inf)
                kept[place] = near.max() < least
                known[key] = (row.row_id, "same_words", 1.0) if kept[place] else (
                    rows[int(others[near.argmax()])].row_id, "similarity", near.max())
                if kept[place]:
                    continue
            other, measure, value = known[key]
            yield place, _entry(row, "duplicate", {"row_id": other}, measure, value)


def _entry(row: Row, kind: str, other: dict[str, Any], measure: str, value: float) -> Entry:
    """How the row repeats another text, for screen.json. `value`: cosine similarity, share of the shorter
    text's 13-word sequences, or 1 for the same words."""
    return {"row_id": row.row_id, "kind": kind, "with": other, "measure": measure,
            "value": round(float(value), DIGITS)}


def _reason(entry: Entry) -> str:
    """Why a row was set aside, from its entry in screen.json."""
    named = " of ".join(str(value) if key == "suite" else f"{key} {value}"
                        for key, value in sorted(entry["with"].items()))
    how = MEASURES[entry["measure"]].format(entry["value"])
    return f"row_id {entry['row_id']}: repeats {named} ({how}); --{WHAT[entry['kind']][0]} flag keeps it"
