"""What a server said: a reply, an error of one request, or what the user can do about a server.

Finish reasons and errors are those of OpenAI, vLLM, SGLang, TGI, llama.cpp, Ollama, Gemini, Anthropic,
Mistral, Cohere, DeepSeek, DashScope, Moonshot, xAI, OpenRouter and FastChat."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import openai

from raft_fast.engines import FILTERED, TOO_LONG, Reply, valid
from raft_fast.models.thinking import strip_thinking
from raft_fast.run.errors import UserError, masked, visible, without_keys

SHOWN = 300  # characters of a server's complaint that an error quotes
MANY = 10**9  # tokens that no request has
UNREADABLE = 598  # stands for an answer that is not JSON
BUSY = (429, 502, 503, 504)
FOR_GOOD = (401, 402, 403, 404, 407)  # and redirects: every request would fail
QUOTA = "insufficient_quota"

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
_NAMED = ("code", "status", "status_code", "statusCode", "type", "error_type", "errorType")
_STATUSES = ((401, "authenti|unauthori|api.?key"), (429, "rate.?limit|too.?many|overload|unavailable"),
             (400, "invalid|bad.?request|validation|unsupported"))  # of errors without a number
_SEARCHED = 2_000  # characters of a complaint that are matched against patterns


def understand(response: Any) -> None:
    """Put an HTTP response into the terms of the client, which retries 408, 409, 429 and 5xx.

    An error inside a 200 gets the status that it names, an answer that is not JSON UNREADABLE; what would
    fail again is marked. `response.extensions` has the answer's JSON, or the error's words, code and type."""
    try:
        body = json.loads(response.content)
        status, said = _error_in(body) if response.is_success else (response.status_code, None)
        if status is None:
            response.extensions["answer"] = body
            return
        named, told = _names(said or body), _words(said or response.text)
    except (ValueError, RecursionError):
        status = UNREADABLE if response.is_success else response.status_code
        named, told = "", _words(response.text)
    response.status_code = status
    response.extensions |= {"said": told, "named": named}
    if QUOTA in named or _too_long(status, f"{named} {told}"):
        response.headers["x-should-retry"] = "false"


def _error_in(body: Any) -> tuple[int | None, Any]:
    """(HTTP status, error) inside a successful response; (None, None) without an error."""
    answer = _mapping(body[0] if isinstance(body, list) and body else body)  # Gemini puts errors in a list
    choice, error = _choice(answer), answer.get("error") or answer.get("errors")
    if choice is not None:
        reason = choice.get("finish_reason")
        broken = ending(reason) == "broken off"
        said = choice.get("error") or (error if broken or not reason else None) or (
            f"the reply was broken off: finish_reason {_called(reason)!r}" if broken else None)
    else:  # a list of models has data
        said = (answer if error is True else error) or (
            None if "choices" in answer or "data" in answer else answer)
    return (_status_of(said, answer), said) if said else (None, None)


def _status_of(error: Any, answer: Any) -> int:
    """The HTTP status that an error stands for by its code, type or words."""
    names, told = _names(error) or _names(answer), _words(error)
    code = re.search(r"\b([45]\d\d)(\d\d)?\b", names)  # FastChat's have five digits: 42901
    if _TOO_LONG.search(told[:_SEARCHED]) and not (code and int(code[1]) in BUSY):
        return 400
    if code:
        return int(code[1])
    return next((status for status, pattern in _STATUSES if re.search(pattern, names, re.IGNORECASE)), 500)


def _names(said: Any) -> str:
    """Code and type of an error."""
    error = _mapping(_mapping(said).get("error")) or _mapping(said)
    return " ".join(str(error[key]) for key in _NAMED if isinstance(error.get(key), str | int))


def _words(said: Any) -> str:
    """An error's text, or its JSON, in a line; of a web page its text."""
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return " ".join(re.sub(r"<[^<>]*>", " ", text[: 10 * _SEARCHED]).split())


def _too_long(status: int | None, said: str) -> bool:
    """Whether the model's context has no room for a request."""
    return status == 413 or (status in (400, 422, 500) and bool(_TOO_LONG.search(said[:_SEARCHED])))


def ending(reason: Any) -> str:
    """How a reply ended: stop, length, held back, broken off, or unknown. Without a reason it is stop."""
    name = re.sub(r"\W+", "_", _called(reason or "stop").lower())
    return next((how for how, pattern in _ENDINGS if pattern.search(name)), "unknown")


def _called(reason: Any) -> str:
    """A finish reason's name; SGLang's own is a dict."""
    name = reason.get("type") if isinstance(reason, dict) else reason
    return name if isinstance(name, str) else type(name).__name__


