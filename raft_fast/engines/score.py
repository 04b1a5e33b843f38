"""Scores in replies: a whole number from 0 to 9, if what a model wrote gives exactly one."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from raft_fast.engines.base import Reply, Sampling
from raft_fast.models.thinking import strip_thinking

SCORING = Sampling(max_new_tokens=2048, temperature=0.0)  # room for a judge that thinks
SECOND_SCORING = replace(SCORING, temperature=0.7, seed=1)  # for what could not be read the first time
TOP = 9  # one digit, so that in-process engines can read it from ten token probabilities
VERSION = "-sure"  # of how scores are asked for and read, in the journal's keys: change it with whatever
# changes a score. Earlier ones were empty and "-single".
SHOWN = 80  # characters of a reply that an error quotes
SOME = 3  # scores that it names
READABLE = (f'a whole number from 0 to {TOP} that ends it, alone on its line or as in "Score: 8", "8/{TOP}", '
            '"I would give this an 8." or {"score": 8}')
_TAIL = 300  # characters of the end in which last lines and a last sentence are looked for
_MOST_BROKEN = 8  # objects that are not JSON: what follows is read as text
_JSON = json.JSONDecoder(object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str)

_KEY = r"(?:(?:final|overall|total)[\s_-]?)?(?:score|rating|grade)"
_NUMBER = r"(?P<number>-?(?:\d+(?:[.,]\d+)?|Infinity))"
# what cannot follow a number: more digits, a percentage, or another number that it may just as well be
_END = (r"(?!\d|[.,]\d|\s*%|[^\S\n]and\s\d+(?!\s?\w)"
        r"|[^\S\n]{0,4}[(,]?[^\S\n]?(?:[-–—~]|\b(?:to|or|till|bis|oder|eller|ou|maybe|perhaps)\b)"
        r"[^\S\n]?(?:an?\s|maybe\s|perhaps\s)?\d)")
_CLEAR = rf"{_NUMBER}{_END}(?:\s{{0,3}}\(?(?:/|(?:out\s+)?of\b)\s{{0,3}}(?P<scale>\d+))?"
_VALUE = (rf"(?:{_CLEAR}"
          r"|(?P<unclear>(?:(?:between|from|about|around|roughly|maybe|perhaps|either|an?)\s|[~≈≤≥]\s?)?-?\d))")
# <score>7</score>, **Score:** 7, score (0-9): 7/9, the grade is 7
_TAGGED = re.compile(
    rf"\b{_KEY}\b(?P<between>\W{{0,6}}?(?:(?:[(\[][^()\[\]\n]{{1,60}}[)\]]|(?:/|out of )\s?{TOP}"
    rf"|(?:on a scale )?(?:from |of )?0\s?(?:-|–|to)\s?{TOP})\W{{0,6}}?)?(?:(?:is|of)\b\W{{0,6}}?)?){_VALUE}",
    re.IGNORECASE)
_SIGN = re.compile(r"[:=>|：]|[-–—]\s")  # between the word and its number
_ASIDE = re.compile(r"[(\[].*?[)\]]|\b0\s?[-–]\s?\d")
# "the maximum score is 9" and "initial score: 5" give none
_ANOTHER = re.compile(r"\b(?:max(?:imum)?|min(?:imum)?|highest|lowest|best|top|full|perfect|possible|initial"
                      r"|preliminary|tentative|first|previous)[ _-]{1,2}\Z", re.IGNORECASE)
# without a sign: "the score of 8" counts, "energy rating of 8" does not, nor "a score of 9 would need ..."
_OURS = re.compile(r"(?:\A|[.!?:\n][\s*#>_-]{0,6}|\b(?:an?|the|my)\s)\Z", re.IGNORECASE)
_SUPPOSED = re.compile(r"\W{0,3}(?:at first|initially|originally|would|means|requires|needs|is|if|:|=)(?!\w)",
                       re.IGNORECASE)
_MARKED = re.compile(
    r"(?:(?:\[\[|\\boxed\{|<\|begin_of_box\|>)\s?|\[RESULT\]\W{0,6}?"
    # "I'd give this an 8 because ...", but neither "I would not give it a 9" nor "... a 9 if it"
    r"|\bI(?:['’](?:d|ll))?\s(?:(?:would|will|must|therefore|thus|do)\s)*(?:give|rate|grade|score|award|assign)\s"
    r"(?:it|(?:this|that|the)(?:\s(?:answer|reply|response))?)\s(?:(?:an?|as|at|with|score|of|overall)\s)*"
    rf"){_VALUE}(?!\s(?:if|had|were|but)\b)", re.IGNORECASE)
_LINE = re.compile(rf"\W*?{_CLEAR}[\s.*)\]`\"']*", re.IGNORECASE)
_SENTENCE = re.compile(  # "It is good. 8", "Verdict: 8", but not "see no. 8"
    rf"[^\W\d_]{{4}}[\"')*]*[.!?:]\s+\**{_CLEAR}[\s.*!]*\Z")


def as_score(reply: Reply) -> Reply:
    """The reply with the score that its text gives, or with the error that says why there is none."""
    if reply.error is not None:
        return reply
    try:
        return replace(reply, score=parse_score(reply.text))
    except ValueError as error:
        cut = " (cut off)" if reply.finish_reason == "length" else ""
        return replace(reply, text="", error=f"{error}{cut}")


def second_attempt(first: Reply, second: Reply) -> Reply:
    """The second reply as a score, with the cost of both."""
    return replace(as_score(second), prompt_tokens=first.prompt_tokens + second.prompt_tokens,
                   completion_tokens=first.completion_tokens + second.completion_tokens,
                   seconds=first.seconds + second.seconds)


def parse_score(text: str) -> float:
    """The one score of a reply without its thoughts, divided by 9.

    Every form in which a reply gives a score is collected: the "score" of a JSON object (its strings and
    inner objects give none), "Score: 8", "<score>8</score>", "a score of 8", "[[8]]", "[RESULT] 8", "I give
    it an 8", numbers alone on the last lines, a last sentence that is a number. No other number is a score.

    Raises ValueError unless there is exactly one value, and a whole number from 0 to 9: of two that differ
    one may be a quotation, "7 to 8" is neither, and another scale is never bent into this one.
    """
    answer = strip_thinking(text)
    rest, found = _objects(answer)
    found += [*_tagged(rest), *map(_number_of, _MARKED.finditer(rest)), *_last(answer)]
    values = {_plain(one): one for one in found}
    if len(values) != 1 or None in values:
        told = [_end(str(one)) for one in values.values() if one is not None][:SOME]
        several = f", which holds {' and '.join(told)}" if len(values) > 1 else ""
        raise ValueError(f"no score in the reply {_end(answer)!r}{several}; what can be read is {READABLE}")
    (number, said), = values.items()
    if not isinstance(number, float) or not number.is_integer() or not 0 <= number <= TOP:
        raise ValueError(f"the score {_end(str(said))} in the reply {_end(answer)!r} is not a whole number "
                         f"from 0 to {TOP}")
    return int(number) / TOP


def _objects(text: str) -> tuple[str, list[Any]]:
    """(the text without the JSON objects that hold a score, their scores)."""
    found: list[Any] = []
    rest, begin, broken = [], 0, 0
    for start in re.finditer(r"\{\s{0,99}\"", text):
        if start.start() < begin or broken == _MOST_BROKEN:
            continue
        try:
            value, end = _JSON.raw_decode(text, start.start())
            scores = _scores_of(value)
        except RecursionError:
            return "", [None]
        except ValueError:
            broken += 1
            continue
        if scores:
            found += scores
            rest.append(text[begin : start.start()])
            begin = end
    return " ; ".join([*rest, text[begin:]]), found


def _scores_of(value: Any) -> list[Any]:
    """The scores in a JSON value, whose objects are tuples of pairs; one with its own hides those in it."""
    if isinstance(value, list):
        return [score for one in value for score in _scores_of(one)]
    if not isinstance(value, tuple):
        return []
    own = [one for key, one in value if one is not None and re.fullmatch(_KEY, key.strip(), re.IGNORECASE)]
    return own or [score for _, one in value for score in _scores_of(one)]


def _tagged(text: str) -> Iterator[str | None]:
    """Numbers after the word "score"."""
    for match in _TAGGED.finditer(text):
        before = max(0, match.start() - 24)
        if _ANOTHER.search(text, before, match.start()):
            continue
        between = _ASIDE.sub("", match["between"])
        meant = match["unclear"] is None and _OURS.search(text, before, match.start()) and not (
            re.search(r"[.!?\n]", between) or _SUPPOSED.match(text, match.end()))
        if meant or _SIGN.search(between):
            yield _number_of(match)


def _last(text: str) -> Iterator[str | None]:
    """The numbers that are alone on the last lines, or a last sentence of their own."""
    text = text[-_TAIL:]
    if match := _SENTENCE.search(text):
        yield _number_of(match)
    for line in reversed(text.splitlines()):
        if line.strip("` \t"):
            match = _LINE.fullmatch(line) if len(line) <= SHOWN else None
            if match is None:
                break
            yield _number_of(match)


def _number_of(match: re.Match) -> str | None:
    """The number with its scale; None if it is unclear."""
    number, scale = match["number"], match["scale"]
    return number if number is None or scale is None else f"{number}/{scale}"


def _plain(found: Any) -> float | str | None:
    """Equal for equal scores: 8, 8.0, 8/9."""
    if found is None:
        return None
    text = str(found).strip().removesuffix(f"/{TOP}")
    try:
        return float(text)
    except ValueError:
        return text


def _end(text: str) -> str:
    return text if len(text) <= SHOWN else "..." + text[-SHOWN:]
