"""What a server said: a reply, an error of one request, or what the user can do about a server.

Finish reasons and errors are those of OpenAI, vLLM, SGLang, TGI, llama.cpp, Ollama, Gemini, Anthropic,
Mistral, Cohere, DeepSeek, DashScope, Moonshot, xAI, OpenRouter and FastChat.
"""

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

from raft_fast.engines.base import FILTERED, TOO_LONG, Reply, valid
from raft_fast.models.thinking import strip_thinking
from raft_fast.run.errors import UserError
from raft_fast.run.terminal import masked, visible, without_keys

OFFERED = 10  # models of a server that an error names
SHOWN = 300  # characters of a server's complaint that an error quotes
MANY = 10**9  # tokens that no request has
LONGEST_WAIT = 600.0  # seconds; a server that asks for a longer wait has no quota left
ELSEWHERE = 300  # stands for every redirect that is not followed

_HELD_BACK = re.compile("filter|safety|refus|recitation|prohibited|blocklist|spii|sensitive|toxic|guardrail"
                        "|moderat|policy|inspection", re.IGNORECASE)
_ENDINGS = (
    ("held back", _HELD_BACK),
    ("broken off", re.compile("abort|cancel|error|resource|timeout|interrupt|preempt|unavailable|load")),
    ("length", re.compile("length|max_|repetition|window")),
    ("stop", re.compile(r"^(?:finish_?reason_)?(?:stop|eos|end|complete)")))
_TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size|overflow)|maximum.{0,20}(tokens|length)|(?<!took )too long"
    r"|(prompt|input|request|message|entity)\w*\b.{0,60}(too large|longer than|greater than)"
    r"|(prompt|input|request|token)\w*\b.{0,60}exceed.{0,60}(token|length|context|limit|maximum)"
    r"|too many.{0,9}tokens|tokens.{0,30}must be <=|must have less than \d+ tokens"
    r"|length of the (prompt|message|input)|range of input length|max_seq_len|max_prompt_tokens"
    r"|exceed\w* (max|model).{0,9}(length|limit)", re.IGNORECASE | re.DOTALL)
_STATUSES = (  # of errors that are only words
    (429, "rate.?limit|too.?many|throttl|exhausted|quota|overload|unavailable|capacity|busy|temporar"),
    (500, "server.?error|internal"), (401, "authenti|unauthori|api.?key"), (403, "permission|forbidden"),
    (404, "not.?found"), (400, "invalid|bad.?request|validation|unsupported"))
_NAMED = ("code", "status", "status_code", "statusCode", "type", "error_type", "errorType")
_SAYS = ("message", "msg", "error", "errors", "detail", "description", "reason", "title")
_TAGS = re.compile(r"<(script|style)\b.*?(?:</\1>|\Z)|<[^<>]*>", re.IGNORECASE | re.DOTALL)
_NESTED = 8  # levels of an error's JSON in which its words are looked for
_PAGE, _SEARCHED = 100_000, 2_000  # characters of a complaint that are read, and matched against patterns


class Fault(Enum):
    """What a failed attempt means for its request, its endpoint and the run."""

    LOST = auto()  # the endpoint cannot be reached or hung up: it rests
    BUSY = auto()  # the endpoint has too much to do: it rests
    SLOW = auto()  # no whole answer in time
    PASSING = auto()  # another attempt may succeed
    TOO_LONG = auto()  # the model's context has no room for this request
    REFUSED = auto()  # another attempt would fail like this one
    FOR_GOOD = auto()  # address, key, payment, model, proxy: every request would fail


_OVERLOADED = (429, 502, 503, 504)
_FAULTS = {**dict.fromkeys((ELSEWHERE, 401, 402, 403, 404, 407), Fault.FOR_GOOD), 413: Fault.TOO_LONG,
           **dict.fromkeys(_OVERLOADED, Fault.BUSY), **dict.fromkeys((408, 409), Fault.PASSING)}


def fault_of(error: Exception) -> Fault:
    """The kind of an error that the client or `read_body` raised."""
    import openai

    status, code = getattr(error, "status_code", None), getattr(error, "code", None)
    if code == "insufficient_quota" or (asked_to_wait(error) or 0.0) > LONGEST_WAIT:
        return Fault.FOR_GOOD
    if status is None:
        late = isinstance(error, TimeoutError | openai.APITimeoutError)
        if late and type(error.__cause__).__name__ != "ConnectTimeout":
            return Fault.SLOW
        return Fault.LOST if isinstance(error, openai.APIConnectionError) else Fault.PASSING
    if status in _FAULTS:
        return _FAULTS[status]
    said = f"{code or ''} {getattr(error, 'type', '')} {_said_by(error)}"
    if status in (400, 422, 500) and _says_too_long(said):
        return Fault.TOO_LONG
    return Fault.PASSING if status >= 500 else Fault.REFUSED


