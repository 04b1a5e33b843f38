"""How a server is reached: with which key, through which proxy, and nowhere else."""

import functools
import ipaddress
import os
import ssl
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from raft_fast.engines.replies import ELSEWHERE
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import EngineOptions
from raft_fast.run.terminal import key_variables

KEY_VARIABLE = "OPENAI_API_KEY"
CONNECT_SECONDS = 10.0
CERTIFICATES = "SSL_CERT_FILE"  # of authorities, instead of the system's
SYSTEM = "the system's settings"  # where macOS and Windows keep proxies


def proxy_for(url: str) -> tuple[str, str] | None:
    """The environment's proxy for a server, and the variable that names it; None if it names none or exempts
    the server, and for servers on this machine."""
    parts, proxies = urlsplit(url), getproxies()
    host = (parts.hostname or "").rstrip(".")
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    value = proxies.get(scheme)
    if not value or _is_loopback(host) or proxy_bypass(parts.netloc.rpartition("@")[2]) or any(
            _covers(entry.strip().lower(), host) for entry in proxies.get("no", "").split(",")):
        return None
    named = sorted((name for name in os.environ if name.lower() == f"{scheme}_proxy"), reverse=True)
    variable = next((name for name in named if os.environ[name] == value), SYSTEM)  # lower case wins
    return (value.strip() if "://" in value else f"http://{value.strip()}", variable)


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


def client_for(url: str, variable: str, proxy: tuple[str, str] | None, options: EngineOptions) -> Any:
    """An openai client for any number of connections, without retries of its own. Raises UserError for
    a key, proxy or file of certificates that cannot be used."""
    import openai

    key = key_in(variable)
    if url.startswith("https:"):
        _check_certificates()
    try:
        http_client = openai.DefaultAsyncHttpxClient(  # trust_env: what the environment says is in `proxy`
            verify=_tls(), trust_env=False, proxy=proxy[0] if proxy else None,
            limits=type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=options.requests_in_flight),
            event_hooks={"response": [_keep_to_the_server]})
    except Exception as error:  # the client raises several kinds, and one of its own
        if proxy is None:
            raise
        raise UserError(f"{proxy[1]}: names a proxy that cannot be used ({first_line(error)}): correct "
                        "or unset the variable, or name the server's host in NO_PROXY") from error
    timeout = openai.Timeout(options.request_timeout, connect=CONNECT_SECONDS)
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout,
                              http_client=http_client)


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all clients: reading the authorities takes longer than a request."""
    return ssl.create_default_context()


def _check_certificates() -> None:
    """OpenSSL ignores a file that it cannot use, and then trusts no server."""
    if file := os.environ.get(CERTIFICATES):
        try:
            ssl.create_default_context().load_verify_locations(file)
        except OSError as error:
            raise UserError(f"{CERTIFICATES} {file}: holds no certificates that can be read "
                            f"({first_line(error)}): correct the variable or unset it") from error


async def _keep_to_the_server(response: Any) -> None:
    """Follow a redirect only to the same server, or to the same host over TLS, with the method unchanged."""
    if not response.has_redirect_location:
        return
    here = response.request.url
    try:
        there = here.join(response.headers["location"])
    except Exception:  # an address that the client cannot read
        there = None
    same = there is not None and here.host == there.host and (
        there.scheme == "https" or (here.scheme, here.port) == (there.scheme, there.port))
    if not same or (response.request.method == "POST" and response.status_code not in (307, 308)):
        response.status_code = ELSEWHERE


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _covers(entry: str, host: str) -> bool:
    """Forms of NO_PROXY that `proxy_bypass` does not know: *.host, [::1], addresses with a mask."""
    address = _address(host)
    if address is None:
        return entry.startswith("*.") and host.endswith(entry[1:])
    try:
        return address in ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
