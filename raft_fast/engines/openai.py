"""Any OpenAI-compatible server (vLLM, SGLang, `transformers serve`, OpenAI) as an engine."""

import json
import os
import queue
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from raft_fast.engines.base import Message, Price, Reply, Sampling, stable_seed
from raft_fast.engines.score import parse_score, strip_thinking
from raft_fast.errors import UserError, require

TIMEOUT_SECONDS = 300.0
CONNECT_SECONDS = 10.0
MAX_RETRIES = 4  # with back-off between them: 0.5 s, 1 s, 2 s, 4 s, or what the server asks for
DRAIN_SECONDS = 10.0  # what requests in flight get when the run stops: they are paid for
SCORING = Sampling(max_new_tokens=2048, temperature=0.0)  # room for a judge that thinks
SECOND_SCORING = replace(SCORING, temperature=0.7, seed=1)
SEED_BITS = 31  # servers take a signed 32-bit seed

Ask = Callable[[list[Message]], Reply]


class OpenAIEngine:
    """A model on a server; see `engines.base.Engine` for the protocol."""

    price: Price | None = None

    def __init__(self, client: Any, model: str, concurrency: int) -> None:
        self._room = threading.BoundedSemaphore(concurrency)  # for all calls together
        self.client, self.model, self.concurrency = client, model, concurrency
        self.address = _public(str(client.base_url))
        self.identity = f"{model}@{self.address}"

    @classmethod
    def connect(
        cls, spec: str, concurrency: int = 32, max_retries: int = MAX_RETRIES,
        timeout: float = TIMEOUT_SECONDS,
    ) -> "OpenAIEngine":
        """The server that `MODEL@URL` or `URL` names; a URL alone takes the first model it serves.

        The key is read from OPENAI_API_KEY. A URL without a path gets /v1. Raises UserError where
        the server cannot be reached, refuses the key or serves no model.
        """
        require("openai", "quickstart")
        import openai

        model, url = parse_spec(spec)
        client = openai.OpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY") or "none",
                               max_retries=max_retries,
                               timeout=openai.Timeout(timeout, connect=CONNECT_SECONDS))
        try:
            served = [one.id for one in client.with_options(max_retries=1).models.list()]
        except openai.NotFoundError:  # a server may do without the list where the model is named
            served = [model] if model else []
        except openai.OpenAIError as error:
            raise _refusal(_public(url), error) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{_public(url)}: does not answer like an OpenAI-compatible server; "
                            "give the address that ends before /chat/completions") from error
        if not served:
            raise UserError(f"{_public(url)}: serves no model; name one as MODEL@{_public(url)}")
        return cls(client, model or served[0], concurrency)

    def generate(
        self, conversations: Iterable[list[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, Reply]]:
        """A request's seed comes from (sampling.seed, the conversation) alone.

        Raises UserError where the server is gone or refuses the key or model, after yielding every
        reply that had been paid for.
        """
        return self._each(conversations, lambda messages: self._reply(messages, sampling))

    def score(self, conversations: Iterable[list[Message]]) -> Iterator[tuple[int, Reply]]:
        """Read the score from the reply's text; one second chance with another seed."""
        return self._each(conversations, self._score)

    def _reply(self, messages: list[Message], sampling: Sampling) -> Reply:
        """One reply without its thinking; what the server has against this request is its error."""
        import openai

        try:
            answer = self.client.chat.completions.create(
                model=self.model, messages=messages, temperature=sampling.temperature,
                max_tokens=sampling.max_new_tokens,
                seed=stable_seed(sampling.seed, messages) % (1 << SEED_BITS))
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError):
            raise
        except (openai.APIStatusError, openai.APITimeoutError, ValueError) as error:
            return Reply("", error=_one_line(error))
        return _read(answer)

    def _score(self, messages: list[Message]) -> Reply:
        first = _read_score(self._reply(messages, SCORING))
        if first.error is None:
            return first
        second = _read_score(self._reply(messages, SECOND_SCORING))
        return replace(second, prompt_tokens=first.prompt_tokens + second.prompt_tokens,
                       completion_tokens=first.completion_tokens + second.completion_tokens)

    def _each(
        self, conversations: Iterable[list[Message]], ask: Ask
    ) -> Iterator[tuple[int, Reply]]:
        """Ask all, `concurrency` at once, and yield replies as they come.

        Threads of our own, because a pool's threads hold up the end of the process after Ctrl-C.
        """
        import openai

        conversations = list(conversations)
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Reply | Exception]] = queue.SimpleQueue()
        for index in range(len(conversations)):
            todo.put(index)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    index = todo.get_nowait()
                except queue.Empty:
                    return
                try:
                    with self._room:
                        outcome = None if stop.is_set() else ask(conversations[index])
                    if outcome is not None:
                        done.put((index, outcome))
                except Exception as error:
                    stop.set()  # the server itself is at fault: further requests would fail too
                    done.put((index, error))

        threads = [threading.Thread(target=work, daemon=True)
                   for _ in range(min(self.concurrency, len(conversations)))]
        failure: BaseException | None = None
        try:
            for thread in threads:
                thread.start()
            for _ in range(len(conversations)):
                index, outcome = done.get()
                if isinstance(outcome, Exception):
                    failure = outcome
                    break
                yield index, outcome
        except KeyboardInterrupt as interrupt:
            failure = interrupt
        finally:
            stop.set()
        if failure is None:
            return
        yield from _drain(threads, done)
        if isinstance(failure, openai.OpenAIError):
            raise _refusal(self.address, failure) from failure
        raise failure


