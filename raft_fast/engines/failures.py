"""What a failed request says about the request, about its endpoint and about the run."""

from raft_fast.engines.waiting import retry_after

LONGEST_WAIT = 600.0  # a server that wants to be left alone for longer has no quota left
OVERLOADED = (429, 502, 503, 504)  # the endpoint's trouble, not the request's
PASSING = (408, 409, *OVERLOADED)
FOR_GOOD = (401, 402, 403, 404)  # key, payment, model: the next request would fare no better


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


def is_worth_another(error: Exception) -> bool:
    """Another attempt may succeed: the trouble passes, or only half an answer came."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in PASSING or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | TimeoutError | ValueError)


def is_for_good(error: Exception) -> bool:
    """Wrong key, unknown model, no quota, or a wait longer than a run can sit out."""
    return (getattr(error, "status_code", None) in FOR_GOOD
            or getattr(error, "code", None) == "insufficient_quota"
            or (asked_to_wait(error) or 0.0) > LONGEST_WAIT)


def asked_to_wait(error: Exception) -> float | None:
    """The seconds that the server's refusal asks for."""
    response = getattr(error, "response", None)
    return None if response is None else retry_after(response.headers)


def _never_connected(error: Exception) -> bool:
    return type(error.__cause__).__name__ in ("ConnectTimeout", "PoolTimeout")
