"""Scores in replies: a whole number from 0 to 9, if what a model wrote gives exactly one."""

import re
from dataclasses import replace
from itertools import takewhile

from raft_fast.engines import Reply, Sampling
from raft_fast.models.thinking import strip_thinking

SCORING = Sampling(max_new_tokens=2048, temperature=0.0)  # room for a judge that thinks
SECOND_SCORING = replace(SCORING, temperature=0.7, seed=1)  # for what could not be read the first time
TOP = 9  # one digit, so that in-process engines can read it from ten token probabilities
VERSION = "-plain"  # of how scores are asked for and read, in the journal's keys: change it with whatever
# changes a score. Earlier ones were empty, "-single" and "-sure".
SHOWN = 80  # characters of a reply that an error quotes
SOME = 3  # scores that it names
READABLE = f'a whole number from 0 to {TOP} alone on a line, "Score: 8", "8/{TOP}" or {{"score": 8}}'

_GAP = r"[^\S\n]{0,4}"
# a number with what makes it another one: a scale, a percentage, a second number that it may just as well be
_VALUE = (r"(?P<hedge>(?:(?:between|from|about|around|roughly|maybe|perhaps|either|an?)\s|[~≈<>≤≥]\s?)?)"
          r"(?P<number>(?>-?(?:\d[\w.,]*|Infinity|NaN\b)))"
          rf"(?P<more>{_GAP}(?:%|(?:[/–—~-]|\b(?:out of|of|to|or|and|till|bis|maybe|perhaps)\b){_GAP}"
          r"(?:an?\s|maybe\s|perhaps\s)?-?\d[\w.,]*))?")
_KEY = r"(?:score|rating|grade)"
_ASIDE = r"(?:[(\[][^()\[\]\n]{1,60}[)\]])?"
# Score: 7, **Score:** 7, score (0-9): 7/9, <score>7, {"score": "7"}, the grade is 7; not "maximum score: 9"
_TAGGED = re.compile(
    rf"(?<![a-z])(?P<other>(?:max(?:imum)?|min(?:imum)?|highest|lowest|best|top|full|perfect|possible|initial"
    rf"|preliminary|first|previous)[ _-]{{1,2}})?{_KEY}\b[\s\"'*_]{{0,6}}{_ASIDE}[\s\"'*_]{{0,6}}"
    rf"(?:[:=>：]|is\b|[-–—](?=\s))[\s\"'*_\[]{{0,6}}{_VALUE}", re.IGNORECASE)
# "I'd give this an 8 because ...", but neither "I would not give it a 9" nor "... a 9 if it"; "a score of 8";
# "Score 8 because ..." as the beginning of a sentence
_GIVEN = re.compile(
    rf"(?:(?:^|[.!?]\s)\W{{0,6}}{_KEY}\s|\b(?:an?|the|my)\s{_KEY}\sof\s"
    r"|\bI(?:['’](?:d|ll))?\s(?:(?:would|will|must|therefore|thus|do)\s)?(?:give|rate|grade|score)\s"
    rf"(?:it|(?:this|that|the)(?:\s(?:answer|reply|response))?)\s(?:an?\s|as\s|at\s|with\s)?){_VALUE}"
    r"(?!\s(?:if|had|were|but)\b)", re.IGNORECASE | re.MULTILINE)
_MARKED = re.compile(rf"(?:\[\[|\\boxed\{{|<\|begin_of_box\|>|\[RESULT\]){_GAP}{_VALUE}", re.IGNORECASE)
_SENTENCE = re.compile(rf"[^\W\d_]{{4}}[\"')*]*[.!?:]\s+\**{_VALUE}[\s.*!]*\Z")  # "It is good. 8"
_LINE = re.compile(rf"[^\w\n-]{{0,9}}{_VALUE}[ .*)\]`\"']{{0,9}}", re.IGNORECASE)
# a text in a JSON object, which gives no score
_STRING = re.compile(r'("\s*:\s*)"[^"\\]*[^\W\d](?:[^"\\]|\\.)*"')
_TAIL = 300  # characters of the end in which last lines and a last sentence are looked for


def as_score(reply: Reply) -> Reply:
    """The reply with the score that its text gives, or with an error that says why it has no score."""
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
                   completion_tokens=first.completion_tokens + second.completion_tokens)


def parse_score(text: str) -> float:
    """The one score of a reply without its thoughts, divided by 9.

    Collected are numbers alone on the last lines or after a last sentence, and those after the word score,
    rating or grade (in JSON too), after "I give it" and in a box. No other number is a score. Raises
    ValueError unless there is exactly one value, and a whole number from 0 to 9: of two that differ one may
    be a quotation, "7 to 8" is neither, and another scale is never bent into this one."""
    answer = strip_thinking(text)
    plain, end = _STRING.sub(r"\1", answer), answer[-_TAIL:]
    found = [match for pattern in (_TAGGED, _GIVEN, _MARKED) for match in pattern.finditer(plain)
             if not match.groupdict().get("other")]
    lines = [_LINE.fullmatch(line) for line in reversed(end.splitlines()) if line.strip("` \t")]
    found += [*(one for one in takewhile(bool, lines) if one), *_SENTENCE.finditer(end)]
    values = {_plain(match): match for match in found}
    if len(values) != 1:
        told = [_end(match["number"]) for match in values.values()][:SOME]
        several = f", which holds {' and '.join(told)}" if told else ""
        raise ValueError(f"no score in the reply {_end(answer)!r}{several}; what can be read is {READABLE}")
    (number, match), = values.items()
    if not isinstance(number, float) or not number.is_integer() or not 0 <= number <= TOP:
        said = _end(match["number"] + (match["more"] or ""))
        raise ValueError(f"the score {said} in the reply {_end(answer)!r} is not a whole number "
                         f"from 0 to {TOP}")
    return int(number) / TOP


def _plain(match: re.Match[str]) -> float | str:
    """Equal for equal scores: 8, 8.0, 8/9; a text for what is no plain number."""
    more = re.sub(r"\W+$", "", match["more"] or "")
    if not match["hedge"] and re.fullmatch(rf"(?:\s*(?:/|out of|of)\s*{TOP})?", more):
        try:
            return float(match["number"].rstrip(".,"))
        except ValueError:
            pass
    return match["hedge"] + match["number"] + (match["more"] or "")


def _end(text: str) -> str:
    return text if len(text) <= SHOWN else "..." + text[-SHOWN:]
