"""The two losses of a micro-batch as sums over the step's global counts, and how large each is."""

import torch
import torch.nn.functional as F
from raft_kernels import TopKTargets, topk_kl_loss

from raft_fast.models.head import Head
from raft_fast.models.packing import to_device


def ce_chunk(device: torch.device) -> int:
    """Rows of logits alive at once. The library's own choice is several times slower on CPUs; a GPU is idle
    over few rows."""
    return 256 if device.type == "cpu" else 2048


def sft_loss(hidden: torch.Tensor, targets: torch.Tensor, head: Head, step_tokens: int) -> torch.Tensor:
    """Cross-entropy of hidden [N, D] on the answers' tokens [N], summed and divided by the step's tokens."""
    chunk = ce_chunk(hidden.device)
    plain = head.bias is None and head.logit_scale == 1.0 and head.softcap is None
    if plain and hasattr(F, "linear_cross_entropy"):
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk, allow_retain_graph=True)
        # the library's own sum has the precision of the states; token by token costs a second product
        reduction = "sum" if hidden.dtype == torch.float32 else "none"
        total = F.linear_cross_entropy(hidden, head.like(hidden).weight, targets, reduction=reduction,
                                       options=options).sum(dtype=torch.float32)
    else:
        total = sum((_checkpointed_ce(rows, head, ids) for rows, ids in
                     zip(hidden.split(chunk), targets.split(chunk), strict=True)),
                    hidden.new_zeros((), dtype=torch.float32))
    return total / step_tokens


def kl_loss(
    hidden: torch.Tensor, targets: TopKTargets, head: Head, lengths: list[int], trajectories: int,
    divergence: str = "forward_kl", beta: float = 0.5,
) -> torch.Tensor:
    """Eq. 10 over the step's B = `trajectories` non-empty ones: each token weighs 1 / (B L_i)."""
    spoken = [length for length in lengths if length]
    weights = torch.tensor([1 / (trajectories * length) for length in spoken])
    weights = to_device(weights.repeat_interleave(torch.tensor(spoken, dtype=torch.long)), hidden.device,
                        torch.float32)
    head = head.like(hidden)
    return topk_kl_loss(hidden, head.weight, targets, token_weights=weights, reduction="sum",
                        divergence=divergence, beta=beta, **head.kwargs())


def squared_gradient_norm(loss: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """‖∂loss/∂hidden‖², on the device; the graph is kept for the real backward."""
    return torch.autograd.grad(loss, hidden, retain_graph=True)[0].double().square().sum()


def _checkpointed_ce(hidden: torch.Tensor, head: Head, targets: torch.Tensor) -> torch.Tensor:
    """One chunk of cross-entropy whose logits are made again in the backward pass."""
    def run(rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head.logits(rows), targets, reduction="sum")

    return torch.utils.checkpoint.checkpoint(run, hidden, use_reentrant=False)
