"""The OpenAI-compatible engine against a small real server on the loopback."""

import json
import signal
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from raft_fast.engines import Message, Sampling
from raft_fast.engines.openai import OpenAIEngine, parse_spec
from raft_fast.errors import UserError
from raft_fast.refinement.journal import Journal

SAMPLING = Sampling(seed=1)


class Server(ThreadingHTTPServer):
    """Answers chat completions with `reply(request, how many times this text was asked before)`."""

    daemon_threads = True
    models = ("first", "second")
    page = False  # answer as a web page would

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.requests, self.seen = reply, [], Counter()
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.server.page:
            return self.send(200, "<html>hello</html>", "text/html")
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "x"}
                for name in self.server.models]
        return self.send(200, json.dumps({"object": "list", "data": data}))

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        request["authorization"] = self.headers["authorization"]
        text = request["messages"][-1]["content"]
        with self.server.lock:
            before = self.server.seen[text]
            self.server.seen[text] += 1
            self.server.requests.append(request)
        reply = self.server.reply(request, before)
        if reply is None:  # hang up without a word
            return self.connection.close()
        status, content, reason = (*reply, "stop")[:3] if isinstance(reply, tuple) else (
            200, reply, "stop")
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
                "choices": [{"index": 0, "finish_reason": reason,
                             "message": {"role": "assistant", "content": content}}]}
        return self.send(status, json.dumps(body if status == 200 else {"error": content}))

    def send(self, status, text, kind="application/json"):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Start servers, and let the client's back-off take no time."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    started = []

    def start(reply=lambda request, before: "ok"):
        server = Server(reply)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def one_turn_each(texts):
    return [[Message(role="user", content=text)] for text in texts]


def ask(engine, *texts, sampling=SAMPLING):
    return dict(engine.generate(one_turn_each(texts), sampling))


def scores(engine, *texts):
    return dict(engine.score(one_turn_each(texts)))


def collect(engine, into, *texts):
    """Replies as they come, kept even where the engine stops in the middle."""
    for _, reply in engine.generate(one_turn_each(texts), SAMPLING):
        into.append(reply.text)


