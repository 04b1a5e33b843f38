"""The same loss as others would write it, and ours, all as loss(student, weight) -> scalar."""

from collections.abc import Callable
from typing import Any

import torch
from raft_kernels import topk_kl_loss, topk_targets
from torch import Tensor
from torch.nn import functional as F

from benchmarks.head_inputs import HeadInputs

Loss = Callable[[Tensor, Tensor], Tensor]
OURS = "raft_kernels"


def losses(inputs: HeadInputs, device: str) -> dict[str, Loss]:
    """Each rival's loss; those with "then gather" in their names compute what ours computes."""
    t = inputs.targets.temperature
    log_q_NV = ((inputs.teacher_ND @ inputs.weight_VD.T).float() / t).log_softmax(-1)
    rivals: dict[str, Loss] = {
        OURS: lambda h, w: topk_kl_loss(h, w, inputs.targets, backend=inputs.backend),
        "dense logits, then gather": lambda h, w: dense_then_gather(h, w, inputs),
        "dense full-vocabulary KL": lambda h, w: full_kl(h, w, inputs, log_q_NV),
    }
    if device == "cuda":
        compiled = torch.compile(dense_then_gather)
        rivals["dense, then gather, torch.compile"] = lambda h, w: compiled(h, w, inputs)
    rivals |= _liger(inputs)
    return rivals


def dense_then_gather(hidden_ND: Tensor, weight_VD: Tensor, inputs: HeadInputs) -> Tensor:
    """Full student logits, of which the K columns are taken: the usual top-K distillation."""
    t = inputs.targets.temperature
    logits_NK = (hidden_ND @ weight_VD.T).gather(-1, inputs.targets.ids).float()
    log_q = inputs.targets.logprobs.log_softmax(-1)
    log_p = (logits_NK / t).log_softmax(-1)
    return t**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def full_kl(
    hidden_ND: Tensor, weight_VD: Tensor, inputs: HeadInputs, log_q_NV: Tensor
) -> Tensor:
    """KL over the whole vocabulary against log-probs [N, V] made beforehand, at no cost to it."""
    t = inputs.targets.temperature
    log_p_NV = ((hidden_ND @ weight_VD.T).float() / t).log_softmax(-1)
    return t**2 * F.kl_div(log_p_NV, log_q_NV, reduction="batchmean", log_target=True)


def selections(inputs: HeadInputs) -> dict[str, Callable[[], Any]]:
    """Teacher targets: ours, and full logits with topk and logsumexp."""
    k, t = inputs.targets.k, inputs.targets.temperature

    def dense() -> tuple[Tensor, Tensor]:
        logits_NV = (inputs.teacher_ND @ inputs.weight_VD.T).float()
        top, ids = logits_NV.topk(k)
        return ids, top / t - (logits_NV / t).logsumexp(-1, keepdim=True)

    return {OURS: lambda: topk_targets(
                inputs.teacher_ND, inputs.weight_VD, k, t, backend=inputs.backend),
            "dense logits, topk, logsumexp": dense}


def _liger(inputs: HeadInputs) -> dict[str, Loss]:
    """Liger's fused linear losses, where installed; they make both heads' logits in chunks."""
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
    except ImportError:
        return {}
    jsd, kl = (
        LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta,
            temperature=inputs.targets.temperature, compiled=inputs.weight_VD.is_cuda)
        for beta in (0.5, 0.0)  # 0 is KL(teacher || student)
    )
    labels = inputs.targets.ids[:, 0].contiguous()
    return {
        "Liger fused linear JSD": lambda h, w: jsd(h, w, inputs.teacher_ND, w.detach(), labels),
        "Liger fused linear KL": lambda h, w: kl(h, w, inputs.teacher_ND, w.detach(), labels),
    }
