"""Removes from a reply a model's thoughts and the control marks of its chat format."""

import re
from collections.abc import Iterator
from functools import lru_cache

from raft_fast.data.texts import trim

NAME = r"(?:\w{1,20}[:_])?(?:think|thinking|thoughts?|reason|reasoning|scratchpad)(?::\w{1,20})?"
# what may be a mark; harmony's channels with their names, and "final" with all that stands before the answer
_CANDIDATE = re.compile(
    r"<\|channel\|>(?:final\b[^<\n]{0,40}(?:<\|constrain\|>\w{0,20})?<\|message\|>|analysis\b|commentary\b)?"
    r"|<\|channel>(?:thought\b)?|<[^\s<>]{1,60}>|\[[^\s\[\]]{1,40}\]|◁[^\s◁▷]{1,40}▷|\]~!?b[\[\]]|\[e~\[",
    re.IGNORECASE)
# marks of a thought: <think>, <seed:think>, <|begin_of_thought|>, <|START_THINKING|>, [THINK], ◁think▷, ...
_CLOSE = re.compile(
    rf"<\|?(?:/{NAME}|/?end_(?:of_)?{NAME}|{NAME}[:_]end)\|?>|\[/(?-i:THINK)\]|◁/{NAME}▷|<unused95>"
    r"|<\|inner_suffix\|>|<channel\|>|<\|channel\|>final.*", re.IGNORECASE | re.DOTALL)
_OPEN = re.compile(
    rf"<\|?{NAME}(?:[:_](?:start|begin))?\|?>|\[(?-i:THINK)\]|◁{NAME}▷|<unused94>|<\|inner_prefix\|>"
    r"|<\|channel>thought|<\|channel\|>(?:analysis|commentary)", re.IGNORECASE)
# any other control mark, those of models to come among them
_MARK = re.compile(
    r"<\|.*>|<.*\|>|<｜.*｜>|\[\|.*\|\]|◁.*▷|<(?:start|end|begin|beginning)_of_\w+>|</?s>|</?SYS>"
    r"|<(?:seed:)?(?:bos|eos|pad|unk|eot|eom|eod|sop|eop)>|<(?:unused|(?:extra_id|reserved(?:_token)?|special)_)\d+>"
    r"|\[(?-i:/?INST|/?SYSTEM_PROMPT|/?TOOL_CALLS|/?AVAILABLE_TOOLS|BOS|EOS|PAD|gMASK)\]|\].*|\[e~\[",
    re.IGNORECASE)
_PAIR = re.compile(r"begin_of_|(?:start|end)_(?:of_)?|[:_](?:start|begin|end)\b|\W")  # what differs in a pair
_PAIRS = {"channelthought": "channel", "channelanalysis": "final", "channelcommentary": "final",
          "inner_prefix": "inner_suffix", "unused94": "unused95"}
_ROLE = re.compile(r"\s*(?:assistant|model|user|ai)(?=\s*(?:[\n<\[◁]|\Z))", re.IGNORECASE)
# where marks are left out: harmony's channels run into the text; and Granite announces its answer
_UNMARKED = re.compile(
    r"\A(?:.*assistantfinal|analysis(?=[A-Z][\w'’]*,? [a-z]).*"
    r"|Here(?:'s| is) my thought process:(?:.*?Here(?:'s| is) my response:|.*))", re.DOTALL)
_WRAPPED = re.compile(r"<(answer|response|output|solution)>(.*?)(?:</\1>)?", re.DOTALL | re.IGNORECASE)
LINE = 100  # characters before a mark that are looked at for the beginning of its line


def strip_thinking(text: str) -> str:
    """The answer of a reply: without thoughts, closed or not (a template may have written the opening mark),
    and without the control marks that it begins or ends with.

    A mark amid a line of prose ("write <think> before it"), between backticks or in a code block is text.
    """
    said = _without_outer_marks(text)
    answer = _without_outer_marks(_UNMARKED.sub("", _without_thoughts(said)))
    wrapped = _WRAPPED.fullmatch(answer) if answer != said else None
    return trim(wrapped[2]) if wrapped else answer


