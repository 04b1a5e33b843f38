"""Bytes alive at once in the Triton backend, counted from shapes: no data, no GPU, no kernel run."""

import importlib.util
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed")
MIB = 1 << 20


class Alive(TorchDispatchMode):
    """The most bytes of tensors made inside it that were alive together; views count once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.views: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs or {}))
                 if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor, given)
        return out

    def _watch(self, tensor, given):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.views:
            if key in given:
                return  # a view of an input
            self.views[key] = 0
            self.now += size
            self.peak = max(self.peak, self.now)
        self.views[key] += 1
        weakref.finalize(tensor, self._gone, key, size)

    def _gone(self, key, size):
        self.views[key] -= 1
        if not self.views[key]:
            del self.views[key]
            self.now -= size


def _peak(run, n, k, vocab, d, dtype):
    from benchmarks import launches

    hidden, weight = (torch.empty(*s, dtype=dtype, device="meta") for s in ((n, d), (vocab, d)))
    ids = torch.empty(n, k, dtype=torch.int64, device="meta")
    with launches.recorded() as seen, Alive() as alive:
        out = run(hidden, weight, ids)
    assert seen
    assert out is not None
    outputs = sum(t.nbytes for t in tree_iter(out) if isinstance(t, torch.Tensor))
    return alive.peak - outputs


def _select(hidden, weight, ids):
    from raft_kernels import triton_select

    return triton_select.select(hidden, weight, None, ids.shape[1], 1.5, 1.0, None)


def _logits(hidden, weight, ids):
    from raft_kernels import triton_sampled

    return triton_sampled.sampled_logits(hidden, weight, ids, None)


def _backward(hidden, weight, ids):
    from raft_kernels import triton_sampled

    grad = torch.empty(ids.shape, device="meta")
    return triton_sampled.sampled_backward(grad, hidden, weight, ids, None, True, True)


RUNS = [_select, _logits, _backward]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("k", "vocab", "d"), [(512, 128256, 4096), (2048, 262144, 4096)])
def test_extra_memory_stays_below_its_bound(run, dtype, k, vocab, d):
    """At most 512 MiB at N = 8192, whatever K and V: the goal of docs/PERFORMANCE.md."""
    assert _peak(run, 8192, k, vocab, d, dtype) <= 512 * MIB


def test_tiles_held_at_once_follow_k(monkeypatch):
    """Sixteen tiles at K = 2048 would be over the bound."""
    from raft_kernels import triton_tiles

    monkeypatch.setattr(triton_tiles, "tokens_at_once", lambda *_: 16 * triton_tiles.TILE)
    assert _peak(_logits, 8192, 2048, 262144, 4096, torch.bfloat16) > 512 * MIB


@pytest.mark.parametrize("run", RUNS)
def test_only_pairs_grow_with_tokens(run):
    one, two = (_peak(run, n, 512, 128256, 1024, torch.bfloat16) for n in (8192, 16384))
    assert two - one <= 8192 * 512 * (4 + 8 + 8 + 4 + 4)


def test_mixed_dtypes_are_upcast_in_bounded_chunks():
    from raft_kernels import triton_select

    def select(hidden, weight, ids):
        return triton_select.select(hidden.float(), weight, None, 512, 1.5, 1.0, None)

    assert _peak(select, 64, 512, 128256, 8192, torch.bfloat16) <= 300 * MIB  # whole: 4 GiB


def test_the_count_sees_what_is_held():
    with Alive() as alive:
        first = torch.empty(100, dtype=torch.uint8, device="meta")
        view, second = first[:50], torch.empty(10, dtype=torch.uint8, device="meta")
        del first
        assert alive.now == 110
        del view
        assert (alive.now, alive.peak) == (10, 110)
        del second
        assert alive.now == 0
