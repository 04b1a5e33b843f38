"""The loss head as others would write it and as we do, and the correctness gate before any speed of it.

Every rival is loss(student, weight) -> scalar. A red gate prints no speed.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from raft_kernels import reference, topk_kl_loss, topk_targets
from torch import Tensor
from torch.nn import functional as F

from benchmarks.head_inputs import HeadInputs

Loss = Callable[[Tensor, Tensor], Tensor]
OURS, DENSE = "raft_kernels", "dense logits, then gather"
# Allowed of a log-prob besides 3 x the dense error, in nats. Tensor cores add up products of half
# precision in float32 less exactly than IEEE; ids a few ranks apart differ by more than this.
SELECT_FLOORS = {torch.float32: 16 * torch.finfo(torch.float32).eps,
                 torch.bfloat16: 1e-4, torch.float16: 1e-4}


def losses(inputs: HeadInputs, device: str) -> dict[str, Loss]:
    """Each rival's loss; those with "then gather" in their names compute what ours computes."""
    t = inputs.targets.temperature
    log_q_NV = ((inputs.teacher_ND @ inputs.weight_VD.T).float() / t).log_softmax(-1)
    rivals: dict[str, Loss] = {
        OURS: lambda h, w: topk_kl_loss(h, w, inputs.targets, backend=inputs.backend),
        DENSE: lambda h, w: dense_then_gather(h, w, inputs),
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


def full_kl(hidden_ND: Tensor, weight_VD: Tensor, inputs: HeadInputs, log_q_NV: Tensor) -> Tensor:
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


def require_green(inputs: HeadInputs) -> dict[str, Any]:
    """The gate's errors, printed; ends the program where they are too large."""
    result = gate(inputs)
    print("correctness gate:", json.dumps(result), flush=True)
    if not result["green"]:
        raise SystemExit("the gate is red: no speed is shown for wrong results")
    return result


def gate(inputs: HeadInputs, rows: int = 256) -> dict[str, Any]:
    """Errors against the float64 reference; allowed: 3 x those of dense logits, and rounding.

    The runs judged are those that are timed, on all the tokens: every token's loss and gradient,
    with the weight trained and frozen, and the log-probs of every id selected. An id may differ
    from the reference's only where the float64 log-probs of the two are within that rounding.
    Select makes float32 logits of half-precision inputs too, so dense float32 ones are beside it.
    """
    judged, oracle = losses(inputs, inputs.student_ND.device.type), _oracle_loss(inputs, rows)
    exact = replace(inputs, teacher_ND=inputs.teacher_ND.float(), weight_VD=inputs.weight_VD.float())
    targets = selections(inputs)[OURS]()
    _, dense_select = selections(exact).values()
    got: dict[str, tuple[Tensor, Tensor]] = {OURS: (targets.ids, targets.logprobs), DENSE: dense_select()}
    ours, usual = ([*_loss_errors(judged[name], inputs, oracle),
                    *_select_errors(*got[name], inputs, rows)] for name in (OURS, DENSE))
    dtype = inputs.weight_VD.dtype
    floor = max(2 * torch.finfo(dtype).eps, 16 * torch.finfo(torch.float32).eps)
    floors = [floor] * (len(ours) - 2) + [SELECT_FLOORS[dtype]] * 2
    green = all(a <= 3 * b + floor for a, b, floor in zip(ours, usual, floors, strict=True))
    return {"green": green, "error of loss, dHidden, its worst token, dWeight, the first three "
                            "with a frozen weight, log-probs, ids": {
        name: [_shown(e) for e in values] for name, values in zip((OURS, DENSE), (ours, usual), strict=True)}}


def _shown(error: float) -> float | str:
    """JSON has no NaN and no Infinity."""
    return float(f"{error:.2g}") if math.isfinite(error) else str(error)


def _loss_errors(loss: Loss, inputs: HeadInputs, oracle: list[Tensor]) -> list[float]:
    errors = []
    for frozen in (False, True):
        hidden, weight = leaves(inputs, frozen)
        value = loss(hidden, weight)
        errors += _errors([value.detach(), *gradients(value, hidden, weight)], oracle)
    return errors


def _oracle_loss(inputs: HeadInputs, rows: int) -> list[Tensor]:
    """Loss, dHidden and dWeight by `reference` in float64, `rows` tokens at a time."""
    n, t = inputs.student_ND.shape[0], inputs.targets
    weight = inputs.weight_VD.detach().double().requires_grad_()
    total, dweight, dhidden = 0.0, torch.zeros_like(weight), []
    for first in range(0, n, rows):
        part = slice(first, first + rows)
        hidden = inputs.student_ND[part].detach().double().requires_grad_()
        loss = reference.token_loss(
            reference.logits(hidden, weight), t.ids[part], t.logprobs[part].double(), t.temperature
        ).sum() / n
        of_hidden, of_weight = torch.autograd.grad(loss, [hidden, weight])
        total += loss.item()
        dweight += of_weight
        dhidden.append(of_hidden)
    return [torch.tensor(total, dtype=torch.float64, device=weight.device),
            torch.cat(dhidden), dweight]


def _errors(got: list[Tensor], oracle: list[Tensor]) -> list[float]:
    """Relative errors; of dHidden also the worst token's, so that a few rows cannot hide."""
    loss, dhidden, *dweight = (_relative(a, b) for a, b in zip(got, oracle, strict=False))
    off_N = (got[1].double() - oracle[1]).norm(dim=-1)
    size_N = oracle[1].norm(dim=-1)
    worst = float((off_N / size_N.clamp_min(1e-3 * float(size_N.max()))).max())
    return [loss, dhidden, worst, *dweight]


def _select_errors(ids_NK: Tensor, logprobs_NK: Tensor, inputs: HeadInputs, rows: int) -> list[float]:
    """The worst log-prob, and how far the worst id's is from its rank's; inf for repeats.

    NaN where anything is: a maximum of tensors keeps it, Python's does not.
    """
    n, (k, t) = inputs.teacher_ND.shape[0], (inputs.targets.k, inputs.targets.temperature)
    weight = inputs.weight_VD.double()
    worst = cut = torch.zeros((), dtype=torch.float64, device=weight.device)
    for first in range(0, n, rows):
        part = slice(first, first + rows)
        logits = reference.logits(inputs.teacher_ND[part].double(), weight)
        _, right = reference.select(logits, k, t)
        own = torch.log_softmax(logits / t, -1).gather(-1, ids_NK[part])
        ordered = ids_NK[part].sort(-1).values
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            cut = cut + torch.inf
        worst = torch.maximum(worst, (logprobs_NK[part].double() - own).abs().max())
        cut = torch.maximum(cut, (right - own).abs().max())
    return [float(worst), float(cut)]


def _relative(got: Tensor, right: Tensor) -> float:
    return float((got.double() - right).norm() / right.norm())


def leaves(inputs: HeadInputs, frozen: bool = False) -> tuple[Tensor, Tensor]:
    return (inputs.student_ND.detach().requires_grad_(),
            inputs.weight_VD.detach().requires_grad_(not frozen))


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad])
