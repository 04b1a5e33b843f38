"""Options of engines: checked where they are given, overridden by an engine's name."""

import pytest

from raft_fast.config import parse
from raft_fast.errors import UserError
from raft_fast.options import EngineOptions


def options(*argv):
    return parse("refine", "", [EngineOptions], list(argv))[1][0]


def test_the_command_line_takes_json():
    given = options("--extra_body", '{"chat_template_kwargs": {"enable_thinking": false}}',
                    "--price", "0.15/0.6", "--engine_overrides", '{"org/judge": {"requests_per_minute": 60}}')
    assert given.chat_template_kwargs == {"enable_thinking": False}
    assert given.prices == (0.15, 0.6)
    assert given.of("org/judge").requests_per_minute == 60
    assert given.of("org/judge").price == "0.15/0.6"
    assert given.of("self", "org/student").requests_per_minute == 0


@pytest.mark.parametrize(("name", "value", "says"), [
    ("requests_in_flight", "0", "--requests_in_flight 0: must be at least 1"),
    ("tokens_per_minute", "-1", "--tokens_per_minute -1.0: must be at least 0"),
    ("request_timeout", "0", "--request_timeout 0.0: must be above 0"),
    ("price", "3", "--price 3: must be PROMPT/COMPLETION"),
    ("engine_overrides", '{"m": {"prize": "1/2"}}', "must be options of engines by name"),
    ("engine_overrides", '{"m": {"price": "3/"}}', "--price 3/: must be PROMPT/COMPLETION"),
    ("engine_overrides", '{"m": {"max_retries": "many"}}', "--engine_overrides"),
])
def test_bad_values_are_named(name, value, says):
    with pytest.raises(UserError, match=says):
        options(f"--{name}", value)
