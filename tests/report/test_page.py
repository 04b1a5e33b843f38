"""report.html of a run and of stage 1: complete, self-contained, and nothing in it that data could run."""

import re
import shutil

import pytest
from evaluation.evaluation_stubs import fabricate_run
from stage1_stubs import many, write_folder

from raft_fast.report.page import write_model_card, write_refine_report, write_run_report

ATTACK = '<script>alert("x")</script> & $x_n$ </svg> {{ 7*7 }} '


def check_self_contained(page):
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert page.count("<svg") == page.count("</svg>")
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("write", "at", "plots", "words"), [
    (write_run_report, "", 6, ["Domain against general", "The fuser is also a judge", "96 of 302",
                               "evaluate trained: general", "2 min 40 s"]),
    (write_refine_report, "refine", 0, ["The fuser is also a judge", "Examples of every kind",
                                        "fused 2, chosen"])])
def test_a_page_shows_everything_and_is_self_contained(run_dir, write, at, plots, words):
    (run_dir / "refine/config.yaml").write_text("tau: 0.8\n")
    page = write(run_dir / at).read_text(encoding="utf-8")
    check_self_contained(page)
    assert page.count("<svg") == plots
    main = page.split("<main>")[1]
    assert "missing\"" not in main
    assert "nan" not in re.sub(r"<[^>]*>", "", main).lower().split()
    assert all(said in page for said in words)


def test_what_data_holds_is_escaped_everywhere(tmp_path):
    run = fabricate_run(tmp_path / "run", ATTACK)
    refined = write_folder(tmp_path / "refined", many(60, ATTACK),
                           engines={"rewriter": ATTACK, "judges": [ATTACK]})
    (refined / "config.yaml").write_text('data: "<script>alert(1)</script>"\n')
    for page in (write_run_report(run).read_text(), write_refine_report(refined).read_text()):
        check_self_contained(page)
        assert "&lt;script&gt;" in page
        assert "{{ 7*7 }}" in page  # shown, never evaluated
    assert "<script" not in write_model_card(run).read_text()


@pytest.mark.parametrize("name", ["config.yaml", "refine", "metrics.jsonl", "evaluation.json",
                                  "generations.jsonl", "phases.json"])
def test_a_missing_file_is_named_in_its_section(run_dir, name):
    path = run_dir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = "No refine/decisions.jsonl" if name == "refine" else f"No {name} in this folder"
    assert said in write_run_report(run_dir).read_text()
    write_model_card(run_dir)
    if name.endswith("json"):
        path.write_text('{"domain"')
        assert f"{name} could not be read" in write_run_report(run_dir).read_text()
