"""Servers that start and stop with a test, and waiting that takes no time."""

import pytest
from faulty_server import serving

from raft_fast.engines.openai import OpenAIEngine
from raft_fast.run.options import EngineOptions


@pytest.fixture
def serve(monkeypatch):
    """Start servers; pauses before another attempt take next to no time."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving() as start:
        yield start


@pytest.fixture
def connect(serve):
    """An engine for a server, an address or a function that answers; options by name."""

    def engine(target=None, **options):
        if target is None or callable(target):
            target = serve(target) if target else serve()
        spec = target if isinstance(target, str) else f"m@{target.url}"
        return OpenAIEngine(spec, EngineOptions(**{"requests_in_flight": 4} | options))

    return engine
