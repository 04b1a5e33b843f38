"""Packed rows against padded ones: the same hidden states and gradients, and no look at a neighbour."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny import make_model
from torch.profiler import ProfilerActivity, profile
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from raft_fast.distillation.weights import longest_sequence
from raft_fast.models import attention
from raft_fast.models.attention import PACKED, packs
from raft_fast.models.chat import View
from raft_fast.models.pack_check import pack_attention
from raft_fast.models.packing import completion_hidden, consecutive, pack

SMALL = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
         "initializer_range": 0.3}
VIEWS = [View([5, 6, 7], [8, 2]), View([5] * 20, [9, 10, 11, 2]), View([4, 4], []), View([3], [12, 13, 14])]


def family(name):
    """Llama, Qwen with its norms over queries and keys, and a window shorter than the longest view."""
    torch.manual_seed(0)
    if name == "llama":
        return make_model(attn_implementation="sdpa")
    if name == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=8))
    else:
        model = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=6))
    model = model.eval()
    pack_attention(model)
    return model


def states_and_gradients(model, implementation, dtype=torch.float32):
    """Completion states of VIEWS and the gradient of their sum of squares, each as one vector."""
    model = copy.deepcopy(model).to(dtype)
    model.set_attn_implementation(implementation)
    hidden = completion_hidden(model, VIEWS, pad_id=2)
    hidden.square().sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.get_decoder().parameters()])
    return hidden.detach().flatten(), gradient


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral"])
@pytest.mark.parametrize("packed", [PACKED, "transformers' block mask"])
def test_packed_is_padded_within_rounding(name, packed, monkeypatch):
    """Judged by padded float64: no further from it than three times what padded float32 is."""
    model = family(name)
    assert packs(model)
    exact = states_and_gradients(model, "sdpa", torch.float64)
    baseline = states_and_gradients(model, "sdpa")
    if packed != PACKED:  # what flash-attn is given too: positions that start again and no mask
        packed = "sdpa"
        monkeypatch.setattr(attention, "PACKING", {"sdpa"})
    found = states_and_gradients(model, packed)
    for want, plain, got in zip(exact, baseline, found, strict=True):
        assert (got - want).norm() <= 3 * (plain - want).norm()


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral"])
def test_a_sequence_never_sees_its_neighbours(name):
    """Another first sequence, even one of NaN, leaves every bit of the others as it was."""
    model = family(name)
    model.shares_prompts = False  # rows of one length: sums of another may be rounded otherwise
    kept = sum(len(view.completion) for view in VIEWS[1:])
    with torch.no_grad():
        model.get_decoder().embed_tokens.weight[200] = float("nan")
        before = completion_hidden(model, VIEWS, pad_id=2)[-kept:]
        poisoned = completion_hidden(model, [View([200, 200, 200], [200, 2]), *VIEWS[1:]], pad_id=2)
    assert poisoned[:-kept].isnan().all()
    assert torch.equal(poisoned[-kept:], before)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("window", [None, 4])
def test_torchs_flash_attention_is_asked_for_the_same(window, shared, monkeypatch):
    """Its CUDA kernel is played by dense products, by its documentation: [tokens, heads, Dh], a window of
    (keys before, keys after) the token, -1 for all, and the last query at the last key."""
    def dense(query, key, value, starts_q, starts_k, longest_q, longest_k, *, scale, window_size, enable_gqa):
        groups = query.shape[1] // key.shape[1]
        sequence_q, sequence_k = ((torch.arange(starts[-1])[:, None] >= starts[1:]).sum(-1)
                                  for starts in (starts_q, starts_k))
        before = (starts_k[1:] - starts_q[1:])[sequence_q] + torch.arange(len(query))
        distance = before[:, None] - torch.arange(len(key))
        seen = (sequence_q[:, None] == sequence_k) & (distance >= 0)
        if window_size[0] >= 0:
            seen &= distance <= window_size[0]
        assert window_size[1] == 0
        assert longest_q == starts_q.diff().max()
        assert longest_k == starts_k.diff().max()
        assert enable_gqa
        key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
        logits = torch.einsum("qhd,khd->hqk", query, key) * scale
        return torch.einsum("hqk,khd->qhd", logits.masked_fill(~seen, -torch.inf).softmax(-1), value)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", dense)
    query, key, value = (torch.randn(1, heads, 12, 8) for heads in (4, 2, 2))
    starts_q = starts_k = torch.tensor([0, 3, 12], dtype=torch.int32)
    longest, options = (9, 9), {}
    if shared:  # the second continues the first's two first tokens
        starts_k, longest = torch.tensor([0, 3, 14], dtype=torch.int32), (9, 11)
        options = {"cu_seq_lens_k": starts_k, "key_places": torch.tensor([0, 1, 2, 0, 1, *range(3, 12)])}
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True)
    want, _ = attention.packed_attention(module, query, key, value, None, starts_q, 9, window, 0.3, **options)
    if shared:
        key, value = (states[:, :, options["key_places"]] for states in (key, value))
    found = attention._flash(query, key, value, (starts_q, starts_k), longest, window, 0.3)
    assert (found - want).abs().max() < 1e-5


LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4, "original_max_position_embeddings": 32}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def with_rope(kind):
    """Rotary frequencies that change above 32 tokens."""
    torch.manual_seed(0)
    if kind == "dynamic":
        return make_model(max_position_embeddings=32, rope_parameters=DYNAMIC)
    model = Phi3ForCausalLM(Phi3Config(**SMALL, original_max_position_embeddings=32, rope_parameters=LONGROPE,
                                       pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()
    pack_attention(model)
    return model


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_frequencies_are_those_of_a_sequence_alone(kind, packed):
    """transformers takes them from the longest of a pass. 32 tokens are not above the bound; after a longer
    pass "dynamic" frequencies are set back below it only, which is transformers' own."""
    model = with_rope(kind)
    assert packs(model)
    if not packed:
        model.set_attn_implementation("sdpa")
    last = 30 if kind == "longrope" else 29
    views = [View([5, 6, 7], [8, 9, 10, 2]), View(list(range(10, 70)), [20, 21, 2]), View([5, 6], [8] * last)]
    with torch.no_grad():
        alone = [completion_hidden(model, [view], pad_id=0) for view in views]
        together = completion_hidden(model, views, pad_id=0).split([4, 3, last])
        switched = model.get_decoder()(torch.tensor([[*views[0].ids, *[5] * 40]])).last_hidden_state[0, 2:6]
    assert (switched - alone[0]).abs().max() > 0.01  # what a longer neighbour would do
    for want, found in zip(alone, together, strict=True):
        assert (found - want).abs().max() < 1e-5


