"""Scores in replies: a whole number from 0 to 9, read from the end of what a model wrote."""

import json
import re
from dataclasses import replace
from typing import Any

from raft_fast.engines.base import Reply, Sampling

SCORING = Sampling(max_new_tokens=2048, temperature=0.0)  # room for a judge that thinks
SECOND_SCORING = replace(SCORING, temperature=0.7, seed=1)  # for what could not be read the first time
TOP = 9  # one digit, so that in-process engines can read it from ten token probabilities
VERSION = ""  # of how scores are asked for and read, in the journal's keys: change it with whatever
# changes a score. The first one is empty, so that the scores of older journals go on counting.
KEYS = ("score", "rating", "grade")
SHOWN = 80  # characters of a reply that an error quotes

_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_ORPHAN_END = re.compile(r"\A.*</(think|thinking|reasoning)>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_NUMBER = r"(-?\d+(?:\.\d+)?)"
_SCALE = r"(?:\s*(?:/|out\s+of)\s*(?P<scale>\d+))?"
# what follows must not make it the start of another number, a range or a percentage
_END = r"(?!\d|[.,]\d|\s*[-–]\s*\d|\s*%)"
_TAGGED = re.compile(  # <score>7</score>, **Score:** 7, score (0-9): 7/9, the grade is 7
    rf"\b(?:{'|'.join(KEYS)})\b\W{{0,6}}?(?:\([^)]*\)\W{{0,6}}?)?(?:(?:is|of)\b\W{{0,6}}?)?"
    rf"{_NUMBER}{_END}{_SCALE}", re.IGNORECASE)
# "It is good. 8", but not "see no. 8"
_OWN_SENTENCE = re.compile(rf"[^\W\d_]{{4,}}[\"')*]*[.!?:]\s+\**{_NUMBER}{_END}{_SCALE}[\s.*!]*\Z")
# "I would give this an 8.", but not "I would not give it a 9"
_GIVEN = re.compile(
    r"\b(?:give|gives|rate|rates|rated|grade|grades|graded|score|scores|scored|award|assign)"
    r"(?:\s+(?:this|that|it|the|answer|reply|an?|as|at|with|score|grade|rating|mark|of|overall))*[\s:*]+"
    rf"{_NUMBER}{_END}{_SCALE}[\s.*!]*\Z", re.IGNORECASE)
_NOT = re.compile(r"\b(?:not|never|cannot|nobody|no one)\b|n[’']t\b", re.IGNORECASE)
READABLE = (f'a whole number from 0 to {TOP} that ends it, alone on its line or as in "Score: 8", "8/{TOP}", '
            '"I would give this an 8." or {"score": 8}')
_BARE = re.compile(rf"\W*?{_NUMBER}{_END}{_SCALE}[\s.*)\]`\"']*", re.IGNORECASE)


def strip_thinking(text: str) -> str:
    """What is left after blocks of reasoning, closed or not; templates may hide the opening tag."""
    return _ORPHAN_END.sub("", _THINKING.sub("", text)).strip()


def as_score(reply: Reply) -> Reply:
    """The reply with the text {"score": s, "reply": what it was read from}, or with the error that says
    why there is none."""
    if reply.error is not None:
        return reply
    try:
        score = parse_score(reply.text)
    except ValueError as error:
        cut = " (cut off)" if reply.finish_reason == "length" else ""
        return replace(reply, text="", error=f"{error}{cut}")
    return replace(reply, text=json.dumps({"score": score, "reply": reply.text}))


def second_attempt(first: Reply, second: Reply) -> Reply:
    """The second reply, with what both of them cost."""
    return replace(second, prompt_tokens=first.prompt_tokens + second.prompt_tokens,
                   completion_tokens=first.completion_tokens + second.completion_tokens,
                   seconds=first.seconds + second.seconds)


def parse_score(text: str) -> float:
    """The score that ends the reply, divided by 9.

    Tried in this order: the whole reply as JSON, the last fenced JSON, the last balanced object, a
    last line that is a number, the last number after the word "score" or in such a tag, a last sentence
    that is a number or says that one is given. Raises
    ValueError where there is none or where it is not a whole number from 0 to 9: a score on another
    scale is an error and is never bent into this one.
    """
    answer = strip_thinking(text)
    for read in (_whole_json, _fenced_json, _last_object, _last_line, _last_tagged, _last_sentence):
        found = read(answer)
        if found is not None:
            return _on_scale(found, answer) / TOP
    raise ValueError(f"no score in the reply {_quote(answer)}; what can be read is {READABLE}")


def _whole_json(text: str) -> Any:
    try:
        return _score_of(json.loads(text))
    except ValueError:
        return None


def _fenced_json(text: str) -> Any:
    fences = _FENCE.findall(text)
    return _whole_json(fences[-1].strip()) if fences else None


def _last_object(text: str) -> Any:
    """The last {...} that is JSON and holds a score."""
    decoder = json.JSONDecoder()
    found, start = None, text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            end = start + 1
        else:
            score = _score_of(value)
            found = found if score is None else score
        start = text.find("{", end)
    return found


def _last_tagged(text: str) -> str | None:
    matches = list(_TAGGED.finditer(text))
    return _number_of(matches[-1]) if matches else None


def _last_sentence(text: str) -> str | None:
    if match := _OWN_SENTENCE.search(text):
        return _number_of(match)
    match = _GIVEN.search(text)
    if match is None or _NOT.search(re.split(r"[.!?\n]", text[: match.start(1)])[-1]):
        return None
    return _number_of(match)


def _last_line(text: str) -> str | None:
    match = _BARE.fullmatch(text.splitlines()[-1]) if text else None
    return _number_of(match) if match else None


def _number_of(match: re.Match) -> str:
    return match[1] if match["scale"] is None else f"{match[1]}/{match['scale']}"


def _score_of(value: Any) -> Any:
    """The score in a JSON value: a number, or an object with a key that says score."""
    if isinstance(value, dict):
        return next((value[key] for key in KEYS if value.get(key) is not None), None)
    return value if isinstance(value, int | float) else None


def _on_scale(found: Any, answer: str) -> int:
    text = str(found).removesuffix(f"/{TOP}")
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if isinstance(found, bool) or not number.is_integer() or not 0 <= number <= TOP:
        raise ValueError(f"the score {found} in the reply {_quote(answer)} is not a whole number "
                         f"from 0 to {TOP}")
    return int(number)


def _quote(text: str) -> str:
    return repr(text if len(text) <= SHOWN else "..." + text[-SHOWN:])
