"""Every rollout engine gets the student's weights, draws from them and says how likely its draws were."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
import vllm_stand_in
from test_loop import OPTIONS, run
from tiny import make_model
from transformers import ContinuousBatchingConfig, LlamaConfig, LlamaForCausalLM

from raft_fast.distillation import Adapter, Draw
from raft_fast.distillation.rollouts import make_engine
from raft_fast.distillation.rollouts.buffer import GapCheck
from raft_fast.distillation.rollouts.local import BatchedRollouts, ContinuousRollouts
from raft_fast.distillation.rollouts.vllm import VLLMRollouts, VLLMServerRollouts, weights_for_engine
from raft_fast.engines import Sampling
from raft_fast.run.errors import UserError
from raft_fast.run.options import AdapterOptions

DRAWS = [Draw([1, 2, 3 + row], row) for row in range(6)]
ON_GPU = SimpleNamespace(device=torch.device("cuda"), name_or_path="folder",
                         config=LlamaConfig(max_position_embeddings=512))


@pytest.fixture
def vllm(monkeypatch):
    """Modules `vllm` and `trl.generation.vllm_client` with the stand-ins in them."""
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = vllm_stand_in.LLM, vllm_stand_in.SamplingParams
    client = ModuleType("trl.generation.vllm_client")
    client.VLLMClient = vllm_stand_in.VLLMClient
    for name, each in (("vllm", module), ("trl", ModuleType("trl")),
                       ("trl.generation", ModuleType("trl.generation")), (client.__name__, client)):
        monkeypatch.setitem(sys.modules, name, each)


def engine_of(name, chat, temperature=1.0, length=8):
    sampling = Sampling(length, temperature)
    if name == "transformers":
        return BatchedRollouts(chat, sampling)
    if name == "continuous":
        return ContinuousRollouts(chat, sampling, ContinuousBatchingConfig(
            num_blocks=16, page_size=32, max_batch_tokens=64, use_cuda_graph=False))
    if name == "vllm":
        return VLLMRollouts.start("folder", chat, sampling, 0.3, 128)
    return VLLMServerRollouts.connect("http://host:8000", chat, sampling, torch.device("cpu"))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", ["transformers", "continuous", "vllm", "vllm_server"])
def test_engines_draw_from_the_student_as_it_is_now(chat, vllm, name, temperature):
    engine = engine_of(name, chat, temperature)
    for seed in (1, 2):
        student = make_model(seed).train()
        for parameter in student.parameters():  # what a bf16 copy loses is not the matter here
            parameter.data = parameter.data.bfloat16().float()
        attention = student.config._attn_implementation
        engine.sync(student)
        drawn = engine.sample(DRAWS, logprobs=True)
        assert GapCheck(chat, temperature).check(0, student, DRAWS, drawn) < 1e-4
        assert len({tuple(one.ids) for one in drawn}) > 1
        assert all(0 < len(one.ids) <= 8 and not chat.eos_ids & set(one.ids[:-1]) for one in drawn)
        assert student.training
        assert student.config._attn_implementation == attention
    assert engine.sample([], logprobs=True) == []


@pytest.mark.parametrize("name", ["vllm", "vllm_server"])
def test_ids_that_the_tokenizer_lacks_are_never_drawn(chat, vllm, name):
    """By engines of this process neither: tests/models/test_vocabulary.py."""
    engine, student = engine_of(name, chat), make_model(1, vocab_size=300)
    with torch.no_grad():
        student.lm_head.weight[260:] *= 8
    engine.sync(student)
    drawn = engine.sample(DRAWS, logprobs=True)
    assert max(token for one in drawn for token in one.ids) < 260
    assert GapCheck(chat, 1.0).check(0, student, DRAWS, drawn) < 0.1  # weights went over as bf16


def test_continuous_batching_keeps_no_copy_where_there_is_nothing_to_draw(chat):
    engine = engine_of("continuous", chat)
    engine.sync(make_model())
    assert engine.sample([]) == []
    assert engine.student is None


@pytest.mark.parametrize("name", ["transformers", "vllm", "vllm_server"])
def test_a_draw_depends_on_its_seed_alone(chat, vllm, name):
    engine, student = engine_of(name, chat), make_model(1)
    draws = [*DRAWS, Draw(DRAWS[0].prompt, 99)]
    engine.sync(student)
    together = [one.ids for one in engine.sample(draws, logprobs=False)]
    engine.sync(student)
    assert [one.ids for one in engine.sample(draws[::-1], logprobs=True)][::-1] == together
    assert together[0] != together[-1]  # one prompt, two seeds


def test_a_whole_run_with_an_engine_that_has_weights_of_its_own(tmp_path, chat, vllm, monkeypatch, capsys):
    engine = engine_of("vllm", chat)
    monkeypatch.setattr("raft_fast.distillation.loop.make_engine", lambda *_: engine)
    _, metrics = run(tmp_path / "run", chat, replace(OPTIONS, steps_per_generation=2, learning_rate=0.05))
    assert all(step["trajectories"] == 3 for step in metrics)
    assert metrics[2]["rollout_logprob_gap"] < 0.1  # weights went over as bf16
    assert engine.llm.done == ["weights", "cache", "sleep"] * 2


def test_a_server_that_loses_weights_is_caught(tmp_path, chat, vllm, monkeypatch):
    engine = engine_of("vllm_server", chat)
    engine.client.loses_weights = True
    monkeypatch.setattr("raft_fast.distillation.loop.make_engine", lambda *_: engine)
    with pytest.raises(UserError, match="they did not arrive"):
        run(tmp_path / "run", chat)
    assert engine.client.resets == 1
    assert engine.client.device == torch.device("cpu")


def test_a_request_that_fails_is_asked_again_and_then_named(chat, vllm):
    engine = engine_of("vllm_server", chat)
    engine.sync(make_model(1))
    want = engine.sample(DRAWS[:1])
    engine.client.failures = 2
    assert [one.ids for one in engine.sample(DRAWS[:1])] == [one.ids for one in want]
    engine.client.failures = 3
    with pytest.raises(UserError, match=r"http://host:8000: a trajectory .* in 3 attempts: Request failed"):
        engine.sample(DRAWS[:1])


def test_an_aborted_rollout_is_not_a_trajectory(chat, vllm, monkeypatch):
    """Of a server TRL's client says no reason: what has no end and is shorter than allowed was broken off."""
    engine = engine_of("vllm_server", chat)
    engine.sync(make_model(1))
    whole, shortened = engine.client.generate, []

    def generate(*args, **kwargs):
        found = whole(*args, **kwargs)
        if len(shortened) < 2:
            shortened.append(found["completion_ids"][0].pop())
            found["completion_ids"][0][:] = [1] * len(found["completion_ids"][0])
            found["logprobs"][0].pop()
        return found

    want = engine.sample(DRAWS[:1])
    monkeypatch.setattr(engine.client, "generate", generate)
    assert [one.ids for one in engine.sample(DRAWS[:1])] == [one.ids for one in want]
    assert len(shortened) == 2
    shortened.clear()
    monkeypatch.setattr("raft_fast.distillation.rollouts.vllm.ATTEMPTS", 2)
    with pytest.raises(UserError, match=r"a trajectory could not be had in 2 attempts: .* was broken off"):
        engine.sample(DRAWS[:1])


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_aborted_rollout_in_process_is_one_line(chat, vllm, monkeypatch, reason):
    engine = engine_of("vllm", chat)
    answer = engine.llm._answer
    monkeypatch.setattr(engine.llm, "_answer", lambda *asked: ended(answer(*asked), reason))
    engine.sync(make_model(1))
    with pytest.raises(UserError, match=f"no trajectories could be had .*finish_reason '{reason}'"):
        engine.sample(DRAWS)
    assert engine.asleep