def test_fsdp2_takes_no_sequence_that_needs_a_pass_of_its_own():
    one, two = SimpleNamespace(size=1), SimpleNamespace(size=2)
    model = with_rope("longrope")
    asked = [("fsdp2", two), ("fsdp2", one), ("ddp", two)]
    assert [longest_sequence(model, how, processes) for how, processes in asked] == [32, 512, 512]
    assert longest_sequence(make_model(), "fsdp2", two) == 512


def test_nothing_is_padded(model):
    model.shares_prompts = False
    batch = pack(VIEWS, model)
    assert batch.inputs["input_ids"].shape == (1, sum(len(view.ids) for view in VIEWS))
    assert batch.inputs["position_ids"][0].tolist() == [place for view in VIEWS
                                                        for place in range(len(view.ids))]


@pytest.mark.parametrize("window", [None, 512])
def test_a_long_sequence_that_needs_no_mask_makes_none(window):
    plain, shared = attention._masks([500, 4], [500, 9], window, torch.zeros(1))
    assert plain is None
    assert shared.shape == (1, 1, 4, 9)
    assert shared.untyped_storage().nbytes() == 4 * 4 * 9
    assert (shared[0, 0] == 0).sum(1).tolist() == [6, 7, 8, 9]


def test_the_gradient_of_a_sequence_is_as_long_as_itself(model):
    """A slice's is as long as the row: sixteen sequences would write sixteen rows of zeros, in each layer."""
    def slices(count):
        views = [View([9, *range(3, 7 + number)], [7, 8, 9]) for number in range(count)]
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            completion_hidden(model, views, pad_id=0).sum().backward()
        return sum(one.count for one in seen.key_averages() if one.key == "aten::slice_backward")

    assert slices(8) == slices(2)


