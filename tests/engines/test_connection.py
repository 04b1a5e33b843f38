"""How a server is reached: keys that go nowhere else, proxies, authorities, redirects."""

import base64
import json
import urllib.parse

import pytest
from faulty_server import Say, ask, body, fails_for, one_turn_each, then

from raft_fast.engines import Sampling
from raft_fast.engines.journal import Journal
from raft_fast.engines.openai import proxy_for
from raft_fast.run.errors import UserError, first_line, masked

KEY = "sk-Test/Key+0123456789abcdef=="


def test_space_around_a_key_is_not_part_of_it(serve, connect, monkeypatch):
    for around in ("{}\r", " {}\r\n", "\n{}"):
        monkeypatch.setenv("OPENAI_API_KEY", around.format(KEY))
        server = serve()
        ask(connect(server), "a")
        assert server.requests[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("inside", ["a\rb", "a\x00b", "a\u2026b", "a\udc80b"])
def test_a_key_that_cannot_be_sent_is_refused_by_its_variables_name(connect, monkeypatch, inside):
    monkeypatch.setattr("os.environ", {"SOME_KEY": f"sk-secret{inside}"})
    with pytest.raises(UserError, match="SOME_KEY: the key in it holds") as refused:
        connect("m@http://127.0.0.1:9#SOME_KEY")
    assert "sk-secret" not in str(refused.value)


@pytest.mark.parametrize("echo", [
    str, urllib.parse.quote_plus, lambda key: base64.b64encode(key.encode()).decode(), str.lower, json.dumps,
    lambda key: base64.b64encode(f"user:{key}".encode()).decode(), lambda key: key[:-8], lambda key: key[8:],
    lambda key: "x" * 280 + key], ids=range(9))
@pytest.mark.parametrize("status", [200, 400, 401])
def test_a_key_that_a_server_echoes_is_masked(serve, connect, monkeypatch, echo, status):
    monkeypatch.setenv("THE_VARIABLE", KEY)
    server = serve(then(body({"error": f"bad header: Bearer {echo(KEY)}", "code": status}, status)))
    try:
        said = ask(connect(f"m@{server.url}#THE_VARIABLE", max_retries=0), "a")[0].error
    except UserError as error:
        said = str(error)
    assert "bad header: Bearer" in said
    for part in (KEY[3:15], KEY[-14:-2], echo(KEY)[-40:][:20]):
        assert part.lower() not in said.lower()


def test_a_key_that_a_server_echoes_reaches_no_reply_and_no_journal(serve, connect, monkeypatch, tmp_path):
    """A placeholder is no key."""
    server = serve(fails_for("bad", Say(f"lm-studio {KEY}", 400), otherwise=f"lm-studio {KEY}"))
    monkeypatch.setenv("THE_VARIABLE", "lm-studio")
    assert ask(connect(f"m@{server.url}#THE_VARIABLE"), "a")[0].text == f"lm-studio {KEY}"
    monkeypatch.setenv("THE_VARIABLE", KEY)
    engine = connect(f"m@{server.url}#THE_VARIABLE")
    with Journal(tmp_path) as journal:
        for sampling in (Sampling(), None):
            bad, good = journal.ask("kind", engine, one_turn_each(["bad", "good"]), sampling, "")
            assert "lm-studio ***" in bad.error
            assert sampling is None or good.text == "lm-studio ***"
    assert KEY[3:20] not in (tmp_path / "journal.jsonl").read_text()


def test_credentials_of_the_environment_and_in_urls_are_masked(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("HTTPS_PROXY", "http://joe:pa/ss-word@proxy:3128")
    monkeypatch.setenv("SHORT_KEY", "error")
    assert first_line(ValueError("401 for hf_abcdefghijklmnop, an error")) == "401 for ***, an error"
    assert masked("key=0123456789ABCDEF.") == "key=***"
    assert masked("at http://joe:pa/ss-word@proxy:3128") == "at http://***@proxy:3128"
    assert masked("HTTPS://a:b@h?apiKey=c;access%5Ftoken=d") == "HTTPS://***@h?apiKey=***;access%5Ftoken=***"
    assert masked("https://a:b@h/x?v=1&api_key=c&X-Amz-Signature=d&n=2") == (
        "https://***@h/x?v=1&api_key=***&X-Amz-Signature=***&n=2")
    plain = "see https://host/@me?page=2 in /work, or mail a@b.org"
    monkeypatch.setenv("PWD", "/data/somewhere")
    assert masked(plain + " /data/somewhere") == plain + " /data/somewhere"


@pytest.fixture
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("value", ["socks5://h:1", "http://127.0.0.1:9", "foo", "http://h:port"])
def test_servers_on_this_machine_need_no_proxy(connect, no_proxies, value):
    no_proxies.setenv("ALL_PROXY", value)
    assert ask(connect(), "a")[0].text == "ok"
    for host in ("localhost", "127.8.0.1", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]", "LOCALHOST"):
        assert proxy_for(f"http://{host}:8000/v1") is None
    assert proxy_for("http://127.example.org/v1") is not None


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"])
@pytest.mark.parametrize("value", ["socks4://joe:secretword@127.0.0.1:9", "http://joe:secretword@127.0.0.1:9",
                                   "joe:secretword@127.0.0.1:9", "http://joe:secretword@127.0.0.1:port", "ftp://h"])
def test_a_proxy_that_does_not_work_is_named_by_its_variable(connect, no_proxies, variable, value):
    no_proxies.setenv(variable, value)
    with pytest.raises(UserError, match=rf"\b{variable}\b") as refused:
        connect("m@http://192.0.2.1/v1")
    assert "secretword" not in str(refused.value)


def test_a_proxy_is_used_unless_no_proxy_exempts_the_server(serve, connect, no_proxies):
    proxy = serve()
    no_proxies.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
    assert ask(connect("m@http://192.0.2.1/v1"), "a")[0].text == "ok"
    assert len(proxy.requests) == 1
    assert proxy_for("https://x.org/v1") is None  # none is named for this scheme
    for exempt, host in (("192.0.2.1", "192.0.2.1"), ("*", "x.org"), ("a.org", "x.a.org"),
                         ("a.org,.c.org", "x.c.org")):
        no_proxies.setenv("NO_PROXY", exempt)
        assert proxy_for(f"http://{host}/v1") is None
    assert proxy_for("http://ab.org/v1") is not None


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("listed", [True, False])
def test_rows_do_not_follow_a_redirect_to_another_host(serve, connect, status, listed):
    elsewhere = serve()

    def away(handler):
        handler.send(status, "", headers={"location": f"{elsewhere.url}/chat/completions?token=secretword"})

    server = serve(then(away))
    server.listing = None if listed else away
    with pytest.raises(UserError, match=f"{server.url}: redirects to {elsewhere.url}/") as refused:
        ask(connect(server), "a")
    assert "secretword" not in str(refused.value)
    assert not elsewhere.requests
    assert len(server.requests) == listed