def marks(text: str) -> set[str]:
    """The control marks and marks of thoughts in a text, "</think>" as "<think>"."""
    return {one.casefold().replace("/", "") for one in set(_CANDIDATE.findall(text)) if _kind(one)}


@lru_cache(maxsize=1024)
def _kind(candidate: str) -> str:
    """What a candidate is: close, open, mark, or empty for none of them."""
    kinds = (("close", _CLOSE), ("open", _OPEN), ("mark", _MARK))
    return next((kind for kind, pattern in kinds if pattern.fullmatch(candidate)), "")


def _without_outer_marks(text: str) -> str:
    """Without the marks at both ends, and the name of a role beside them."""
    found = list(_CANDIDATE.finditer(text))
    begin, end = 0, len(text)
    for mark in found:
        if _kind(mark[0]) != "mark" or not _says_nothing(text[begin : mark.start()], begin):
            break
        begin = mark.end()
    for mark in reversed(found):
        if mark.start() < begin or _kind(mark[0]) != "mark" or not _says_nothing(text[mark.end() : end], 1):
            break
        end = mark.start()
    role = _ROLE.match(text, begin, end) if begin else None
    return trim(text[role.end() if role else begin : end])


def _says_nothing(text: str, after: int) -> bool:
    return not text.strip() or bool(after and _ROLE.fullmatch(text.strip()))


def _without_thoughts(text: str) -> str:
    kept: list[str] = []  # pieces of the answer
    begin = 0  # of the piece that is being read
    thought: tuple[str, int, bool] | None = None  # its pair, where it begins, whether that begins a line
    mentioned, fenced = 0, False  # opening marks that are text; whether this is a code block
    for kind, mark in _thoughts_and_fences(text):
        starts = _starts_line(text, mark.start(), begin)
        if thought is not None:
            if kind == "close" and _pair(mark[0]) == thought[0]:
                kept.append(text[begin : thought[1]])
                thought, begin = None, mark.end()
        elif kind == "fence":
            fenced = not fenced
        elif kind == "open":
            if not fenced and _opens(text, mark, starts):
                thought = _pair(mark[0]), mark.start(), starts
            else:
                mentioned += 1
        elif mentioned and (fenced or not starts):
            mentioned -= 1
        elif not _quoted(text, mark):  # the prompt opened it
            kept, begin, fenced = [], mark.end(), False
    return "".join([*kept, text[begin : thought[1] if thought and thought[2] else len(text)]])


_FENCE_OR_CANDIDATE = re.compile(rf"```|{_CANDIDATE.pattern}", re.IGNORECASE)


def _thoughts_and_fences(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    for mark in _FENCE_OR_CANDIDATE.finditer(text):
        kind = "fence" if mark[0] == "```" else _kind(mark[0])
        if kind and kind != "mark":
            yield kind, mark


def _opens(text: str, mark: re.Match[str], starts: bool) -> bool:
    """Whether an opening mark is none that is spoken of."""
    following = text[mark.end() : mark.end() + 1]
    if _pair(mark[0]) == "reason" and mark.start():
        return False  # rather a gap to be filled in
    return not _quoted(text, mark) and (starts or following.isalnum() or following == "\n")


@lru_cache(maxsize=1024)
def _pair(mark: str) -> str:
    """The same for both marks of a pair."""
    name = _PAIR.sub("", mark.casefold())
    return "final" if name.startswith("channelfinal") else _PAIRS.get(name, name)


def _quoted(text: str, mark: re.Match[str]) -> bool:
    return text[max(0, mark.start() - 1) : mark.start()] == "`" or text.startswith("`", mark.end())


def _starts_line(text: str, place: int, begin: int) -> bool:
    """Whether nothing but spaces stands before it on its line."""
    before = text[max(begin, place - LINE) : place]
    return not before.rpartition("\n")[2].strip() and (place - begin < LINE or "\n" in before)