def test_replies_come_with_reason_tokens_and_without_thinking(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = serve(lambda request, before: (200, "<think>hm</think>\n\nyes", "length"))
    engine = OpenAIEngine.connect(f"org/model@{server.url}", concurrency=2)
    replies = ask(engine, "a", "b", "c", sampling=Sampling(11, 0.5, 1))
    assert sorted(replies) == [0, 1, 2]
    reply = replies[0]
    assert (reply.text, reply.finish_reason, reply.error) == ("yes", "length", None)
    assert (reply.prompt_tokens, reply.completion_tokens) == (7, 3)
    request = server.requests[0]
    assert (request["model"], request["temperature"], request["max_tokens"]) == (
        "org/model", 0.5, 11)
    assert request["authorization"] == "Bearer secret"
    assert engine.identity == f"org/model@{server.url}"


def test_the_seed_depends_on_the_conversation_and_the_seed_alone(serve):
    server = serve()
    engine = OpenAIEngine.connect(server.url, concurrency=3)

    def seeds(*texts, seed=1):
        server.requests.clear()
        ask(engine, *texts, sampling=Sampling(seed=seed))
        return {one["messages"][0]["content"]: one["seed"] for one in server.requests}

    together = seeds("a", "b", "c")
    assert len(set(together.values())) == 3
    assert seeds("b") == {"b": together["b"]}
    assert seeds("b", seed=2) != {"b": together["b"]}


def test_a_url_alone_takes_the_first_model(serve):
    server = serve()
    assert OpenAIEngine.connect(server.url).model == "first"
    assert OpenAIEngine.connect(server.url.removesuffix("/v1")).identity == f"first@{server.url}"
    server.models = ()
    with pytest.raises(UserError, match="serves no model"):
        OpenAIEngine.connect(server.url)


def test_a_server_error_is_retried(serve):
    server = serve(lambda request, before: (500, {"message": "busy"}) if before == 0 else "fine")
    replies = ask(OpenAIEngine.connect(server.url), "a", "b")
    assert [replies[index].text for index in (0, 1)] == ["fine", "fine"]
    assert server.seen == {"a": 2, "b": 2}


def test_an_error_that_stays_belongs_to_its_request(serve):
    server = serve(lambda request, before: (
        (400, {"message": "too long"}) if request["messages"][0]["content"] == "long" else "fine"))
    replies = ask(OpenAIEngine.connect(server.url), "a", "long", "b")
    assert (replies[0].text, replies[2].text) == ("fine", "fine")
    assert "too long" in replies[1].error
    assert server.seen["long"] == 1


@pytest.mark.parametrize(("status", "says"), [
    (401, "refuses the key in OPENAI_API_KEY"), (404, "does not serve this model")])
def test_a_refused_key_or_model_stops_at_once(serve, status, says):
    server = serve(lambda request, before: (status, {"message": "no"}))
    with pytest.raises(UserError, match=says):
        ask(OpenAIEngine.connect(server.url, concurrency=1), "a", "b", "c")
    assert len(server.requests) == 1


def test_an_unreachable_server_is_named(serve):
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1: cannot be reached .*start"):
        OpenAIEngine.connect("m@http://user:pass@127.0.0.1:9")


def test_an_address_that_is_a_web_page_is_named(serve):
    server = serve()
    server.page = True
    with pytest.raises(UserError, match="does not answer like an OpenAI-compatible server"):
        OpenAIEngine.connect(server.url)


def test_a_server_that_goes_away_loses_nothing_that_was_paid_for(serve, tmp_path):
    served = iter(["one", "two"])
    server = serve(lambda request, before: next(served, None))
    engine = OpenAIEngine.connect(server.url, concurrency=1, max_retries=1)
    conversations = one_turn_each("abcd")
    with pytest.raises(UserError, match="cannot be reached"), Journal(tmp_path) as journal:
        journal.ask("rewrite", engine, conversations, Sampling(), "v1", lambda reply, fresh: None)
    assert len(server.seen) == 3  # the fourth was never sent
    server.reply = lambda request, before: "later"
    with Journal(tmp_path) as journal:
        replies = journal.ask("rewrite", engine, conversations, Sampling(), "v1", lambda reply, fresh: None)
        assert journal.asked == 2
    assert [reply.text for reply in replies] == ["one", "two", "later", "later"]


def test_replies_in_flight_when_another_fails_are_kept(serve):
    failed = threading.Event()

    def reply(request, before):
        if request["messages"][0]["content"] == "bad":
            failed.set()
            return 401, {"message": "no"}
        failed.wait(5)
        return "paid for"

    got = []
    engine = OpenAIEngine.connect(serve(reply).url, concurrency=2)
    with pytest.raises(UserError):
        collect(engine, got, "good", "bad")
    assert got == ["paid for"]


def test_ctrl_c_keeps_the_replies_in_flight(serve):
    """A real SIGINT while the main thread waits; the third request is never sent."""
    interrupted = threading.Event()

    def reply(request, before):
        if not interrupted.is_set():
            interrupted.set()
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)
        return "paid for"

    server = serve(reply)
    got = []
    with pytest.raises(KeyboardInterrupt):
        collect(OpenAIEngine.connect(server.url, concurrency=2), got, "a", "b", "c")
    assert len(got) == len(server.requests)
    assert set(got) == {"paid for"}
    assert "c" not in server.seen


def test_a_score_is_read_from_the_text(serve):
    replies = scores(OpenAIEngine.connect(serve(lambda request, before: "**6**").url), "a")
    assert json.loads(replies[0].text) == {"score": pytest.approx(6 / 9)}


def test_garbage_gets_a_second_chance_with_another_seed(serve):
    server = serve(lambda request, before: "no idea" if before == 0 else '{"score": 9}')
    reply = scores(OpenAIEngine.connect(server.url), "a")[0]
    assert json.loads(reply.text) == {"score": 1.0}
    assert (reply.prompt_tokens, reply.completion_tokens) == (14, 6)
    first, second = server.requests
    assert first["seed"] != second["seed"]
    assert (first["temperature"], second["temperature"]) == (0.0, 0.7)


def test_garbage_twice_is_an_error_that_quotes_it(serve):
    server = serve(lambda request, before: "no idea" if before == 0 else "11")
    reply = scores(OpenAIEngine.connect(server.url), "a")[0]
    assert reply.text == ""
    assert "the score 11 in the reply '11'" in reply.error
    assert len(server.requests) == 2


@pytest.mark.parametrize(("spec", "model", "url"), [
    ("http://h:8000", None, "http://h:8000/v1"),
    ("http://h:8000/v1/", None, "http://h:8000/v1"),
    ("org/m@https://h/api", "org/m", "https://h/api"),
    ("a@b@http://h/v1", "a@b", "http://h/v1"),
])
def test_specs(spec, model, url):
    assert parse_spec(spec) == (model, url)


@pytest.mark.parametrize("spec", ["m@", "ftp://h", "http://", "m@localhost:8000"])
def test_bad_specs_say_what_a_good_one_looks_like(spec):
    with pytest.raises(UserError, match="must be MODEL@URL or URL"):
        parse_spec(spec)
