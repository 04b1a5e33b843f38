"""What a check sees, the words of languages (frequent.toml, phrases/LANGUAGE.toml), the checks of form."""

import re
import tomllib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from raft_fast.data.rows import blank
from raft_fast.engines import Reply
from raft_fast.models.thinking import marks as marks_of

LONGEST, PARTS = 10_000, 300  # characters; numbers and ends of clauses
LOOKED, STUCK = 40_000, 10_000  # characters searched for what may stand anywhere, and for loops at the end
SHOWN = 3
PART = re.compile(r"\d+|[½⅓⅔¼¾⅛⅜⅝⅞.!?;:()\n]")
# scripts without spaces between words count by character
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f]|[^\W_]+(?:['’][^\W_]+)*")
remembered = lru_cache(maxsize=1 << 13)  # about as many texts as stage 1 has under way at once
HERE = resources.files(__package__)
FOREIGN = 0.05  # share of letters in a script that neither question nor gold answer has
FEWEST, AHEAD = 2.5, 2.0  # frequent words that make a language sure; how many times those of the next
FREQUENT: dict[str, str] = tomllib.loads((HERE / "frequent.toml").read_text(encoding="utf-8"))
SPEAKERS: dict[str, list[str]] = defaultdict(list)  # the languages of each frequent word
for _name, _text in FREQUENT.items():
    for _word in dict.fromkeys(_text.split()):
        SPEAKERS[_word].append(_name)
TOO_SHORT, TOO_LONG, SLACK = 0.3, 3.0, 60  # answer / gold in characters; a word may become a sentence
REFUSED, LABELLED = 240, 80  # characters in which a refusal, and a label, begins
PERIOD, TIMES, LEAST = 30, 3, 8  # words of a repeated phrase at most, how often, words of it all at least
RUN = 6  # words in a row that are no chance
LETTERS = re.compile(r"([^\W\d_])\1{9,}|((?:[^\W\d_]){2,4}?)\2{7,}")
SENTENCE = re.compile(r"(?<![.!?\n])[.!?\n]+(?:\s|$)")  # a run is tried once, not from each of its marks
LABEL = re.compile(r"^([^\W\d_][^:\n{}]{2,40}:)", re.MULTILINE)  # "First answer:" of a template


@dataclass(frozen=True)
class Case:
    """An answer held against its gold answer; `instructions` is the unfilled template it was asked with."""

    question: str
    gold: str
    reply: Reply
    instructions: str = ""

    @property
    def answer(self) -> str:
        return self.reply.text

    @property
    def too_long(self) -> bool:
        """Whether gold answer or answer are too long to be compared fact by fact."""
        return _too_long(self.gold) or _too_long(self.answer)


Check = Callable[[Case], str | None]
"""Says what is wrong with an answer, or None."""


@remembered
def _too_long(text: str) -> bool:
    return len(text) > LONGEST or sum(1 for _ in PART.finditer(text)) > PARTS


@lru_cache(maxsize=1 << 8)
def words(text: str) -> tuple[str, ...]:
    """The words of a text, without case and punctuation."""
    return tuple(WORD.findall(text.casefold().replace("’", "'")))


def difference(name: str, missing: set[str], added: set[str]) -> str | None:
    """The objection to facts that are lost or made up, or None without any."""
    told = [f"{what} {', '.join(sorted(facts)[:SHOWN])}"
            for what, facts in (("lacks", missing), ("adds", added)) if facts]
    return f"{name}: {'; '.join(told)}" if told else None


@lru_cache
def phrases() -> dict[str, dict[str, list[str]]]:
    """For each language "section.key" -> regular expressions."""
    files = {file.name.removesuffix(".toml"): tomllib.loads(file.read_text(encoding="utf-8"))
             for file in sorted((HERE / "phrases").iterdir(), key=lambda file: file.name)}
    return {name: {f"{section}.{key}": lists for section, keys in file.items() for key, lists in keys.items()}
            for name, file in files.items()}


@lru_cache(maxsize=256)
def regex(template: str, language: str | None = None) -> re.Pattern[str]:
    """The template, each %(section.key)s in it standing for any phrase of that list: of a language, or of all
    languages if it is None or has no file."""
    known = phrases()
    files = [known[language]] if language in known else [*known.values()]
    return re.compile(template % {
        key: "(?:" + "|".join(dict.fromkeys(one for file in files for one in file[key])) + ")"
        for key in files[0]}, re.IGNORECASE)


@remembered
def guess_language(text: str) -> str | None:
    """The language of a text in Latin script if its frequent words leave no doubt, else None. A word that n
    languages share counts 1/n."""
    scores = dict.fromkeys(FREQUENT, 0.0)
    for word in words(text[:LOOKED]):
        for language in SPEAKERS.get(word, ()):
            scores[language] += 1 / len(SPEAKERS[word])
    (name, best), (_, second) = sorted(scores.items(), key=lambda one: one[1], reverse=True)[:2]
    return name if best >= FEWEST and best >= AHEAD * second else None


def language(case: Case) -> str | None:
    """Another language than the gold answer's, which takes a sentence or two to tell, or a foreign script."""
    scripts: Counter[str] = Counter()
    for letter, count in Counter(filter(str.isalpha, case.answer)).items():
        scripts[_script(letter)] += count
    expected = {_script(letter) for letter in {*case.gold, *case.question} if letter.isalpha()}
    for script, count in scripts.most_common():
        if expected and script not in expected and count >= FOREIGN * scripts.total():
            return f"has {script.title()} letters, the gold answer has none"
    said, gold = guess_language(case.answer), guess_language(case.gold)
    return f"is in {said}, the gold answer in {gold}" if said and gold and said != gold else None


def _script(letter: str) -> str:
    """LATIN, CYRILLIC, CJK, ...; Japanese is written in three, which count as one."""
    script = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    return "CJK" if script in ("HIRAGANA", "KATAKANA") else script


def failed(case: Case) -> str | None:
    """The engine failed."""
    return f"no reply: {case.reply.error}" if case.reply.error is not None else None


def empty(case: Case) -> str | None:
    """The engine said nothing."""
    return "empty reply" if case.reply.error is None and blank(case.answer) else None


def cut_off(case: Case) -> str | None:
    """The finish reason says that there is more."""
    return {"length": f"cut off after {case.reply.completion_tokens} tokens",
            "content_filter": "cut off by the server's content filter"}.get(case.reply.finish_reason or "")


def copy(case: Case) -> str | None:
    """The words of the gold answer or of the question, whatever their case and punctuation."""
    return next((f"the same words as the {name}" for text, name in (
        (case.gold, "gold answer"), (case.question, "question")) if words(case.answer) == words(text)), None)


def length(case: Case) -> str | None:
    """Much shorter than the gold answer: something is missing. Much longer: something is made up."""
    answer, gold = len(case.answer), len(case.gold)
    if (gold > SLACK and answer < TOO_SHORT * gold) or answer > TOO_LONG * gold + SLACK:
        return f"{answer / gold:.2g} times as long as the gold answer"
    return None


def refusal(case: Case) -> str | None:
    """It begins by saying that it cannot help, and the gold answer does not."""
    refuses = regex(r"\b%(reply.refusal)s")
    found, there = (refuses.search(text[:REFUSED].replace("’", "'")) for text in (case.answer, case.gold))
    return f"refuses: {found[0]!r}" if found and not there else None


def marks(case: Case) -> str | None:
    """Control marks such as <|im_end|>, [INST] or <think> that the gold answer does not have."""
    added = sorted(marks_of(case.answer) - marks_of(case.gold))
    return f"has control marks: {', '.join(added[:SHOWN])}" if added else None


def loops(case: Case) -> str | None:
    """Letters without end, or a phrase or sentence three times, in the last STUCK characters."""
    phrase = _stuck(case.answer[-STUCK:])
    return f"repeats {phrase!r}" if phrase and not _stuck(case.gold[-STUCK:]) else None


def _stuck(text: str) -> str | None:
    if letters := LETTERS.search(text):
        return letters[0][:20]
    said = words(text)
    for period in range(1, min(PERIOD, len(said) // TIMES) + 1):
        run = 0
        for place, (before, word) in enumerate(zip(said, said[period:], strict=False), 1):
            run = run + 1 if before == word else 0
            if run >= max((TIMES - 1) * period, LEAST - period):
                return " ".join(said[place : place + period])
    sentences = Counter(" ".join(said) for part in SENTENCE.split(text) if len(said := words(part)) >= 3)
    return next((sentence for sentence, times in sentences.most_common(1) if times >= TIMES), None)


def leak(case: Case) -> str | None:
    """It speaks of the texts that it was made from, opens with a label of its prompt, or repeats that."""
    answer, speaks = case.answer[:LOOKED], regex(r"\b%(reply.leak)s")
    if (found := speaks.search(answer)) and not speaks.search(f"{case.gold}\n{case.question}"):
        return f"speaks of its sources: {found[0]!r}"
    opening, gold = answer[:LABELLED].casefold(), case.gold.lstrip()[:LABELLED].casefold()
    for label in LABEL.findall(case.instructions.casefold()):
        if opening.startswith(label) and not gold.startswith(label):
            return f"repeats the prompt's label {label!r}"
    if runs := _runs(answer) & _runs(case.instructions):
        runs -= _runs(case.gold) | _runs(case.question)
    return f"repeats its instructions: {' '.join(min(runs))!r}" if runs else None


@lru_cache(maxsize=16)
def _runs(text: str) -> frozenset[tuple[str, ...]]:
    said = words(text)
    return frozenset(said[at : at + RUN] for at in range(len(said) - RUN + 1))
