"""Near-duplicate questions, and rows that overlap with held-out rows or evaluation suites: screen.json."""

import hashlib
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raft_fast.data.dataset import Rejected, Row, at
from raft_fast.data.neighbours import Index, SentenceEncoder, build_index, embed_to_file
from raft_fast.data.texts import letters
from raft_fast.run.files import DiskMap, write_json
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
FIRST_K, MOST_K = 16, 2048  # faiss finds no more on a GPU
BLOCK = 1024
DIGITS = 4  # similarities are compared to these: batch size and device change the digits after
LONGER = 2  # a reference this much longer than any question is compared by words alone
NONE = -1


@dataclass(frozen=True)
class Reference:
    """A text that training rows must not give away: a question, its answer if it has one, and its name in
    screen.json."""

    question: str
    answer: str
    name: dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """The row at `place` repeats another text.

    `other`: the row's place (duplicate), or {"suite", "index" or "row_id"} (overlap). `value`: cosine
    similarity, or the share of the shorter text's 13-word sequences; 1 for the same words.
    """

    place: int
    kind: Literal["duplicate", "overlap"]
    other: int | dict[str, Any]
    measure: Literal["same_words", "similarity", "ngrams"]
    value: float


@dataclass(frozen=True)
class Screened:
    """Places of the rows to drop, ascending, and why."""

    dropped: list[int]
    rejected: list[Rejected]


def screen(
    rows: Collection[Row], references: Mapping[str, Sequence[Reference]], options: ScreenOptions,
    encoder: SentenceEncoder, folder: Path, reporter: Reporter, source: str = "training rows",
) -> Screened:
    """Find rows that repeat an earlier question, and rows that repeat a reference.

    `references` by suite are never dropped. Writes `folder`/screen.json (unless both parts are off) and keeps
    the questions' vectors in `folder`/screen. `source` names the rows in reasons. A row dropped for overlap
    makes no other row a duplicate.
    """
    (folder / FILE).unlink(missing_ok=True)
    if options.duplicates == options.overlap == "off":
        return Screened([], [])
    vectors = folder / VECTORS
    vectors.mkdir(parents=True, exist_ok=True)
    with reporter.phase("screen questions", len(rows), "rows") as advance:
        questions = Questions.of(rows, encoder, vectors / "questions.npy", advance)
    found: list[Finding] = []
    if options.overlap != "off":
        for number, (name, texts) in enumerate(references.items()):
            with reporter.phase(f"compare with {name}", len(texts) + len(rows), "texts") as advance:
                found += overlap(rows, questions, texts, encoder, vectors / f"references-{number}.npy",
                                 options.duplicate_similarity, 0.5, advance)
    gone = {one.place for one in found} if options.overlap == "drop" else set()
    if options.duplicates != "off":
        with reporter.phase("find duplicates", len(questions.vectors), "questions") as advance:
            found += duplicates(questions, options.duplicate_similarity, encoder.device, gone, advance)
    entries = _entries(found, rows, options)
    dropped = gone | {one.place for one in found if getattr(options, WHAT[one.kind][0]) == "drop"}
    counts = {option: None if getattr(options, option) == "off" else
              len({entry["row_id"] for entry in entries if entry["kind"] == kind})
              for kind, (option, _) in WHAT.items()}
    compared = {} if options.overlap == "off" else {name: len(texts) for name, texts in references.items()}
    write_json({"rows": len(rows), "dropped": len(dropped), **counts, "compared_with": compared,
                "options": dict(vars(options)), "flagged": entries}, folder / FILE)
    for option, what in WHAT.values():
        if counts[option]:
            reporter.say(f"{what}: {counts[option]} " + (
                "dropped, see rejected.jsonl" if getattr(options, option) == "drop" else
                f"flagged in {FILE}; --{option} drop removes them"))
    why: dict[str, str] = {}
    for entry in entries:
        if entry["dropped"]:
            why.setdefault(entry["row_id"], _reason(entry))
    return Screened(sorted(dropped), [Rejected(source, None, text) for text in why.values()])


@dataclass(frozen=True)
class Questions:
    """The U different questions of N rows, numbered as they first come.

    `number` [N]: which question a row asks; `vectors` float32 [U, D], memory-mapped; `longest`: characters.
    """

    number: "array[int]"
    vectors: np.ndarray
    longest: int

    @classmethod
    def of(cls, rows: Collection[Row], encoder: SentenceEncoder, path: Path,
           advance: Callable[[int], None]) -> "Questions":
        """Number and embed the questions; vectors in `path` are used again."""
        seen, number, first, longest = DiskMap(), array("q"), array("q"), 0
        for place, row in enumerate(rows):
            longest = max(longest, len(question(row)))
            key = hashlib.sha256(same_key(question(row)).encode("utf-8", "surrogatepass")).digest()
            if (known := seen.get(key)) is None:
                seen[key] = known = len(first)
                first.append(place)
            number.append(known)
        seen.close()
        vectors = embed_to_file(lambda: map(question, at(rows, first)), len(first), encoder, path, advance)
        advance(len(number) - len(first))
        return cls(number, vectors, longest)


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