def ended(answer, reason):
    answer.outputs[0].finish_reason = reason
    return answer


@pytest.mark.parametrize(("error", "said"), [
    (ConnectionError("Connection refused\nTraceback (most recent call last): ..."), "Connection refused"),
    (Exception("Request failed: 500, out of memory"), "Request failed: 500, out of memory"),
    (RuntimeError(), "RuntimeError")])
def test_weights_that_a_server_does_not_take_are_one_line(chat, vllm, error, said):
    engine = engine_of("vllm_server", chat)
    engine.client.refuses_weights = error
    with pytest.raises(UserError) as told:
        engine.sync(make_model(1))
    assert str(told.value) == (
        f"--vllm_server_base_url http://host:8000: the student's weights could not be handed over ({said}): "
        "look at the server's log, start it again, then run the same command, which goes on from the last "
        "checkpoint")


@pytest.mark.parametrize(("call", "said"), [
    ("generate", "no trajectories could be had"), ("collective_rpc", "weights could not be handed over")])
def test_what_vllm_itself_raises_is_one_line(chat, vllm, monkeypatch, call, said):
    engine = engine_of("vllm", chat)

    def fail(*_, **__):
        raise RuntimeError("EngineCore died\nTraceback (most recent call last): ...")

    def work():
        engine.sync(make_model(1))
        engine.sample(DRAWS)

    monkeypatch.setattr(engine.llm, call, fail)
    with pytest.raises(UserError, match=rf"^--rollout_engine vllm: .*{said} \(EngineCore died\): run the"):
        work()


