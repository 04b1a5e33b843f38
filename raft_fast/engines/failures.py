"""What a failed request says about the request, about its endpoint and about the run."""

import html
import json
import re
from typing import Any

from raft_fast.engines.waiting import retry_after

LONGEST_WAIT = 600.0  # a server that wants to be left alone for longer has no quota left
ELSEWHERE = 300  # a redirect that is not followed has this status, whichever of the kind it was
OVERLOADED = (429, 502, 503, 504)  # the endpoint's trouble, not the request's
PASSING = (408, 409, *OVERLOADED)
# address, key, payment, model, proxy: the next request would fare no better
FOR_GOOD = (ELSEWHERE, 401, 402, 403, 404, 407)
OWN_FAULT = (400, 413, 422, 500)  # statuses of a request that is too long; servers differ

# vLLM, SGLang, llama.cpp, Ollama and most providers; TGI; Mistral, Gemini, xAI, DashScope, Moonshot
_TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size|overflow)|maximum.{0,20}(tokens|length)|(?<!took )too long"
    r"|(prompt|input|request|message|entity)\w*\b.{0,60}(too large|longer than|greater than)"
    r"|(prompt|input|request|token)\w*\b.{0,60}exceed.{0,60}(token|length|context|limit|maximum)"
    r"|too many.{0,9}tokens|tokens.{0,30}must be <=|must have less than \d+ tokens"
    r"|length of the (prompt|message|input)|range of input length|max_seq_len|max_prompt_tokens"
    r"|exceed\w* (max|model).{0,9}(length|limit)", re.IGNORECASE | re.DOTALL)
_TAGS = re.compile(r"<(script|style)\b.*?(?:</\1>|\Z)|<[^<>]*>", re.IGNORECASE | re.DOTALL)
_NAMED = ("code", "status", "status_code", "statusCode", "type", "error_type", "errorType")
_SAYS = ("message", "msg", "error", "errors", "detail", "description", "reason", "title")
_STATUSES = (
    (429, "rate.?limit|too.?many|throttl|exhausted|quota"),
    (503, "overload|unavailable|capacity|busy|try again|temporar"), (504, "time.?out|timed out|deadline"),
    (500, "internal|server.?error|exception|crash|out.?of.?memory|engine"),
    (401, "authenti|unauthori|api.?key"), (403, "permission|forbidden"), (404, "not.?found"),
    (400, "invalid|bad.?request|validation|unsupported|context|too.?long"))
_NESTED = 8  # how deep an error's words are looked for
LOOKED_AT, SEARCHED = 100_000, 2_000  # characters of a complaint


class OutOfServiceError(Exception):
    """The server answers nobody, so the run has to stop. The cause says why."""

    def __init__(self, address: str, variable: str) -> None:
        super().__init__(address)
        self.address, self.variable = address, variable


class RefusedError(Exception):
    """This request gets no answer; others may. The cause is what the last attempt raised."""


def is_timeout(error: Exception) -> bool:
    """Connected, and no whole answer in time."""
    import openai

    return isinstance(error, TimeoutError | openai.APITimeoutError) and not _never_connected(error)


def is_lost(error: Exception) -> bool:
    """The endpoint cannot be reached, or hung up."""
    import openai

    return isinstance(error, openai.APIConnectionError) and not is_timeout(error)


def is_overload(error: Exception) -> bool:
    """The endpoint is gone or has too much to do: it should be left alone for a while."""
    return is_lost(error) or getattr(error, "status_code", None) in OVERLOADED


def is_too_long(error: BaseException | None) -> bool:
    """The model's context has no room for this request."""
    status = getattr(error, "status_code", None)
    said = f"{getattr(error, 'code', '')} {getattr(error, 'type', '')} {said_by(error)}"
    return status == 413 or (status in OWN_FAULT and _says_too_long(said))


def is_worth_another(error: Exception) -> bool:
    """Another attempt may succeed: the trouble passes, or only half an answer came."""
    import openai

    if (status := getattr(error, "status_code", None)) is not None:
        return (status in PASSING or status >= 500) and not is_too_long(error)
    return isinstance(error, openai.APIConnectionError | TimeoutError | ValueError)


def is_for_good(error: Exception) -> bool:
    """Wrong address or key, unknown model, no quota, or a wait longer than a run can sit out."""
    return (getattr(error, "status_code", None) in FOR_GOOD
            or getattr(error, "code", None) == "insufficient_quota"
            or (asked_to_wait(error) or 0.0) > LONGEST_WAIT)


def asked_to_wait(error: Exception) -> float | None:
    """The seconds that the server's refusal asks for."""
    response = getattr(error, "response", None)
    return None if response is None else retry_after(response.headers)


def _says_too_long(said: str) -> bool:
    return _TOO_LONG.search(said[:SEARCHED]) is not None  # its time grows with the square of the length


def status_of(error: Any) -> int | None:
    """The HTTP status that an error inside a 200 stands for, by its code, type or words; None where they say
    nothing."""
    named = [str(error[key]) for key in _NAMED if isinstance(error.get(key), str | int)
             ] if isinstance(error, dict) else []
    names, said = " ".join(named), words(error)
    code = re.search(r"\b([45]\d\d)(\d\d)?\b", names)  # FastChat's have five digits: 42901
    if _says_too_long(said) and not (code and int(code[1]) in OVERLOADED):
        return 400
    if code:
        return int(code[1])
    for status, pattern in _STATUSES:  # words alone stop no run
        if re.search(pattern, names if 400 <= status < 429 else f"{names} {said}", re.IGNORECASE):
            return status
    return None


def said_by(error: BaseException | None) -> str:
    """What a server says in an error of the client; what the client says where there was no server."""
    status = getattr(error, "status_code", None)
    if status is None:
        return str(error)
    return " - ".join(filter(None, (f"Error code: {status}", words(getattr(error, "body", None)))))


def words(said: Any, nested: int = 0) -> str:
    """The words of an error, wherever in its JSON a server keeps them; of a page its text."""
    if isinstance(said, str):
        said = said[:LOOKED_AT]
        page = re.match(r"\s*<[!?a-zA-Z]", said) is not None
        text = html.unescape(_TAGS.sub(" ", said)) if page else said
        return " ".join(text.split())
    if nested == _NESTED or said is None:
        return ""
    if isinstance(said, list):
        return "; ".join(filter(None, (words(one, nested + 1) for one in said[:3])))
    if isinstance(said, dict) and (found := next((said[key] for key in _SAYS if said.get(key)), None)):
        more, place = said.get("metadata"), said.get("loc")  # of OpenRouter, of FastAPI
        upstream = more.get("raw") if isinstance(more, dict) else None
        place = place if isinstance(place, list) else []
        return ": ".join(filter(None, (".".join(one for one in place if isinstance(one, str)),
                                       words(found, nested + 1), words(upstream, nested + 1))))
    try:
        return json.dumps(said)
    except RecursionError:
        return ""


def _never_connected(error: Exception) -> bool:
    return type(error.__cause__).__name__ in ("ConnectTimeout", "PoolTimeout")
