"""What all gold answers say of a rewrite: retrieval among them, and calibration of tau."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from refinement_stubs import StubEncoder, StubEngine, rewritten, row, run

from raft_fast.engines import Reply
from raft_fast.models.embedding import unit
from raft_fast.refinement import Roles, add_calibration, index_golds
from raft_fast.refinement.checks import ALWAYS, CHECKS
from raft_fast.refinement.golds import EDGES, FEWEST, RETRIEVAL, calibrate
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter


class TableEncoder:
    """Vectors by a table."""

    identity, device = "table", "cpu"

    def __init__(self, table):
        self.table, self.asked = table, []

    def embed(self, texts):
        self.asked += texts
        return unit(np.array([self.table[text] for text in texts], np.float64))


ENCODER = TableEncoder({
    "fences are low": [1, 0, 0], "walls are high": [0, 1, 0], "fences stay low": [0.999, 0.01, 0],
    "low fences it is": [0.9, 0.3, 0], "high walls it is": [0.3, 0.9, 0], "nothing": [0, 0, 0]})
GOLDS = [row("fence", gold="fences are low"), row("wall", gold="walls are high"),
         row("again", gold="fences stay low")]


@pytest.fixture
def golds(tmp_path):
    return index_golds(GOLDS, RefineOptions(), ENCODER, tmp_path, Reporter())


def retrieval(golds, gold, rewrite):
    one, = rewritten([row("1", gold=gold)], [Reply(rewrite)], ENCODER, golds)
    return one.objections["retrieval"]


def test_a_rewrite_must_be_nearest_to_its_own_gold_answer(golds):
    assert retrieval(golds, "walls are high", "high walls it is") is None
    # both fences are nearer, so its own comes third
    assert "rank 3" in retrieval(golds, "walls are high", "low fences it is")
    for own in ("fences are low", "fences stay low"):  # gold answers that say the same are no rivals
        assert retrieval(golds, own, "low fences it is") is None


def test_without_a_vector_similarity_says_so_and_retrieval_nothing(golds):
    one, = rewritten(GOLDS[:1], [Reply("nothing")], ENCODER, golds)
    assert one.scores["similarity"] is None
    assert one.objections["similarity"] == "no similarity to the gold answer"
    assert one.objections["retrieval"] is None


def test_gold_answers_that_are_indexed_are_not_embedded_again(tmp_path):
    encoder = TableEncoder(ENCODER.table)
    for _ in range(2):
        golds = index_golds(GOLDS, RefineOptions(), encoder, tmp_path, Reporter())
    assert len(encoder.asked) == len(GOLDS)
    encoder.asked.clear()
    replies = [Reply("low fences it is"), Reply("high walls it is"), Reply("nothing")]
    found = rewritten([GOLDS[1], GOLDS[0], row("new", gold="fences stay low")], replies, encoder, golds)
    assert encoder.asked == [reply.text for reply in replies]
    again = rewritten([GOLDS[1], GOLDS[0], GOLDS[2]], replies, encoder)
    assert [one.scores for one in found] == [one.scores for one in again]
    golds.of_texts(["nothing"], encoder)
    assert encoder.asked[-1] == "nothing"  # no gold answer of these rows


def lines(count):
    return [{"row_id": f"r{n}", "gold": f"gold {n}", "rewrite": f"rewrite {n}", "similarity": 0.9,
             "checks": {"copy": None}} for n in range(count)]


def turning(count):
    """Gold answers all around a circle, each rewrite a step of 0.3 beside its own."""
    angles = 2 * np.pi * np.arange(count) / count
    return TableEncoder({f"{kind} {n}": [np.cos(angle + step), np.sin(angle + step)]
                         for kind, step in (("gold", 0), ("rewrite", 0.3))
                         for n, angle in enumerate(angles)})


def test_calibration_against_worked_out_numbers():
    found = calibrate(lines(19), turning(19), tau=0.97)
    assert found["n"] == {"true": 19, "shuffled": 19 * 18}
    # own: cos 0.3 = 0.9553; the next gold answer is 2 pi / 19 = 0.3307 on: cos 0.0307 = 0.9995
    assert found["accepted"]["at_tau"] == {"true": 0.0, "shuffled": round(19 / 342, 4)}
    # so each rewrite is more like its own gold answer than like 17 of the 18 others
    assert found["auc"] == round(17 / 18, 4)
    assert found["suggested_tau"] == 1.0  # 6 % are at 0.9995: only above it at most 1 % pass
    assert sum(found["true"]) == 19
    assert sum(found["shuffled"]) == 342
    assert len(found["edges"]) == len(found["true"]) + 1


def test_gold_answers_that_say_the_same_are_no_other_answer_and_no_tau_is_above_1():
    # on a circle of 20 the neighbours' cosine is 0.951: two of the 19 others say the same
    assert calibrate(lines(20), turning(20), tau=0.97)["n"] == {"true": 20, "shuffled": 20 * 17}
    found = calibrate(lines(9), TableEncoder({
        f"{kind} {n}": [1.0, 0.0] if kind == "rewrite" or n == 0 else [0.6, 0.8]
        for kind in ("gold", "rewrite") for n in range(9)}), tau=0.97)
    assert found["suggested_tau"] is None  # half of the shuffled pairs are at 1; --tau refuses 1.01
    assert found["accepted"]["at_suggested_tau"] is None


def test_calibration_reads_the_same_bounded_sample_in_any_order_and_leaves_copies_out(monkeypatch):
    some = lines(30)
    some[3]["checks"]["copy"] = "the same words as the gold answer"
    some[4]["similarity"] = None
    found = calibrate(some, turning(30), 0.8)
    assert found["n"]["true"] == 28
    assert found == calibrate(some[::-1], turning(30), 0.8)
    assert calibrate(lines(FEWEST - 1), turning(10), 0.8) is None
    assert calibrate([line | {"gold": "gold 0"} for line in lines(10)], turning(10), 0.8) is None
    monkeypatch.setattr("raft_fast.refinement.golds.PAIRS", 10)
    encoder = turning(100)
    assert calibrate(iter(lines(100)), encoder, 0.8)["n"]["true"] == 10
    assert len(encoder.asked) == 20


def test_the_summary_has_the_calibration(tmp_path):
    rows = [row(f"r{n}", gold=f"gold {n}") for n in range(10)]
    skipped = RefineOptions(skip_checks="loops, retrieval")
    assert index_golds(rows, skipped, ENCODER, tmp_path, Reporter()) is None
    engine = StubEngine("writer", lambda text, seed: "words of its own")
    before = run(tmp_path, rows, Roles(engine), fusion_rounds=0)
    summary = add_calibration(tmp_path, StubEncoder({one.gold: 0.9 for one in rows}))
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    found = summary.pop("calibration")
    assert summary == before
    assert found["n"] == {"true": 10, "shuffled": 90}
    assert found["edges"] == EDGES.tolist()
    assert found["auc"] == 0.5  # this encoder tells nothing apart


def test_help_and_docs_name_every_check():
    known = [*CHECKS, RETRIEVAL]
    told = re.sub(r'"\s+"', "", inspect.getsource(RefineOptions))
    assert f": {', '.join(known)}." in told
    page = (Path(__file__).parents[2] / "docs/methods/raft.md").read_text()
    section = page.split("## Checks")[1].split("\n## ")[0]
    assert {name for name in [*ALWAYS, *known, "similarity"] if f"`{name}`" not in section} == set()
