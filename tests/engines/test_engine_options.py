"""Options of engines: checked where they are given, and free of secrets."""

import json

import pytest

from raft_fast.engines.openai import parse_spec
from raft_fast.run.config import parse
from raft_fast.run.errors import UserError
from raft_fast.run.options import EngineOptions, RefineOptions


def options(*argv):
    return parse("refine", "", [EngineOptions], list(argv))[1][0]


@pytest.mark.parametrize("value", [
    {"x": [{"api_key": "sk-PASSW"}]}, {"x": [[{"y": [{"accessToken": "sk-PASSW"}]}]]},
    {"tools": [{"headers": {"Authorization": "Bearer sk-PASSW"}}]}, {"X-Api-Key": "sk-PASSW"},
    {"accesstoken": "sk-PASSW"}, {"api_keys": ["sk-PASSW"]}, {"passphrase": "sk-PASSW"},
    {"properties": {"x": {"token": "sk-PASSW"}}}, [1]], ids=str)
def test_a_secret_is_refused_wherever_it_stands_in_a_body(value):
    told = json.dumps(value)
    for text in (told, told[:-1]):
        with pytest.raises(UserError, match="--extra_body") as refused:
            options("--extra_body", text)
        assert "PASSW" not in str(refused.value)


def test_a_name_with_token_or_key_that_is_no_secrets_is_taken():
    body = dict.fromkeys(("max_token", "stop_token", "pad_token", "eos_token", "max_completion_token",
                          "max_completion_tokens", "stopToken", "time_per_output_token", "prompt_cache_key",
                          "tokens", "keywords", "monkey", "author"), "</s>")
    body |= {"use_auth": True, "api_key": None}
    body["chat_template_kwargs"] = {"enable_thinking": False}
    body["guided_json"] = {"properties": {"key": {"type": "string"}, "token": {"type": "string"}}}
    given = options("--extra_body", json.dumps(body))
    assert (given.extra_body, given.chat_template_kwargs) == (body, {"enable_thinking": False})


@pytest.mark.parametrize("spec", [
    "m@http://user:PASSW@host/v1", "m@http://host/v1?api_key=PASSW", "h://u:PASSW@host/v1",
    "m@http://a/v1+http://b/v1?v=1&access_token=PASSW", "HTTPS://h/v1?x=1;accessToken=PASSW",
    "m@http://a+HTTP://u:PASSW@b", "m@https://h/v1#sk-proj-PASSW", "https://h#AIzaPASSW0123456789",
    "m@http://h#K+http://b#Bearer%20PASSW", "http://user:PASSW/x@host", "http://user:PASSW,x@host"])
def test_a_secret_in_a_url_is_refused_and_not_repeated(spec):
    for refuse in (lambda: parse_spec(spec), lambda: RefineOptions(judge=f"self,{spec}")):
        with pytest.raises(UserError, match=r"#MY_KEY|cannot be read") as refused:
            refuse()
        assert "PASSW" not in str(refused.value)


def test_variables_in_urls_may_be_named_in_many_ways():
    for name in ("MY_KEY", "my_key", "OPENAI_KEY_OF_HOST_2", "KEY_FOR_PRODUCTION"):
        assert parse_spec(f"m@http://h#{name}")[2] == name