def test_an_adapter_goes_over_merged_and_tied_weights_once(chat):
    student = make_model(0, tie_word_embeddings=True)
    names = [name for name, _ in student.named_parameters()]
    adapter = Adapter(student, AdapterOptions(use_peft=True, lora_r=4))
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    found = dict(weights_for_engine(student))
    assert sorted(found) == sorted(names)
    merged = make_model(0, tie_word_embeddings=True)
    merged.load_state_dict({name: tensor.float() for name, tensor in found.items()}, strict=False)
    ids = torch.arange(1, 9)[None]
    want, got, base = (model(input_ids=ids).logits for model in (
        adapter.model, merged, make_model(0, tie_word_embeddings=True)))
    assert (got - want).norm() < 0.05 * (base - want).norm()
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_the_option_names_the_engine(chat, vllm):
    assert isinstance(make_engine(OPTIONS, chat, make_model()), BatchedRollouts)
    assert isinstance(make_engine(replace(OPTIONS, rollout_engine="continuous"), chat, ON_GPU),
                      ContinuousRollouts)
    engine = make_engine(replace(OPTIONS, rollout_engine="vllm"), chat, ON_GPU)
    assert engine.llm.settings == ("folder", "bfloat16", 512, 0.3)
    server = replace(OPTIONS, rollout_engine="vllm_server")
    assert isinstance(make_engine(server, chat, ON_GPU), VLLMServerRollouts)
    with pytest.raises(UserError, match="--vllm_server_base_url http://nobody: The vLLM server can't be"):
        make_engine(replace(server, vllm_server_base_url="http://nobody"), chat, ON_GPU)


def test_what_is_missing_is_named_with_its_install_line(chat, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install vllm"):
        make_engine(replace(OPTIONS, rollout_engine="vllm"), chat, ON_GPU)
    monkeypatch.setitem(sys.modules, "trl.generation.vllm_client", None)
    with pytest.raises(UserError, match=r"pip install 'trl\[vllm\]'"):
        make_engine(replace(OPTIONS, rollout_engine="vllm_server"), chat, ON_GPU)


def test_continuous_batching_that_loses_a_trajectory_says_so(chat, monkeypatch):
    engine = engine_of("continuous", chat)
    engine.sync(make_model())
    monkeypatch.setattr(LlamaForCausalLM, "generate_batch", lambda *_, **__: {})
    with pytest.raises(UserError, match=r"its scheduler stopped\): use .*--rollout_engine transformers"):
        engine.sample(DRAWS[:1], logprobs=True)
