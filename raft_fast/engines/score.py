"""Scores in replies: a whole number from 0 to 9, where what a model wrote gives exactly one."""

import json
import re
from dataclasses import replace
from typing import Any

from raft_fast.engines.base import Reply, Sampling
from raft_fast.models.thinking import strip_thinking

SCORING = Sampling(max_new_tokens=2048, temperature=0.0)  # room for a judge that thinks
SECOND_SCORING = replace(SCORING, temperature=0.7, seed=1)  # for what could not be read the first time
TOP = 9  # one digit, so that in-process engines can read it from ten token probabilities
VERSION = "-single"  # of how scores are asked for and read, in the journal's keys: change it with whatever
# changes a score. The first one was empty; it took the last of several scores.
KEYS = ("score", "rating", "grade")
SHOWN = 80  # characters of a reply that an error quotes
SOME = 3  # scores that it names

_NUMBER = r"(?P<number>-?(?:\d+(?:[.,]\d+)?|Infinity))"
# no end of a number: more digits, a percentage, or another number that it may just as well be
_END = (r"(?!\d|[.,]\d|\s*%|[^\S\n]and\s\d+(?!\s?\w)"
        r"|[^\S\n]{0,4}[(,]?[^\S\n]?(?:[-–—~]|\b(?:to|or|till|bis|oder|eller|ou|maybe|perhaps)\b)"
        r"[^\S\n]?(?:an?\s|maybe\s|perhaps\s)?\d)")
_SCALE = r"(?:\s{0,3}\(?(?:/|(?:out\s+)?of\b)\s{0,3}(?P<scale>\d+))?"
_VALUE = (rf"(?:{_NUMBER}{_END}{_SCALE}"
          r"|(?P<unclear>(?:(?:between|from|about|around|roughly|maybe|perhaps|either|an?)\s|[~≈≤≥]\s?)?-?\d))")
_KEY = rf"(?:(?:final|overall|total)[\s_-]?)?(?:{'|'.join(KEYS)})"
_TAGGED = re.compile(  # <score>7</score>, **Score:** 7, score (0-9): 7/9, the grade is 7
    rf"\b{_KEY}\b(?P<between>\W{{0,6}}?(?:(?:[(\[][^()\[\]\n]{{1,60}}[)\]]|(?:/|out of )\s?{TOP}"
    rf"|(?:on a scale )?(?:from |of )?0\s?(?:-|–|to)\s?{TOP})\W{{0,6}}?)?(?:(?:is|of)\b\W{{0,6}}?)?){_VALUE}",
    re.IGNORECASE)
_SIGN = re.compile(r"[:=>|：]|[-–—]\s")  # between the word and its number
_ASIDE = re.compile(r"[(\[].*?[)\]]|\b0\s?[-–]\s?\d")
# "the maximum score is 9" and "initial score: 5" give none
_ANOTHER = re.compile(r"\b(?:max(?:imum)?|min(?:imum)?|highest|lowest|best|top|full|perfect|possible|initial"
                      r"|preliminary|tentative|first|previous)[ _-]{1,2}\Z", re.IGNORECASE)
# what stands before "score of 8", but not before a house's "energy rating of 8"; what makes it no score
_OURS = re.compile(r"(?:\A|[.!?:\n][\s*#>_-]{0,6}|\b(?:an?|the|my)\s)\Z", re.IGNORECASE)
_SUPPOSED = re.compile(r"\W{0,3}(?:at first|initially|originally|would|means|requires|needs|is|if|:|=)(?!\w)",
                       re.IGNORECASE)
_MARKED = [re.compile(pattern, re.IGNORECASE) for pattern in (
    rf"(?:\[\[|\\boxed\{{|<\|begin_of_box\|>)\s?{_VALUE}", rf"\[RESULT\]\W{{0,6}}?{_VALUE}",
    rf"```(?:json)?\s{{0,3}}\n\s{{0,3}}{_NUMBER}{_END}{_SCALE}\s{{0,3}}\n```",
    # "I'd give this an 8 because ...", but neither "I would not give it a 9" nor "... a 9 if it"
    r"\bI(?:['’](?:d|ll))?\s(?:(?:would|will|must|therefore|thus|do)\s)*(?:give|rate|grade|score|award|assign)\s"
    rf"(?:it|(?:this|that|the)(?:\s(?:answer|reply|response))?)\s(?:(?:an?|as|at|with|score|of|overall)\s)*{_VALUE}(?!\s(?:if|had|were|but)\b)")]
# "It is good. 8", but not "see no. 8"
_OWN_SENTENCE = re.compile(rf"[^\W\d_]{{4}}[\"')*]*(?P<stop>[.!?:])\s+\**{_NUMBER}{_END}{_SCALE}[\s.*!]*\Z")
# "I would give this an 8.", but not "I would not give it a 9"
_GIVEN = re.compile(
    r"\b(?:give|gives|rate|rates|rated|grade|grades|graded|score|scores|scored|award|assign)"
    r"(?:\s+(?:this|that|it|the|answer|reply|an?|as|at|with|score|grade|rating|mark|of|overall))*[\s:*]+"
    rf"{_NUMBER}{_END}{_SCALE}[\s.*!]*\Z", re.IGNORECASE)
_NOT = re.compile(r"\b(?:not|never|cannot|nobody|no one)\b|n[’']t\b", re.IGNORECASE)
READABLE = (f'a whole number from 0 to {TOP} that ends it, alone on its line or as in "Score: 8", "8/{TOP}", '
            '"I would give this an 8." or {"score": 8}')
