"""The two losses of a micro-batch as sums over the step's global counts, and how large each is."""

import torch
import torch.nn.functional as F
from raft_kernels import TopKTargets, topk_kl_loss

from raft_fast.head import Head

CE_CHUNK = 256  # rows of logits alive at once; the library's own choice is several times slower on CPUs


def sft_loss(hidden: torch.Tensor, targets: torch.Tensor, head: Head, step_tokens: int) -> torch.Tensor:
    """Cross-entropy of hidden [N, D] on the answers' tokens [N], summed and divided by the step's tokens."""
    weight = head.weight.to(hidden.dtype)
    plain = head.bias is None and head.logit_scale == 1.0 and head.softcap is None
    if plain and hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=CE_CHUNK, allow_retain_graph=True)
        total = F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)
    else:
        total = sum((_checkpointed_ce(rows, head, ids) for rows, ids in
                     zip(hidden.split(CE_CHUNK), targets.split(CE_CHUNK), strict=True)),
                    hidden.new_zeros((), dtype=torch.float32))
    return total / step_tokens


def kl_loss(
    hidden: torch.Tensor, targets: TopKTargets, head: Head, lengths: list[int], trajectories: int
) -> torch.Tensor:
    """Eq. 10 over the step's B = `trajectories` non-empty ones: each token weighs 1 / (B L_i)."""
    weights = torch.cat([torch.full((length,), 1 / (trajectories * length)) for length in lengths
                         if length] or [torch.empty(0)])
    return topk_kl_loss(hidden, head.weight.to(hidden.dtype), targets,
                        token_weights=weights.to(hidden.device), reduction="sum", **head.kwargs())


def squared_gradient_norm(loss: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """‖∂loss/∂hidden‖², on the device; the graph is kept for the real backward."""
    return torch.autograd.grad(loss, hidden, retain_graph=True)[0].double().square().sum()


def _checkpointed_ce(hidden: torch.Tensor, head: Head, targets: torch.Tensor) -> torch.Tensor:
    """One chunk of cross-entropy whose logits are made again in the backward pass."""
    def run(rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head.logits(rows), targets, reduction="sum")

    return torch.utils.checkpoint.checkpoint(run, hidden, use_reentrant=False)
