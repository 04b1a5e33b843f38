import sys

import pytest

from raft_fast import evaluate
from raft_fast.run.errors import UserError
from raft_fast.run.options import DataOptions, ModelOptions


def test_defaults_point_at_the_run(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "heldout.parquet").touch()
    model = ModelOptions(model=str(tmp_path / "model"))
    assert evaluate.find_data(DataOptions(), model) == str(tmp_path / "heldout.parquet")
    elsewhere = evaluate.find_output_dir(DataOptions(), model)  # never the run: it has its own
    assert str(elsewhere) == f"evaluations/{tmp_path.name}"
    assert str(evaluate.find_output_dir(DataOptions(output_dir="out"), model)) == "out"


def test_no_held_out_rows_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        evaluate.find_data(DataOptions(), ModelOptions(model=str(tmp_path / "model")))
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="--data FILE"):
        evaluate.find_data(DataOptions(), ModelOptions(model=str(tmp_path / "model")))


@pytest.mark.parametrize("argv", [[], ["--data", "rows.jsonl"], ["--base", "some/model"]])
def test_without_a_model_the_option_is_named(monkeypatch, capsys, argv):
    monkeypatch.setattr(sys, "argv", ["evaluate", *argv])
    with pytest.raises(SystemExit):
        evaluate.main()
    assert capsys.readouterr().err == ("error: --model is missing: name a run's model, as in --model "
                                       "RUN/model\n")


def test_the_base_is_the_runs_own(tmp_path):
    model = ModelOptions(model=str(tmp_path / "model"))
    with pytest.raises(UserError, match="--base is missing"):
        evaluate.find_base(model)
    (tmp_path / "config.yaml").write_text("model: some/base\n")
    assert evaluate.find_base(model) == "some/base"


def test_bad_input_is_one_line_and_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--model", str(tmp_path / "model")])
    with pytest.raises(SystemExit) as stopped:
        evaluate.main()
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_run_and_an_adapter_are_told_from_a_model_before_rows_are_read(tmp_path, monkeypatch, capsys):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").touch()

    def said(folder):
        monkeypatch.setattr(sys, "argv", ["evaluate", "--model", str(folder), "--data", "nowhere.jsonl"])
        with pytest.raises(SystemExit):
            evaluate.main()
        return capsys.readouterr().err

    assert f"--model {adapter}: is an adapter, not a whole model; merge it into its base" in said(adapter)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").touch()
    assert f"is an adapter, not a whole model; its merged model is {tmp_path / 'model'}" in said(adapter)
    (tmp_path / "heldout.parquet").touch()
    assert f"is a run; its model is {tmp_path / 'model'}" in said(tmp_path)
