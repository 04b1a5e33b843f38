"""A plain training loop: cross-entropy on the answer plus top-K distillation.

A batch holds both views of the same answer: `input_ids` and `teacher_input_ids` [B, S], and for
each a bool mask (`reads`, `teacher_reads`) of the positions whose next token is an answer token.
"""

import torch
from raft_kernels import topk_kl_loss, topk_targets
from torch import Tensor
from torch.nn import functional as F


def train_step(
    student: torch.nn.Module, teacher: torch.nn.Module, batch: dict[str, Tensor],
    optimizer: torch.optim.Optimizer, kl_weight: float = 1.0, k: int = 512,
) -> tuple[float, float]:
    """One optimizer step; returns the two losses."""
    with torch.no_grad():
        seen = teacher.get_decoder()(batch["teacher_input_ids"]).last_hidden_state
        head = teacher.get_output_embeddings().weight
        targets = topk_targets(seen[batch["teacher_reads"]], head, k)
    reads = batch["reads"]
    hidden = student.get_decoder()(batch["input_ids"]).last_hidden_state[reads]
    head = student.get_output_embeddings().weight
    kl = topk_kl_loss(hidden, head, targets)
    answer = batch["input_ids"].roll(-1, 1)[reads]
    sft = F.cross_entropy(F.linear(hidden, head).float(), answer)
    optimizer.zero_grad()
    (sft + kl_weight * kl).backward()
    optimizer.step()
    return sft.item(), kl.item()
