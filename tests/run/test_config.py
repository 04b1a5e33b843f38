"""YAML is the default, the command line wins, unknown keys fail with the nearest name."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

from raft_fast.run.config import DROPPED, parse, shipped
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_yaml, write_yaml
from raft_fast.run.option import check_needs, flat, named, needed
from raft_fast.run.options import ALL_GROUPS, RefineOptions, RefineRunOptions, TrainOptions

ROOT = Path(__file__).parents[2]
EVERY = {field.name: field for group in ALL_GROUPS for field in dataclasses.fields(group)}


def options(*argv, groups=(TrainOptions,)):
    return parse("train", "", list(groups), list(argv))[1]


def told(tmp_path, text, *argv):
    """Every option by its name, from a file with this text and a command line."""
    (tmp_path / "own.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return flat(options("--config", str(tmp_path / "own.yaml"), *argv, groups=ALL_GROUPS))


def test_defaults_are_the_papers_and_the_command_line_wins_over_the_file(tmp_path):
    train, refine = options(groups=(TrainOptions, RefineOptions))
    assert (train.distillation_temperature, train.teacher_top_k, train.ema_beta) == (1.5, 512, 0.9)
    assert (train.learning_rate, train.num_train_epochs, train.weight_decay) == (5e-6, 3, 0.01)
    assert (train.per_device_train_batch_size, refine.tau, refine.judge_stop) == (16, 0.8, 0.8)
    found = told(tmp_path, "learning_rate: 0.1\nteacher_top_k: 8\ntau: 0.5\n", "--learning_rate", "0.2")
    assert (found["learning_rate"], found["teacher_top_k"]) == (0.2, 8)


def test_a_flag_may_stand_alone():
    for words, value in (("--dry_run --overwrite", True), ("--dry_run on", True), ("--dry_run=false", False)):
        (how,) = options(*words.split(), groups=(RefineRunOptions,))
        assert (how.dry_run, how.overwrite) == (value, "--overwrite" in words)


def test_every_option_is_explained(capsys):
    with pytest.raises(SystemExit):
        parse("refine", "", ALL_GROUPS, ["--help"])
    said = "".join(capsys.readouterr().out.split())
    for name, one in EVERY.items():
        assert f"--{name}" in said
        assert "".join(one.metadata["help"].split()) in said
        other, accepted = needed(one.metadata.get("needs", ""))
        assert set(accepted) <= set(get_args(EVERY[other].type) if accepted else ())
    assert "Literal" not in said


def test_shipped_configurations_and_the_page_of_options_are_up_to_date():
    for name in shipped():
        parse("train", "", ALL_GROUPS, ["--config", name])
    page = subprocess.check_output([sys.executable, "dev/options.py"], cwd=ROOT, text=True)
    assert (ROOT / "docs/OPTIONS.md").read_text() == page


@pytest.mark.parametrize(("argv", "message"), [
    (["--learning_rat", "1"], r"unknown option --learning_rat \(did you mean --learning_rate\?\)"),
    (["--max_seq_length", "1"], "unknown option --max_seq_length: use max_length"),
    (["--connect_timeout", "1"], "--connect_timeout: this option was removed; the value is always 10"),
    (["rows.jsonl"], "unknown option rows.jsonl: use --data FILE"),
    (["--teacher_top_k", "1"], "--teacher_top_k 1: must be at least 2"),
    (["--sft", "false", "--distillation", "false"],
     "--sft false --distillation false: must be true for one of the two: with both off there is nothing"),
    (["--lambda_max", "nan"], "--lambda_max nan: must be finite"),
    (["learning_rate=1.5"], r"unknown option learning_rate \(did you mean --learning_rate\?\)"),
    (["--config", "nowhere.yaml"], "--config nowhere.yaml: no such file"),
    (["--tau", "3"], "--tau 3.0: must be at least -1 and at most 1"),
    (["--paraphraser", "m@http://me:secret@host/v1"], "--paraphraser: a URL holds a user or password"),
    (["--push_to_hub", "me/model"], "--push_to_hub me/model: must be true or false .*--hub_model_id"),
    (["--extra_body", "{api_key: [sk-1"], "--extra_body: must be an object"),
])
def test_bad_options_are_named(argv, message):
    with pytest.raises(UserError, match=message):
        options(*argv, groups=ALL_GROUPS)


def test_a_name_stays_as_it_is_written(tmp_path):
    """Revisions, folders and models may be called by digits alone."""
    for name in ("0123456", "1e5", "0x10", "1_000", "12:30", ".5", "2024-01-01", "no", "+1", "1E400"):
        for option in ("revision", "model"):
            assert told(tmp_path, f"{option}: {name}")[option] == name
            assert told(tmp_path, "", f"--{option}", name)[option] == name


def test_a_list_says_what_commas_say(tmp_path):
    option = "lora_target_modules"
    assert option in named(ALL_GROUPS, "listed")
    for text in ("[a, 007]", "\n- a\n- 007", "a,007", "['a', '007']"):
        assert told(tmp_path, f"{option}: {text}")[option] == "a,007"
    for words in (["a", "007"], ["[a, 007]"], ["[a,", "007]"], ['["a", "007"]'], ["a,007"]):
        assert told(tmp_path, "", f"--{option}", *words, "--seed", "3")[option] == "a,007"


@pytest.mark.parametrize(("text", "value"), [
    ("seed: 0123", 123), ("seed: 3.0", 3), ("seed: '7'", 7), ("max_steps: 1e3", 1000),
    ("learning_rate: 1e-5", 1e-5), ("learning_rate: '1e-5'", 1e-5), ("learning_rate: 1", 1.0),
    ("push_to_hub: yes", True), ("push_to_hub: 'false'", False), ("gradient_checkpointing: 1", True),
    ("revision: null", None), ("revision: ", None), ("duplicates: off", "off"),
    ("extra_body: {a: 1e-5, b: '007', c: off, d: 2024-01-01, e: null}",
     {"a": 1e-5, "b": "007", "c": False, "d": "2024-01-01", "e": None}),
])
def test_yaml_is_read_by_what_an_option_is(tmp_path, text, value):
    found = told(tmp_path, text)[text.split(":")[0]]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("text", "message"), [
    ("push_to_hub: me/model", "push_to_hub me/model: must be true or false .*--hub_model_id"),
    ("seed: 12:30", "seed 12:30: must be a whole number"),
    ("save_total_limit: null", "save_total_limit null: must be a whole number"),
    ("eval_steps: 0.5", "eval_steps 0.5: must be a whole number"),
    ("seed: " + "9" * 5000, "not valid YAML"), ("learning_rate: no", "must be a number"),
    ("model: [a]", "must be text"), ("report_to: [[a]]", "must be names separated by commas, or a"),
    ("extra_body: null", "must be an object"), ("a: " + "[" * 5000, "nested too deeply"),
    ("learning_rte: 1", r"unknown key 'learning_rte' \(did you mean learning_rate\?\)"),
    ("connect_timeout: 9", "unknown key 'connect_timeout': this option was removed; the value is always 10"),
    ("- a\n- b", "must hold `key: value` lines"),
    ("a: [", "not valid YAML: line 1, column 5: expected the node content, but found '<stream end>'$"),
    ("seed: 1\nåå: \x07", "not valid YAML: .*special characters are not allowed"),
    ("extra_body: {a: !x 1}", "not valid YAML: line 1, column 17: could not determine a"),
    (b"model: \xff\xfe\x80", "not valid YAML: .*invalid start byte"),
], ids=lambda value: ascii(value)[:40])
def test_what_yaml_cannot_mean_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=r"own\.yaml: .*" + message):
        told(tmp_path, text)


def test_the_configuration_of_a_run_says_the_same_options(tmp_path):
    """Also where it was told as lists, digits and words that YAML takes for something else."""
    first = told(tmp_path, "lora_target_modules: [q_proj, v_proj]\njudge: [self, 'b@http://h/v1']\n"
                           "revision: 0123456\nmodel: 1e5\nduplicates: off\nlearning_rate: 1e-5\n"
                           "extra_body: {a: '1e5', b: 'no', c: '007', d: '2024-01-01', e: null, f: 1e-5}\n"
                           "push_to_hub: yes\ncheck_patterns: 'query: '\n")
    write_yaml(first | DROPPED, tmp_path / "config.yaml")  # one of an earlier version
    assert told(tmp_path, (tmp_path / "config.yaml").read_text()) == first
    assert read_yaml(tmp_path / "config.yaml") == first | DROPPED
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == first | DROPPED


@pytest.mark.parametrize(("argv", "said"), [
    (["--lora_r", "64"], "--lora_r requires --use_peft"),
    (["--fixed_lambda", "2"], "--fixed_lambda requires --balance fixed"),
    (["--balance", "fixed", "--ema_beta", "0.5"], "--ema_beta requires --balance ema or gradient"),
])
def test_what_would_be_ignored_is_refused(argv, said):
    check_needs(["lora_r"], options("--use_peft", "--lora_r", "64", groups=ALL_GROUPS))
    with pytest.raises(UserError, match=said):
        check_needs([word.removeprefix("--") for word in argv], options(*argv, groups=ALL_GROUPS))
