"""The program as a user runs it, on a tiny random model: raw rows to report, and what can go wrong."""

import json
import os
import subprocess
import sys
from itertools import chain

import golden
import pyarrow.parquet as pq
import pytest
import yaml
from golden import documented
from home import RUN
from tiny import make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from raft_fast.run.config import DROPPED, INSTEAD
from raft_fast.run.folder import LOCK, only_process

HERE = ["--data", "rows.jsonl", "--model", "model", "--encoder", "encoder", *RUN]
EVALUATE = ["--general_prompts", "-1", "--eval_max_new_tokens", "8", "--encoder", "encoder"]


def keys_are_documented(run):
    """docs/FILES.md names every key that a run writes, and none but those of options that this one lacks."""
    lacking = {"evaluation.json": {"paraphrases"}}
    for name in ("metrics.jsonl", "evaluation.json", "evaluations.jsonl", "completions.jsonl", "phases.json",
                 "inputs.json"):
        text = (run / name).read_text()
        found = [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)
        keys = {key for record in (found if isinstance(found, list) else [found]) for key in record}
        assert documented(name) - lacking.get(name, set()) == keys, name


@pytest.fixture(scope="module")
def run_dir(home):
    """Of a process of its own, as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "raft_fast.train", *HERE, "--output_dir", "run"], cwd=home, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "RAFT_FAST_CACHE": str(home / "cache")},
        capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return home / "run"


def test_a_run_is_as_it_is_written_down(run_dir):
    """Files, columns, keys, options, and the metrics of the same seed; see golden.py."""
    found, want = golden.facts(run_dir), json.loads(golden.FILE.read_text())
    for entry, names in found.pop("options").items():
        # new on purpose: `prompts`, once --eval_prompts and --paraphrase_prompts, and `precision`
        assert {one[2:] for one in {*names} ^ {*want["options"][entry]}} <= {
            *DROPPED, *INSTEAD, "prompts", "precision"}
    del want["options"]
    steps = [[step.items() for step in side.pop("metrics")] for side in (found, want)]
    for (key, value), (name, other) in zip(*map(chain.from_iterable, steps), strict=True):
        # processors round differently
        assert (key, value) == (name, pytest.approx(other, rel=1e-4) if isinstance(other, float) else other)
    assert found == want


def test_what_a_run_leaves(home, run_dir):
    """Rows held out are not trained on; the bad row is named; JSON is strict; the model loads, and is new."""
    held, refined = (pq.read_table(run_dir / name).to_pylist() for name in ("heldout.parquet",
                                                                            "refine/refined.parquet"))
    assert {row["category"] for row in held} == {row["category"] for row in refined} == {"a", "b"}
    assert len({row["row_id"] for row in [*held, *refined]}) == len(held) + len(refined) == 12
    rejected = json.loads((run_dir / "rejected.jsonl").read_text())
    assert (rejected["file"], rejected["line"]) == ("rows.jsonl", 13)
    for name in ("metrics.jsonl", "refine/decisions.jsonl", "generations.jsonl", "evaluation.json"):
        text = (run_dir / name).read_text()
        for line in text.splitlines() if name.endswith("jsonl") else [text]:
            json.loads(line, parse_constant=lambda constant: pytest.fail(constant))
    trained, base = (AutoModelForCausalLM.from_pretrained(folder / "model") for folder in (run_dir, home))
    assert AutoTokenizer.from_pretrained(run_dir / "model").chat_template
    assert any((a != b).any() for a, b in zip(trained.parameters(), base.parameters(), strict=True))


def test_the_same_command_goes_on_and_others_are_refused(run_dir, command):
    kept = [run_dir / name for name in ("metrics.jsonl", "refine/journal.jsonl")]
    before = [file.read_bytes() for file in kept]
    assert "is finished" in command("train", *HERE, "--output_dir", "run")
    (run_dir / "evaluation.json").unlink()
    assert "Going on" in command("train", *HERE, "--output_dir", "run")
    assert [file.read_bytes() for file in kept] == before
    said = command("train", *HERE, "--output_dir", "run", "--learning_rate", "0.5", code=2)
    assert "learning_rate is 5e-06 there and 0.5 here" in said
    before = {file: file.stat().st_mtime_ns for file in run_dir.rglob("*") if file.name != LOCK}
    with only_process(run_dir):
        said = command("train", *HERE, "--output_dir", "run", code=2)
    assert "--output_dir run: another process is at work in it" in said
    assert {file: file.stat().st_mtime_ns for file in run_dir.rglob("*") if file.name != LOCK} == before


def test_the_config_runs_it_again(home, run_dir, command):
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["teacher_top_k"] == 16
    command("train", "--config", "run/config.yaml", "--output_dir", "twin", "--general_prompts", "-1")
    one, two = ([[json.loads(line)[key] for key in ("loss", "lambda", "kl_loss")]
                 for line in (home / name / "metrics.jsonl").read_text().splitlines()]
                for name in ("run", "twin"))
    assert one == two


def test_a_lora_run_is_trained_resumed_and_evaluated_like_any_other(home, command):
    options = [*HERE, "--output_dir", "lora", "--data_source", "gold", "--use_peft", "true",
               "--learning_rate", "0.01", "--eval_steps", "1", "--eval_general_prompts", "0",
               "--load_best_model_at_end", "true", "--log_completions", "true"]
    assert "needed beyond the models" in command("train", *options)
    evaluations = [json.loads(line) for line in (home / "lora/evaluations.jsonl").read_text().splitlines()]
    best = min(evaluations, key=lambda line: line["eval_domain_nll"])
    assert (home / f"lora/best/step-{best['step']:06d}/model/adapter_model.safetensors").is_file()
    keys_are_documented(home / "lora")
    for name in ("evaluation.json", "model/model.safetensors"):
        (home / "lora" / name).unlink()
    command("train", *options)  # nothing left to train: saved and evaluated again
    assert (home / "lora/adapter/adapter_model.safetensors").is_file()
    command("evaluate", "--model", "lora/model", *EVALUATE)
    run, alone = (json.loads((home / folder / "evaluation.json").read_text())["domain"]["metrics"]["nll"]
                  for folder in ("lora", "evaluations/lora"))
    for model, during in (("base", evaluations[0]), ("trained", best)):
        assert run[model]["mean"] == pytest.approx(alone[model]["mean"], rel=1e-5)
        assert run[model]["mean"] == pytest.approx(during["eval_domain_nll"], rel=1e-5)


def test_stages_run_alone(home, run_dir, command):
    command("refine", *HERE[:6], "--output_dir", "refined", "--tau", "-1", "--fusion_rounds", "1",
            "--rewrite_max_new_tokens", "24")
    assert "holds a training run" in command("refine", *HERE[:6], "--output_dir", "run", code=2)
    command("train", "--data", "run/refine/refined.parquet", "--heldout_data", "run/heldout.parquet",
            *HERE[2:-2], "--output_dir", "from_refined")
    assert not (home / "from_refined/refine").exists()
    held = [pq.read_table(home / name / "heldout.parquet")["row_id"] for name in ("from_refined", "run")]
    assert held[0] == held[1]
    for model, name in (("run/model", "run"), ("run/checkpoints/step-000002/model", "run-step-000002")):
        command("evaluate", "--model", model, *EVALUATE)
        assert json.loads((home / f"evaluations/{name}/evaluation.json").read_text())
    said = command("evaluate", "--model", "run/checkpoints/step-000002", code=2)
    assert "is a checkpoint; its model is run/checkpoints/step-000002/model" in said


@pytest.mark.parametrize(("options", "said"), [
    (["--data", "nowhere.jsonl"], "--data nowhere.jsonl: no such file"),
    (["--max_bad_rows", "0"], "rows.jsonl, line 13"),
    (["--model", "nowhere/model"], "--model nowhere/model"), (["--model", "bert"], "bert"),
    (["--fuser", "http://127.0.0.1:9/v1"], "127.0.0.1:9"),
    (["--teacher", "other", "--data_source", "gold"], "different tokenizers"),
], ids=str)
def test_bad_input_is_one_line_and_exit_code_2(home, tmp_path, command, options, said):
    other = make_tokenizer()
    other.add_tokens(["<new>"])
    other.save_pretrained(home / "other")
    make_model(vocab_size=261).save_pretrained(home / "other")
    lines = command("train", *HERE, "--output_dir", str(tmp_path / "run"), *options, code=2).splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert said in lines[-1]
