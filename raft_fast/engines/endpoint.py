"""How a server is reached: its client, key and proxy."""

import asyncio
import contextvars
import ipaddress
import os
import threading
from ssl import create_default_context
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import openai

from raft_fast.engines.replies import understand
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import EngineOptions
from raft_fast.run.terminal import key_variables

KEY_VARIABLE = "OPENAI_API_KEY"
CONNECT_SECONDS = 10.0  # to reach a server
# of the request under way: set once nothing more may be sent; None for the list of models
request_stop: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stopped", default=None)


class NotSent(openai.OpenAIError):
    """Nothing more may be sent."""


def client_for(url: str, variable: str, proxy: tuple[str, str] | None, options: EngineOptions) -> Any:
    """An openai client whose attempts are bounded in time, and whose responses pass `understand`. Redirects
    are errors, so rows go nowhere else. Raises UserError for a key or proxy that cannot be used."""

    class Client(openai.DefaultAsyncHttpxClient):  # type: ignore[misc, valid-type]
        async def send(self, request: Any, **how: Any) -> Any:
            if (stopped := request_stop.get()) and stopped.is_set():
                raise NotSent
            try:
                async with asyncio.timeout(options.request_timeout):  # the client's own is per read
                    response = await super().send(request, **how)
            except TimeoutError:  # not tried again: it would take as long
                raise openai.APITimeoutError(request=request) from None
            understand(response)
            return response

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
    named = (name for name in os.environ if name.lower() == f"{scheme}_proxy")
    variable = max(named, default="the system's settings")  # of macOS and Windows; lower case wins
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
