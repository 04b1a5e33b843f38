"""One function makes rows of evaluation.json: for the terminal, the page and the model card."""

import json

import pytest
from evaluation.evaluation_stubs import OverlapEncoder, StubEngine, make_rows

from raft_fast.evaluation import evaluate
from raft_fast.report.page import write_model_card, write_run_report
from raft_fast.report.results import duration, judgement, percent, print_table, tables, value
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
        assert all(cell in text for lines in tables(result).values() for line in lines for cell in line)
        assert "Agreement of numbers" not in text
    f1 = result["domain"]["metrics"]["token_f1"]
    label, *means, interval, n, said = tables(result)["Domain: held-out questions"][0]
    assert means == [value(f1["base"]["mean"]), value(f1["trained"]["mean"]),
                     value(f1["change"]["mean"], signed=True)]
    assert (label, interval[0], n, said) == ("Token F1", "[", "24", "better")


def test_reworded_questions_have_a_table_of_their_own(tmp_path):
    reworded = [{"row_id": row.row_id, "question": f"So, {row.prompt[-1]['content']}", "answer": row.gold}
                for row in make_rows(12)]
    (tmp_path / "reworded.jsonl").write_text("\n".join(map(json.dumps, reworded)))
    options = EvaluateOptions(general_prompts=-1, paraphrases=str(tmp_path / "reworded.jsonl"))
    found = evaluate(StubEngine(str), StubEngine(str), make_rows(12), options, OverlapEncoder(), Reporter(),
                     tmp_path)
    assert list(tables(found)) == ["Domain: held-out questions", "Domain: trained questions reworded"]


def test_drift_by_hand():
    nll = {"base": mean(0.7), "trained": mean(0.9), "change": mean(0.2, 0.1, 0.3)}
    part = {"texts": 12, "tokens": 99, "kl": mean(0.12, 0.1, 0.14), "nll": nll}
    (kl, own, *_), = tables({"domain": None, "general": None, "drift": {"own": part, "text": part}}).values()
    assert kl[1:] == ("", "0.120", "", "[0.100, 0.140]", "12", "")
    assert own == ("NLL of the base's own answers, nats per token ↓", "0.700", "0.900", "+0.200",
                   "[+0.100, +0.300]", "12", "worse")
    assert tables({}) == {}


@pytest.mark.parametrize(("low", "high", "n", "better", "said"), [
    (0.1, 0.2, 10, True, "better"), (0.1, 0.2, 10, False, "worse"), (0.1, 0.2, 9, True, "too few rows"),
    (0.0, 0.2, 10, True, "within noise"), (-0.1, 0.2, 10, True, "within noise"), (None, None, 0, True, ""),
    (None, None, 10, True, "better"), (None, None, 10, False, "worse")])  # rows that all change alike
def test_a_change_is_judged_by_its_interval(low, high, n, better, said):
    assert judgement({"change": mean(0.1, low, high, n), "higher_is_better": better}) == said
    assert judgement({"change": mean(0.0, n=10), "higher_is_better": better}) == "same"


def test_numbers_as_text():
    assert [value(number, True) for number in (-0.00512, 0.0004, -0.2, 0.0, None)] == [
        "−0.0051", "+0.0004", "−0.200", "0.000", "–"]
    assert percent(-0.001) == "0\u00a0%"
    assert [duration(seconds) for seconds in (1.25, 119.6, 7260)] == ["1.2 s", "2 min 00 s", "2 h 01 min"]
