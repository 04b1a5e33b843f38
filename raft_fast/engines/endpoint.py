"""One address of a model: how it is reached, at what rate it is asked, what is under way."""

import asyncio
import contextvars
import ipaddress
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from ssl import create_default_context
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from raft_fast.engines.replies import in_trouble, refusal, stops_run, understand
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import EngineOptions
from raft_fast.run.terminal import key_variables

KEY_VARIABLE = "OPENAI_API_KEY"
SYSTEM = "the system's settings"  # where macOS and Windows keep proxies
TIMEOUT_RETRIES = 1  # a request that takes too long usually does so again
CONNECT_SECONDS, LIST_SECONDS = 10.0, 30.0  # to reach a server, and for its list of models
REST = 30.0  # seconds for which other endpoints are asked first
NOT_SENT = object()
# of the request under way: set once nothing more may be sent; None for the list of models
_stopped: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stopped", default=None)


class Endpoint:
    """An address with its clients and rate limits."""

    def __init__(self, url: str, variable: str, options: EngineOptions) -> None:
        """`variable` is the environment variable that holds the key. Raises UserError as `client_for`."""
        proxy = proxy_for(url)
        through = f" (through the proxy in {proxy[1]})" if proxy else ""
        self.address, self.variable, self.options = public(url) + through, shown(variable), options
        self.in_flight, self.answered_at, self.rests_until = 0, 0.0, 0.0
        self.down: UserError | None = None  # why it listed no models
        self._slots = asyncio.Semaphore(options.requests_in_flight)
        self._line, self._free_at = asyncio.Lock(), 0.0
        self._client = client_for(url, variable, proxy, options, self._limit)

    async def models(self) -> list[str]:
        """The models that the server lists; none if it gives no list (requests will tell), or is `down`.
        Raises UserError if it refuses the key."""
        import openai

        try:
            async with asyncio.timeout(LIST_SECONDS):
                listed = await self._client.with_options(max_retries=0).get(
                    "/models", cast_to=openai.HttpxBinaryResponseContent)
            return [str(one["id"]) for one in listed.response.extensions["answer"]["data"] or ()]
        except openai.APIStatusError as error:
            if error.status_code != 404 and stops_run(error):
                raise refusal(self, error) from error
        except (openai.OpenAIError, TimeoutError) as error:
            self.down = refusal(self, error)
        except (LookupError, TypeError):
            pass
        return []

    async def post(self, body: Mapping[str, Any], stopped: threading.Event) -> Any:
        """The server's JSON, after as many attempts as needed; NOT_SENT if `stopped` was set before. Raises
        the last attempt's error of the client; if the endpoint is gone or busy, it rests."""
        import openai

        self.in_flight += 1
        try:
            async with self._slots:
                _stopped.set(stopped)
                sent = await self._client.post("/chat/completions", body=body,
                                               cast_to=openai.HttpxBinaryResponseContent)
            self.answered_at, self.rests_until = time.monotonic(), 0.0
            return sent.response.extensions["answer"]
        except openai.OpenAIError as error:
            if stopped.is_set() and isinstance(error.__cause__, asyncio.CancelledError):
                return NOT_SENT
            if in_trouble(error):
                self.rests_until = time.monotonic() + REST
            raise
        finally:
            self.in_flight -= 1

    async def _limit(self) -> None:
        """Wait until the rate limit lets another attempt through; first come, first served. Raises
        OpenAIError, which is not retried, once nothing more may be sent."""
        import openai

        if (stopped := _stopped.get()) is None:
            return
        async with self._line:
            if self.options.requests_per_minute and not stopped.is_set():
                await asyncio.sleep(self._free_at - time.monotonic())
                self._free_at = time.monotonic() + 60 / self.options.requests_per_minute
        if stopped.is_set():
            raise openai.OpenAIError("not sent") from asyncio.CancelledError()


def client_for(url: str, variable: str, proxy: tuple[str, str] | None, options: EngineOptions,
               limit: Callable[[], Awaitable[None]]) -> Any:
    """An openai client whose attempts wait for `limit` and are bounded in time, and whose responses pass
    `understand`. Redirects are errors, so rows go nowhere else. Raises UserError for a key or proxy that
    cannot be used."""
    import openai

    class Client(openai.DefaultAsyncHttpxClient):  # type: ignore[misc, name-defined]
        async def send(self, request: Any, **how: Any) -> Any:
            for _ in range(1 + TIMEOUT_RETRIES):
                await limit()
                try:
                    async with asyncio.timeout(options.request_timeout):  # the client's own is per read
                        response = await super().send(request, **how)
                except TimeoutError:
                    continue
                understand(response)
                return response
            raise openai.APITimeoutError(request=request)

    key = key_in(variable)
    try:
        http_client = Client(  # not trust_env: what the environment says is in `proxy`
            trust_env=False, follow_redirects=False, verify=create_default_context(),
            proxy=proxy[0] if proxy else None,
            limits=type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=options.requests_in_flight))
    except Exception as error:  # the client raises several kinds, and one of its own
        if proxy is None:
            raise
        raise UserError(f"{proxy[1]}: names a proxy that cannot be used ({first_line(error)}): correct "
                        "or unset the variable, or name the server's host in NO_PROXY") from error
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=options.max_retries,
                              timeout=openai.Timeout(None, connect=CONNECT_SECONDS),
                              http_client=http_client)


def proxy_for(url: str) -> tuple[str, str] | None:
    """The environment's proxy for a server, and the variable that names it; None if it names none or exempts
    the server, and for servers on this machine."""
    parts, proxies = urlsplit(url), getproxies()
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    value = proxies.get(scheme)
    if not value or _is_loopback(parts.hostname or "") or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    named = sorted((name for name in os.environ if name.lower() == f"{scheme}_proxy"), reverse=True)
    variable = next((name for name in named if os.environ[name] == value), SYSTEM)  # lower case wins
    return (value.strip() if "://" in value else f"http://{value.strip()}", variable)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f".{host}".endswith(".localhost")
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def key_in(variable: str) -> str:
    """The key in an environment variable, or "none". Errors that quote it mask it from here on. Raises
    UserError for a key that no HTTP header can carry."""
    key_variables.add(variable)
    key = os.environ.get(variable, "").strip()  # a file's line end comes along easily
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"{variable}: the key in it holds a character that cannot be sent (a line break, a "
                        "control character or one beyond ASCII): set it again")
    return key or "none"


def shown(variable: str) -> str:
    """The variable's name for errors: shortened unless it is the default or set, as it may be a key
    itself."""
    return variable if variable == KEY_VARIABLE or variable in os.environ else f"{variable[:3]}... (not set)"


def public(url: str) -> str:
    """The address without user, password and query, fit for files that are passed on."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
