"""Products in bf16: what is read, trained and compared in which precision, and that runs still repeat."""

import json

import pytest
import torch
from golden import NOT_REPEATED
from home import config, rows_in_memory
from tiny import make_model, make_tokenizer

from raft_fast import Callback, RAFTTrainer
from raft_fast.distillation.rollouts import BatchedRollouts
from raft_fast.engines import Sampling
from raft_fast.engines.load import load_engine, reader_of
from raft_fast.models import load
from raft_fast.models.chat import View
from raft_fast.models.packing import completion_hidden
from raft_fast.run.options import ModelOptions


@pytest.mark.parametrize(("precision", "units", "read", "compared"), [
    ("auto", {}, torch.float32, torch.float32),
    ("auto", {"avx512_bf16": True}, torch.bfloat16, torch.float32),
    ("auto", {"amx_bf16": True, "avx512_bf16": False}, torch.bfloat16, torch.float32),
    ("auto", {"avx2": True, "amx_bf16": False}, torch.float32, torch.float32),
    ("float32", {"amx_bf16": True}, torch.float32, torch.float32),
    ("bf16", {}, torch.bfloat16, torch.float32)])
def test_models_that_are_read_are_in_bf16_where_that_is_faster(monkeypatch, precision, units, read, compared):
    monkeypatch.undo()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    options = ModelOptions(precision=precision, device="cpu")
    assert (load.frozen_dtype(options), load.frozen_dtype(options, exact=True)) == (read, compared)


def test_a_reader_is_the_same_engine_in_bf16(model_folder):
    options = ModelOptions(model=str(model_folder), device="cpu", precision="bf16")
    exact, loaded = load_engine("self", options, exact=True), load_engine("self", options)
    reader = reader_of(exact, options)
    assert (exact.model.dtype, reader.model.dtype, reader.identity) == (
        torch.float32, torch.bfloat16, loaded.identity)
    states = [completion_hidden(one.model, [View([5, 6], [7, 8])], 0) for one in (reader, loaded)]
    assert torch.equal(*states)
    assert reader_of(loaded, options).model is loaded.model


def test_a_student_samples_from_a_copy_in_bf16_that_is_gone_afterwards(model, chat):
    model.bf16_products = True
    engine = BatchedRollouts(chat, Sampling(4, 1.0))
    engine.sync(model)
    assert (engine.student.dtype, model.dtype) == (torch.bfloat16, torch.float32)
    engine.sample([])
    assert engine.student is None


class StopAfterOne(Callback):
    def on_step(self, state):
        state.stop = state.step == 1


@pytest.mark.usefixtures("here")
def test_a_run_in_bf16_resumes_bit_for_bit(home):
    found = []
    for folder, stops in (("whole", [[]]), ("parts", [[StopAfterOne()], []])):
        options = config(f"runs/{folder}", precision="bf16", num_train_epochs=2, max_completion_length=4,
                         eval_steps=1, eval_general_prompts=0)
        for callbacks in stops:
            trainer = RAFTTrainer(make_model(), options, rows_in_memory(), processing_class=make_tokenizer(),
                                  callbacks=callbacks)
            trainer.train()
        assert trainer.model.dtype == torch.float32
        steps = [json.loads(line) for line in (trainer.run_dir / "metrics.jsonl").read_text().splitlines()]
        found.append(([{key: value for key, value in step.items() if not NOT_REPEATED.fullmatch(key)}
                       for step in steps], (trainer.run_dir / "model/model.safetensors").read_bytes(),
                      trainer.state.best_metric, trainer.state.best_global_step,
                      [line for line in trainer.state.log_history if "eval_domain_nll" in line]))
    assert [line["step"] for line in found[0][-1]] == list(range(len(found[0][0]) + 1))
    assert found[0] == found[1]
    assert len(found[0][0]) > 1
