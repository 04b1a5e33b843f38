"""Packed rows against padded ones, and prompts that stand in a row once: the same states and gradients, fewer
tokens, and no look at a neighbour."""

import copy
from types import SimpleNamespace

import pytest
import torch
from test_families import build
from tiny import make_model

from raft_fast.distillation.weights import longest_sequence
from raft_fast.models import attention
from raft_fast.models.architecture import PACKED, packs, shares_prompts
from raft_fast.models.attention import pack_attention
from raft_fast.models.chat import View
from raft_fast.models.packing import completion_hidden, pack

VIEWS = [View([5, 6, 7], [8, 2]), View([5] * 20, [9, 10, 11, 2]), View([4, 4], []), View([3], [12, 13, 14])]
PROMPT = [5, 6, 7, 8, 9, 10, 11, 12]
SHARED = {
    "two views": [View(PROMPT, [13, 14, 15, 2]), View(PROMPT, [16, 17, 18, 19, 20, 21, 22, 2])],
    "another between": [View(PROMPT, [13, 14, 2]), View([4, 3], [23, 24, 2]), View(PROMPT, [16, 17, 2])],
    "prompt of one token": [View([5], [13, 14, 15, 2]), View([5], [16, 17, 2])],
    "completion of one token": [View(PROMPT, [13]), View(PROMPT, [16]), View(PROMPT, [13])],
    "a beginning of a beginning": [View([*PROMPT, 3, 4], [13, 2]), View(PROMPT[:4], [23, 2]),
                                   View([*PROMPT, 3, 5], [13, 14]), View([*PROMPT[:4], 3], [16, 2])],
    "first tokens skipped": [View(PROMPT, [13, 14, 15, 2]), View([*PROMPT, 16, 17], [18, 19, 2])],
    "empty completion": [View(PROMPT, []), View(PROMPT, [13, 14]), View(PROMPT, []), View([3], [2])],
}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4, "original_max_position_embeddings": 32}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def family(name):
    """Llama with keys for all heads, groups or one; norms over queries and keys; a window shorter than views;
    rotary frequencies that change above 32 tokens."""
    torch.manual_seed(0)
    if name in ("llama", "all heads", "one head"):
        return make_model(attn_implementation="sdpa",
                          num_key_value_heads={"llama": 2, "all heads": 4, "one head": 1}[name])
    if name == "dynamic":
        return make_model(max_position_embeddings=32, rope_parameters=DYNAMIC)
    model = {"qwen3": lambda: build("qwen3"), "window": lambda: build("mistral", sliding_window=5),
             "longrope": lambda: build("phi3", original_max_position_embeddings=32,
                                       rope_parameters=LONGROPE)}[name]()
    pack_attention(model)
    return model


def states_and_gradients(model, views):
    """Completion states and every weight's gradient of a sum that weighs each state."""
    hidden = completion_hidden(model, views, pad_id=2)
    hidden.cos().sum().backward()
    return [hidden.detach(), *(p.grad for p in model.get_decoder().parameters())]


def in_float64(model):
    """A copy whose norms stay in float64: transformers' own always round to float32."""
    model = copy.deepcopy(model).double()
    for owner in list(model.modules()):
        for name, norm in owner.named_children():
            if name.endswith("norm"):
                setattr(owner, name, torch.nn.RMSNorm(norm.weight.shape, norm.variance_epsilon,
                                                      dtype=torch.float64))
    return model


@pytest.mark.parametrize("name", ["llama", "qwen3", "window"])
@pytest.mark.parametrize("packed", [PACKED, "transformers' block mask"])
def test_packed_is_padded_within_rounding(name, packed, monkeypatch):
    """Judged by padded float64: no further from it than three times what padded float32 is."""
    def flat(implementation, dtype=torch.float32):
        one = copy.deepcopy(model).to(dtype)
        one.set_attn_implementation(implementation)
        states, *gradients = states_and_gradients(one, VIEWS)
        return states.flatten(), torch.cat([gradient.flatten() for gradient in gradients])

    model = family(name)
    assert packs(model)
    exact, baseline = flat("sdpa", torch.float64), flat("sdpa")
    if packed != PACKED:  # what flash-attn is given too: positions that start again and no mask
        packed = "sdpa"
        monkeypatch.setattr("raft_fast.models.architecture.PACKING", {"sdpa"})
    for want, plain, got in zip(exact, baseline, flat(packed), strict=True):
        assert (got - want).norm() <= 3 * (plain - want).norm()


@pytest.mark.parametrize(("name", "case", "checkpointing"), [
    *((name, case, False) for name in ("all heads", "one head", "window") for case in SHARED),
    ("one head", "another between", True), ("window", "another between", True)])
