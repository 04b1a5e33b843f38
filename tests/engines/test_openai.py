"""The OpenAI-compatible engine against a small real server on the loopback: when all goes well."""

import itertools
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty_server import SAMPLING, Say, ask, ask_until, body, one_turn_each, then

from raft_fast.data.texts import Message
from raft_fast.engines import Sampling
from raft_fast.engines.endpoint import KEY_VARIABLE
from raft_fast.engines.openai import OpenAIEngine, parse_spec
from raft_fast.run.errors import UserError


def test_replies_come_with_reason_tokens_and_without_thinking(serve, connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = serve(lambda request, before: Say("<think>hm</think>\n\nyes", reason="length"))
    engine = connect(f"org/model@{server.url}")
    replies = ask(engine, "a", "b", "c", sampling=Sampling(11, 0.5, 1))
    assert sorted(replies) == [0, 1, 2]
    reply = replies[0]
    assert (reply.text, reply.finish_reason, reply.error) == ("yes", "length", None)
    assert (reply.prompt_tokens, reply.completion_tokens) == (7, 3)
    request = server.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == (
        "org/model", 0.5, 11)
    assert request["authorization"] == "Bearer secret"


def test_each_endpoint_has_its_own_key(serve, connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("OTHER_KEY", "two")
    barrier = threading.Barrier(2)  # both servers are at work at the same time
    servers = [serve(lambda request, before: barrier.wait(5) >= 0 and "ok") for _ in range(2)]
    ask(connect(f"m@{servers[0].url}+{servers[1].url}#OTHER_KEY"), "a", "b")
    assert [server.requests[0]["authorization"] for server in servers] == ["Bearer one", "Bearer two"]


def test_the_seed_depends_on_the_conversation_and_the_seed_alone(serve, connect):
    server = serve()
    engine = connect(server)

    def seeds(*texts, seed=1):
        server.requests.clear()
        ask(engine, *texts, sampling=Sampling(seed=seed))
        return {one["messages"][0]["content"]: one["seed"] for one in server.requests}

    together = seeds("a", "b", "c")
    assert len(set(together.values())) == 3
    assert seeds("b") == {"b": together["b"]}
    assert seeds("b", seed=2) != {"b": together["b"]}


def test_a_url_alone_takes_the_first_model(serve, connect):
    server = serve()
    assert connect(server.url).model == "first"
    assert connect(server.url.removesuffix("/v1")).model == "first"
    server.models = ()
    with pytest.raises(UserError, match="serves no model"):
        connect(server.url)
    for listing in (body("<html>hello</html>"), body({}), body({"data": [1]})):
        server.listing = listing
        with pytest.raises(UserError, match="serves no model; name one"):
            connect(server.url)


def test_a_name_that_is_not_listed_is_tried_before_any_work(serve, connect):
    assert connect(f"alias@{serve().url}").model == "alias"
    with pytest.raises(UserError, match="does not serve the model typo"):
        connect(f"typo@{serve(lambda request, before: Say('no model typo', 404)).url}")


def test_the_identity_is_the_model_and_what_else_is_sent(serve, connect):
    """Another address, or one more, pays for nothing twice; another way of asking does."""
    one, two = serve(), serve()
    assert connect(f"org/m@{one.url}").identity == "org/m"
    assert connect(f"org/m@{one.url}+{two.url}").identity == "org/m"
    sent = [connect(f"org/m@{one.url}", extra_body={"top_p": top_p}).identity for top_p in (0.9, 0.9, 0.8)]
    assert sent[0] == sent[1] != sent[2]
    assert re.fullmatch(r"org/m extra_body [0-9a-f]{12}", sent[0])  # not what is sent: it may be secret


def test_extra_body_is_sent_and_null_leaves_a_key_out(serve, connect):
    server = serve()
    thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    ask(connect(server, extra_body=thinking | {"seed": None, "max_completion_tokens": 5}), "a")
    request = server.requests[0]
    assert request["chat_template_kwargs"] == {"enable_thinking": False}
    assert request["max_completion_tokens"] == 5
    assert "seed" not in request


def test_the_least_loaded_endpoint_is_asked(serve, connect):
    """One of two answers ten times as fast; it gets most of the requests, the other is not idle."""
    slow, fast = (serve(lambda request, before, wait=wait: time.sleep(wait) or "ok")
                  for wait in (0.1, 0.01))
    ask(connect(f"m@{slow.url}+{fast.url}", requests_in_flight=2), *map(str, range(40)))
    assert len(slow.requests) + len(fast.requests) == 40
    assert len(fast.requests) > 2 * len(slow.requests) > 0


def test_conversations_are_read_a_bounded_number_ahead(connect, monkeypatch):
    """Of endlessly many, while nobody takes the replies; in the thread that asks."""
    monkeypatch.setattr("raft_fast.engines.openai.READ_AHEAD", 2)
    readers, read = set(), []

    def endless():
        for number in itertools.count():
            readers.add(threading.current_thread())
            read.append(number)
            yield [Message(role="user", content=str(number))]

    replies = connect(requests_in_flight=2).generate(endless(), SAMPLING)
    taken = [next(replies)[0] for _ in range(10)]
    time.sleep(0.05)
    assert len(set(taken)) == 10
    assert len(read) <= 10 + 4
    assert readers == {threading.current_thread()}
    replies.close()


def test_one_of_several_endpoints_may_be_down(serve, connect):
    server = serve()
    replies = ask(connect(f"http://127.0.0.1:9+{server.url}"), *"abcdef")
    assert {reply.text for reply in replies.values()} == {"ok"}
    assert {request["model"] for request in server.requests} == {"first"}
    for spec in ("m@http://127.0.0.1:9", "m@http://127.0.0.1:9+http://127.0.0.1:10"):
        with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1: cannot be reached .*start"):
            connect(spec)


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_server_without_a_list_of_models_needs_a_name(serve, connect, status):
    """`transformers serve` fails to make one where there is no hub cache."""
    server = serve()
    server.listing = body("no", status)
    assert ask(connect(server), "a")[0].text == "ok"
    with pytest.raises(UserError, match="serves no model; name one as MODEL@"):
        connect(server.url)
    server.listing = body("no", 401)
    with pytest.raises(UserError, match="refuses the key in OPENAI_API_KEY"):
        connect(server)


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_keeps_the_replies_in_flight_and_twice_leaves(serve, connect, times):
    """A real SIGINT while the main thread waits; what was not sent by then never is."""
    both_sent, left = threading.Barrier(2, timeout=30), threading.Event()

    def reply(request, before):
        if both_sent.wait() == 0:
            for _ in range(times):
                time.sleep(0.1)
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        left.wait(0.4 if times == 1 else 10)
        return "paid for"

    server = serve(reply)
    got = ask_until(KeyboardInterrupt, connect(server, requests_in_flight=2), "abcd")
    left.set()
    assert got == ["paid for"] * (2 if times == 1 else 0)
    assert len(server.requests) == 2


def test_an_interrupt_from_another_thread_ends_every_call_at_once(serve, connect):
    """While all of them wait for replies: what is in flight comes, and what stands in line is never sent, nor
    that of a call which has nothing in flight."""
    sent, go_on = threading.Semaphore(0), threading.Event()

    def reply(request, before):
        sent.release()
        go_on.wait(10)
        return "paid for"

    server = serve(reply)
    engine = connect(server, requests_in_flight=2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask_until, KeyboardInterrupt, engine, "abcd")
        assert all(sent.acquire(timeout=10) for _ in range(2))
        second = pool.submit(ask_until, KeyboardInterrupt, engine, "efgh")
        until = time.monotonic() + 10
        while len(engine._calls) < 2 and time.monotonic() < until:
            time.sleep(0.001)
        engine.interrupt()
        go_on.set()
        assert (first.result(10), second.result(10)) == (["paid for"] * 2, [])
    assert len(server.requests) == 2
    list(engine.generate(one_turn_each("i"), SAMPLING))  # a later call is not concerned
    assert len(server.requests) == 3


@pytest.mark.parametrize(("answers", "score", "says"), [
    (["**6**"], 6 / 9, None), (["no idea", '{"score": 9}'], 1.0, None),
    (["no idea", "11"], None, "the score 11 in the reply '11'"),
    ([Say("<think>score: 7, or", reason="length")] * 2, None, "(cut off)")])
def test_a_score_is_read_from_the_text_with_a_second_chance(serve, connect, answers, score, says):
    """Which has another seed, and is paid for too."""
    server = serve(then(*answers))
    reply = dict(connect(server).score(one_turn_each("a")))[0]
    assert reply.score == (score if score is None else pytest.approx(score))
    assert reply.text == (answers[-1] if says is None else "")
    assert says is None or says in reply.error
    assert (reply.prompt_tokens, reply.completion_tokens) == (7 * len(answers), 3 * len(answers))
    sent = [(request["seed"], request["temperature"]) for request in server.requests]
    assert [temperature for _, temperature in sent] == [0.0, 0.7][: len(answers)]
    assert len(dict(sent)) == len(answers)


@pytest.mark.parametrize(("spec", "model", "addresses"), [
    ("http://h:8000", None, [("http://h:8000/v1", KEY_VARIABLE)]),
    ("org/m@https://h/api/", "org/m", [("https://h/api", KEY_VARIABLE)]),
    ("a@b@http://h/v1", "a@b", [("http://h/v1", KEY_VARIABLE)]),
    ("m@http://a+http://b:1/v2#KEY_B", "m", [("http://a/v1", KEY_VARIABLE), ("http://b:1/v2", "KEY_B")])])
def test_specs(spec, model, addresses):
    assert parse_spec(spec) == (model, addresses)
    for bad in ("http://", "m@ftp://h", "m@https://a b", "m@http://a+http://"):
        with pytest.raises(UserError, match="must be MODEL@URL"):
            OpenAIEngine.connect(bad)
