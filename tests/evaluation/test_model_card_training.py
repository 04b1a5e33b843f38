"""The model card says how the model was made: the method, what had a part in it, and how much."""

import json

import pytest
import yaml
from evaluation_stubs import fabricate_run, fake_ifbench

from raft_fast.report.model_card import write_model_card
from raft_fast.report.run_report import write_report
from raft_fast.report.table import print_table

OPTIONS = {"sft": True, "judge_stop": 0.8, "balance": "ema", "ema_beta": 0.9, "fixed_lambda": 1.0,
           "num_train_epochs": 3, "max_steps": -1, "use_peft": False, "lora_r": 16}
LORA = {"use_peft": True, "lora_r": 4, "lora_alpha": 8}
PLAIN = {"data_source": "gold", "distillation": False}


@pytest.fixture
def run_dir(tmp_path):
    return fabricate_run(tmp_path / "myrun", fake_ifbench(tmp_path / "wheel"))


def card(run_dir, stage1=True, **changed):
    """The card of the run with these options, with or without the summary of stage 1."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config | OPTIONS | changed))
    if not stage1:
        (run_dir / "refine/summary.json").unlink()
        (run_dir / "refine/decisions.jsonl").unlink()
    return write_model_card(run_dir).read_text()


def options(text):
    return {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}


def tags(text):
    return yaml.safe_load(text.split("---\n")[1])["tags"]


def test_a_merged_adapter_is_told(run_dir):
    text = card(run_dir, **LORA)
    assert "LoRA adapter of rank 4 that is merged" in text
    assert options(text) >= set(LORA)
    assert tags(text) == ["raft", "lora"]
    assert not options(card(run_dir)) & set(LORA)


@pytest.mark.parametrize(("changed", "said", "tag"), [
    ({}, "trained on a domain by RAFT ([arXiv", "raft"),
    (PLAIN, "by supervised fine-tuning on gold answers, with", "sft"),
    ({"distillation": False}, "fine-tuning on answers refined by the first stage of RAFT", "raft"),
    ({"data_source": "gold"}, "by the second stage of RAFT ([arXiv 2606.00147]", "raft"),
    ({"sft": False}, "by the distillation of RAFT", "raft")])
def test_the_method_is_what_was_on(run_dir, changed, said, tag):
    text = card(run_dir, **changed)
    assert said in text
    assert tags(text) == [tag]
    assert (changed == PLAIN) == ("RAFT" not in text)


def test_weights_chosen_on_held_out_rows_are_said_to_be(run_dir):
    assert "a little too good" not in card(run_dir)
    assert "a little too good" in card(run_dir, load_best_model_at_end=True)
    assert "a little too good" in write_report(run_dir).read_text()


def test_options_without_a_part_are_left_out(run_dir):
    stage1, teaching = {"tau", "fusion_rounds", "judge_stop"}, {"teacher_top_k", "balance", "ema_beta"}
    assert options(card(run_dir)) >= stage1 | teaching | {"num_train_epochs"}
    assert not options(card(run_dir, balance="fixed")) & {"ema_beta"}
    assert "fixed_lambda" in options(card(run_dir, balance="fixed"))
    assert not options(card(run_dir, sft=False)) & {"balance", "ema_beta"}
    assert not options(card(run_dir, data_source="rewrite")) & {"fusion_rounds", "judge_stop"}
    assert {"max_steps", "num_train_epochs"} & options(card(run_dir, max_steps=60)) == {"max_steps"}
    assert {"max_steps", "num_train_epochs"} & options(card(run_dir)) == {"num_train_epochs"}
    assert not options(card(run_dir, stage1=False, **PLAIN)) & (stage1 | teaching)


def test_rows_steps_and_tokens_are_counted(run_dir):
    steps = [{"step": step, "tokens": 700, "trajectory_tokens": 90, "rows_seen": 4 * step, "kl_loss": 1}
             for step in (1, 2)]
    (run_dir / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    assert ("Trained on 8 rows in 2 optimizer steps on 1,400 tokens, prompts included, 180 of them the "
            "student's own words.") in card(run_dir)
    (run_dir / "metrics.jsonl").write_text(json.dumps({"step": 1, "tokens": 700}))
    assert "Trained in 1 optimizer step on 700 tokens, prompts included." in card(run_dir)


def test_gold_answers_are_said_to_be_what_was_trained_on(run_dir):
    text, page = card(run_dir, stage1=False, data_source="gold"), write_report(run_dir).read_text()
    assert "- It was trained on the gold answers" in text
    assert "Trained on the gold answers" in page
    for missing in ("left no summary", "No refine/decisions.jsonl"):
        assert missing not in text + page


def test_what_no_row_has_is_left_out(run_dir, capsys):
    result = json.loads((run_dir / "evaluation.json").read_text())
    metric = result["domain"]["metrics"]["reference_f1"]
    for model in ("base", "trained", "change"):
        metric[model] |= {"mean": None, "low": None, "high": None, "n": 0}
    (run_dir / "evaluation.json").write_text(json.dumps(result))
    print_table(result)
    for text in (card(run_dir), write_report(run_dir).read_text(), capsys.readouterr().out):
        assert "legal references" not in text
        assert "Agreement of numbers" in text
