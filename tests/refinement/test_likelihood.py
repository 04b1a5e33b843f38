"""The supervision-compatibility gap: what is recorded, kept, and said if there is none."""

import json

import pytest
import torch
from refinement_stubs import StubEncoder, StubEngine, row, run

from raft_fast.data.texts import Message
from raft_fast.engines.hf import HFEngine
from raft_fast.refinement import Roles

ROWS = [row("near", "near?", "gold near"), row("far", "far?", "gold far")]
ENCODER = StubEncoder({"gold far": 0.5})
NATS = {"gold near": (6.0, 2), "gold far": (9.0, 3), "rewritten": (1.0, 3), "fusion": (5.0, 4)}


class LocalEngine(StubEngine):
    """A stub that knows likelihoods by a table, and remembers what it was asked for."""

    def __init__(self, identity, answer, nats=None):
        super().__init__(identity, answer)
        self.nats, self.read = NATS | (nats or {}), []

    def nll(self, conversations, completions):
        self.read += zip([messages[-1]["content"] for messages in conversations], completions,
                         strict=True)
        for index in reversed(range(len(completions))):
            yield index, self.nats[completions[index]]


def local(**options):
    return LocalEngine("writer", lambda text, seed: "rewritten", **options)


def read(folder, rewriter, **options):
    roles = Roles(rewriter, StubEngine("fuser", lambda text, seed: "fusion"),
                  [StubEngine("judge", lambda text, seed: 0.9)])
    summary = run(folder, ROWS, roles, ENCODER, skip_checks="", **options)
    lines = (folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["nll"] for line in lines], summary


def test_every_answer_of_a_row_is_read_after_its_question(tmp_path):
    rewriter = local()
    found, summary = read(tmp_path, rewriter)
    assert found == [{"gold": 3.0, "rewrite": 0.3333, "fused": 1.25},
                     {"gold": 3.0, "rewrite": 0.3333, "fused": None}]
    assert sorted(rewriter.read) == [("far?", "gold far"), ("far?", "rewritten"), ("near?", "fusion"),
                                     ("near?", "gold near"), ("near?", "rewritten")]
    # near is trained on its fusion, far keeps gold
    assert summary["supervision_gap"] == {"rows": 2, "gold": 3.0, "training": 2.125, "gap": 0.875}
    assert summary["no_likelihoods"] is None
    again = local()
    assert read(tmp_path, again) == (found, summary)
    assert again.read == []


def test_a_likelihood_that_is_no_number_is_null_and_counts_nowhere(tmp_path):
    found, summary = read(tmp_path, local(nats={"fusion": (float("nan"), 4)}))
    assert found[0] == {"gold": 3.0, "rewrite": 0.3333, "fused": None}
    assert summary["supervision_gap"]["rows"] == 1


@pytest.mark.parametrize(("rewriter", "options", "reason"), [
    (StubEngine("server", lambda text, seed: "rewritten"), {},
     "the rewriter is a server, which shows no likelihoods"),
    (local(), {"supervision_gap": False}, "--supervision_gap is off"),
])
def test_without_likelihoods_the_reason_is_said(tmp_path, rewriter, options, reason):
    found, summary = read(tmp_path, rewriter, **options)
    assert found == [None, None]
    assert summary["supervision_gap"] is None
    assert summary["no_likelihoods"] == reason
    assert not getattr(rewriter, "read", [])


def test_a_value_does_not_depend_on_what_else_is_read(model, chat):
    """Bit for bit on a CPU, or a run that was interrupted would not end in the same files."""
    engine = HFEngine(model, chat, "tiny")
    asked = [[Message(role="user", content="x" * n)] for n in (3, 40, 11, 5)]
    answers = ["a long answer to a question" * 3, "b", "cc", "dddd"]
    together = dict(engine.nll(asked, answers))
    for index, (messages, answer) in enumerate(zip(asked, answers, strict=True)):
        alone = dict(engine.nll([messages], [answer]))[0]
        assert alone == together[index]
        view = chat.sft_view(messages, answer)
        logits = model(torch.tensor([view.ids])).logits[0].double().log_softmax(-1)
        start = len(view.prompt)
        exact = -sum(float(logits[start - 1 + at, token]) for at, token in enumerate(view.completion))
        assert alone[0] == pytest.approx(exact, rel=1e-5)
