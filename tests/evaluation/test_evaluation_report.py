import json
import re
import shutil

import pytest
import yaml
from evaluation_stubs import (
    OverlapEncoder,
    StubEngine,
    fabricate_run,
    fake_ifbench,
    make_rows,
)

from raft_fast.evaluation import evaluate
from raft_fast.evaluation.statistics import paired_change, paired_p
from raft_fast.report.model_card import write_model_card
from raft_fast.report.names import judgement
from raft_fast.report.run_report import write_report
from raft_fast.report.table import print_table
from raft_fast.report.text import counted, duration, hundredths, percent, value
from raft_fast.run.errors import UserError
from raft_fast.run.options import EvaluateOptions
from raft_fast.run.progress import Reporter

STAGE1_PLOTS = 7
ATTACK = '<script>alert("x")</script> & $x_n$ '


@pytest.fixture
def ifbench(tmp_path):
    return fake_ifbench(tmp_path / "wheel")


@pytest.fixture
def run_dir(tmp_path, ifbench):
    return fabricate_run(tmp_path / "myrun", ifbench)


def load(path):
    """JSON that refuses NaN and Infinity."""
    def refuse(name):
        raise AssertionError(f"{name} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_evaluation_json_and_generations(run_dir):
    result = load(run_dir / "evaluation.json")
    f1 = result["domain"]["metrics"]["token_f1"]
    assert f1["trained"]["mean"] > f1["base"]["mean"]
    assert f1["change"]["mean"] == pytest.approx(f1["trained"]["mean"] - f1["base"]["mean"])
    assert f1["base"]["n"] == 24
    assert result["domain"]["metrics"]["nll"]["base"]["mean"] == pytest.approx(3.1)
    general = result["general"]
    assert (general["prompts"], general["prompts_total"]) == (2, 6)
    assert general["left_out"]["prompts"] == 1
    assert general["left_out"]["not_in_slice"] == 3
    lines = [json.loads(line) for line in (run_dir / "generations.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * (24 + 2)
    assert {(line["suite"], line["model"]) for line in lines} == {
        (suite, model) for suite in ("domain", "general") for model in ("base", "trained")}


def test_retention_is_null_where_the_base_has_nothing(tmp_path, ifbench):
    silent, wordy = StubEngine(lambda text: ""), StubEngine(lambda text: "a b c d.")
    result = evaluate(silent, wordy, make_rows(3), EvaluateOptions(),
                      OverlapEncoder(), Reporter(), tmp_path / "out",
                      ifbench=ifbench)
    assert result["general"]["metrics"]["strict_prompt"]["retention"] is None
    assert load(tmp_path / "out/evaluation.json")["general"]["prompts"] == 5
    print_table(result)
    lost = evaluate(wordy, StubEngine(lambda text: "a b c"), make_rows(3), EvaluateOptions(),
                    OverlapEncoder(), Reporter(), tmp_path / "out", ifbench=ifbench)
    metrics = lost["general"]["metrics"]
    assert metrics["strict_prompt"]["retention"] == pytest.approx(1 / 2)  # of prompts 0 and 1
    assert metrics["strict_instruction"]["retention"] == pytest.approx(2 / 3)
    assert metrics["strict_prompt"]["change"]["mean"] == pytest.approx(-1 / 5)


def test_without_a_general_suite_the_rest_is_measured_and_the_reason_said(tmp_path):
    result = evaluate(StubEngine(str), StubEngine(str), make_rows(3), EvaluateOptions(),
                      OverlapEncoder(), Reporter(), tmp_path, ifbench=tmp_path / "nowhere")
    assert result["general"] is None
    assert "no such file" in result["general_skipped"]
    print_table(result)
    assert "General behaviour was left out" in write_report(tmp_path).read_text()


def test_report_is_self_contained(run_dir):
    page = write_report(run_dir).read_text()
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert "@import" not in page
    assert "One model plays fuser and judge" in page
    assert page.count("<svg") == 6 + STAGE1_PLOTS + 2
    assert "missing\"" not in page.split("<main>")[1]
    assert "nan" not in re.sub(r"<[^>]*>", "", page.split("<main>")[1]).lower().split()


def test_svg_ids_are_unique(run_dir):
    ids = re.findall(r'\bid="([^"]*)"', write_report(run_dir).read_text())
    assert len(ids) == len(set(ids))


def test_what_data_holds_is_escaped(tmp_path, ifbench):
    folder = fabricate_run(tmp_path / "run", ifbench, hostile=ATTACK)
    page = write_report(folder).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    card = write_model_card(folder).read_text()
    assert "<script" not in card


@pytest.mark.parametrize(("name", "said"), [
    ("config.yaml", "No config.yaml"), ("refine", "No refine/decisions.jsonl"),
    ("metrics.jsonl", "No metrics.jsonl"), ("evaluation.json", "No evaluation.json"),
    ("generations.jsonl", "No generations.jsonl"), ("phases.json", "No phases.json")])
def test_a_missing_file_leaves_its_section_out(run_dir, name, said):
    path = run_dir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert said in write_report(run_dir).read_text()
    write_model_card(run_dir)


def test_an_empty_and_a_broken_folder_still_make_a_page(tmp_path):
    assert "has not been evaluated" in write_report(tmp_path).read_text()
    (tmp_path / "evaluation.json").write_text('{"domain"')
    assert "evaluation.json could not be read" in write_report(tmp_path).read_text()


def test_without_distillation_or_sft_only_what_was_on_is_drawn(run_dir):
    steps = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for off, plots in (("kl", 2 + STAGE1_PLOTS + 2), ("sft", 5 + STAGE1_PLOTS + 2)):
        nulls = {"kl": ("kl_loss", "lambda", "ce_kl_ratio", "teacher_mass"),
                 "sft": ("sft_loss", "ce_kl_ratio")}[off]
        (run_dir / "metrics.jsonl").write_text("".join(
            json.dumps(step | dict.fromkeys(nulls)) + "\n" for step in steps[:3]))
        page = write_report(run_dir).read_text()
        assert page.count("<svg") == plots
        assert ("Distillation was off" in page) == (off == "kl")


def test_a_run_of_one_step_states_its_values(run_dir):
    path = run_dir / "metrics.jsonl"
    path.write_text(path.read_text().splitlines()[0])
    page, one = write_report(run_dir).read_text(), json.loads(path.read_text())
    assert f"<b>{one['sft_loss']:.3f} at step 1</b>" in page
    assert page.count("<svg") == STAGE1_PLOTS + 2


def test_numbers_as_text():
    assert [value(number, True) for number in (-0.0004, 0.0004, -0.02, 0.02)] == [
        "0.000", "0.000", "−0.020", "+0.020"]
    assert [hundredths(number) for number in (-0.001, -0.2, None)] == ["0.00", "−0.20", "–"]
    assert percent(-0.001) == "0\u00a0%"
    assert [counted(number, "row") for number in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def test_model_card_has_front_matter_and_the_real_numbers(run_dir):
    text = write_model_card(run_dir).read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front["license"] == "apache-2.0"
    assert front["tags"] == ["raft"]
    f1 = load(run_dir / "evaluation.json")["domain"]["metrics"]["token_f1"]["trained"]["mean"]
    assert f"{f1:.3f}" in text
    assert "from_pretrained" in text or "pipeline(" in text


def test_model_card_names_no_folder_as_hub_model(run_dir):
    config = yaml.safe_load((run_dir / "config.yaml").read_text()) | {"model": "/some/where"}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    front = yaml.safe_load(write_model_card(run_dir).read_text().split("---\n")[1])
    assert "base_model" not in front
    assert "license" not in front


def test_model_card_needs_a_model(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        write_model_card(tmp_path)


def test_rows_that_all_change_alike_are_judged_by_p():
    """Twenty answers that become right leave a bootstrap no interval and a permutation test sure."""
    def metric(base, trained, better=True):
        pairs = [[(one, 1.0) for one in side] for side in (base, trained)]
        return {"change": paired_change(*pairs), "p": paired_p(*pairs), "higher_is_better": better}

    wrong, right = [0.0] * 20, [1.0] * 20
    assert metric(wrong, right)["change"]["low"] is None
    assert judgement(metric(wrong, right)) == "better"
    assert judgement(metric(right, wrong)) == judgement(metric(wrong, right, better=False)) == "worse"
    assert judgement(metric(wrong, wrong)) == "same"
    assert judgement(metric(wrong, right) | {"p": 0.05}) == "within noise"
    assert judgement(metric(wrong[:9], right[:9])) == "too few rows"


def test_judgement_and_duration():
    def metric(low, high, better=True, n=10):
        return {"change": {"mean": 0.1, "low": low, "high": high, "n": n},
                "higher_is_better": better}

    assert judgement(metric(0.1, 0.2)) == "better"
    assert judgement(metric(0.1, 0.2, better=False)) == "worse"
    assert judgement(metric(-0.1, 0.2)) == "within noise"
    assert judgement(metric(0.1, 0.2, n=9)) == "too few rows"
    assert judgement(metric(None, None, n=0)) == ""
    assert judgement(metric(None, None)) == "within noise"
    assert judgement(metric(0.0, 0.2) | {"p": 0.001}) == "within noise"  # the interval decides
    assert [duration(seconds) for seconds in (1.25, 119.6, 7260)] == [
        "1.2 s", "2 min 00 s", "2 h 01 min"]
