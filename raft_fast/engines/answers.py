"""What a server said, in our words: its answer as a reply, its refusal as what a user can do about it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raft_fast.engines.base import FILTERED, TOO_LONG, Reply, valid
from raft_fast.engines.failures import is_timeout
from raft_fast.engines.score import strip_thinking
from raft_fast.errors import UserError
from raft_fast.terminal import visible

OFFERED = 10  # models of a server that an error names
SHOWN = 300  # characters of a server's complaint that an error quotes

_TOO_LONG = re.compile(r"context.{0,12}(length|window|size)|maximum.{0,20}tokens|too long|too large",
                       re.IGNORECASE | re.DOTALL)


def read_reply(body: Any) -> Reply:
    """A server's answer as a reply, whatever it is that the server sent."""
    answer = _mapping(body)
    usage = _mapping(answer.get("usage"))
    spent = Reply("", prompt_tokens=_count(usage.get("prompt_tokens")),
                  completion_tokens=_count(usage.get("completion_tokens")))
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        told = f": {json.dumps(answer['error'])}" if answer.get("error") else ""
        return replace(spent, error=f"the server's answer holds no reply{told}"[:SHOWN])
    reason = choices[0].get("finish_reason")
    if reason == "content_filter":
        return replace(spent, error=FILTERED)
    message = choices[0].get("message")
    text = _text(message.get("content") if isinstance(message, dict) else message)
    if text is None:
        return replace(spent, error="the server's answer holds no text")
    return replace(spent, text=strip_thinking(valid(text)),
                   finish_reason="length" if reason == "length" else "stop")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    """A number of tokens; 0 where the server tells none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _text(content: Any) -> str | None:
    """What a message says: its text, or that of its parts; None where it is neither."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    parts = [part if isinstance(part, str) else _mapping(part).get("text") for part in content]
    texts = [part for part in parts if isinstance(part, str)]  # others are pictures, or reasoning
    return "".join(texts) if texts or not content else None


def complaint(error: BaseException | None) -> str:
    """What the server has against one request."""
    said = _one_line(error)
    if isinstance(error, Exception) and is_timeout(error):
        return f"no whole answer within --request_timeout ({said})"
    status = getattr(error, "status_code", None)
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(said)):
        return f"{TOO_LONG} ({said})"
    if isinstance(error, ValueError):
        return f"the server's answer is broken off or not JSON ({said})"
    return said


def refusal(
    address: str, variable: str, error: BaseException | None, model: str = "", offered: Sequence[str] = (),
) -> UserError:
    """What the user can do about a server that answers nobody."""
    import openai

    again = "then run the same command again"
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.APIConnectionError | TimeoutError):
        why = error.__cause__ or error
        return UserError(f"{address}: cannot be reached ({_one_line(why)}): start the server or "
                         f"mend the address, {again}")
    if status in (401, 403):
        return UserError(f"{address}: refuses the key in {variable} ({_one_line(error)}): set "
                         f"another, {again}")
    if status == 404:
        more = f" and {len(offered) - OFFERED} more" if len(offered) > OFFERED else ""
        listed = f"; it offers {', '.join(offered[:OFFERED])}{more}"
        instead = listed if offered else ", or not at this address"
        return UserError(f"{address}: does not serve the model {model or 'asked for'}{instead} "
                         f"({_one_line(error)}): mend MODEL@URL, {again}")
    if status in (402, 429):
        return UserError(f"{address}: the quota of the key in {variable} is used up "
                         f"({_one_line(error)}): raise it or wait, {again}")
    return UserError(f"{address}: {_one_line(error)}")


def _one_line(error: BaseException | None) -> str:
    return visible(" ".join(f"{type(error).__name__}: {error}".split())[:SHOWN])
