"""Tasks of lm-eval on our loaded models: scores by its own code, from local files."""

import json
from functools import partial

import pytest
import torch
import yaml
from tiny import make_model

from raft_fast.engines.hf import HFEngine
from raft_fast.evaluation.lm_eval import find_tasks, run_tasks
from raft_fast.run.errors import UserError
from raft_fast.run.options import CompareOptions
from raft_fast.run.progress import Reporter

DOCUMENTS = [{"question": f"Which is {number}?", "choices": ["ehknqt"[number] * 2, "adgjmp"[number] * 2],
              "label": number % 2} for number in range(6)]


@pytest.fixture
def own_tasks(tmp_path, monkeypatch):
    """A folder with a multiple-choice task on a local file, and one on a data set that is nowhere; the
    thousands of tasks that lm-eval brings take seconds to read and are left out."""
    tasks = pytest.importorskip("lm_eval.tasks", reason="pip install lm-eval")
    monkeypatch.setattr(tasks, "TaskManager", partial(tasks.TaskManager, include_defaults=False))
    (tmp_path / "even.jsonl").write_text("\n".join(map(json.dumps, DOCUMENTS)))
    even = {"task": "raft_even", "dataset_path": "json", "test_split": "test",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "even.jsonl")}},
            "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_target": "label",
            "doc_to_choice": "choices",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    gone = even | {"task": "raft_gone", "dataset_kwargs": {"data_files": {"test": "gone.jsonl"}}}
    for task in (even, gone):
        (tmp_path / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    return str(tmp_path)


def test_the_models_score_what_their_likelihoods_say(own_tasks, chat):
    engines = {name: HFEngine(make_model(seed), chat, name, 4)
               for seed, name in enumerate(("base", "trained"))}
    tasks = find_tasks(CompareOptions(lm_eval="raft_even", lm_eval_include=own_tasks))
    found = run_tasks(tasks, engines, Reporter())
    right = {name: [_choice(engine, one) == one["label"] for one in DOCUMENTS]
             for name, engine in engines.items()}
    assert right["base"] != right["trained"]
    scores = found["tasks"]["raft_even"]["acc,none"]
    for name in engines:
        share = sum(right[name]) / 6
        assert scores[name]["mean"] == pytest.approx(share)
        assert scores[name]["stderr"] == pytest.approx((share * (1 - share) / 5) ** 0.5)  # of a mean of six
    change = (sum(right["trained"]) - sum(right["base"])) / 6
    assert scores["change"]["mean"] == pytest.approx(change)
    assert (scores["change"]["n"], scores["higher_is_better"]) == (6, True)
    options = CompareOptions(lm_eval="raft_even", lm_eval_limit=2, lm_eval_include=own_tasks)
    limited = run_tasks(find_tasks(options), engines, Reporter())
    assert limited["tasks"]["raft_even"]["acc,none"]["change"]["n"] == 2


def _choice(engine, document):
    """The likelier choice after the chat prompt, one forward pass a choice."""
    chat, likelihoods = engine.chat, []
    prompt = chat.student_prompt([{"role": "user", "content": document["question"]}])
    for choice in document["choices"]:
        ids = chat.tokenizer(choice, add_special_tokens=False).input_ids
        with torch.inference_mode():
            logs = engine.model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        likelihoods.append(sum(float(logs[len(prompt) + at - 1, token]) for at, token in enumerate(ids)))
    return likelihoods.index(max(likelihoods))


@pytest.mark.parametrize("name", ["raft_evn", "raft_gone"])  # unknown; without its data
def test_what_cannot_run_fails_before_a_model_is_loaded(own_tasks, name):
    with pytest.raises(UserError, match=f"--lm_eval {name}: cannot be loaded: "):
        find_tasks(CompareOptions(lm_eval=name, lm_eval_include=own_tasks))


def test_without_the_package_the_error_has_the_install_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\[lm-eval\]"):
        find_tasks(CompareOptions(lm_eval="ifeval"))
    assert find_tasks(CompareOptions()) is None
