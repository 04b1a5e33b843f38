"""What fails before a row is read, a model loaded, a folder made or a call paid."""

import importlib.util
import sys
from pathlib import Path

import pytest

from raft_fast import RAFTConfig, RAFTTrainer, paraphrase, refine, train
from raft_fast.distillation.stage2 import check_processes
from raft_fast.run.config import GROUPS, parse
from raft_fast.run.errors import UserError
from raft_fast.run.options import Options
from raft_fast.trainer import preflight


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def options(*argv):
    return Options(*parse("train", "", GROUPS, ["--device", "cpu", *argv])[1])


@pytest.mark.usefixtures("nothing_installed")
def test_packages_and_tokens_that_options_imply_are_missed_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    for argv, said in (("--use_peft", "peft is needed"),
                       ("--push_to_hub", "--push_to_hub requires a token .*: set HF_TOKEN or run hf")):
        with pytest.raises(UserError, match=said):
            preflight(options(argv), tmp_path / "new")
    preflight(options(), tmp_path / "new")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
    preflight(options("--push_to_hub"), tmp_path / "new")


@pytest.mark.parametrize(("argv", "said"), [
    (["--data", "rows.jsnl"], "--data rows.jsnl: no such file"),
    (["--encoder", "./nowhere"], "--encoder ./nowhere: no such folder"),
    (["--skip_checks", "nubers"], "--skip_checks nubers: no such check"),
    (["--teacher", "./nowhere"], "--teacher ./nowhere: no such folder"),
    (["--teacher", "model@http://localhost:1/v1"], "a server shows no logits"),
    (["--report_to", "clearml"], "--report_to clearml: .*clearml"),
    (["--rollout_engine", "vllm"], "unknown option --rollout_engine: pass an engine"),
    (["--judge", "[self, self]"], "--judge self,self: names self twice: name each judge once"),
])
def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        RAFTTrainer(args=RAFTConfig.from_options(options(*argv), "raft")).train()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "folder"), [
    (["--recipe", "sft"], "runs/sft"), (["--recipe", "sft", "--config", "raft_lora"], "runs/raft_lora")])
def test_a_run_is_named_by_its_configuration_else_its_recipe(command, monkeypatch, words, folder):
    def trainer(args):
        raise UserError(str(args.folder))

    monkeypatch.setattr("raft_fast.trainer.RAFTTrainer", trainer)
    assert folder in command("train", "--data", "rows.jsonl", *words, code=2).split()


def test_a_server_is_no_teacher_in_a_folder_that_is_there_either(tmp_path):
    with pytest.raises(UserError, match="a server shows no logits"):
        preflight(options("--teacher", "model@http://localhost:1/v1"), tmp_path)


@pytest.mark.parametrize(("argv", "message"), [
    (["--device", "cuda:0"], "--device cuda:0: must be auto or cuda for 2 processes"),
    (["--parallelism", "fsdp2", "--use_peft", "true"], "--parallelism fsdp2 --use_peft True: must be --"),
    (["--parallelism", "fsdp2", "--eval_steps", "5"], "--parallelism fsdp2 --eval_steps 5: must be 0"),
])
def test_what_several_processes_cannot_do_is_refused(argv, message):
    check_processes(options(*argv), 1)
    with pytest.raises(UserError, match=message):
        check_processes(options(*argv), 2)


def test_what_is_not_used_may_be_anything(tmp_path):
    """Rows and judges of a run that is there, judges that are not asked."""
    preflight(options("--data", "gone.jsonl", "--judge", "self,self"), tmp_path)
    for argv in (["--data_source", "gold"], ["--data_source", "rewrite"], ["--fusion_rounds", "0"]):
        preflight(options("--judge", "self,self", *argv), Path("runs/new"))


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(("entry", "argv", "said"), [
    (train, ["--config", "mine.yaml", "--device", "cpu", "--lora_r=64"], "--lora_r requires --use_peft"),
    (refine, ["--judge", "self, vllm:m"], "--judge self, vllm:m: must be MODEL@URL for vLLM"),
    (paraphrase, ["--paraphraser", "vllm:some/model"], "--paraphraser vllm:some/model: must be MODEL@URL"),
])
def test_commands_refuse_before_rows_are_read(tmp_path, monkeypatch, capsys, entry, argv, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("fixed_lambda: 2.0")  # what stands in a file is no mistake
    monkeypatch.setattr(sys, "argv", ["x", "--data", "nowhere.jsonl", *argv])
    with pytest.raises(SystemExit) as stopped:
        entry.main()
    assert stopped.value.code == 2
    assert f"error: {said}" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