def read_reply(body: Any, longest: Any = None) -> Reply:
    """A server's answer as a reply, whatever its form. `longest` is its limit in tokens: one that reached it
    and gives no finish reason was cut off."""
    answer = _mapping(body)
    usage, choice = _mapping(answer.get("usage")), _choice(answer)
    spent = Reply("", prompt_tokens=count(usage.get("prompt_tokens")),
                  completion_tokens=count(usage.get("completion_tokens")))
    if choice is None:
        return replace(spent, error="the server's answer holds no reply")
    reason = choice.get("finish_reason")
    if (how := ending(reason)) == "held back":
        return replace(spent, error=FILTERED)
    if how not in ("stop", "length"):
        return replace(spent, error="the reply is not known to be whole: it ended with finish_reason "
                                    f"{_quoted(_called(reason))!r}")
    if not reason and 0 < count(longest) <= spent.completion_tokens:
        how = "length"
    message = choice.get("message")
    content: Any = message.get("content") if isinstance(message, dict) else message
    content = choice.get("text") if content is None else content  # of /completions
    parts = content if isinstance(content, list) else []
    said = [one for part in (message, *parts) if (one := _mapping(part).get("refusal"))]
    if said and (parts or not content):
        return replace(spent, error=f"{FILTERED}: {_quoted(_words(said[0]))}")
    if parts:  # others are pictures, or reasoning
        texts = [part if isinstance(part, str) else _mapping(part).get("text") for part in parts]
        content = "".join(found) if (found := [text for text in texts if isinstance(text, str)]) else parts
    if content and not isinstance(content, str):
        return replace(spent, error="the server's answer holds no text")
    return replace(spent, text=strip_thinking(without_keys(valid(content or ""))), finish_reason=how)


def lost(error: BaseException) -> bool:
    """Whether a server cannot be reached or hung up."""
    late = isinstance(error, openai.APITimeoutError) and type(error.__cause__).__name__ != "ConnectTimeout"
    return isinstance(error, openai.APIConnectionError) and not late


def stops_run(error: Any) -> bool:
    """Whether every request would fail like this one: address, key, payment, model, proxy."""
    status = getattr(error, "status_code", 0)
    return status in FOR_GOOD or 300 <= status < 400 or QUOTA in _understood(error).get("named", "")


def complaint(error: Any) -> str:
    """The error of the one request that a server refused."""
    status, told = getattr(error, "status_code", None), _understood(error)
    named = told.get("named", "")
    what = ("no whole answer within --request_timeout" if isinstance(error, openai.APITimeoutError)
            else "the server's answer is broken off or not JSON" if status == UNREADABLE
            else TOO_LONG if _too_long(status, f"{named} {told.get('said')}")
            else FILTERED if status == 400 and _HELD_BACK.search(named) else "")
    return valid(f"{what} ({_one_line(error)})" if what else _one_line(error))


def refusal(server: Any, error: Any) -> UserError:
    """What the user can do about a server that answers no request."""
    status, said = getattr(error, "status_code", None), _one_line(error)
    if status is None:
        why = _one_line(error.__cause__ or error)
        told = f"cannot be reached ({why}): start the server or correct the address"
    elif status < 400:
        there = _quoted(error.response.headers.get("location", "several addresses"))
        told = f"redirects to {there}, and rows are only sent to addresses that were named: name that one"
    elif status in (401, 403):
        told = f"refuses the key in {server.variable} ({said}): set another"
    elif status == 404:
        told = f"does not serve the model {server.model}, or not at this address ({said}): correct MODEL@URL"
    elif status in (402, 429):
        told = f"the quota of the key in {server.variable} is used up ({said}): raise it or wait"
    else:
        return UserError(f"{server.address}: {said}")
    return UserError(f"{server.address}: {told}, then run the same command again")


def count(value: Any) -> int:
    """A number of tokens; 0 if the server gives none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MANY else 0


def _understood(error: Any) -> Mapping[str, Any]:
    return getattr(getattr(error, "response", None), "extensions", {})


def _one_line(error: Any) -> str:
    """A server's own words in an error of the client; the client's if there was no answer."""
    status = getattr(error, "status_code", None)
    said = str(error) if status is None else f"Error code: {status} - {_understood(error).get('said')}"
    return _quoted(f"{type(error).__name__}: {said}")


def _quoted(text: str) -> str:
    """A server's words for an error and for files: one line without control characters and keys."""
    return visible(masked(" ".join(text.split()))[:SHOWN])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = answer.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
