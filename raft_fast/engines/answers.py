"""What a server said, in our words: its answer as a reply, its refusal as what a user can do about it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raft_fast.engines.base import FILTERED, TOO_LONG, Reply, valid
from raft_fast.engines.failures import ELSEWHERE, is_timeout, is_too_long, said_by, status_of, words
from raft_fast.engines.score import strip_thinking
from raft_fast.run.errors import UserError
from raft_fast.run.terminal import masked, visible, without_keys

OFFERED = 10  # models of a server that an error names
SHOWN = 300  # characters of a server's complaint that an error quotes
MANY = 10**9  # tokens that no request has

# finish reasons of OpenAI, vLLM, SGLang, TGI, Gemini, Anthropic, Mistral, Cohere, DeepSeek, OpenRouter, ...
_WHOLE = ("stop", "stop_sequence", "stop_token", "eos", "eos_token", "endoftext", "end_turn", "end_of_turn",
          "complete", "completed")
_CUT = ("length", "max_length", "max_tokens", "max_new_tokens", "max_output_tokens", "max_completion_tokens",
        "model_length", "model_context_window_exceeded", "repetition")
_HELD_BACK = re.compile("filter|safety|refus|recitation|prohibited|blocklist|spii|sensitive|toxic|guardrail"
                        "|moderat|policy|inspection", re.IGNORECASE)
_BROKEN_OFF = re.compile("abort|cancel|error|resource|timeout|interrupt|preempt|unavailable|load")


def read_body(response: Any) -> Any:
    """The JSON of an HTTP response that is a success. Raises openai's APIStatusError for an error that was
    sent as one, and for a reply that was broken off; ValueError, with its words, for what is no JSON."""
    import openai

    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise ValueError(words(response.text) or "an empty body") from error
    status, said = _fault(body)
    if status is None:
        return body
    response.status_code = status
    raise openai.APIStatusError("", response=response, body=said)


def _fault(body: Any) -> tuple[int | None, Any]:
    """(HTTP status, message) of an error inside a successful response; the status is None without an error or
    if it is unknown."""
    answer = _mapping(body[0] if isinstance(body, list) and body else body)  # Gemini's errors stand in a list
    choice, named = _choice(answer), _named(answer)
    if choice is None:
        told = answer.get("error") or named or answer.get("object") == "error" or (
            answer.get("success") is False or answer.get("status") in ("error", "fail", "failed", "failure"))
        said = named or answer
        return status_of(said) or (500 if told and "choices" not in answer else None), said
    reason = choice.get("finish_reason")
    said = choice.get("error") or (named if not reason or ending(reason) == "broken off" else None)
    if said is None and ending(reason) == "broken off":
        said = f"the reply was broken off: finish_reason {_called(reason)!r}"
    return (status_of(said) or 500, said) if said else (None, None)


def ending(reason: Any) -> str:
    """How a reply ended: stop, length, held back, broken off, or unknown. A server that gives no reason is
    taken at its word that there is nothing to say: some never give one."""
    name = reason.get("type") if isinstance(reason, dict) else reason or "stop"  # SGLang's own is a dict
    name = name.lower() if isinstance(name, str) else "unknown"
    name = re.sub(r"\W+", "_", re.sub(r"^finish_?reason[._]", "", name)).strip("_")  # an enum, printed
    if name in _WHOLE or name in _CUT:
        return "stop" if name in _WHOLE else "length"
    return ("held back" if _HELD_BACK.search(name) else
            "broken off" if _BROKEN_OFF.search(name) else "unknown")


def read_reply(body: Any, longest: Any = None) -> Reply:
    """A server's answer as a reply, whatever it is that the server sent. `longest`: the tokens that it may
    have; one that has them all and no reason for its end was cut."""
    answer = _mapping(body)
    usage, choice = _mapping(answer.get("usage")), _choice(answer)
    spent = Reply("", prompt_tokens=_count(usage.get("prompt_tokens")),
                  completion_tokens=_count(usage.get("completion_tokens")))
    if choice is None:
        said = words(_named(answer) or (answer if "choices" not in answer else None) or None)
        error = "the server's answer holds no reply"
        return replace(spent, error=f"{error}: {quoted(said)}" if said else error)
    if (how := ending(choice.get("finish_reason"))) not in ("stop", "length"):
        return replace(spent, error=not_whole(choice.get("finish_reason")))
    if not choice.get("finish_reason") and 0 < _count(longest) <= spent.completion_tokens:
        how = "length"
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else message
    content = choice.get("text") if content is None else content  # of /completions
    if not content or isinstance(content, list):
        parts = [message, *(content or ())]
        if said := words([one for part in parts if (one := _mapping(part).get("refusal"))]):
            return replace(spent, error=f"{FILTERED}: {quoted(said)}")
    text = _text(content)
    if text is None:
        return replace(spent, error="the server's answer holds no text")
    return replace(spent, text=strip_thinking(without_keys(valid(text))), finish_reason=how)


def not_whole(reason: Any) -> str:
    """The error of a reply that is neither whole nor cut at its limit."""
    return FILTERED if ending(reason) == "held back" else (
        f"the reply is not known to be whole: it ended with finish_reason {quoted(_called(reason))!r}")


def _called(reason: Any) -> str:
    return words(reason.get("type") if isinstance(reason, dict) else reason)


def quoted(text: str) -> str:
    """What a server said, fit for an error and for files: one line, without control characters, without
    keys."""
    return visible(masked(" ".join(text.split()))[:SHOWN])


def _named(answer: Mapping[str, Any]) -> Any:
    """What a body names as its error; some only say that there is one."""
    named = answer.get("error") or answer.get("errors")
    return named if isinstance(named, dict | list | str) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    choices = answer.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _count(value: Any) -> int:
    """A number of tokens; 0 where the server tells none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MANY else 0


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
    if is_too_long(error):
        return f"{TOO_LONG} ({said})"
    if getattr(error, "status_code", None) == 400 and _HELD_BACK.search(str(getattr(error, "code", None))):
        return f"{FILTERED} ({said})"
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
    if isinstance(error, openai.APIStatusError) and status == ELSEWHERE:
        there = quoted(error.response.headers.get("location", "several addresses"))
        return UserError(f"{address}: redirects to {there}, and no rows are sent to an address that was not "
                         f"named: where it is meant, name it, {again}")
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
    return quoted(f"{type(error).__name__}: {said_by(error)}")
