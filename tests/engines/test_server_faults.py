"""Everything a server can do wrong or say in its own way: what comes of it, how many requests it costs."""

import re
import threading
import time

import pytest
from faulty_server import (
    Say,
    after,
    ask,
    ask_until,
    body,
    cut_off,
    fails_for,
    half_json,
    hang_up,
    one_turn_each,
    then,
    trickle,
)

from raft_fast.engines import FILTERED, TOO_LONG
from raft_fast.engines.replies import read_reply
from raft_fast.run.errors import UserError

TEXT = {"role": "assistant", "content": "half of"}


def read(message, reason="stop", longest=None, **rest):
    return read_reply({"choices": [{"message": message, "finish_reason": reason}], **rest}, longest)


@pytest.mark.parametrize(("how", "reasons"), [
    ("stop", ["stop", "STOP", "eos", "stop_sequence", "end_turn", None, "", "FinishReason.STOP",
              {"type": "stop", "matched": 2}]),
    ("length", ["length", "max_tokens", "MAX_TOKENS", "model_length", {"type": "length"}])])
def test_known_ends_are_whole_or_cut(how, reasons):
    for reason in reasons:
        reply = read(TEXT, reason)
        assert (reply.text, reply.finish_reason, reply.error) == ("half of", how, None)
    used = {"usage": {"completion_tokens": 64}}  # no reason, and all its tokens used
    ends = [read(TEXT, None, longest, **used).finish_reason for longest in (64, 65, None)]
    assert ends == ["length", "stop", "stop"]


NO_TEXT, NO_REPLY, REFUSED = "holds no text", "holds no reply", f"{FILTERED}: I will not."


def message(content, **rest):
    return {"choices": [{"finish_reason": "stop", "message": {"content": content, **rest}}]}


