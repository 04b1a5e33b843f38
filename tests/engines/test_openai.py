"""The OpenAI-compatible engine against a small real server on the loopback: when all goes well."""

import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty_server import SAMPLING, Say, ask, ask_until, body, one_turn_each, then

from raft_fast.engines import Sampling
from raft_fast.engines.openai import parse_spec
from raft_fast.run.errors import UserError


def test_replies_come_with_reason_tokens_and_without_thinking(serve, connect, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("OTHER_KEY", "two")
    server = serve(lambda request, before: Say("<think>hm</think>\n\nyes", reason="length"))
    for spec, key in ((f"org/m@{server.url}", "one"), (f"org/m@{server.url}#OTHER_KEY", "two")):
        replies = ask(connect(spec), "a", "b", "c", sampling=Sampling(11, 0.5, 1))
        assert sorted(replies) == [0, 1, 2]
        reply, request = replies[0], server.requests[-1]
        assert (reply.text, reply.finish_reason, reply.error) == ("yes", "length", None)
        assert (reply.prompt_tokens, reply.completion_tokens) == (7, 3)
        assert (request["model"], request["temperature"], request["max_tokens"]) == ("org/m", 0.5, 11)
        assert request["authorization"] == f"Bearer {key}"


def test_the_seed_depends_on_the_conversation_and_the_seed_alone(serve, connect):
    server = serve()
    engine = connect(server)
    for texts, seed in (("abc", 1), ("b", 1), ("b", 2)):
        ask(engine, *texts, sampling=Sampling(seed=seed))
    together = {one["messages"][0]["content"]: one["seed"] for one in server.requests[:3]}
    assert len(set(together.values())) == 3
    assert server.requests[3]["seed"] == together["b"] != server.requests[4]["seed"]


def test_a_url_alone_takes_the_first_model_and_another_name_is_tried_before_any_work(serve, connect):
    """`transformers serve` fails to make a list where there is no hub cache."""
    server = serve()
    assert connect(server.url).model == connect(server.url.removesuffix("/v1")).model == "first"
    assert connect(f"alias@{server.url}").model == "alias"
    with pytest.raises(UserError, match="does not serve the model typo"):
        connect(f"typo@{serve(then(Say('no model typo', 404))).url}")
    for listing in (body({"data": []}), body("<html>hello</html>"), body({}), body({"data": [1]}),
                    *(body("no", status) for status in (404, 500, 503))):
        server.listing = listing
        assert ask(connect(server), "a")[0].text == "ok"
        with pytest.raises(UserError, match="serves no model; name one as MODEL@"):
            connect(server.url)
    server.listing = body("no", 401)
    with pytest.raises(UserError, match="refuses the key in OPENAI_API_KEY"):
        connect(server)
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1: cannot be reached .*start"):
        connect("m@http://127.0.0.1:9")


def test_extra_body_is_sent_and_part_of_the_identity(serve, connect):
    """Another address pays for nothing twice, another way of asking does; null leaves a key out."""
    server = serve()
    assert connect(f"org/m@{server.url}").identity == connect(f"org/m@{serve().url}").identity == "org/m"
    thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    bodies = [thinking | {"seed": None, "max_completion_tokens": tokens} for tokens in (5, 5, 6)]
    first, same, other = (connect(f"org/m@{server.url}", extra_body=one) for one in bodies)
    assert first.identity == same.identity != other.identity
    assert re.fullmatch(r"org/m extra_body [0-9a-f]{12}", first.identity)  # what is sent may be secret
    ask(first, "a")
    request = server.requests[0]
    assert (request["chat_template_kwargs"], request["max_completion_tokens"]) == (
        {"enable_thinking": False}, 5)
    assert "seed" not in request


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


def test_specs():
    default = "OPENAI_API_KEY"
    assert parse_spec("http://h:8000") == (None, "http://h:8000/v1", default)
    assert parse_spec("org/m@https://h/api/") == ("org/m", "https://h/api", default)
    assert parse_spec("a@b@HTTP://h/v1?api-version=2#KEY_B") == ("a@b", "http://h/v1?api-version=2", "KEY_B")
    for bad, says in (("http://", "must be MODEL@URL"), ("m@ftp://h", "must be MODEL@URL"),
                      ("m@https://a b", "must be MODEL@URL"), ("m@http://a+http://b", "several servers")):
        with pytest.raises(UserError, match=says):
            parse_spec(bad)