def overlap(
    rows: Collection[Row], questions: Questions, references: Sequence[Reference], encoder: SentenceEncoder,
    path: Path, least: float, share: float, advance: Callable[[int], None] = lambda steps: None,
) -> Iterator[Finding]:
    """The nearest reference of every row, by each measure that finds it too near.

    Words: question and answer share at least `share` of the shorter one's 13-word sequences. Meaning: the
    questions have the same words, or a similarity of at least `least`. Memory grows with the references only.
    """
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
    nearest, scores = _nearest(questions, references, encoder, path, advance)
    for place, row in enumerate(rows):
        found = grams(words(f"{question(row)}\n{row.gold}"))
        common = Counter(number for gram in found for number in holders.get(gram, ()))
        value, number = max(((count / min(len(found), counts[number]), -number)
                             for number, count in common.items()), default=(0.0, 0))
        if common and round(value, DIGITS) >= share:
            yield Finding(place, "overlap", references[-number].name, "ngrams", round(value, DIGITS))
        which = questions.number[place]
        if (alike := same.get(same_key(question(row)))) is not None:
            yield Finding(place, "overlap", references[alike].name, "same_words", 1.0)
        elif scores[which] >= least:
            yield Finding(place, "overlap", references[nearest[which]].name, "similarity", scores[which])
        advance(1)


def _nearest(
    questions: Questions, references: Sequence[Reference], encoder: SentenceEncoder, path: Path,
    advance: Callable[[int], None],
) -> tuple["array[int]", "array[float]"]:
    """For every question the nearest reference and its cosine similarity."""
    # one far longer than any question is not nearly the same, and takes long to embed
    known = [number for number, one in enumerate(references)
             if len(one.question) <= LONGER * questions.longest]
    if not known:
        return array("q", [0]) * len(questions.vectors), array("d", [0.0]) * len(questions.vectors)
    nearest, scores = array("q"), array("d")
    texts = [references[number].question for number in known]
    index = build_index(embed_to_file(lambda: texts, len(texts), encoder, path, advance), encoder.device)
    for begin in range(0, len(questions.vectors), BLOCK):
        found = index.search(np.array(questions.vectors[begin : begin + BLOCK]), 1)
        nearest.extend(known[id_] for id_ in found.ids[:, 0].tolist())
        scores.extend(round(score, DIGITS) for score in found.scores[:, 0].tolist())
    return nearest, scores


def duplicates(
    questions: Questions, least: float, device: str, gone: Collection[int],
    advance: Callable[[int], None] = lambda steps: None,
) -> Iterator[Finding]:
    """Rows whose question has the words of an earlier row's, or a similarity of at least `least` to one that
    is kept. Rows at places in `gone` are skipped. Similarity is not transitive: a question near a duplicate
    is compared with kept ones only."""
    number, total = questions.number, len(questions.vectors)
    first = array("q", [NONE]) * total  # place of the first row that asks it
    for place, which in enumerate(number):
        if first[which] == NONE and place not in gone:
            first[which] = place
    like = array("q", [NONE]) * total  # the kept question it resembles; its own number: kept itself
    value = array("d", [1.0]) * total
    found = near(build_index(questions.vectors, device), total, questions.vectors, least)
    for which, others in enumerate(found):  # in the rows' order: earlier ones are decided by now
        advance(1)
        if first[which] == NONE:
            continue
        like[which] = which
        for other, score in others:
            if other < which and like[other] == other:
                like[which], value[which] = other, score
                break
    for place, which in enumerate(number):
        kept = like[which]
        if kept != NONE and place not in gone and place != first[kept]:
            measure: Literal["same_words", "similarity"] = "same_words" if kept == which else "similarity"
            yield Finding(place, "duplicate", first[kept], measure, value[which])


def near(index: Index, count: int, vectors: np.ndarray, least: float) -> Iterator[list[tuple[int, float]]]:
    """For each of the vectors, float32 [Q, D]: (id, similarity) of those of the `count` in the index whose
    similarity is at least `least`, best first, the lower id first among equals; at most 2048."""
    for begin in range(0, len(vectors), BLOCK):
        block = np.array(vectors[begin : begin + BLOCK])
        found: list[list[tuple[int, float]]] = [[] for _ in block]
        open_, k = np.arange(len(block)), FIRST_K
        while len(open_):
            got = index.search(block[open_], k)
            scores = np.round(got.scores.astype(np.float64), DIGITS)
            for place, ids, row in zip(open_, got.ids, scores, strict=True):
                kept = [(int(id_), float(score)) for id_, score in zip(ids, row, strict=True)
                        if id_ >= 0 and score >= least]
                found[place] = sorted(kept, key=lambda one: (-one[1], one[0]))
            more = scores[:, -1] >= least  # the list may have been cut
            open_, k = (open_[more] if k < min(count, MOST_K) else open_[:0]), min(4 * k, MOST_K)
        yield from found


def _entries(found: Sequence[Finding], rows: Iterable[Row], options: ScreenOptions) -> list[dict[str, Any]]:
    """The findings as entries of screen.json, in the rows' order."""
    needed = {one.place for one in found} | {one.other for one in found if isinstance(one.other, int)}
    ids = {place: row.row_id for place, row in enumerate(rows) if place in needed}
    return [{"row_id": ids[one.place], "kind": one.kind,
             "with": {"row_id": ids[one.other]} if isinstance(one.other, int) else one.other,
             "measure": one.measure, "value": one.value,
             "dropped": getattr(options, WHAT[one.kind][0]) == "drop"}
            for one in sorted(found, key=lambda one: one.place)]


def _reason(entry: dict[str, Any]) -> str:
    """Why a row was set aside, from its entry in screen.json."""
    other, how = entry["with"], MEASURES[entry["measure"]].format(entry["value"])
    if entry["kind"] == "duplicate":
        what = f"asks what row_id {other['row_id']} asks"
    else:
        named = f"row_id {other['row_id']}" if "row_id" in other else f"prompt {other['index']}"
        what = f"overlaps with {named} of {other['suite']}"
    return f"row_id {entry['row_id']}: {what} ({how}); --{WHAT[entry['kind']][0]} flag keeps it"