def test_shared_is_unshared(name, case, checkpointing):
    found = []
    for share in (False, True):
        model = in_float64(family(name))
        assert shares_prompts(model)
        model.shares_prompts = share
        if checkpointing:
            model.train().gradient_checkpointing_enable({"use_reentrant": False})
        found.append(states_and_gradients(model, SHARED[case]))
    for want, got in zip(*found, strict=True):
        assert want.norm() > 0
        assert (got - want).norm() <= 1e-12 * want.norm()


@pytest.mark.parametrize("name", ["llama", "qwen3", "window"])
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
        assert (window_size[1], enable_gqa) == (0, True)
        assert (longest_q, longest_k) == (starts_q.diff().max(), starts_k.diff().max())
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


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_frequencies_are_those_of_a_sequence_alone(kind, packed):
    """transformers takes them from the longest of a pass. 32 tokens are not above the bound; after a longer
    pass "dynamic" frequencies are set back below it only, which is transformers' own."""
    model = family(kind)
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
    processes = [SimpleNamespace(size=size) for size in (1, 2)]  # shards take no pass of their own
    longest = [512, 32] if kind == "longrope" else [32, 31]
    assert [longest_sequence(model, "fsdp2", one) for one in processes] == longest


def test_a_row_holds_every_token_once_and_a_shared_one_once_in_all(model):
    views = SHARED["another between"]
    batch = pack(views, model)
    assert batch.inputs["input_ids"].tolist() == [[*PROMPT, 13, 14, 2, 4, 3, 23, 24, 2, 16, 17, 2]]
    assert batch.inputs["position_ids"].tolist() == [[*range(11), *range(5), 8, 9, 10]]
    assert batch.inputs["key_places"].tolist() == [*range(16), *range(8), 16, 17, 18]
    assert batch.inputs["cu_seq_lens_q"].tolist() == [0, 11, 16, 19]
    assert batch.inputs["cu_seq_lens_k"].tolist() == [0, 11, 16, 27]
    assert batch.predicts.tolist() == [7, 8, 9, 12, 13, 14, 7, 16, 17]


def rival(fault):
    """Packed attention with a fault; 3 % is below what the square root of bf16's precision allows."""
    def attend(module, query, key, value, mask, cu_seq_lens_q=None, *, key_places=None, **options):
        if fault == "fails" or (fault == "shares never" and key_places is not None):
            raise RuntimeError("no kernel")
        if fault == "leaks":  # all of the row is one sequence to it
            return attention.sdpa_attention_forward(module, query, key, value, None)
        if fault == "leaks a little" and cu_seq_lens_q is not None:
            value = value + 0.03 * value.roll(9, dims=2)
        if fault == "leaks in its gradient" and query.requires_grad:
            query = 2 * query - query.detach()
        if fault == "shares wrongly" and key_places is not None:  # a causal mask aligned at the first key
            key_places = key_places.roll(1)
        return attention.packed_attention(module, query, key, value, mask, cu_seq_lens_q,
                                          key_places=key_places, **options)
    return attend


@pytest.mark.parametrize(("fault", "how"), [
    ("leaks", {}), ("leaks a little", {}), ("leaks a little", {"dtype": torch.bfloat16}),
    ("", {"dtype": torch.bfloat16, "packs": True, "shares": True}),
    ("fails", {"warns": "packed attention fails here"}), ("", {"layers": "chunked_attention"}),
    ("shares wrongly", {"packs": True}), ("shares never", {"packs": True}),
    ("leaks in its gradient", {"name": "rival"}), ("leaks", {"name": "rival"}),
    ("", {"name": "rival", "packs": True}), ("", {"name": "rival", "layers": "linear_attention"})], ids=str)
def test_a_model_packs_and_shares_only_where_that_changes_nothing(model, monkeypatch, fault, how):
    """A rival packs by its name alone, as flash-attn does, which never shares: it cannot choose keys."""
    name = how.get("name", PACKED)
    attention.AttentionMaskInterface.register("rival", lambda *states, **options: None)
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, name, rival(fault))
    monkeypatch.setattr("raft_fast.models.architecture.PACKING", {PACKED, "rival"})
    model.to(how.get("dtype", torch.float32)).set_attn_implementation("sdpa" if name == PACKED else name)
    if "layers" in how:
        model.config.layer_types = [how["layers"], "full_attention"]
    if "warns" in how or (name == "rival" and "packs" not in how):
        said = how.get("warns", "it would change what the model computes")
        with pytest.warns(UserWarning, match=f"sequences are padded: {said}"):
            pack_attention(model)
    else:
        pack_attention(model)
    assert (packs(model), shares_prompts(model)) == ("packs" in how, "shares" in how)
    if packs(model):
        assert ("key_places" in pack(SHARED["two views"], model).inputs) == ("shares" in how)
    assert len(completion_hidden(model, VIEWS, pad_id=2)) == 9


def test_a_window_that_only_the_mask_tells_of_keeps_padding():
    """Qwen2-MoE gives its window to the mask and not to the attention function; without one it packs."""
    def load(**window):
        model = build("qwen2_moe", **window, max_window_layers=1)
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
