"""What a report shows beside domain and general: paraphrases, lm-eval, drift, behaviour."""

import json

from evaluation.evaluation_stubs import OverlapEncoder, StubEngine, make_rows

from raft_fast.evaluation import evaluate
from raft_fast.report.run_report import write_report
from raft_fast.report.score_tables import score_tables
from raft_fast.report.table import print_table
from raft_fast.run.options import EvaluateOptions
from raft_fast.run.progress import Reporter


def mean(value, low=None, high=None, n=12):
    return {"mean": value, "low": low, "high": high, "n": n}


def test_paraphrases_have_their_table_and_report(tmp_path, capsys):
    reworded = [{"row_id": row.row_id, "question": f"So, {row.prompt[-1]['content']}", "answer": row.gold}
                for row in make_rows(12)]
    (tmp_path / "reworded.jsonl").write_text("\n".join(map(json.dumps, reworded)))
    options = EvaluateOptions(general_prompts=-1, paraphrases=str(tmp_path / "reworded.jsonl"))
    base, trained = StubEngine(lambda asked: "It depends.", "base"), StubEngine(str, "trained")
    found = evaluate(base, trained, make_rows(12), options, OverlapEncoder(), Reporter(), tmp_path)
    titles = [table["title"] for table in score_tables(found)]
    assert titles == ["Domain: held-out questions", "Domain: trained questions in other words",
                      "How it answers"]
    print_table(found)
    assert "Token F1 (reworded)" in capsys.readouterr().out
    page = write_report(tmp_path).read_text()
    assert all(title in page for title in titles)


def test_drift_and_other_suites_by_hand():
    nll = {"base": mean(0.7), "trained": mean(0.9), "change": mean(0.2, 0.1, 0.3)}
    part = {"texts": 12, "tokens": 99, "kl": mean(0.12, 0.1, 0.14), "agreement": mean(0.9), "nll": nll}
    score = {"base": {"mean": 0.25, "stderr": 0.02}, "trained": {"mean": 0.2, "stderr": None},
             "higher_is_better": True, "change": mean(-0.05, -0.09, -0.01, 541), "p": 0.01}
    lm_eval, drift = score_tables({
        "domain": None, "general": None, "drift": {"own": part, "text": part, "weights": {"all": 0.0051}},
        "lm_eval": {"tasks": {"ifeval": {"prompt_level_strict_acc,none": score}}}})
    (row,) = lm_eval["rows"]
    assert (row["label"], row["judgement"], row["n"]) == ("ifeval, prompt_level_strict_acc", "worse", "541")
    assert row["base"] == {"mean": "0.250", "interval": "± 0.020"}
    assert row["trained"]["interval"] == ""
    assert [one["judgement"] for one in drift["rows"]] == ["", "worse", "", "worse", ""]
    assert drift["rows"][1]["label"] == "Negative log-likelihood of the base's own answers, nats per token"
    assert drift["rows"][-1]["trained"]["mean"] == "0.0051"


def test_nothing_measured_is_no_table():
    assert score_tables({}) == []