def asked_to_wait(error: Exception) -> float | None:
    """The seconds that a server's refusal asks to wait."""
    response = getattr(error, "response", None)
    return None if response is None else retry_after(response.headers)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that headers ask to wait, given in milliseconds, seconds or as a date (RFC 9110,
    10.2.3)."""
    for header, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[header]) * unit
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        date = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    aware = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def read_body(response: Any) -> Any:
    """The JSON of a successful HTTP response. Raises openai's APIStatusError for an error inside of it and
    for a reply that was broken off, ValueError with its words for anything but JSON."""
    import openai

    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise ValueError(words(response.text) or "an empty body") from error
    status, said = _error_in(body)
    if status is None:
        return body
    response.status_code = status
    raise openai.APIStatusError("", response=response, body=said)


def _error_in(body: Any) -> tuple[int | None, Any]:
    """(HTTP status, message) of an error inside a successful response; status None if there is none, or if it
    is unknown."""
    answer = _mapping(body[0] if isinstance(body, list) and body else body)  # Gemini puts errors in a list
    choice, named = _choice(answer), _named(answer)
    if choice is None:
        failed = answer.get("error") or named or answer.get("object") == "error" or (
            answer.get("success") is False or answer.get("status") in ("error", "fail", "failed", "failure"))
        said = named or answer
        return _status_of(said) or (500 if failed and "choices" not in answer else None), said
    reason = choice.get("finish_reason")
    broken = ending(reason) == "broken off"
    said = choice.get("error") or (named if not reason or broken else None)
    if said is None and broken:
        said = f"the reply was broken off: finish_reason {_called(reason)!r}"
    return (_status_of(said) or 500, said) if said else (None, None)


def _status_of(error: Any) -> int | None:
    """The HTTP status that an error stands for by its code, type or words; None if they say nothing."""
    named = [str(error[key]) for key in _NAMED if isinstance(error.get(key), str | int)
             ] if isinstance(error, dict) else []
    names, said = " ".join(named), words(error)
    code = re.search(r"\b([45]\d\d)(\d\d)?\b", names)  # FastChat's have five digits: 42901
    if _says_too_long(said) and not (code and int(code[1]) in _OVERLOADED):
        return 400
    if code:
        return int(code[1])
    for status, pattern in _STATUSES:  # words alone stop no run
        if re.search(pattern, names if 400 <= status < 429 else f"{names} {said}", re.IGNORECASE):
            return status
    return None


def ending(reason: Any) -> str:
    """How a reply ended: stop, length, held back, broken off, or unknown. No reason counts as stop: some
    servers never give one."""
    name = reason.get("type") if isinstance(reason, dict) else reason or "stop"  # SGLang's own is a dict
    name = re.sub(r"\W+", "_", name.lower()) if isinstance(name, str) else ""
    return next((how for how, pattern in _ENDINGS if pattern.search(name)), "unknown")


def read_reply(body: Any, longest: Any = None) -> Reply:
    """A server's answer as a reply, whatever its form. `longest` is its limit in tokens: one that reached it
    and gives no finish reason was cut off."""
    answer = _mapping(body)
    usage, choice = _mapping(answer.get("usage")), _choice(answer)
    spent = Reply("", prompt_tokens=count(usage.get("prompt_tokens")),
                  completion_tokens=count(usage.get("completion_tokens")))
    if choice is None:
        said = words(_named(answer) or (answer if "choices" not in answer else None) or None)
        error = "the server's answer holds no reply"
        return replace(spent, error=f"{error}: {_quoted(said)}" if said else error)
    reason = choice.get("finish_reason")
    if (how := ending(reason)) not in ("stop", "length"):
        return replace(spent, error=not_whole(reason))
    if not reason and 0 < count(longest) <= spent.completion_tokens:
        how = "length"
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else message
    content = choice.get("text") if content is None else content  # of /completions
    if not content or isinstance(content, list):
        parts = [message, *(content or ())]
        if said := words([one for part in parts if (one := _mapping(part).get("refusal"))]):
            return replace(spent, error=f"{FILTERED}: {_quoted(said)}")
    text = _text(content)
    if text is None:
        return replace(spent, error="the server's answer holds no text")
    return replace(spent, text=strip_thinking(without_keys(valid(text))), finish_reason=how)


def not_whole(reason: Any) -> str:
    """The error of a reply that is neither complete nor cut at its limit."""
    return FILTERED if ending(reason) == "held back" else (
        f"the reply is not known to be whole: it ended with finish_reason {_quoted(_called(reason))!r}")


def complaint(error: Exception) -> str:
    """The error of the one request that a server refused."""
    fault, held = fault_of(error), _HELD_BACK.search(str(getattr(error, "code", None)))
    what = ("no whole answer within --request_timeout" if fault is Fault.SLOW
            else TOO_LONG if fault is Fault.TOO_LONG
            else FILTERED if held and getattr(error, "status_code", None) == 400
            else "the server's answer is broken off or not JSON" if isinstance(error, ValueError) else "")
    return f"{what} ({_one_line(error)})" if what else _one_line(error)


def refusal(
    address: str, variable: str, error: BaseException | None, model: str = "", offered: Sequence[str] = (),
) -> UserError:
    """What the user can do about a server that answers no request."""
    import openai

    status, said = getattr(error, "status_code", None), _one_line(error)
    if isinstance(error, openai.APIConnectionError | TimeoutError):
        why = error.__cause__ or error
        told = f"cannot be reached ({_one_line(why)}): start the server or correct the address"
    elif isinstance(error, openai.APIStatusError) and status == ELSEWHERE:
        there = _quoted(error.response.headers.get("location", "several addresses"))
        told = (f"redirects to {there}, and rows are only sent to addresses that were named: name that one "
                "if it is meant")
    elif status in (401, 403):
        told = f"refuses the key in {variable} ({said}): set another"
    elif status == 404:
        more = f" and {len(offered) - OFFERED} more" if len(offered) > OFFERED else ""
        there = f"; it offers {', '.join(offered[:OFFERED])}{more}" if offered else ", or not at this address"
        told = f"does not serve the model {model or 'asked for'}{there} ({said}): correct MODEL@URL"
    elif status in (402, 429):
        told = f"the quota of the key in {variable} is used up ({said}): raise it or wait"
    else:
        return UserError(f"{address}: {said}")
    return UserError(f"{address}: {told}, then run the same command again")


def words(said: Any, nested: int = 0) -> str:
    """The words of an error, wherever in its JSON a server keeps them; of a web page its text."""
    if isinstance(said, str):
        said = said[:_PAGE]
        page = re.match(r"\s*<[!?a-zA-Z]", said) is not None
        return " ".join((html.unescape(_TAGS.sub(" ", said)) if page else said).split())
    if nested == _NESTED or said is None:
        return ""
    if isinstance(said, list):
        return "; ".join(filter(None, (words(one, nested + 1) for one in said[:3])))
    if isinstance(said, dict) and (found := next((said[key] for key in _SAYS if said.get(key)), None)):
        upstream = _mapping(said.get("metadata")).get("raw")  # of OpenRouter
        place = said.get("loc") if isinstance(said.get("loc"), list) else []  # of FastAPI
        where = ".".join(one for one in place or () if isinstance(one, str))
        return ": ".join(filter(None, (where, words(found, nested + 1), words(upstream, nested + 1))))
    try:
        return json.dumps(said)
    except RecursionError:
        return ""


def count(value: Any) -> int:
    """A number of tokens; 0 if the server gives none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MANY else 0


def _says_too_long(said: str) -> bool:
    return _TOO_LONG.search(said[:_SEARCHED]) is not None  # takes time quadratic in the length


def _said_by(error: BaseException | None) -> str:
    """A server's own words in an error of the client; the client's if there was no answer."""
    status = getattr(error, "status_code", None)
    if status is None:
        return str(error)
    return " - ".join(filter(None, (f"Error code: {status}", words(getattr(error, "body", None)))))


def _one_line(error: BaseException | None) -> str:
    return _quoted(f"{type(error).__name__}: {_said_by(error)}")


def _quoted(text: str) -> str:
    """A server's words for an error and for files: one line without control characters and keys."""
    return visible(masked(" ".join(text.split()))[:SHOWN])


def _called(reason: Any) -> str:
    return words(reason.get("type") if isinstance(reason, dict) else reason)


def _named(answer: Mapping[str, Any]) -> Any:
    """What a body names as its error; some only say that there is one."""
    named = answer.get("error") or answer.get("errors")
    return named if isinstance(named, dict | list | str) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = answer.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _text(content: Any) -> str | None:
    """The text of a message, or of its parts (others are pictures, or reasoning); None if it has none."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    parts = [part if isinstance(part, str) else _mapping(part).get("text") for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts or not content else None
