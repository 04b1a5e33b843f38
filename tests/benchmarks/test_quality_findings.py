"""Findings are computed, and undecided where the figures do not decide; page and tables show them."""

import json
import shutil
import sys

import numpy as np
import pytest
from markupsafe import escape
from quality_stubs import HOSTILE, make_folder

from benchmarks.quality import plane, render
from benchmarks.quality.deciding import cells_done, decide
from benchmarks.quality.findings import _share, findings, verdict
from benchmarks.quality.groups import groups
from benchmarks.quality.twins import twins
from raft_fast.report.text import markdown


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(plane, "RESAMPLES", 60)


def answers(found, name):
    """Method -> the answers it got to one question."""
    (finding,) = [one for one in findings(found) if one.name == name]
    told = {}
    for line in finding.lines:
        told.setdefault(line.method, []).append(line.answer)
    return told


def test_what_is_there_is_found(tmp_path):
    found = render.again(make_folder(tmp_path, methods=("sft", "raft", "raft_lambda01", "raft_gradient")))
    assert answers(found, "learns more")["raft"] == ["yes"] * 4
    assert answers(found, "keeps more")["raft"] == ["yes"] * 4
    assert answers(found, "CE / (λ KL) near 1") == {"raft": ["yes"], "raft_lambda01": ["no"],
                                              "raft_gradient": ["no"]}
    assert answers(found, "weights nearer")["raft"] == ["yes"]
    assert answers(found, "one option") == {"raft_lambda01": ["worse"], "raft_gradient": ["worse"]}
    (balanced,) = [one for one in findings(found) if one.name == "CE / (λ KL) near 1"]
    (fixed,) = [line.evidence for line in balanced.lines if line.method == "raft_lambda01"]
    late = sorted(step["ce_kl_ratio"] for curve in found["curves"] if curve["method"] == "raft_lambda01"
                  for step in curve["steps"] if step["step"] > 15)
    assert f"range {late[0]:.2f} to {late[-1]:.2f}" in fixed
    assert "first half" in fixed
    assert "raft, raft_gradient and raft_lambda01 learnt more than sft" in verdict(found)[0]


def test_where_nothing_differs_nothing_is_decided(tmp_path):
    found = render.again(make_folder(tmp_path, methods=("sft", "raft"), effect=0))
    for name in ("learns more", "keeps more", "weights nearer"):
        assert set(answers(found, name)["raft"]) == {"undecided"}, name
    assert verdict(found) == ["At equal general loss raft cannot be told from sft."]


def test_a_handful_of_rows_decides_nothing(tmp_path):
    found = render.again(make_folder(tmp_path, rows=6, methods=("sft", "raft")))
    assert set(answers(found, "learns more")["raft"]) == {"undecided"}
    assert "too few" in verdict(found)[0]


def test_one_row_is_too_few():
    assert verdict({"planes": [1], "rows": {"heldout": 1}}) == [
        "1 held-out row is too few to tell methods apart."]


def test_comparisons_without_a_figure_are_counted_and_left_out(tmp_path):
    folder = make_folder(tmp_path, methods=("sft", "raft", "sdft"))
    found = render.again(folder)
    for one in found["planes"]:
        one["comparisons"][0] |= {"losses": None, "scores": None, "score_at": [], "loss_at": [],
                                  "mean_score": {"mean": None, "low": None, "high": None, "p": None}}
    render.write(found, folder)
    page, table = (folder / "index.html").read_text(), (folder / "RESULTS.md").read_text()
    first, second = (one["method"] for one in found["planes"][0]["comparisons"])
    count = len(found["planes"])
    assert f"{count} comparisons, and {count} left out" in page
    assert f"{first} against sft" not in page
    assert f"{second} against sft" in page
    frontiers = table.split("## Frontiers")[1].split("##")[0]
    assert f"{count} comparisons left out" in frontiers
    assert f"| {first} | sft |" not in frontiers
    assert "· step 30 · 1 seed |" in table


@pytest.mark.parametrize(("low", "high", "more", "said"), [
    (0.1, 0.2, True, "yes"), (0.1, 0.2, False, "no"), (-0.2, -0.1, False, "yes"),
    (-0.1, 0.2, True, "undecided"), (0.0, 0.2, True, "undecided"), (None, None, True, "undecided")])
