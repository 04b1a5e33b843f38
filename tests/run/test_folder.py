"""A run's folder: one process, resumed with the same inputs and options, but for what it has not paid."""

import dataclasses
from typing import get_args

import pytest

from raft_fast.run.config import GROUPS
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_yaml
from raft_fast.run.folder import has_steps, make_folder, only_process, open_run, paid, pin_inputs, save_costs
from raft_fast.run.option import Part, pinned_by
from raft_fast.run.progress import Reporter

STEP = '{"step": 1}\n'


@pytest.fixture
def folder(tmp_path):
    """A run of default options that has cost nothing."""
    assert not open_run(tmp_path, groups()).resumed
    return tmp_path


def groups(**changed):
    """All options, some of them changed."""
    found = []
    for group in GROUPS:
        names = {field.name for field in dataclasses.fields(group)}
        found.append(group(**{name: value for name, value in changed.items() if name in names}))
    return found


def refuse(folder, **options):
    """The run does not go on with these options, because of the one that each is named for."""
    for name, changed in options.items():
        with pytest.raises(UserError, match=rf"[(;,] ?{name} is .* there and {changed[name]!r} here"):
            open_run(folder, groups(**changed))


def stepped(folder):
    (folder / "metrics.jsonl").write_text(STEP)


def test_an_option_pins_one_part_of_a_run():
    pins = {part: pinned_by(GROUPS, part) for part in get_args(Part)}
    assert sum(map(len, pins.values())) == len({field.name for group in GROUPS
                                                for field in dataclasses.fields(group)})
    assert pins["rows"] >= {"data", "seed", "max_rows", "heldout", "data_source", "duplicates"}
    assert pins["refinement"] >= {"model", "encoder", "tau", "judge", "prompts", "extra_body"}
    assert pins["training"] >= {"learning_rate", "teacher_top_k", "use_peft", "eval_steps", "eval_rows"}
    assert pins["nothing"] >= {"device", "output_dir", "per_device_train_batch_size", "max_retries", "price"}


@pytest.mark.parametrize("log", [None, "", '{"step": 1, "torn'])
def test_a_run_without_a_step_has_cost_nothing(folder, log):
    """Out of memory in the first step, or a typo: all may change, and other files in the folder stay."""
    (folder / "mine").write_text("1")
    if log is not None:
        (folder / "metrics.jsonl").write_text(log)
    assert not paid(folder)
    assert not open_run(folder, groups(learning_rate=0.1, seed=3, model="other")).resumed
    assert read_yaml(folder / "config.yaml")["model"] == "other"
    assert (folder / "mine").is_file()


def saved(folder):
    (folder / "checkpoints/step-000002").mkdir(parents=True)


@pytest.mark.parametrize("cost", [stepped, saved])
def test_once_a_step_is_done_only_how_it_is_driven_may_change(folder, cost):
    cost(folder)
    assert has_steps(folder)
    driven = {"gradient_checkpointing": True, "max_tokens_per_micro_batch": 4096, "save_steps": 7,
              "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "parallelism": "fsdp2",
              "eval_batch_size": 2, "device": "cpu", "log_completions": True, "save_total_limit": 5}
    start = open_run(folder, groups(**driven))
    assert (start.resumed, len(start.changed)) == (True, len(driven))
    assert "gradient_checkpointing is False there and True here" in start.changed
    config = read_yaml(folder / "config.yaml")
    assert {name: config[name] for name in driven} == driven
    assert open_run(folder, groups(**driven)).changed == []
    refused = {"learning_rate": 0.1, "use_peft": True, "seed": 1, "max_length": 64, "tau": 0.1}
    refuse(folder, **{name: driven | {name: value} for name, value in refused.items()})
    assert read_yaml(folder / "config.yaml") == config


def test_another_address_of_the_same_model_is_no_other_option(folder):
    """What was paid for are replies of a model, wherever it was served."""
    open_run(folder, groups(fuser="acme@http://one:8000/v1"))
    stepped(folder)
    moved = groups(fuser="acme@http://two:8000/v1")
    assert "fuser is 'acme@http://one" in open_run(folder, moved).changed[0]
    assert read_yaml(folder / "config.yaml")["fuser"] == "acme@http://two:8000/v1"
    with pytest.raises(UserError, match=r"fuser is .* and 'other@http"):
        open_run(folder, groups(fuser="other@http://two:8000/v1"))


