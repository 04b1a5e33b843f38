"""A run's folder: one process, resumed with the same inputs and options, but for what it has not paid."""

from typing import get_args

import pytest

from raft_fast.run.config import GROUPS
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_yaml
from raft_fast.run.folder import make_folder, meant, only_process, open_run, paid, pin_inputs, save_costs
from raft_fast.run.option import Part, pinned_by
from raft_fast.run.progress import Reporter

STEP = '{"step": 1}\n'


@pytest.fixture
def folder(tmp_path):
    """A run of default options that has cost nothing."""
    assert open_run(tmp_path, groups()) is None
    return tmp_path


def groups(**changed):
    """All options, some of them changed."""
    return [group(**{name: value for name, value in changed.items() if name in group.__dataclass_fields__})
            for group in GROUPS]


def refuse(folder, **options):
    """The run does not go on if any of these options is changed."""
    for name, value in options.items():
        with pytest.raises(UserError, match=rf"[(;,] ?{name} is .* there and {value!r} here"):
            open_run(folder, groups(**{name: value}))


def stepped(folder):
    (folder / "metrics.jsonl").write_text(STEP)


def test_options_pin_a_part_of_a_run():
    pins = {part: pinned_by(GROUPS, part) for part in get_args(Part)}
    assert pins["rows"] >= {"data", "seed", "max_rows", "heldout", "data_source", "duplicates"}
    assert pins["refinement"] >= {"model", "encoder", "tau", "judge", "prompts", "extra_body"}
    assert pins["training"] >= {"learning_rate", "teacher_top_k", "use_peft", "eval_steps", "eval_rows"}
    assert pins["nothing"] >= {"device", "output_dir", "per_device_train_batch_size", "max_retries"}


def test_a_run_without_a_step_has_cost_nothing(folder):
    """Out of memory in the first step, or a typo: all may change, and other files in the folder stay."""
    (folder / "mine").write_text("1")
    (folder / "metrics.jsonl").write_text('{"step": 1, "torn')
    assert not paid(folder)
    assert open_run(folder, groups(learning_rate=0.1, seed=3, model="other")) is None
    assert read_yaml(folder / "config.yaml")["model"] == "other"
    assert (folder / "mine").is_file()


@pytest.mark.parametrize("cost", ["metrics.jsonl", "checkpoints/step-000002/state.json"])
def test_once_a_step_is_done_only_how_it_is_driven_may_change(folder, cost):
    (folder / cost).parent.mkdir(parents=True, exist_ok=True)
    (folder / cost).write_text(STEP)
    driven = {"gradient_checkpointing": True, "save_steps": 7, "log_completions": True}
    changed = open_run(folder, groups(**driven))
    assert len(changed) == len(driven)
    assert "gradient_checkpointing is False there and True here" in changed
    config = read_yaml(folder / "config.yaml")
    assert {name: config[name] for name in driven} == driven
    refuse(folder, learning_rate=0.1, use_peft=True, seed=1, max_length=64, tau=0.1)
    assert read_yaml(folder / "config.yaml") == config


def test_another_address_of_the_same_model_is_no_other_option(folder):
    """What was paid for are replies of a model, wherever it was served."""
    open_run(folder, groups(fuser="acme@http://one:8000/v1"))
    stepped(folder)
    moved = groups(fuser="acme@http://two:8000/v1")
    assert "fuser is 'acme@http://one" in open_run(folder, moved)[0]
    assert read_yaml(folder / "config.yaml")["fuser"] == "acme@http://two:8000/v1"
    refuse(folder, fuser="other@http://two:8000/v1")
    assert meant("lora_target_modules", "q_proj, v_proj") == meant("lora_target_modules", "q_proj,v_proj")


def test_how_a_model_is_measured_may_change_until_it_has_been(folder):
    stepped(folder)
    assert open_run(folder, groups(general_prompts=4)) is not None
    assert (folder / "metrics.jsonl").read_text() == STEP  # nothing that training has left is forgotten
    refuse(folder, eval_rows=3)  # training's own evaluations have those
    (folder / "evaluation.json").write_text("{}")
    refuse(folder, general_prompts=5)
    assert open_run(folder, groups(general_prompts=4, per_device_train_batch_size=2)) is not None
    assert read_yaml(folder / "config.yaml")["per_device_train_batch_size"] == 16  # it stays what it was


def test_between_the_stages_training_may_change_and_stage_1_may_not(folder):
    (folder / "refine").mkdir()
    left = ["evaluations.jsonl", "metrics.jsonl"]
    for name, text in ({"refine/journal.jsonl": "{}\n"} | dict.fromkeys(left, "")).items():
        (folder / name).write_text(text)
    (folder / "best/step-000000").mkdir(parents=True)
    assert open_run(folder, groups(save_steps=3)) is not None
    assert (folder / "best").exists()
    assert open_run(folder, groups(use_peft=True, learning_rate=1e-4, max_length=64, teacher="b")) is not None
    # what was made with other options is no longer what this run begins with
    assert not any((folder / name).exists() for name in [*left, "best"])
    refuse(folder, tau=0.1, heldout=0.2, data_source="gold", seed=1, model="x")


def test_a_run_from_before_an_option_goes_on_with_its_default(folder):
    stepped(folder)
    lines = (folder / "config.yaml").read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith("teacher_top_k")]
    (folder / "config.yaml").write_text("".join([*older, "an_option_that_is_gone: 3\n"]))
    refuse(folder, teacher_top_k=7)
    assert open_run(folder, groups()) is not None


def test_changed_inputs_are_refused_once_a_run_has_cost_anything(tmp_path):
    for inputs in ({"the data": "a"}, {"the data": "b"}, {"the model": "m"}):
        pin_inputs(tmp_path, inputs)
    stepped(tmp_path)
    with pytest.raises(UserError, match="the data and the model changed since"):
        pin_inputs(tmp_path, {"the data": "c", "the model": "n"})


def test_a_folder_is_no_file_and_has_one_process(tmp_path):
    (tmp_path / "x").write_text("")
    for name in ("x", "x/run"):
        with pytest.raises(UserError, match="is a file"):
            make_folder(tmp_path / name)
    with only_process(tmp_path / "run"), pytest.raises(UserError, match="another process is at work in it"), \
            only_process(tmp_path / "run"):
        pass


def test_costs_add_up_over_restarts(tmp_path):
    for _ in range(2):
        save_costs(tmp_path, Reporter([("train", 2.0, 5)]))
    assert read_json(tmp_path / "phases.json", kind=list) == [
        {"name": "train", "seconds": 4.0, "peak_bytes": 5}]
