"""A rewrite must be nearest to its own gold answer."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from refinement_stubs import rewritten, row

from raft_fast.engines import Reply
from raft_fast.models.embedding import unit
from raft_fast.refinement import index_golds
from raft_fast.refinement.checks import ALWAYS, CHECKS, RETRIEVAL
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
    found = rewritten(GOLDS, replies, encoder, golds)
    assert encoder.asked == [reply.text for reply in replies]
    again = rewritten(GOLDS, replies, encoder)
    assert [one.scores for one in found] == [one.scores for one in again]


def test_a_skipped_check_embeds_nothing(tmp_path):
    skipped = RefineOptions(skip_checks="loops, retrieval")
    assert index_golds(GOLDS, skipped, None, tmp_path, Reporter()) is None


def test_help_and_docs_name_every_check():
    known = [*CHECKS, RETRIEVAL]
    told = re.sub(r'"\s+"', "", inspect.getsource(RefineOptions))
    assert f": {', '.join(known)}." in told
    page = (Path(__file__).parents[2] / "docs/methods/raft.md").read_text()
    section = page.split("## Checks")[1].split("\n## ")[0]
    assert {name for name in [*ALWAYS, *known, "similarity"] if f"`{name}`" not in section} == set()