def parse_spec(spec: str) -> tuple[str | None, str]:
    """(model or None, URL) of `MODEL@URL` or `URL`. Raises UserError for anything else."""
    match = re.fullmatch(r"(?:(?P<model>.+)@)?(?P<url>https?://\S+)", spec)
    if match is None or not urlsplit(match["url"]).hostname:
        raise UserError(f"{spec}: must be MODEL@URL or URL, as in "
                        "Qwen/Qwen3-32B@http://localhost:8000/v1")
    parts = urlsplit(match["url"])
    return match["model"], urlunsplit(parts._replace(path=parts.path.rstrip("/") or "/v1"))


def _drain(
    threads: Sequence[threading.Thread], done: "queue.SimpleQueue[tuple[int, Any]]"
) -> Iterator[tuple[int, Reply]]:
    """What requests in flight still bring, for a while; a second Ctrl-C does not wait."""
    waiter = threading.Event()
    for _ in range(round(DRAIN_SECONDS / 0.05)):
        if not any(thread.is_alive() for thread in threads):
            break
        waiter.wait(0.05)
    while not done.empty():
        index, outcome = done.get()
        if isinstance(outcome, Reply):
            yield index, outcome


def _read(answer: Any) -> Reply:
    """A server's answer as a reply."""
    if not getattr(answer, "choices", None):
        return Reply("", error="the server's answer holds no reply")
    choice, usage = answer.choices[0], answer.usage
    if choice.finish_reason == "content_filter":
        return Reply("", error="the server's content filter held the reply back")
    return Reply(
        text=strip_thinking(choice.message.content or ""),
        finish_reason="length" if choice.finish_reason == "length" else "stop",
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0)


def _read_score(reply: Reply) -> Reply:
    """The reply as {"score": s}, or with the error that says why not."""
    if reply.error is not None:
        return reply
    try:
        score = parse_score(reply.text)
    except ValueError as error:
        cut = " (cut off)" if reply.finish_reason == "length" else ""
        return replace(reply, text="", error=f"{error}{cut}")
    return replace(reply, text=json.dumps({"score": score}))


def _refusal(address: str, error: Exception) -> UserError:
    """What the user can do about a server that answers nobody."""
    import openai

    if isinstance(error, openai.APIConnectionError):
        why = error.__cause__ or error
        return UserError(f"{address}: cannot be reached ({_one_line(why)}): start the server or "
                         "mend the address, then run the same command again")
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return UserError(f"{address}: refuses the key in OPENAI_API_KEY ({_one_line(error)}): set "
                         "another, then run the same command again")
    if isinstance(error, openai.NotFoundError):
        return UserError(f"{address}: does not serve this model, or not at this address "
                         f"({_one_line(error)}): mend MODEL@URL, then run the same command again")
    return UserError(f"{address}: {_one_line(error)}")


def _public(url: str) -> str:
    """The address without a user or password, fit for files that are passed on."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