def test_decide(low, high, more, said):
    assert decide({"low": low, "high": high}, 10, more) == said
    assert decide({"low": low, "high": high}, 9, more) == "undecided"


def test_the_share_saved_at_equal_gain_by_hand():
    """The rival pays 0.2 for a gain of 0.5; 0.05 less is a quarter of it."""
    found = {"methods": {"sft": {"frontier": [[0, 0], [0.4, 1.0]]}}}
    assert _share(found, "sft", {"score": 0.5, "mean": -0.05}) == " (−25 %)"


def test_methods_that_differ_in_one_option():
    raft = {"distillation": True, "teacher_sees_answer": True, "balance": "ema", "fixed_lambda": 1.0,
            "tau": 0.8, "learning_rate": 1e-5, "seed": 0}
    methods = {"sft": raft | {"distillation": False}, "fixed": raft | {"balance": "fixed"}, "raft": raft,
               "tau0": raft | {"tau": 0.0, "learning_rate": 2e-5},
               "both": raft | {"tau": 0.0, "balance": "x"}}
    assert [(one["method"], one["reference"], one["option"], one["value"]) for one in twins(methods)] == [
        ("sft", "raft", "distillation", False), ("fixed", "raft", "balance", "fixed 1"),
        ("tau0", "raft", "tau", 0.0), ("both", "tau0", "balance", "x")]
    assert twins({"sft": methods["sft"]}) == []
    blind = methods["fixed"] | {"teacher_sees_answer": False}  # two options from raft, one from its twin
    assert [(one["method"], one["reference"], one["option"]) for one in twins(
        {"raft": raft, "fixed": methods["fixed"], "blind": blind})] == [
        ("fixed", "raft", "balance"), ("blind", "fixed", "teacher_sees_answer")]


def test_behaviour_and_distance_come_from_what_is_on_disk(tmp_path):
    found = render.again(make_folder(tmp_path, methods=("sft", "raft"), seeds=2))
    answered = {group.title: group for group in groups(found)}
    learnt = answered["How it answers"]
    base, sft, _ = learnt.rows
    labels = [column.label for column in learnt.columns]
    cells = dict(zip(labels, sft.cells, strict=True))
    assert dict(zip(labels, base.cells, strict=True))["cut off, held-out"].value == "25\u00a0%"
    assert cells["refused, general"].value == "8\u00a0%"
    assert cells["words, held-out"].judgement == "moved"
    assert sft.where == "3e-05 · step 30 · 2 seeds"
    point = json.loads(next((tmp_path / "cells").glob("sft-lr3e-05-seed0*/point-000030.json")).read_text())
    assert found["best"]["sft"]["weights"] == pytest.approx(point["extra"]["weights"]["all"])
    assert answered["The trained questions in other words"].rows[2].cells[1].judgement == "better"


def test_rows_that_all_change_alike_are_judged_by_p():
    stat = {"mean": 1.0, "low": None, "high": None, "n": 20, "p": 0.0005}
    best = {"learning_rate": 1e-5, "step": 9, "seeds": 1, "means": {"domain.jury": 1.0}}
    found = {"base": {"means": {"domain.jury": 0.0}}, "best": {
        name: best | {"changes": {"domain.jury": stat | {"p": p}}} for name, p in (("a", 0.001), ("b", 0.5))}}
    _, sure, unsure = groups(found)[0].rows
    assert (sure.cells[0].judgement, unsure.cells[0].judgement) == ("better", "")
    assert sure.cells[0].change == "+100\u00a0%"


def test_a_method_without_a_measure_leaves_the_others_compared(tmp_path):
    """A LoRA adapter that is not merged has no distance of its own."""
    folder = make_folder(tmp_path, methods=("sft", "raft", "raft_gradient"))
    for path in (tmp_path / "cells").glob("raft_gradient-*/point-*[0-9].json"):
        point = json.loads(path.read_text())
        path.write_text(json.dumps(point | {"extra": {"weights": None}}))
    found = render.again(folder)
    assert answers(found, "weights nearer") == {"raft": ["yes"]}
    (moved,) = [one for one in found["planes"] if one["loss"] == "weights.distance"]
    assert moved["left_out"] == ["raft_gradient"]


