"""Removes from a reply a model's thoughts and the control marks of its chat format."""

import re

from raft_fast.data.texts import trim

_NAME = r"(?:\w{1,20}[:_])?(?:think|thinking|thoughts?|reason|reasoning|scratchpad)(?::\w{1,20})?"
# marks of a thought that templates write: <think>, <seed:think>, [THINK], <|begin_of_thought|>, ...
OPENING = rf"<{_NAME}>|\[(?-i:THINK)\]|◁{_NAME}▷|<\|(?:START|begin_of)_{_NAME}\|>"
CLOSING = rf"</{_NAME}>|\[/(?-i:THINK)\]|◁/{_NAME}▷|<\|END_(?:of_)?{_NAME}\|>"
_FINAL = r"<\|channel\|>final\b[^<\n]{0,40}(?:<\|constrain\|>\w{0,20})?<\|message\|>"  # of harmony's channels
_OPEN = (rf"{OPENING}|<\|{_NAME}\|>|<unused94>|<\|inner_prefix\|>|<\|channel>thought"
         r"|<\|channel\|>(?:analysis|commentary)")
_CLOSE = rf"{CLOSING}|<\|/{_NAME}\|>|<unused95>|<\|inner_suffix\|>|<channel\|>|{_FINAL}"
# any other control mark, those of models to come among them
_MARK = (r"<\|[^\s<>]{0,60}>|<[^\s<>]{1,60}\|>|<｜[^\s<>]{1,60}｜>|\[\|[^\s\[\]]{0,40}\|\]|◁[^\s◁▷]{1,40}▷"
         r"|<(?:start|end|begin|beginning)_of_\w{1,40}>|</?s>|</?SYS>|\]~!?b[\[\]]|\[e~\["
         r"|<(?:seed:)?(?:[be]os|pad|unk|eo[tmdp]|sop)>|<(?:unused|(?:extra_id|reserved(?:_token)?|special)_)\d{1,9}>"
         r"|\[(?-i:/?INST|/?SYSTEM_PROMPT|/?TOOL_CALLS|/?AVAILABLE_TOOLS|BOS|EOS|PAD|gMASK)\]")
_MARKS = re.compile(rf"(?P<close>{_CLOSE})|(?P<open>{_OPEN})|(?P<mark>{_MARK})", re.IGNORECASE)
_THOUGHTS = re.compile(
    rf"(?P<fence>```)|(?m:(?P<line>^[ \t]{{0,40}}))?(?<!`)(?:(?P<close>{_CLOSE})|(?P<open>{_OPEN}))(?!`)",
    re.IGNORECASE)
_ROLE = re.compile(r"\s*(?:assistant|model|user|ai)(?=\s*(?:[\n<\[◁]|\Z))", re.IGNORECASE)
_BLANK, _BLANK_OR_ROLE = re.compile(r"\s*"), re.compile(r"\s*(?:assistant|model|user|ai)?\s*", re.IGNORECASE)
# where marks are left out, harmony's channels run into the text
_UNMARKED = re.compile(r"\A(?:.*assistantfinal|analysis(?=[A-Z][\w'’]*,? [a-z]).*)", re.DOTALL)
_WRAPPED = re.compile(r"<(answer|response|output|solution)>(.*?)(?:</\1>)?", re.DOTALL | re.IGNORECASE)


def strip_thinking(text: str) -> str:
    """The answer of a reply: without thoughts, closed or not (a template may have written the opening mark),
    and without the control marks that it begins or ends with.

    A mark amid a line of prose ("write <think> before it"), between backticks or in a code block is text."""
    said = _without_outer_marks(text)
    answer = _without_outer_marks(_UNMARKED.sub("", _without_thoughts(said)))
    wrapped = _WRAPPED.fullmatch(answer) if answer != said else None
    return trim(wrapped[2]) if wrapped else answer


def marks(text: str) -> set[str]:
    """The control marks and marks of thoughts in a text, "</think>" as "<think>"."""
    return {found[0].casefold().replace("/", "") for found in _MARKS.finditer(text)}


def _without_outer_marks(text: str) -> str:
    """Without the marks at both ends, and the name of a role beside them."""
    begin, end, found = 0, len(text), list(_MARKS.finditer(text))
    for one in found:
        if not one["mark"] or not (_BLANK_OR_ROLE if begin else _BLANK).fullmatch(text, begin, one.start()):
            break
        begin = one.end()
    for one in reversed(found):
        if not one["mark"] or one.start() < begin or not _BLANK_OR_ROLE.fullmatch(text, one.end(), end):
            break
        end = one.start()
    role = _ROLE.match(text, begin, end) if begin else None
    return trim(text[role.end() if role else begin : end])


def _without_thoughts(text: str) -> str:
    kept: list[str] = []  # pieces of the answer
    begin, thought = 0, -1  # where the piece that is read begins, and a thought in it
    mentioned = fenced = False  # whether an opening mark was text; whether this is a code block
    for found in _THOUGHTS.finditer(text):
        starts, following = found["line"] is not None, text[found.end() : found.end() + 1]
        if thought >= 0:
            if found["close"]:
                kept.append(text[begin:thought])
                begin, thought = found.end(), -1
        elif found["fence"]:
            fenced = not fenced
        elif found["open"] and not fenced and (starts or following.isalnum() or following == "\n"):
            thought = found.start()
        elif found["open"]:
            mentioned = True
        elif not mentioned or (starts and not fenced):  # the prompt opened it
            kept, begin, fenced = [], found.end(), False
    ended = thought < 0 or text[begin:thought].strip()  # an opening mark behind an answer is text of it
    return "".join([*kept, text[begin:] if ended else ""])
