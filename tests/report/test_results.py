"""One function makes rows of evaluation.json: for the terminal, the page and the model card."""

import json

import pytest
from evaluation.evaluation_stubs import OverlapEncoder, StubEngine, make_rows

from raft_fast.evaluation import evaluate
from raft_fast.evaluation.scores import compare_pairs
from raft_fast.report.cards import write_model_card
from raft_fast.report.page import write_run_report
from raft_fast.report.results import counted, duration, judgement, percent, print_table, rows, short, value
from raft_fast.run.options import EvaluateOptions
from raft_fast.run.progress import Reporter


def mean(number, low=None, high=None, n=12):
    return {"mean": number, "low": low, "high": high, "n": n}


def test_terminal_page_and_card_show_the_same_rows(run_dir, capsys):
    result = json.loads((run_dir / "evaluation.json").read_text())
    metric = result["domain"]["metrics"]["number_f1"]  # as of rows without numbers
    for model in ("base", "trained", "change"):
        metric[model] |= {"mean": None, "low": None, "high": None, "n": 0}
    (run_dir / "evaluation.json").write_text(json.dumps(result))
    print_table(result | {"general": None, "general_skipped": "no\x1b[2J network"})
    out = capsys.readouterr().out
    assert "General behaviour was left out: no" in out
    assert "\x1b" not in out
    print_table(result)
    for text in (capsys.readouterr().out, write_run_report(run_dir).read_text(),
                 write_model_card(run_dir).read_text()):
        for row in rows(result):
            assert row.label in text
            assert all(cell in text for cell in row[2:6])
        assert "Agreement of numbers" not in text
    f1 = result["domain"]["metrics"]["token_f1"]
    (row,) = [row for row in rows(result) if row.label == "Token F1"]
    assert (row.base, row.trained, row.n) == (value(f1["base"]["mean"]), value(f1["trained"]["mean"]), "24")
    assert row.difference == value(f1["change"]["mean"], signed=True)
    assert row.judgement == "better"


def test_paraphrases_have_their_rows(tmp_path):
    reworded = [{"row_id": row.row_id, "question": f"So, {row.prompt[-1]['content']}", "answer": row.gold}
                for row in make_rows(12)]
    (tmp_path / "reworded.jsonl").write_text("\n".join(map(json.dumps, reworded)))
    options = EvaluateOptions(general_prompts=-1, paraphrases=str(tmp_path / "reworded.jsonl"))
    found = evaluate(StubEngine(lambda asked: "It depends."), StubEngine(str), make_rows(12), options,
                     OverlapEncoder(), Reporter(), tmp_path)
    assert list(dict.fromkeys(row.part for row in rows(found))) == [
        "Domain: held-out questions", "Domain: trained questions reworded"]


def test_drift_by_hand():
    nll = {"base": mean(0.7), "trained": mean(0.9), "change": mean(0.2, 0.1, 0.3)}
    part = {"texts": 12, "tokens": 99, "kl": mean(0.12, 0.1, 0.14), "nll": nll}
    kl, own, _, text = rows({"domain": None, "general": None, "drift": {"own": part, "text": part}})
    assert (kl.base, kl.trained, kl.difference, kl.interval) == ("", "0.120", "", "[0.100, 0.140]")
    assert own.label == "NLL of the base's own answers, nats per token ↓"
    assert [row.judgement for row in (kl, own, text)] == ["", "worse", "worse"]
    assert rows({}) == []


@pytest.mark.parametrize(("base", "trained", "more", "said"), [
    (0, 1, {}, "better"), (1, 0, {}, "worse"), (0, 1, {"higher_is_better": False}, "worse"),
    (0, 0, {}, "same")])
def test_rows_that_all_change_alike_are_beyond_noise(base, trained, more, said):
    found = compare_pairs([(float(base), 1.0)] * 20, [(float(trained), 1.0)] * 20)
    assert found["change"]["low"] is None
    assert judgement(found | {"higher_is_better": True} | more) == said


@pytest.mark.parametrize(("low", "high", "more", "said"), [
    (0.1, 0.2, {}, "better"), (0.1, 0.2, {"higher_is_better": False}, "worse"),
    (0.0, 0.2, {}, "within noise"), (-0.1, 0.2, {}, "within noise")])
def test_a_change_is_judged_by_its_interval(low, high, more, said):
    metric = {"change": mean(0.1, low, high, 10), "higher_is_better": True} | more
    assert judgement(metric) == said
    assert judgement(metric | {"change": mean(0.1, low, high, 9)}) == "too few rows"
    assert judgement(metric | {"change": mean(None, None, None, 0)}) == ""


def test_numbers_as_text():
    assert [value(number, True) for number in (-0.0004, 0.0004, -0.02, 0.02, None)] == [
        "0.000", "0.000", "−0.020", "+0.020", "–"]
    assert [short(number) for number in (0.00512, 0.512, 0, None)] == ["0.0051", "0.512", "0.000", "–"]
    assert percent(-0.001) == "0\u00a0%"
    assert [counted(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]
    assert [duration(seconds) for seconds in (1.25, 119.6, 7260)] == ["1.2 s", "2 min 00 s", "2 h 01 min"]