@pytest.mark.parametrize(("answer", "text", "error"), [
    (message("half \ud83d of it"), "half \ufffd of it", None), (message(None), "", None),
    (message([{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": "two"}]),
     "one two", None),
    (message({"text": "x"}), "", NO_TEXT), (message(7), "", NO_TEXT),
    ({"choices": [{"message": "plain"}]}, "plain", None),
    ({"choices": [{"message": {"content": None}, "text": "legacy"}]}, "legacy", None),
    ({"choices": {"0": 1}}, "", NO_REPLY), ({"choices": []}, "", NO_REPLY),
    ({"usage": {"prompt_tokens": "7", "completion_tokens": None}} | message("ok"), "ok", None),
    ({"usage": [1]} | message("ok"), "ok", None),
    (message(None, refusal="I will not."), "", REFUSED), (message("", refusal="I will not."), "", REFUSED),
    (message([{"type": "refusal", "refusal": "I will not."}]), "", REFUSED),
    (message([], refusal="I will not."), "", REFUSED), (message("ok", refusal=None), "ok", None)])
def test_an_odd_answer_is_a_reply_or_its_requests_error(answer, text, error):
    reply = read_reply(answer)
    assert (reply.text, isinstance(reply.prompt_tokens, int)) == (text, True)
    assert (error in reply.error) if error else reply.error is None


@pytest.mark.parametrize(("reason", "says", "asked"), [
    ("abort", "finish_reason 'abort'", 2), ("cancelled", "'cancelled'", 2),
    ({"type": "abort", "message": "x"}, "abort", 2), ("insufficient_system_resource", "resource", 2),
    ("SAFETY", FILTERED, 1), ("content_filter: RECITATION", FILTERED, 1), ("refusal", FILTERED, 1),
    ("tool_calls", "'tool_calls'", 1), ("banana", "'banana'", 1), (7, "finish_reason", 1)], ids=str)
def test_any_other_end_is_no_reply(serve, connect, reason, says, asked):
    """What was broken off is asked for again; nothing of it is kept."""
    server = serve(fails_for("bad", Say("half of", reason=reason)))
    replies = ask(connect(server, max_retries=1), "bad", "a")
    assert says in replies[0].error
    assert (replies[0].text, replies[1].text) == ("", "fine")
    assert server.seen["bad"] == asked


@pytest.mark.parametrize("said", [
    {"detail": [{"loc": ["body", "seed"], "msg": "no seed", "input": "the row"}]}, {"detail": "no seed"},
    {"error": "no seed"}, {"message": "no seed"}, [{"error": {"message": "no seed"}}], "no seed",
    {"error": {"message": "upstream", "metadata": {"raw": "no seed"}}}, {"error": {"seed": "no seed"}},
    "<html><head><title>Bad</title></head>no <b>seed</b></html>"], ids=str)
@pytest.mark.parametrize("status", [400, 422])
def test_the_reason_of_an_error_is_quoted(serve, connect, status, said):
    reply = ask(connect(serve(fails_for("bad", body(said, status)))), "a", "bad")[1]
    assert re.search(f"Error code: {status} - .*no seed", reply.error)


@pytest.mark.parametrize(("status", "said"), [
    (422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens",
           "error_type": "validation"}),
    (422, {"detail": "The prompt is longer than the maximum context length"}),
    (400, "the request exceeds the available context size"),
    (400, {"error": {"code": "context_length_exceeded"}}),
    (400, {"error": {"type": "exceed_context_size_error", "message": "no"}}),
    (500, {"error": "the input length exceeds the context length"}),
    (400, [{"error": {"message": "The input token count (9) exceeds the maximum number of tokens"}}]),
    (400, {"message": "Range of input length should be [1, 8]"}), (413, "<html>entity</html>"),
    (200, {"object": "error", "message": "This model's maximum context length is 8 tokens", "code": 40303}),
    (200, {"error": "prompt is too long: 9 tokens > 8 maximum"})], ids=str)
def test_a_request_that_is_too_long_costs_its_row_alone(serve, connect, status, said):
    server = serve(fails_for("bad", body(said, status)))
    assert ask(connect(server), "a", "bad")[1].error.startswith(TOO_LONG)
    assert server.seen["bad"] == 1


PASSING = [Say("busy", 429), Say("busy", 429, headers={"retry-after": "0"}), Say("oh", 500),
           Say("busy", 503), Say("gateway", 502), Say("timeout", 408), Say("conflict", 409), Say("odd", 520),
           hang_up, cut_off, half_json]
INSIDE = [  # errors inside a 200
    {"error": {"code": 429}}, {"error": {"code": "rate_limit_exceeded"}}, {"error": {"type": "server_error"}},
    {"code": 503, "message": "later"}, {"error": "overloaded"}, {"error": "boom"}, {"status": "error"},
    [{"error": {"code": 503, "status": "UNAVAILABLE"}}], {"detail": "Too Many Requests"},
    {"object": "error", "code": 42901, "message": "later"}, {"error": True, "message": "boom"},
    {"choices": [{"finish_reason": "error", "message": TEXT, "error": {"code": 502, "message": "provider"}}]},
    {"choices": [{"finish_reason": None, "message": TEXT}], "error": {"code": 502}},
    "<html><body>Bad gateway</body></html>", ""]


@pytest.mark.parametrize("fault", [*PASSING, *map(body, INSIDE), body("", kind="text/html")], ids=str)
def test_what_passes_is_tried_again(serve, connect, fault):
    server = serve(then(fault, fault, "fine"))
    assert ask(connect(server, requests_in_flight=1), "a")[0].text == "fine"
    assert server.seen == {"a": 3}


@pytest.mark.parametrize(("fault", "says", "asked"), [
    (Say("oh", 500), "InternalServerError.*oh", 3), (Say("busy", 429), "RateLimitError.*busy", 3),
    (half_json, "broken off or not JSON", 3), (after(0.1, hang_up), "APIConnectionError", 3),
    (after(0.1, cut_off), "APIConnectionError", 3),
    (body("<p>Sign in</p>"), "the server's answer is broken off or not JSON .*Sign in", 3),
    (body({"error": {"code": 400, "message": "no seed"}}), "no seed", 1),
    (trickle, "no whole answer within --request_timeout", 1),
    (after(0.6, "late"), "no whole answer within --request_timeout", 1)], ids=str)
def test_what_stays_is_its_requests_error_after_so_many_retries(serve, connect, fault, says, asked):
    """The others are answered meanwhile, so the server itself is well."""
    server, start = serve(fails_for("bad", fault)), time.monotonic()
    replies = ask(connect(server, requests_in_flight=2, max_retries=2, request_timeout=0.3),
                  "bad", *"abcdefghij")
    assert re.search(says, replies[0].error)
    assert [replies[place].text for place in range(1, 11)] == ["fine"] * 10
    assert server.seen["bad"] == asked
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("said", [
    "[" * 5000 + "]" * 5000, '{"error": ' * 900 + "1" + "}" * 900, '{"choices": ' + "9" * 5000 + "}",
    '{"error": {"message": ' + "[" * 900 + "]" * 900 + "}}",
    '{"choices": [{"finish_reason": ' + "[" * 900 + "]" * 900 + "}]}",
    '{"usage": {"total_tokens": 1' + "0" * 400 + ', "completion_tokens": 1' + "0" * 400
    + '}, "choices": [{"message": "ok"}]}', "\x00", "null", "<" * 200_000], ids=lambda said: said[:20])
@pytest.mark.parametrize("status", [200, 400])
def test_no_body_ends_a_run(serve, connect, said, status):
    engine = connect(serve(fails_for("bad", body(said, status))), max_retries=1)
    replies = ask(engine, "a", "bad", "b")
    assert (replies[0].text, replies[2].text) == ("fine", "fine")
    assert replies[1].error or replies[1].text == "ok"


def test_a_score_that_the_server_refuses_has_no_second_chance(serve, connect):
    """One with a reply that cannot be read has."""
    server = serve(fails_for("bad", Say("prompt is too long", 422), otherwise="Hm."))
    replies = dict(connect(server).score(one_turn_each(["bad", "odd"])))
    assert "too long for the model's context" in replies[0].error
    assert "no score" in replies[1].error
    assert server.seen == {"bad": 1, "odd": 2}


@pytest.mark.parametrize(("fault", "says"), [
    (Say("no", 401), "refuses the key in OPENAI_API_KEY"),
    (body({"error": {"code": "invalid_api_key"}}), "refuses the key in OPENAI_API_KEY"),
    (Say("no model x", 404), "does not serve the model m, or not at this address .*no model x"),
    (Say("pay", 402), "the quota of the key in OPENAI_API_KEY is used up"),
    (Say("pay", 429, extra={"code": "insufficient_quota"}), "the quota of the key")], ids=str)
def test_what_fails_for_everybody_stops_at_once(serve, connect, fault, says):
    server = serve(then(fault))
    with pytest.raises(UserError, match=says):
        ask(connect(server, requests_in_flight=1), "a", "b", "c")
    assert len(server.requests) == 1


def test_a_server_that_goes_away_loses_nothing_that_was_paid_for(serve, connect):
    served = iter(["one", "two"])
    server = serve(lambda request, before: next(served, hang_up))
    engine = connect(server, requests_in_flight=1, max_retries=1)
    assert ask_until(UserError, engine, "abcd", "cannot be reached") == ["one", "two"]
    assert server.seen == {"a": 1, "b": 1, "c": 2}  # the fourth was never sent


def test_replies_in_flight_when_another_fails_are_kept(serve, connect):
    failed = threading.Event()

    def reply(request, before):
        if request["messages"][0]["content"] == "bad":
            failed.set()
            return Say("no", 401)
        failed.wait(5)
        return "paid for"

    engine = connect(serve(reply), requests_in_flight=2)
    assert ask_until(UserError, engine, ["good", "bad"]) == ["paid for"]


def test_the_wait_that_a_server_asks_for_is_kept_and_retries_end_with_a_stop(serve, connect):
    times = []

    def reply(request, before):
        times.append(time.monotonic())
        if len(times) == 3:
            engine.interrupt()
        return Say("busy", 429, headers={"retry-after": "0.3"})

    engine = connect(serve(reply), max_retries=20)
    assert ask_until(KeyboardInterrupt, engine, "a") == []
    assert len(times) == 3
    assert times[1] - times[0] > 0.29