_BARE = re.compile(rf"\W*?{_NUMBER}{_END}{_SCALE}[\s.*)\]`\"']*", re.IGNORECASE)
_TAIL = 300  # characters of the end in which a last sentence is looked for
_JSON = json.JSONDecoder(object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str)
_MOST_BROKEN = 8  # objects that are none: what follows is read as text

Found = list[Any]
"""What stands where scores are written: numbers as text, whatever JSON has, None for what is unclear."""


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
    """The second reply, with what both of them cost."""
    return replace(second, prompt_tokens=first.prompt_tokens + second.prompt_tokens,
                   completion_tokens=first.completion_tokens + second.completion_tokens,
                   seconds=first.seconds + second.seconds)


def parse_score(text: str) -> float:
    """The one score of a reply without its thoughts, divided by 9.

    Every form in which a reply gives a score is collected: the "score" of a JSON object (its strings and
    inner objects give none), "Score: 8", "<score>8</score>", "a score of 8", "[[8]]", "[RESULT] 8",
    "I give it an 8", a number alone on the last line, a last sentence that is a number or gives one. Without
    any of these, other numbers after the word "score" count, and "Verdict: 8" at the end. No other number
    is a score.

    Raises ValueError unless there is exactly one value, and a whole number from 0 to 9: of two that differ
    one may be a quotation, "7 to 8" is neither, and another scale is never bent into this one.
    """
    answer = strip_thinking(text)
    rest, found = _objects(answer)
    sure, loose = _tagged(rest)
    marked = [_number_of(match) for form in _MARKED for match in form.finditer(rest)]
    found += sure + marked + _last_lines(answer) + _last_sentence(rest[-_TAIL:])
    found = found or loose or _last_sentence(rest[-_TAIL:], stops=":")
    values = {_plain(one): one for one in found}
    if len(values) != 1 or None in values:
        told = [_end(str(one)) for one in values.values() if one is not None][:SOME]
        several = f", which holds {' and '.join(told)}" if len(values) > 1 else ""
        raise ValueError(f"no score in the reply {_quote(answer)}{several}; what can be read is {READABLE}")
    return _on_scale(found[0], answer) / TOP


def _objects(text: str) -> tuple[str, Found]:
    """(the text without the JSON objects that hold a score, their scores)."""
    found: Found = []
    rest, begin, broken = [], 0, 0
    for start in re.finditer(r"\{\s{0,99}\"", text):
        if start.start() < begin:
            continue
        try:
            value, end = _JSON.raw_decode(text, start.start())
        except RecursionError:
            return "", [None]
        except ValueError:
            broken += 1
            if broken == _MOST_BROKEN:
                break
            continue
        if scores := _scores_of(value):
            found += scores
            rest.append(text[begin : start.start()])
            begin = end
    return " ; ".join([*rest, text[begin:]]), found


def _scores_of(value: Any) -> Found:
    """The scores in a JSON value, whose objects are tuples of pairs; one with its own hides those in it."""
    found: Found = []
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += one
        elif isinstance(one, tuple):
            own = [inner for key, inner in one
                   if inner is not None and re.fullmatch(_KEY, key.strip(), re.IGNORECASE)]
            found += own
            left += [] if own else [inner for _, inner in one]
    return found


def _tagged(text: str) -> tuple[Found, Found]:
    """Numbers after the word "score": (those that are surely meant, the others)."""
    sure: Found = []
    loose: Found = []
    for match in _TAGGED.finditer(text):
        before = max(0, match.start() - 24)
        if _ANOTHER.search(text, before, match.start()):
            continue
        between = _ASIDE.sub("", match["between"])
        if _SIGN.search(between):
            sure.append(_number_of(match))
        elif match["unclear"] is None:
            meant = _OURS.search(text, before, match.start()) and not re.search(r"[.!?\n]", between)
            (sure if meant and not _SUPPOSED.match(text, match.end()) else loose).append(_number_of(match))
    return sure, loose


def _last_lines(text: str) -> Found:
    """The numbers that stand alone on the last lines."""
    found: Found = []
    for line in reversed(text[-_TAIL:].splitlines()):
        if line.strip("` \t"):
            match = _BARE.fullmatch(line) if len(line) <= SHOWN else None
            if match is None:
                break
            found.append(_number_of(match))
    return found


def _last_sentence(text: str, stops: str = ".!?") -> Found:
    match = _OWN_SENTENCE.search(text)
    if match and match["stop"] in stops:
        return [_number_of(match)]
    match = _GIVEN.search(text)
    if match is None or _NOT.search(re.split(r"[.!?\n]", text[: match.start("number")])[-1]):
        return []
    return [_number_of(match)]


def _number_of(match: re.Match) -> str | None:
    """None where the number is unclear."""
    if match["number"] is None:
        return None
    return match["number"] if match["scale"] is None else f"{match['number']}/{match['scale']}"


def _plain(found: Any) -> float | str | None:
    """Equal for what says the same: 8, 8.0, 8/9."""
    if found is None:
        return None
    text = str(found).strip().removesuffix(f"/{TOP}")
    try:
        return float(text)
    except ValueError:
        return text


def _on_scale(found: Any, answer: str) -> int:
    number = _plain(found)
    if not isinstance(number, float) or not number.is_integer() or not 0 <= number <= TOP:
        raise ValueError(f"the score {_end(str(found))} in the reply {_quote(answer)} is not a whole "
                         f"number from 0 to {TOP}")
    return int(number)


def _quote(text: str) -> str:
    return repr(_end(text))


def _end(text: str) -> str:
    return text if len(text) <= SHOWN else "..." + text[-SHOWN:]
