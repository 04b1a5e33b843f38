"""What a row is, and how the layouts people use become one."""

import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raft_fast.data.records import ALWAYS, LAYOUTS, NEEDED, BadRowError, names, writable
from raft_fast.data.texts import Message, trim

SOURCES = ("gold", "rewrite", "fused")
ROLES = ("system", "developer", "user", "assistant")  # developer is OpenAI's name of system
TURN = ("role", "content", "weight")
TEXTS = ("text", "input_text", "output_text")  # types of a content's parts that are text
UNSEEN = {"Cc", "Cf", "Mn", "Me", "Zs", "Zl", "Zp"}
WITHOUT_INK = "\u115f\u1160\u2800\u3164\uffa0"  # letters and a symbol without ink
ANSWERS = ("completion", "answer", "messages", "gold")  # columns of answers
OFF, ON = (0, "0", "0.0"), (1, "1", "1.0")  # weights, as OpenAI's files have them; a CSV has them as text


@dataclass(frozen=True)
class Row:
    """One question with its answers. Raw rows have a gold answer only; stage 1 adds the others. In a row
    without an answer completion and gold are ""."""

    row_id: str
    prompt: list[Message]
    completion: str
    gold: str
    category: str | None = None
    rewrite: str | None = None
    fused: str | None = None
    source: str = "gold"
    similarity: float | None = None


@dataclass(frozen=True)
class Rejected:
    """A row that cannot be used: where it stands (line None: known by its row_id only) and why."""

    file: str
    line: int | None
    reason: str
    row_id: str | None = None

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"

    def as_json(self) -> dict[str, Any]:
        """Its line in rejected.jsonl: the row_id only if it is known and no part of the reason."""
        return {name: value for name, value in vars(self).items() if name != "row_id" or value is not None}


def to_row(record: Any, default_id: str, unused: dict[str, None], prompts: bool = False) -> Row:
    """The row in a record; `unused` takes the names of what is not in it, in order. `prompts`: it may lack an
    answer. Raises BadRowError if it is not a row."""
    if isinstance(record, BadRowError):
        raise record
    if not isinstance(record, dict):
        raise BadRowError(f"must be an object, is {type(record).__name__}")
    asked = asked_alone(record) if prompts else None
    layout = (asked,) if asked else _layout(record)
    turns = _conversation(record, layout)
    messages = [Message(role="system" if turn["role"] == "developer" else turn["role"],
                        content=_text(_joined(turn.get("content"), name), name)) for name, turn in turns]
    if not asked and messages[-1]["role"] != "assistant":
        raise BadRowError(f"{layout[-1]} must end with an assistant turn (the answer)")
    completion = "" if asked else messages.pop()["content"]
    if not messages or messages[-1]["role"] != "user":
        raise BadRowError(f"{layout[0]} must " + ("end with a user turn" if asked else
                                                  "have a user turn before the answer"))
    if any(one.get("weight") in OFF for one in (record, turns[-1][1])):
        raise BadRowError("has weight 0: is not to be trained on")
    similarity = record.get("similarity")
    texts = {name: _text(record[name], name) for name in SOURCES if _filled(record.get(name))}
    for part, used in [(record, (*ALWAYS, *layout)), *((turn, TURN) for _, turn in turns)]:
        for name, value in part.items():
            odd = name == "weight" and value not in (*OFF, *ON)
            if (odd or name not in used) and _filled(value):
                unused[name] = None
    return Row(
        row_id=_label(record, "row_id") or _label(record, "id") or default_id,
        prompt=messages,
        completion=completion,
        category=_label(record, "category"),
        source=source if (source := record.get("source")) in SOURCES else "gold",
        similarity=similarity if isinstance(similarity, float) and math.isfinite(similarity) else None,
        **{"gold": completion, **texts},
    )


def id_of(record: Any) -> str | None:
    """The id that a record gives itself, as far as it can be written."""
    found = [record.get(name) for name in ("row_id", "id")] if isinstance(record, dict) else []
    return next((writable(str(one))[:100] for one in found if isinstance(one, str | int) and one != ""), None)


