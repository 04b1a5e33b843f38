"""What several prompts of a pack begin with is read once: the same states and gradients, fewer tokens."""

import copy

import pytest
import torch
from tiny import make_model
from transformers import MistralConfig, MistralForCausalLM

from raft_fast.distillation.examples import Counts, Example, Reading
from raft_fast.distillation.student_pass import StudentPass
from raft_fast.models import attention
from raft_fast.models.architecture import PACKED, packs, shares_prompts
from raft_fast.models.attention import pack_attention
from raft_fast.models.chat import View
from raft_fast.models.packing import completion_hidden, pack
from raft_fast.recipes import terms_of
from raft_fast.run.options import TrainOptions

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12]
VIEWS = {
    "two views": [View(PROMPT, [13, 14, 15, 2]), View(PROMPT, [16, 17, 18, 19, 20, 21, 22, 2])],
    "another between": [View(PROMPT, [13, 14, 2]), View([4, 3], [23, 24, 2]), View(PROMPT, [16, 17, 2])],
    "two pairs": [View(PROMPT, [13, 2]), View([4, 3], [23, 24]), View([4, 3], [30, 2]), View(PROMPT, [16])],
    "prompt of one token": [View([5], [13, 14, 15, 2]), View([5], [16, 17, 2])],
    "completion of one token": [View(PROMPT, [13]), View(PROMPT, [16]), View(PROMPT, [13])],
    "one beginning": [View([*PROMPT, 3], [13, 2]), View([*PROMPT, 4, 3], [23, 2]), View(PROMPT, [16, 2])],
    "a beginning of a beginning": [View([*PROMPT, 3, 4], [13, 2]), View(PROMPT[:4], [23, 2]),
                                   View([*PROMPT, 3, 5], [13, 14]), View([*PROMPT[:4], 3], [16, 2])],
    "first tokens skipped": [View(PROMPT, [13, 14, 15, 2]), View([*PROMPT, 16, 17], [18, 19, 2])],
    "empty completion": [View(PROMPT, []), View(PROMPT, [13, 14]), View(PROMPT, []), View([3], [2])],
}


def family(name):
    """All heads with keys of their own, groups of queries, and a window shorter than prompt or answer."""
    torch.manual_seed(0)
    if name == "window":
        model = MistralForCausalLM(MistralConfig(
            vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3, sliding_window=5))
        pack_attention(model.eval())
        return model
    return make_model(attn_implementation="sdpa", num_key_value_heads=4 if name == "all heads" else 1)


def in_float64(model):
    """A copy whose norms stay in float64: transformers' own always round to float32."""
    model = copy.deepcopy(model).double()
    for owner in list(model.modules()):
        for name, norm in owner.named_children():
            if name.endswith("norm"):
                setattr(owner, name, torch.nn.RMSNorm(norm.weight.shape, norm.variance_epsilon,
                                                      dtype=torch.float64))
    return model


def states_and_gradients(model, views, share, checkpointing=False):
    """Completion states in float64, and every weight's gradient of a sum that weighs each state."""
    model = in_float64(model)
    model.shares_prompts = share
    if checkpointing:
        model.train().gradient_checkpointing_enable({"use_reentrant": False})
    hidden = completion_hidden(model, views, pad_id=2)
    hidden.cos().sum().backward()
    return [hidden.detach(), *(p.grad for p in model.get_decoder().parameters())]


@pytest.mark.parametrize("name", ["all heads", "groups", "window"])
@pytest.mark.parametrize("case", VIEWS)
def test_shared_is_unshared(case, name):
    compare(family(name), VIEWS[case])


@pytest.mark.parametrize("name", ["groups", "window"])
def test_shared_is_unshared_under_gradient_checkpointing(name):
    compare(family(name), VIEWS["another between"], checkpointing=True)


def compare(model, views, **how):
    assert shares_prompts(model)
    apart, shared = (states_and_gradients(model, views, share, **how) for share in (False, True))
    for want, got in zip(apart, shared, strict=True):
        assert want.norm() > 0
        assert (got - want).norm() <= 1e-12 * want.norm()


