"""What the program advises, followed to the letter through its entry points."""

import json
import re
import shlex

import pyarrow.parquet as pq
import pytest
import torch
from home import RUN, make_home

from raft_fast.distillation.student_pass import StudentPass

HERE = ["--data", "rows.jsonl", "--model", "model", "--encoder", "encoder", *RUN]
GOLD = [*HERE, "--data_source", "gold", "--save_steps", "1"]


@pytest.fixture
def home(tmp_path):
    """A folder of its own for every test, as runs there fail."""
    return make_home(tmp_path)


@pytest.fixture
def pass_fails(monkeypatch):
    """From its n-th pass on the student fails so, until it is told not to."""
    real, count = StudentPass.forward, [0]

    def fail(at, how):
        count[0] = 0

        def forward(self, *inputs):
            count[0] += 1
            losses, measures = real(self, *inputs)
            if count[0] < at or how == "well":
                return losses, measures
            if how == "no memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return losses * torch.nan, measures * torch.nan

        monkeypatch.setattr(StudentPass, "forward", forward)

    return fail


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def row_ids(path):
    return sorted(row["row_id"] for row in pq.read_table(path).to_pylist())


def test_no_memory_in_a_later_step(home, command, pass_fails):
    """What the run has learnt from may not change; how it is driven may, with as many rows a step."""
    pass_fails(2, "no memory")
    said = command("train", *GOLD, "--output_dir", "run", code=2)
    assert "use --gradient_checkpointing true or a smaller --max_tokens_per_micro_batch; or, in a new " \
           "--output_dir, --use_peft true, a shorter --max_length or --max_completion_length" in said
    assert steps(home / "run") == [1]
    pass_fails(1, "well")
    said = command("train", *GOLD, "--output_dir", "run", "--per_device_train_batch_size", "3", code=2)
    assert "3 rows a step (processes: 1), and the run in run has 4" in said
    fits = shlex.split(re.search(r"or as it began: (.*)$", said)[1])
    assert fits == ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "1"]
    said = command("train", *GOLD, "--output_dir", "run", *fits, "--gradient_checkpointing", "true",
                   "--max_tokens_per_micro_batch", "4096")
    assert "gradient_checkpointing is False there and True here" in said
    assert steps(home / "run") == [1, 2]


def test_steps_that_are_not_finite(home, command, pass_fails):
    """Train again, from the start or from the last good weights; what was refined is not paid twice."""
    options = [*HERE, "--data_source", "rewrite", "--save_steps", "1", "--num_train_epochs", "2"]
    pass_fails(3, "not finite")
    said = command("train", *options, "--output_dir", "run", code=2)
    assert "in steps 3 and 4: train again with a lower --learning_rate in another --output_dir" in said
    told = re.search(r"with (--data \S+ --heldout_data \S+); the last good weights are in (\S+)", said)
    rows, weights = shlex.split(told[1]), ["--model", told[2]]
    assert weights == ["--model", "run/checkpoints/step-000003/model"]
    pass_fails(1, "well")
    without = " ".join(options).replace("--data rows.jsonl ", "").replace("--heldout 0.3 ", "").split()
    for name, more in (("anew", []), ("from_there", weights)):
        command("train", *without, *rows, *more, "--learning_rate", "1e-6", "--output_dir", name)
        assert row_ids(home / name / "heldout.parquet") == row_ids(home / "run/heldout.parquet")
        assert not (home / name / "refine").exists()
        last = json.loads((home / name / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["rows_seen"] == len(row_ids(home / "run/refine/refined.parquet"))
    command("evaluate", *weights, "--encoder", "encoder", "--general_prompts", "-1", "--eval_max_new_tokens",
            "8")
    assert json.loads((home / "evaluations/run-step-000003/evaluation.json").read_text())
    said = command("evaluate", "--model", "run/checkpoints/step-000003", code=2)
    assert "is a checkpoint; its model is run/checkpoints/step-000003/model" in said
