"""What a row is, and how the layouts people use become one."""

from dataclasses import dataclass
from typing import Any

from raft_fast.engines import Message
from raft_fast.records import BadRowError

SOURCES = ("gold", "rewrite", "fused")
PAIRS = (("prompt", "completion"), ("question", "answer"))


@dataclass(frozen=True)
class Row:
    """One question with its answers. Raw rows have a gold answer only; stage 1 adds the others."""

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

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


def to_row(record: Any, default_id: str) -> Row:
    """The row in a record. Raises BadRowError where it is none."""
    if isinstance(record, BadRowError):
        raise record
    if not isinstance(record, dict):
        raise BadRowError(f"must be an object, is {type(record).__name__}")
    prompt, completion = _prompt_and_completion(record)
    ids = [record[name] for name in ("row_id", "id") if record.get(name) not in (None, "")]
    similarity = record.get("similarity")
    if not (similarity is None or isinstance(similarity, int | float)):
        raise BadRowError(f"similarity must be a number, is {type(similarity).__name__}")
    texts = {name: _text(record[name], name) for name in ("gold", "rewrite", "fused") if record.get(name)}
    return Row(
        row_id=str(ids[0]) if ids else default_id,
        prompt=prompt,
        completion=completion,
        category=None if record.get("category") is None else str(record["category"]),
        source=source if (source := record.get("source")) in SOURCES else "gold",
        similarity=similarity,
        **{"gold": completion, **texts},
    )


def _prompt_and_completion(record: dict) -> tuple[list[Message], str]:
    if record.get("messages") is not None:
        messages = _messages(record["messages"], "messages")
        if messages[-1]["role"] != "assistant":
            raise BadRowError("messages must end with an assistant turn (the answer)")
        return _ends_with_user(messages[:-1], "messages"), _text(messages[-1]["content"], "answer")
    for asked, answered in PAIRS:
        if asked in record and answered in record:
            prompt, completion = record[asked], record[answered]
            if isinstance(completion, list):  # conversational prompt/completion, as TRL has it
                turn = _messages(completion, answered)[-1]
                if turn["role"] != "assistant":
                    raise BadRowError(f"{answered} must end with an assistant turn")
                completion = turn["content"]
            if isinstance(prompt, list):
                prompt = _ends_with_user(_messages(prompt, asked), asked)
            else:
                prompt = [Message(role="user", content=_text(prompt, asked))]
            return prompt, _text(completion, answered)
    raise BadRowError(f"has the columns {', '.join(map(str, record))}; needs prompt and completion, "
                 "question and answer, or messages")


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"{name} is empty" if value in (None, "") or isinstance(value, str)
                     else f"{name} must be text, is {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadRowError(f"{name} holds half a character at position {error.start}") from error
    return value.strip()


def _messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise BadRowError(f"{name} must be a list of messages")
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
            raise BadRowError(f"{name} must have turns with the role system, user or assistant")
    return [Message(role=turn["role"], content=_text(turn.get("content"), name)) for turn in value]


def _ends_with_user(messages: list[Message], name: str) -> list[Message]:
    if not messages or messages[-1]["role"] != "user":
        raise BadRowError(f"{name} must have a user turn before the answer")
    return messages
