"""Bytes alive at once: of the torch backend with real tensors, of the Triton backend counted from shapes,
with no data, no GPU and no kernel run."""

import itertools
import weakref

import pytest
import torch
from raft_kernels import DIVERGENCES, topk_kl_loss, topk_targets, torch_ops
from raft_kernels.divergence import TokenDivergence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

pytest.importorskip("triton", reason="Triton is not installed")
from raft_kernels import triton_sampled, triton_select

from benchmarks import launches

MIB = 1 << 20


def _tensors(tree):
    return [t for t in tree_iter(tree) if isinstance(t, torch.Tensor) and t.layout == torch.strided]


class Alive(TorchDispatchMode):
    """The bytes of tensors made inside it that are alive together; views count once."""

    def __init__(self):
        super().__init__()
        self.views: dict[int, int] = {}
        self.steps: list[tuple[int, int]] = []  # (storage, bytes that came or went)

    def above(self, out):
        """The peak without what `out` holds, counted step by step: outputs made late hide nothing."""
        kept = {t.untyped_storage()._cdata for t in _tensors(out)}
        # a storage's number is given away again: only the last owner of an output's is the output
        last = {key: place for place, (key, size) in enumerate(self.steps) if key in kept and size > 0}
        sizes = [size for place, (key, size) in enumerate(self.steps) if last.get(key) != place]
        return max(itertools.accumulate(sizes, initial=0))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs or {}))}
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self.views and key in given:
                continue  # a view of an input
            if key not in self.views:
                self.views[key] = 0
                self.steps.append((key, size))
            self.views[key] += 1
            weakref.finalize(tensor, self._gone, key, size)
        return out

    def _gone(self, key, size):
        self.views[key] -= 1
        if not self.views[key]:
            del self.views[key]
            self.steps.append((key, -size))


def _peak(run, n, k, vocab, d, dtype):
    hidden, weight = (torch.empty(*s, dtype=dtype, device="meta") for s in ((n, d), (vocab, d)))
    ids = torch.empty(n, k, dtype=torch.int64, device="meta")
    grad, active = torch.empty(n, k, device="meta"), torch.empty(n, dtype=torch.bool, device="meta")
    with launches.recorded() as seen, Alive() as alive:
        out = run(hidden, weight, ids, grad, active)
    assert seen
    assert out is not None
    return alive.above(out)


RUNS = {
    "select": lambda hidden, weight, ids, *_: triton_select.select(
        hidden, weight, None, ids.shape[1], 1.5, 1.0, None),
    "logits": lambda hidden, weight, ids, *_: triton_sampled.sampled_logits(hidden, weight, ids, None),
    "backward": lambda hidden, weight, ids, grad, _: triton_sampled.sampled_backward(
        grad, hidden, weight, ids, None, True, True),
    # without a gradient of the head, where some tokens are dropped
    "frozen": lambda hidden, weight, ids, grad, active: triton_sampled.sampled_backward(
        grad, hidden, weight, ids, active, True, False)}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("n", "k", "vocab", "d"), [
    (8192, 512, 128256, 4096), (8192, 2048, 262144, 4096), (8192, 2048, 49152, 576),
    (65536, 8, 262144, 512)])  # few ids: planning takes bytes by the vocabulary, not by K
def test_extra_memory_stays_below_its_bound(run, dtype, n, k, vocab, d):
    """At most 512 MiB at N = 8192, whatever K and V: the goal of dev/PERFORMANCE.md."""
    assert _peak(RUNS[run], n, k, vocab, d, dtype) <= 512 * MIB


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_divergence_takes_a_few_slices_and_waits_for_no_value(divergence, softcap):
    """Above its logits and the gradient it saves, each one number a pair. Reading a value of a tensor without
    data raises, and would make a GPU wait."""
    with Alive() as alive:
        logits, logprobs = (torch.empty(8192, 2048, device="meta", requires_grad=r) for r in (True, False))
        weights = torch.empty(8192, device="meta")
        value = TokenDivergence.apply(logits, logprobs, weights, 1.5, 1.0, softcap, divergence, 0.3)
        saved = value.grad_fn.saved_tensors
    assert alive.above([logits, logprobs, weights, value, *saved]) <= 200 * MIB
    value.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_torch_backend_makes_no_logits(dtype):
    """A slice of them at a time. Operators are called bare: inside of custom ones nothing is seen."""
    n, vocab, d, k = 3000, 8192, 8, 16  # logits would be 98 MB in float32
    hidden, weight = torch.randn(n, d).to(dtype), torch.randn(vocab, d).to(dtype)
    bias, pairs = torch.randn(vocab).to(dtype), 8 * max(n * k, vocab * d)

    def extra(run):
        with Alive() as alive:
            out = run()
        return alive.above(out)

    def select():
        return torch_ops.select(hidden, weight, bias, k, 1.5, 0.5, 5.0)

    assert extra(select) <= 1.1 * torch_ops.LOGIT_SLICE_BYTES < n * vocab * 4
    with pytest.MonkeyPatch.context() as patch:  # a slice that is too large is seen
        patch.setattr(torch_ops, "LOGIT_SLICE_BYTES", 1 << 40)
        assert extra(select) >= n * vocab * 4
    ids, grad = select()[0], torch.randn(n, k)
    assert extra(lambda: torch_ops.sampled_logits(hidden, weight, ids, None)) <= 2 * pairs
    assert extra(lambda: torch_ops.sampled_backward(grad, hidden, weight, ids, None, True, True)) <= 3 * pairs
    hidden.requires_grad_(), weight.requires_grad_()
    targets = topk_targets(hidden, weight, k)
    assert extra(lambda: topk_kl_loss(hidden, weight, targets).backward()) <= 4 * pairs  # what is around them