def asked_alone(record: dict) -> str | None:
    """The column of a prompt that has no column of answers beside it, or empty ones as `write_rows` does."""
    there = [name for name in ANSWERS if name in record]
    empty = "gold" in there and all(record[name] in (None, "") for name in there)
    asked = [name for name in ("prompt", "question") if name in record and (empty or not there)]
    return next((name for name in asked if _filled(record[name])), asked[0] if asked else None)


def _layout(record: dict) -> Sequence[str]:
    """The columns that the row is made of: the first layout that is filled, else the first that is there."""
    there = [layout for layout in LAYOUTS if all(name in record for name in layout)]
    filled = [layout for layout in there if all(_filled(record[name]) for name in layout)]
    for layout in [*filled, *there]:
        return layout
    raise BadRowError(f"has the columns {names(record)}; needs {NEEDED}")


def _filled(value: Any) -> bool:
    """Whether the value is filled: not null, an empty text or list, or NaN."""
    return not (value is None or value in ("", [], {}) or value != value)


def _conversation(record: dict, layout: Sequence[str]) -> list[tuple[str, dict]]:
    """(column, turn) of the whole conversation, the answer last."""
    asked, answered = layout[0], layout[-1]
    prompt = _from_json(record[asked])
    if len(layout) == 1:
        return _turns(prompt, asked, None if asked == "messages" else "user")
    # beside a prompt that is not written as JSON an answer that looks like it is a text
    answer = record[answered] if prompt is record[asked] else _from_json(record[answered])
    return [*_turns(prompt, asked, "user"), *_turns(answer, answered, "assistant")]


def _from_json(value: Any) -> Any:
    """The messages that a text holds as JSON; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        turns = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return turns if turns and all(isinstance(turn, dict) and "role" in turn for turn in turns) else value


def _turns(value: Any, column: str, role: str | None) -> list[tuple[str, dict]]:
    if role is not None and not isinstance(value, list):
        return [(column, {"role": role, "content": value})]
    if not isinstance(value, list) or not value:
        raise BadRowError(f"{column} must be a list of messages")
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            has = repr(turn.get("role"))[:50] if isinstance(turn, dict) else type(turn).__name__
            raise BadRowError(f"{column} must have turns with the role system, user or assistant, has {has}")
    return [(f"{column}: content", turn) for turn in value]


def _joined(content: Any, name: str) -> Any:
    """The text of a content that is a list of text parts (else BadRowError); any other content as it is."""
    if not isinstance(content, list) or not content:
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind not in TEXTS or not isinstance(part.get("text"), str):
            raise BadRowError(f"{name} must be text, has a part without text (type {str(kind)[:50]})")
    return "".join(part["text"] for part in content)


def _text(value: Any, name: str) -> str:
    """The text, trimmed. Raises BadRowError for anything else, and for a text that shows nothing."""
    if not _filled(value) or (isinstance(value, str) and blank(value)):
        raise BadRowError(f"{name} is empty")
    if not isinstance(value, str):
        raise BadRowError(f"{name} must be text, is {type(value).__name__}")
    return trim(_whole(value, name))


def blank(text: str) -> bool:
    """Whether nothing of it shows: spaces, control characters, marks and joiners without a letter."""
    return all(unicodedata.category(one) in UNSEEN or one in WITHOUT_INK for one in text)


def _label(record: dict, name: str) -> str | None:
    """An id or a category as text; None if it is null or NaN."""
    value = record.get(name)
    if value is None or value != value:  # NaN
        return None
    # whole numbers with gaps are floats, as pandas has them
    return _whole(str(int(value) if isinstance(value, float) and value.is_integer() else value), name)


def _whole(text: str, name: str) -> str:
    """The text. Raises BadRowError if it cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"{name} holds half a character, or bytes that are not UTF-8, at position "
                          f"{error.start}") from error
    return text
