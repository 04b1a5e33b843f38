import sys

import pytest

from raft_fast import evaluate
from raft_fast.run.errors import UserError
from raft_fast.run.options import DataOptions, ModelOptions


@pytest.fixture
def said(monkeypatch, capsys):
    """What the command says before it ends with code 2."""
    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, argv)])
        with pytest.raises(SystemExit) as stopped:
            evaluate.main()
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return run


def test_defaults_point_at_the_run(tmp_path):
    model = ModelOptions(model=str(tmp_path / "model"))
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="--data FILE"):
        evaluate.find_data(DataOptions(), model)
    (tmp_path / "heldout.parquet").touch()
    assert evaluate.find_data(DataOptions(), model) == str(tmp_path / "heldout.parquet")
    elsewhere = evaluate.find_output_dir(DataOptions(), model)  # never the run: it has its own
    assert str(elsewhere) == f"evaluations/{tmp_path.name}"
    assert str(evaluate.find_output_dir(DataOptions(output_dir="out"), model)) == "out"
    with pytest.raises(UserError, match="--base is missing"):
        evaluate.find_base(model)
    (tmp_path / "config.yaml").write_text("model: some/base\n")
    assert evaluate.find_base(model) == "some/base"


def test_what_is_no_model_is_one_line_and_code_2_before_rows_are_read(said, tmp_path):
    adapter, data = tmp_path / "adapter", ["--data", "nowhere.jsonl"]
    assert said(*data) == ("error: --model: must be a run's model, as in --model RUN/model; for another "
                           "model name --data and --base too\n")
    assert said("--model", tmp_path / "model", *data).count("\n") == 1
    (tmp_path / "model").mkdir()
    adapter.mkdir()
    (adapter / "adapter_config.json").touch()
    assert f"--model {adapter}: is an adapter, not a whole model; " in said("--model", adapter, *data)
    assert f"is a run; its model is {tmp_path / 'model'}" in said("--model", tmp_path, *data)