def test_page_and_tables_say_the_same_and_escape(tmp_path, monkeypatch, capsys):
    make_folder(tmp_path, methods=("sft", "raft"), hostile=HOSTILE)
    monkeypatch.setattr(sys, "argv", ["render", str(tmp_path)])
    render.main()
    assert "index.html" in capsys.readouterr().out
    page, table = (tmp_path / "index.html").read_text(), (tmp_path / "RESULTS.md").read_text()
    found = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    for finding in findings(found):
        for line in finding.lines:
            assert str(escape(line.evidence)) in page
            assert f"- {line.method}: **{line.answer}**. {markdown(line.evidence)}." in table
    assert "<script" not in page
    assert "&lt;script" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "What is number" in page
    again = json.loads(json.dumps(render.again(tmp_path)))
    assert again["planes"] == found["planes"]  # a second rendering changes nothing


def test_every_finished_cell_is_there_whichever_command_made_it(tmp_path):
    """results.json knows of the last command's cells; a later run of a cell stands for the earlier one, and
    cells on other rows are left out."""
    folder = make_folder(tmp_path, methods=("sft", "raft", "sdft"))
    before = json.loads((folder / "results.json").read_text())
    last = [cell for cell in before["cells"] if cell["method"] == "sft"]
    (folder / "results.json").write_text(json.dumps(before | {
        "cells": last, "command": "python -m benchmarks.quality --methods sft --data 'my rows' --seeds=0"}))
    (again,) = (folder / "cells").glob("raft-lr1e-05*")
    shutil.copytree(again, again.with_name(f"{again.name[:-10]}9999999999"))
    about = json.loads((again / "cell.json").read_text())
    later = again.with_name(f"{again.name[:-10]}9999999999") / "cell.json"
    later.write_text(json.dumps(about | {"folder": later.parent.name}))
    for path in (folder / "cells").glob("sdft-*/point-*[0-9].json"):
        point = json.loads(path.read_text())
        point["values"]["own.kl"].pop()
        path.write_text(json.dumps(point))
    found = render.again(folder)
    assert later.parent.name in {cell["folder"] for cell in found["cells"]}
    assert {cell["method"] for cell in found["cells"]} == {"sft", "raft"}
    assert len(found["cells"]) == 4
    assert cells_done(found) == "4 of 6 cells"
    assert found["command"] == "python -m benchmarks.quality --data 'my rows'"


def test_what_speaks_against_a_method_is_told_too(tmp_path):
    """Token F1 may fall though the model drifts less; and general text need not get worse."""
    folder = make_folder(tmp_path, methods=("sft", "raft"))
    for path in (folder / "cells").glob("raft-*/point-*[0-9].json"):
        point = json.loads(path.read_text())
        dice = np.random.default_rng(0)
        point["values"]["domain.token_f1"] = [[one * 0.5 * dice.random(), 1.0]
                                              for one, _ in point["values"]["domain.token_f1"]]
        point["values"]["text.nll"] = [[one - 40 * dice.random(), 40]
                                       for one, _ in point["values"]["text.nll"]]
        path.write_text(json.dumps(point))
    found = render.again(folder)
    lines = [line for one in findings(found) if one.name == "differs" for line in one.lines]
    assert {(line.method, line.answer) for line in lines} == {("raft", "better and worse")}
    for line in lines:
        better, worse = line.evidence.split("; ")[:2]
        assert "better: KL from base, nats per token −" in better
        assert ", token F1 −" in worse
    assert answers(found, "worse in general") == {"sft": ["yes"], "raft": ["undecided"]}
    render.write(found, folder)
    assert "token F1 ↑" in (folder / "RESULTS.md").read_text().split("## At equal learning rate")[1]


def test_a_suite_that_has_grown_says_how_much_is_missing(tmp_path, monkeypatch):
    folder, suite = make_folder(tmp_path / "run", methods=("sft", "raft")), tmp_path / "mine.yaml"
    suite.write_text("learning_rates: [1.0e-5, 2.0e-5, 3.0e-5]\nmethods: {sft: {}}")
    monkeypatch.setattr(sys, "argv", ["render", str(folder), "--suite", str(suite)])
    render.main()
    said = "2 of 3 cells and 2 that the suite no longer has"
    assert said in (folder / "RESULTS.md").read_text()
    assert said in (folder / "index.html").read_text()


def test_a_folder_without_a_comparison_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["render", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        render.main()
    assert stopped.value.code == 2
    assert "no such file" in capsys.readouterr().err