@pytest.mark.parametrize("reason", ["leaks", "fails", "chunked layers"])
def test_a_model_that_cannot_pack_keeps_padding(model, monkeypatch, reason):
    model.set_attn_implementation("sdpa")
    if reason == "leaks":  # all of the row is one sequence to it
        def leaking(module, query, key, value, mask, **options):
            return attention.sdpa_attention_forward(module, query, key, value, None)

        monkeypatch.setitem(attention.AttentionInterface._global_mapping, PACKED, leaking)
    elif reason == "fails":
        def failing(*states, **options):
            raise RuntimeError("no kernel")

        monkeypatch.setitem(attention.AttentionInterface._global_mapping, PACKED, failing)
    else:
        model.config.layer_types = ["full_attention", "chunked_attention"]
    if reason == "fails":
        with pytest.warns(UserWarning, match="padded: packed attention fails here"):
            pack_attention(model)
    else:
        pack_attention(model)
    assert not packs(model)
    assert len(completion_hidden(model, VIEWS, pad_id=2)) == 9


def test_a_window_that_only_the_mask_tells_of_keeps_padding():
    """Qwen2-MoE gives its window to the mask and not to the attention function; without one it packs."""
    def load(**window):
        torch.manual_seed(0)
        config = Qwen2MoeConfig(**SMALL, **window, max_window_layers=1, num_experts=4, num_experts_per_tok=2,
                                moe_intermediate_size=16, shared_expert_intermediate_size=16)
        model = Qwen2MoeForCausalLM(config).eval()
        pack_attention(model)
        return model

    assert packs(load(use_sliding_window=False))
    model = load(use_sliding_window=True, sliding_window=8)
    assert not packs(model)
    assert model.config.sliding_window == 8
    view = View([5], list(range(10, 70)))
    with torch.no_grad():
        alone = model.get_decoder()(input_ids=torch.tensor([view.ids])).last_hidden_state[0, :-1]
        together = completion_hidden(model, [view, VIEWS[1]], pad_id=2)[:60]
    assert (together - alone).norm() <= 1e-4 * alone.norm()


@pytest.mark.parametrize("reason", ["leaks", "leaks in its gradient", "layers without a mask", None])
def test_flash_attention_is_checked_like_any_other(model, monkeypatch, reason):
    """A rival that packs by its name alone, as flash-attn does."""
    def rival(module, query, key, value, mask, cu_seq_lens_q=None, **options):
        if reason == "leaks":
            return attention.sdpa_attention_forward(module, query, key, value, None)
        if reason == "leaks in its gradient" and query.requires_grad:
            query = 2 * query - query.detach()
        return attention.packed_attention(module, query, key, value, mask, cu_seq_lens_q, **options)

    attention.AttentionInterface.register("rival", rival)
    attention.AttentionMaskInterface.register("rival", lambda *states, **options: None)
    monkeypatch.setattr(attention, "PACKING", {PACKED, "rival"})
    monkeypatch.setattr("raft_fast.models.pack_check.PACKING", {PACKED, "rival"})
    model.set_attn_implementation("rival")
    if reason == "layers without a mask":
        model.config.layer_types = ["linear_attention", "full_attention"]
    if reason is None:
        pack_attention(model)
    else:
        with pytest.warns(UserWarning, match="sequences are padded: it would change what the model computes"):
            pack_attention(model)
    assert packs(model) is (reason is None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_leak_is_seen_in_every_precision(model, monkeypatch, dtype):
    """Values mixed with 3 % of the neighbour's: below what the square root of bf16's precision allows."""
    def leaking(module, query, key, value, mask, cu_seq_lens_q=None, **options):
        mixed = value + 0.03 * value.roll(9, dims=2) if cu_seq_lens_q is not None else value
        return attention.packed_attention(module, query, key, mixed, mask, cu_seq_lens_q, **options)

    model.set_attn_implementation("sdpa")
    model.to(dtype)
    pack_attention(model)
    assert packs(model)
    model.set_attn_implementation("sdpa")
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, PACKED, leaking)
    pack_attention(model)
    assert not packs(model)


def test_consecutive_groups_keep_both_bounds():
    assert list(consecutive([3, 3, 3, 9, 1, 1, 1], tokens=6)) == [[0, 1], [2], [3], [4, 5, 6]]
    assert list(consecutive([1, 1, 1], tokens=100, rows=2)) == [[0, 1], [2]]
    assert list(consecutive([], tokens=1)) == []