def test_fewer_tokens_enter(model):
    views = VIEWS["another between"]
    batch = pack(views, model)
    assert batch.inputs["input_ids"].tolist() == [[*PROMPT, 13, 14, 2, 4, 3, 23, 24, 2, 16, 17, 2]]
    assert batch.inputs["position_ids"].tolist() == [[*range(11), *range(5), 8, 9, 10]]
    assert batch.inputs["key_places"].tolist() == [*range(16), *range(8), 16, 17, 18]
    assert batch.inputs["cu_seq_lens_q"].tolist() == [0, 11, 16, 19]
    assert batch.inputs["cu_seq_lens_k"].tolist() == [0, 11, 16, 27]
    assert batch.predicts.tolist() == [7, 8, 9, 12, 13, 14, 7, 16, 17]
    model.shares_prompts = False
    assert pack(views, model).inputs["input_ids"].shape == (1, sum(len(view.ids) for view in views))


@pytest.mark.parametrize(("other", "common"), [([*PROMPT[:-1], 99], 7), ([99, *PROMPT[1:]], 0),
                                               (PROMPT[:-1], 7), ([*PROMPT, 13], 8), (PROMPT[4:], 0)])
def test_prompts_share_what_they_begin_with_and_no_more(model, other, common):
    """Not even a completion that goes on as the other prompt does."""
    views = [View(PROMPT, [13, 14, 2]), View(other, [16, 17, 2])]
    batch = pack(views, model)
    assert batch.inputs["input_ids"].tolist() == [[*views[0].ids, *views[1].ids[common:]]]
    assert ("key_places" in batch.inputs) == (common > 0)
    if common:
        apart = len(views[0].ids)
        assert batch.inputs["key_places"].tolist()[apart:] == [
            *range(common), *range(apart, apart + len(views[1].ids) - common)]


@pytest.mark.parametrize("changed", [0, 1])
def test_views_of_one_prompt_never_see_each_other(model, changed):
    """Another completion of one leaves every bit of the other's states as it was."""
    views = VIEWS["two views"]
    others = [View(PROMPT, [200] * len(view.completion)) if index == changed else view
              for index, view in enumerate(views)]
    kept = slice(4, None) if changed == 0 else slice(4)
    with torch.no_grad():
        before, after = (completion_hidden(model, pair, pad_id=2) for pair in (views, others))
    assert torch.equal(after[kept], before[kept])
    assert not torch.equal(after, before)


@pytest.mark.parametrize("reason", ["differs", "fails"])
def test_a_model_where_only_sharing_differs_packs_without(model, monkeypatch, reason):
    """As a kernel would that aligned its causal mask at the first key, or had none for keys apart."""
    def rival(module, query, key, value, mask, *states, key_places=None, **options):
        if key_places is not None and reason == "fails":
            raise RuntimeError("no kernel")
        if key_places is not None:
            key_places = key_places.roll(1)
        return attention.packed_attention(module, query, key, value, mask, *states, key_places=key_places,
                                          **options)

    model.set_attn_implementation("sdpa")
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, PACKED, rival)
    pack_attention(model)
    assert packs(model)
    assert not shares_prompts(model)
    assert "key_places" not in pack(VIEWS["two views"], model).inputs


def test_only_packed_attention_shares(model, monkeypatch):
    """flash-attn through transformers cannot choose keys."""
    attention.AttentionInterface.register("rival", attention.packed_attention)
    attention.AttentionMaskInterface.register("rival", lambda *states, **options: None)
    monkeypatch.setattr("raft_fast.models.architecture.PACKING", {PACKED, "rival"})
    model.set_attn_implementation("rival")
    assert packs(model)
    assert "key_places" not in pack(VIEWS["two views"], model).inputs


def test_losses_sizes_and_gradients_of_a_step_are_the_same(model):
    """SFT and KL by gradient; targets of the student's own making."""
    from raft_kernels import TopKTargets

    answer, sampled = VIEWS["two views"]
    terms = terms_of("raft", TrainOptions())
    example = Example({"sft": [Reading(answer)], "kl": [Reading(sampled)]})
    found = []
    for share in (False, True):
        one = in_float64(model)
        one.shares_prompts = share
        torch.manual_seed(0)
        ids = torch.stack([torch.randperm(260)[:8] for _ in sampled.completion])
        logits = torch.randn(len(ids), 8, dtype=torch.float64)
        targets = TopKTargets(ids, logits.log_softmax(-1) - 0.1, temperature=1.0)
        losses, measures = StudentPass(one, terms, 2, by_gradient=True)(
            [example], {"kl": targets}, Counts.of([example]))
        (losses * torch.tensor([0.3, 0.7])).sum().backward()
        found.append([losses.detach(), measures, *(p.grad for p in one.parameters())])
    for want, got in zip(*found, strict=True):
        assert (got - want).norm() <= 1e-6 * want.norm()
