"""refine's report: complete, self-contained, and nothing in it that data could run."""

import re

import pytest
from stage1_stubs import many, write_folder

from raft_fast.report.stage1.page import write_report
from raft_fast.report.stage1.section import funnel, section

ATTACK = '<script>alert("x")</script> & $x_n$ </svg> {{ 7*7 }} '


def test_the_page_is_self_contained_and_shows_everything(tmp_path):
    folder = write_folder(
        tmp_path / "mine", many(96), rows={"used": 96, "total": 302}, fuser_is_judge=True,
        tokens={"rewrite": {"prompt": 9000, "completion": 4000}}, seconds=3.2,
        calibration={"edges": [0.0, 0.5, 1.0], "true": [3, 93], "shuffled": [90, 6],
                     "suggested_tau": 0.62, "n": {"true": 96, "shuffled": 96},
                     "accepted": {"at_tau": {"true": 0.5, "shuffled": 0.001},
                                  "at_suggested_tau": {"true": 0.75, "shuffled": 0.01}}})
    page = write_report(folder).read_text(encoding="utf-8")
    assert page.count("<svg") == 8
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert "missing\"" not in page.split("<main>")[1].replace('"missing">No config', "")
    for said in ("How far the rows came", "suggested 0.62", "Mean scores by round",
                 "50.0\u00a0% of true and 0.1\u00a0% of shuffled",
                 "One model plays fuser and judge", "Accepted", "Rejected"):
        assert said in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_what_data_holds_is_escaped_everywhere(tmp_path):
    folder = write_folder(
        tmp_path / "run", many(60, ATTACK), engines={"rewriter": ATTACK, "judges": [ATTACK]},
        no_likelihoods=ATTACK)
    (folder / "config.yaml").write_text('data: "<script>alert(1)</script>"\n')
    page = write_report(folder).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7*7 }}" in page  # shown, never evaluated
    assert page.count("<svg") == page.count("</svg>")


@pytest.mark.parametrize("decisions", [
    [],
    ['{"row_id": "a", "sou'],
    [{"row_id": "a", "source": "gold"}],
    [{"row_id": "a", "source": "gold", "similarity": None, "rewrite": None, "prompt": [],
      "checks": {"reply": "no reply: busy"}, "rounds": [], "why": "no reply: busy"}],
])
def test_a_folder_with_little_in_it_still_makes_a_page(tmp_path, decisions):
    page = write_report(write_folder(tmp_path, decisions)).read_text(encoding="utf-8")
    assert ("No decisions.jsonl" in page) == (not decisions or isinstance(decisions[0], str))


def test_a_damaged_line_is_counted_and_said(tmp_path):
    folder = write_folder(tmp_path, [*many(3), '{"row_id": "half', "[1, 2]"])
    assert "2 lines of decisions.jsonl could not be read" in write_report(folder).read_text()


def test_without_likelihoods_the_reason_is_given(tmp_path):
    decisions = [one | {"nll": None} for one in many(5)]
    folder = write_folder(tmp_path, decisions, no_likelihoods="the rewriter is a server")
    assert "Not measured: the rewriter is a server." in write_report(folder).read_text()


def test_the_funnel_only_narrows_from_what_was_read(tmp_path):
    found = section(write_folder(tmp_path, many(96), rows={"used": 96, "total": 100, "rejected": 4}))
    steps = funnel(found["tally"], found["summary"])
    assert [name for name, _ in steps] == ["in the data", "read", "rewritten", "passed the filter",
                                           "fused", "judged good"]
    counts = [number for _, number in steps]
    assert counts[:3] == [104, 96, 96]
    assert counts == sorted(counts, reverse=True)
