"""Servers that say in their own way how a reply ended, and what went wrong."""

import re

import pytest
from faulty_server import Say, ask, body, fails_for, then

from raft_fast.engines import FILTERED, TOO_LONG
from raft_fast.engines.replies import read_reply
from raft_fast.run.errors import UserError

TEXT = {"role": "assistant", "content": "half of"}


@pytest.mark.parametrize("reason", ["stop", "STOP", "eos", "eos_token", "stop_sequence", "end_turn", None, "",
                                    "FinishReason.STOP", {"type": "stop", "matched": 2}])
def test_a_known_natural_end_is_whole(reason):
    reply = read_reply({"choices": [{"message": TEXT, "finish_reason": reason}]})
    assert (reply.text, reply.finish_reason, reply.error) == ("half of", "stop", None)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length", {"type": "length"}])
def test_a_limit_by_any_name_cuts(reason):
    assert read_reply({"choices": [{"message": TEXT, "finish_reason": reason}]}).finish_reason == "length"


def test_a_reply_without_a_reason_that_used_all_its_tokens_was_cut():
    answer = {"choices": [{"message": TEXT}], "usage": {"completion_tokens": 64}}
    ends = [read_reply(answer, longest).finish_reason for longest in (64, 65, None)]
    assert ends == ["length", "stop", "stop"]


@pytest.mark.parametrize("message", [
    {"content": None, "refusal": "I will not."}, {"content": "", "refusal": "I will not."},
    {"refusal": "I will not."},
    {"content": [{"type": "refusal", "refusal": "I will not."}]},
    {"content": [], "refusal": "I will not."}], ids=str)
def test_a_refusal_is_no_reply_and_is_quoted(message):
    reply = read_reply({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert (reply.text, reply.error) == ("", f"{FILTERED}: I will not.")
    whole = TEXT | {"refusal": None}
    assert read_reply({"choices": [{"message": whole, "finish_reason": "stop"}]}).text == "half of"
    empty = read_reply({"choices": [{"message": {"content": None, "refusal": ""}}]})
    assert (empty.text, empty.error) == ("", None)


@pytest.mark.parametrize("message", [{}, {"message": None}, {"message": {"content": None}}], ids=str)
def test_the_text_of_a_legacy_completion_is_read(message):
    reply = read_reply({"choices": [{"text": " half of ", "finish_reason": "stop"} | message]})
    assert (reply.text, reply.error) == ("half of", None)


@pytest.mark.parametrize(("reason", "says", "asked"), [
    ("abort", "finish_reason 'abort'", 2), ("error", "'error'", 2), ("cancelled", "'cancelled'", 2),
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


@pytest.mark.parametrize("said", [
    {"error": {"code": 429}}, {"error": {"code": "rate_limit_exceeded"}}, {"error": {"type": "server_error"}},
    {"code": 503, "message": "later"}, {"error": "overloaded"}, {"error": "boom"}, {"status": "error"},
    [{"error": {"code": 503, "status": "UNAVAILABLE"}}], {"detail": "Too Many Requests"},
    {"object": "error", "code": 42901, "message": "later"}, {"error": True, "message": "boom"},
    {"choices": [{"finish_reason": "error", "message": TEXT, "error": {"code": 502, "message": "provider"}}]},
    {"choices": [{"finish_reason": None, "message": TEXT}], "error": {"code": 502}},
    "<html><body>Bad gateway</body></html>", ""], ids=str)
def test_an_error_inside_a_200_is_tried_again(serve, connect, said):
    server = serve(then(body(said), body(said, kind="text/html"), "fine"))
    assert ask(connect(server, requests_in_flight=1), "a")[0].text == "fine"
    assert server.seen["a"] == 3


def test_an_error_inside_a_200_that_stays_is_its_requests_error(serve, connect):
    server = serve(fails_for("bad", body({"error": {"code": 400, "message": "no seed"}})))
    assert "no seed" in ask(connect(server), "a", "bad")[1].error
    assert server.seen["bad"] == 1
    page = ask(connect(serve(fails_for("bad", body("<p>Sign in</p>"))), max_retries=0), "a", "bad")[1]
    assert re.match("the server's answer is broken off or not JSON .*Sign in", page.error)
    with pytest.raises(UserError, match="refuses the key in OPENAI_API_KEY"):
        ask(connect(serve(then(body({"error": {"code": "invalid_api_key"}})))), "a")


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
