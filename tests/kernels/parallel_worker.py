"""One of P gloo processes; run by test_kernel_processes.py as `parallel_worker.py RANK P FILE`."""

import os
import sys

import torch
import torch.distributed as dist
from raft_kernels import topk_kl_loss, topk_targets
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

rank, world, rendezvous = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
torch.manual_seed(0)
hidden = torch.randint(-2, 3, (6, 5)).double()
weight = torch.randint(-2, 3, (43, 5)).double()
bias, k = torch.randn(43).double(), 30


mesh = init_device_mesh("cpu", (world,))
# every process its own data, and a sharded head, which is gathered: the gradient comes back sharded, and is
# the average, sharded by hand and by FSDP2
own = [hidden + 0.3 + i for i in range(world)]
seen = [topk_targets(h - 0.5, weight, k) for h in own]
w, b = (t.clone().requires_grad_() for t in (weight, bias))
sum(topk_kl_loss(h, w, t, bias=b) for h, t in zip(own, seen, strict=True)).div(world).backward()
sharded, sharded_bias = (distribute_tensor(t, mesh, [Shard(0)]).requires_grad_() for t in (weight, bias))
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
sum(topk_kl_loss(one(h), one.lm_head.weight, t) for h, t in zip(own, seen, strict=True)).div(world).backward()
for head_by_itself in (False, True):
    spread = Body()
    if head_by_itself:
        fully_shard(spread.lm_head, mesh=mesh)
    fully_shard(spread, mesh=mesh)
    topk_kl_loss(spread(own[rank]), spread.lm_head.weight, seen[rank]).backward()
    for got, right in zip(spread.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(got.grad.full_tensor(), right.grad)
# without shutting the interpreter down, which the group's threads may outlive: DTensor keeps the mesh, so
# destroying the group does not join them, and one that still holds a tensor would abort
dist.destroy_process_group()
os._exit(0)