def test_how_a_model_is_measured_may_change_until_it_has_been(folder):
    stepped(folder)
    (folder / "best/step-000001").mkdir(parents=True)
    shorter = {"general_prompts": 4, "general_max_new_tokens": 16}
    assert open_run(folder, groups(**shorter)).resumed
    assert (folder / "metrics.jsonl").read_text() == STEP  # nothing that training has left is forgotten
    assert (folder / "best/step-000001").is_dir()
    assert read_yaml(folder / "config.yaml")["general_prompts"] == 4
    refuse(folder, eval_rows=shorter | {"eval_rows": 3})  # training's own evaluations have those
    (folder / "evaluation.json").write_text("{}")
    refuse(folder, general_prompts=shorter | {"general_prompts": 5})


def test_between_the_stages_training_may_change_and_stage_1_may_not(folder):
    (folder / "refine").mkdir()
    left = ["evaluations.jsonl", "general_answers.jsonl", "metrics.jsonl"]
    for name, text in ({"refine/journal.jsonl": "{}\n"} | dict.fromkeys(left, "")).items():
        (folder / name).write_text(text)
    (folder / "best/step-000000").mkdir(parents=True)
    pin_inputs(folder, {"the teacher": "a"}, has_steps)
    assert open_run(folder, groups(save_steps=3)).resumed
    assert all((folder / name).exists() for name in left)
    assert open_run(folder, groups(use_peft=True, learning_rate=1e-4, max_length=64, teacher="b")).resumed
    # what was made with other options is no longer what this run begins with
    assert not any((folder / name).exists() for name in [*left, "best"])
    pin_inputs(folder, {"the teacher": "b"}, has_steps)
    refused = {"tau": 0.1, "heldout": 0.2, "data_source": "gold", "seed": 1, "model": "x"}
    refuse(folder, **{name: {name: value} for name, value in refused.items()})


def test_a_finished_run_stays_what_it_was(folder):
    stepped(folder)
    (folder / "evaluation.json").write_text("{}")
    assert open_run(folder, groups(per_device_train_batch_size=2)).resumed
    assert read_yaml(folder / "config.yaml")["per_device_train_batch_size"] == 16


def test_a_run_from_before_an_option_goes_on_with_its_default(folder):
    stepped(folder)
    lines = (folder / "config.yaml").read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith("teacher_top_k")]
    (folder / "config.yaml").write_text("".join(older))
    assert open_run(folder, groups()).resumed
    (folder / "config.yaml").write_text("".join(older))
    with pytest.raises(UserError, match="teacher_top_k is 512 there and 7 here"):
        open_run(folder, groups(teacher_top_k=7))


def test_changed_inputs_are_refused_once_a_run_has_cost_anything(tmp_path):
    pin_inputs(tmp_path, {"the data": "a"})
    pin_inputs(tmp_path, {"the data": "b"})  # nothing paid for yet
    pin_inputs(tmp_path, {"the model": "m"})  # known later than the data, beside it
    stepped(tmp_path)
    with pytest.raises(UserError, match="the data changed since"):
        pin_inputs(tmp_path, {"the data": "c"})
    with pytest.raises(UserError, match="the model changed since"):
        pin_inputs(tmp_path, {"the data": "b", "the model": "n"})


def test_an_output_dir_that_is_a_file(tmp_path):
    (tmp_path / "x").write_text("")
    for name in ("x", "x/run"):
        with pytest.raises(UserError, match="is a file; name another"):
            make_folder(tmp_path / name)


def test_one_process_at_a_time(tmp_path):
    with only_process(tmp_path / "run"), pytest.raises(UserError, match="another process is at work in it"), \
            only_process(tmp_path / "run"):
        pass


def test_costs_add_up_over_restarts(tmp_path):
    for _ in range(2):
        reporter = Reporter()
        with reporter.phase("train"):
            pass
        save_costs(tmp_path, reporter)
    (cost,) = read_json(tmp_path / "phases.json", kind=list)
    assert cost["name"] == "train"
    assert cost["peak_bytes"] > 10**6
