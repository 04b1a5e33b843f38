"""One of P gloo processes; run by test_kernel_processes.py as `parallel_worker.py RANK P FILE BACKEND`."""

import os
import sys

import pytest
import torch
import torch.distributed as dist
from raft_kernels import topk_kl_loss, topk_targets
from raft_kernels.vocab_parallel import vocab_parallel_topk_kl_loss, vocab_parallel_topk_targets
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

rank, world, rendezvous, backend = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
torch.manual_seed(0)
# small integers: their logits tie often, across processes too, and are exact in any order of sums
dtype = torch.float32 if backend == "triton" else torch.float64
hidden = torch.randint(-2, 3, (6, 5)).to(dtype)
weight = torch.randint(-2, 3, (43, 5)).to(dtype)
bias, token_weights = torch.randn(43).to(dtype), torch.tensor([1.0, 0, 2, 1, 0, 1]).to(dtype)
k = 30  # more than a process holds
step = -(-43 // world)
first, last = rank * step, min((rank + 1) * step, 43)
even = [(i * step, min((i + 1) * step, 43)) for i in range(world)]
RANGES = {
    "even": even, "first has all": [(0, 43)] + [(43, 43)] * (world - 1),
    "last has all": [(0, 0)] * (world - 1) + [(0, 43)],
    "one row, and the rest": [(0, 1)] + [(1, 1)] * (world - 2) + [(1, 43)],
    "backwards": even[::-1],
}


def leave():
    """End without shutting the interpreter down, which the group's threads may outlive.

    DTensor keeps the mesh, so destroying the group does not join them. One that still holds a tensor
    of the last collective asks for the interpreter's lock to release it; during a shutdown that aborts.
    """
    dist.destroy_process_group()
    os._exit(0)


def leaves(*tensors):
    return [t.clone().requires_grad_() for t in tensors]


def same_as_one_process(first, last, k, divergence="forward_kl", **options):
    """Targets, loss and every gradient, where this process holds the rows from first to last."""
    measured = {"divergence": divergence, "beta": 0.3, "token_weights": token_weights}
    right = topk_targets(hidden, weight, k, backend="torch", **options)
    got = vocab_parallel_topk_targets(
        hidden, weight[first:last], first, 43, k, backend=backend, **options)
    assert torch.equal(got.ids, right.ids)
    torch.testing.assert_close(got.logprobs, right.logprobs)
    h, w, b = leaves(hidden + 0.3, weight, bias)
    loss = topk_kl_loss(h, w, right, bias=b, backend="torch", **measured, **options)
    loss.backward()
    ph, pw, pb = leaves(hidden + 0.3, weight[first:last], bias[first:last])
    spread = vocab_parallel_topk_kl_loss(
        ph, pw, first, got, bias=pb, backend=backend, **measured, **options)
    spread.backward()
    for one, whole in ((spread, loss), (ph.grad, h.grad), (pw.grad, w.grad[first:last]),
                       (pb.grad, b.grad[first:last])):
        torch.testing.assert_close(one, whole)


if backend == "triton":
    from raft_kernels import triton_sampled, triton_select

    triton_select.BLOCK = triton_sampled.BLOCK_K = triton_sampled.BLOCK_D = 16  # interpreted: small
    RANGES = {name: RANGES[name] for name in ("first has all", "one row, and the rest")}
for held in RANGES.values():
    same_as_one_process(*held[rank], k)
same_as_one_process(first, last, 2, "jsd", softcap=5.0, logit_scale=0.5)
with torch.inference_mode():  # what is frozen may come from there
    frozen = [t.clone() for t in (weight[first:last], bias[first:last], token_weights)]
    taught = vocab_parallel_topk_targets(hidden, weight[first:last], first, 43, k, backend=backend)
losses = []
for held in (frozen, (weight[first:last], bias[first:last], token_weights)):
    (h,) = leaves(hidden + 0.3)
    vocab_parallel_topk_kl_loss(h, held[0], first, taught, bias=held[1], token_weights=held[2],
                                backend=backend).backward()
    losses.append(h.grad)
assert torch.equal(*losses)
if backend == "triton":  # the rest is the same code whatever the backend
    leave()

# rows from vocab_size on are padding, whatever they hold and whoever holds them
padded = torch.cat([weight, hidden.new_full((9, 5), 7.0)])
right = topk_targets(hidden, padded, k, vocab_size=43)
alone = [(0, 43), *[(43, 43)] * (world - 2), (43, 52)]  # the last holds nothing else
for start, stop in (alone[rank], (first, 52 if rank == world - 1 else last)):
    got = vocab_parallel_topk_targets(
        hidden, padded[start:stop], start, 43, k, bias=hidden.new_zeros(stop - start))
    assert torch.equal(got.ids, right.ids)
    torch.testing.assert_close(got.logprobs, right.logprobs)
right = topk_targets(hidden, weight, k)
mine = weight[first:last]
gap = mine[:-1] if rank == world - 1 else mine  # nobody holds id 42
for refused, message in (
    (lambda: vocab_parallel_topk_kl_loss(hidden, gap, first, right), "first_row"),
    (lambda: vocab_parallel_topk_targets(hidden, gap, first, 43, k), "first_row"),
    (lambda: vocab_parallel_topk_kl_loss(hidden, mine, first, right[:1]), "targets"),
    (lambda: vocab_parallel_topk_kl_loss(hidden, mine, first, right, backend="reference"), "backend"),
    (lambda: vocab_parallel_topk_kl_loss(hidden, mine, first, right, divergence="kl"), "divergence"),
    (lambda: vocab_parallel_topk_targets(hidden, mine, first, 43, k, backend="fast"), "backend"),
):
    with pytest.raises(ValueError, match=f"^{message} was"):
        refused()

mesh = init_device_mesh("cpu", (world,))
# every process its own data, and a sharded head, which is gathered: the gradient comes back sharded, and is
# the average, sharded by hand and by FSDP2
own = [hidden + 0.3 + i for i in range(world)]
seen = [topk_targets(h - 0.5, weight, k) for h in own]
w, b = leaves(weight, bias)
sum(topk_kl_loss(h, w, t, bias=b) for h, t in zip(own, seen, strict=True)).div(world).backward()
sharded, sharded_bias = (
    distribute_tensor(t, mesh, [Shard(0)]).requires_grad_() for t in (weight, bias))
topk_kl_loss(own[rank], sharded, seen[rank], bias=sharded_bias).backward()
torch.testing.assert_close(sharded.grad.full_tensor(), w.grad)
torch.testing.assert_close(sharded_bias.grad.full_tensor(), b.grad)


class Body(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.lm_head = torch.nn.Linear(5, 5).double(), torch.nn.Linear(5, 43, bias=False).double()
        self.lm_head.weight.data = weight.clone()

    def forward(self, x):
        return self.layer(x)


one = Body()
sum(topk_kl_loss(one(h), one.lm_head.weight, t)
    for h, t in zip(own, seen, strict=True)).div(world).backward()
for head_by_itself in (False, True):
    spread = Body()
    if head_by_itself:
        fully_shard(spread.lm_head, mesh=mesh)
    fully_shard(spread, mesh=mesh)
    topk_kl_loss(spread(own[rank]), spread.lm_head.weight, seen[rank]).backward()
    for got, right in zip(spread.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(got.grad.full_tensor(), right.grad)
leave()
