"""The correctness gate of every benchmark of the head: a red one prints no speed."""

import json
from typing import Any

import torch
from raft_kernels import reference
from torch import Tensor

from benchmarks import head_rivals
from benchmarks.head_inputs import HeadInputs


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
    and the log-probs of every id selected. An id may differ from the reference's only where the
    float64 log-probs of the two are within that rounding.
    """
    names = head_rivals.OURS, "dense logits, then gather"
    hidden, weight = leaves(inputs)
    runs: dict[str, list[Tensor]] = {}
    for name in names:
        loss = head_rivals.losses(inputs, hidden.device.type)[name](hidden, weight)
        runs[name] = [loss.detach(), *gradients(loss, hidden, weight)]
    oracle = _oracle_loss(inputs, rows)
    select, dense_select = head_rivals.selections(inputs).values()
    targets = select()
    got = {names[0]: (targets.ids, targets.logprobs), names[1]: dense_select()}
    errors = {name: _errors(runs[name], oracle) + _select_errors(*got[name], inputs, rows)
              for name in names}
    ours, usual = errors[names[0]], errors[names[1]]
    floor = max(2 * torch.finfo(inputs.weight_VD.dtype).eps, 16 * torch.finfo(torch.float32).eps)
    green = all(a <= 3 * b + floor for a, b in zip(ours, usual, strict=True))
    return {"green": green, "error of loss, dHidden, its worst token, dWeight, log-probs, ids": {
        name: [float(f"{e:.2g}") for e in values] for name, values in errors.items()}}


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
    loss, dhidden, dweight = (_relative(a, b) for a, b in zip(got, oracle, strict=True))
    off_N = (got[1].double() - oracle[1]).norm(dim=-1)
    size_N = oracle[1].norm(dim=-1)
    worst = float((off_N / size_N.clamp_min(1e-3 * float(size_N.max()))).max())
    return [loss, dhidden, worst, dweight]


def _select_errors(
    ids_NK: Tensor, logprobs_NK: Tensor, inputs: HeadInputs, rows: int
) -> list[float]:
    """The worst log-prob, and how far the worst id's is from its rank's; inf for repeats."""
    n, (k, t) = inputs.teacher_ND.shape[0], (inputs.targets.k, inputs.targets.temperature)
    weight = inputs.weight_VD.double()
    worst = cut = 0.0
    for first in range(0, n, rows):
        part = slice(first, first + rows)
        logits = reference.logits(inputs.teacher_ND[part].double(), weight)
        _, right = reference.select(logits, k, t)
        own = torch.log_softmax(logits / t, -1).gather(-1, ids_NK[part])
        ordered = ids_NK[part].sort(-1).values
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            cut = float("inf")
        worst = max(worst, float((logprobs_NK[part].double() - own).abs().max()))
        cut = max(cut, float((right - own).abs().max()))
    return [worst, cut]


def _relative(got: Tensor, right: Tensor) -> float:
    return float((got.double() - right).norm() / right.norm())


def leaves(inputs: HeadInputs, frozen: bool = False) -> tuple[Tensor, Tensor]:
    return (inputs.student_ND.detach().requires_grad_(),
            inputs.weight_VD.detach().requires_grad_(not frozen))


def gradients(loss: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad])
