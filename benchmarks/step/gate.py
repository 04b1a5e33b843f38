"""The correctness gate of the step benchmark: what is timed, two whole steps, against float64.

The reference is the method written out: one row at a time, full logits, moving averages by hand.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.step.ours import TEMPERATURE, Job, chat_of, load, make_teacher
from raft_fast.distillation.examples import Example, Reading
from raft_fast.distillation.step import Stepper
from raft_fast.distillation.student import adamw
from raft_fast.distillation.student_pass import StudentPass
from raft_fast.models.chat import Chat, View
from raft_fast.models.packing import mixed_precision
from raft_fast.recipes import terms_of
from raft_fast.run.options import TrainOptions

ROWS, STEPS = 2, 2  # float64 is slow; λ's averages and AdamW's have a past in the second step
# Weights that move, and a decay that can be seen beside that.
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.1
ROUNDINGS = 4  # of products, that any sum may be off: the reference's own error may be small by luck
Found = dict[str, list[torch.Tensor]]
"""Losses and λ of each step, the last step's clipped gradient, and how far the weights have moved."""


def gate(job: Job) -> dict[str, Any]:
    """Relative errors of ours and of the reference in the same precision; green where ours are at most
    three times those, and a few roundings. Trajectories are the beginnings of the answers."""
    low = job.frozen_dtype
    oracle = _plain(job, torch.float64, low)
    usual = _errors(_plain(job, torch.float32, low), oracle)
    ours = _errors(_ours(job), oracle)
    floor = ROUNDINGS * torch.finfo(low).eps
    green = all(ours[name] <= 3 * usual[name] + floor for name in oracle)
    return {"green": green, "rows": ROWS, "steps": STEPS, "errors": {
        name: {"ours": f"{ours[name]:.1e}", "dense logits": f"{usual[name]:.1e}"} for name in oracle}}


def _options(job: Job) -> TrainOptions:
    return replace(job.options(sft=True), learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY,
                   lambda_max=1e6)


def _views(job: Job, chat: Chat) -> list[list[tuple[View, View, View]]]:
    """Of every row of every step the SFT view, and the trajectory as student and teacher see it."""
    steps: list[list[tuple[View, View, View]]] = []
    for rows in job.plan()[:STEPS]:
        steps.append([])
        for row in rows[:ROWS]:
            trajectory = chat.completion(row.completion)[: job.max_completion_length]
            steps[-1].append((chat.sft_view(row.prompt, row.completion),
                              View(chat.student_prompt(row.prompt), trajectory),
                              View(chat.teacher_prompt(row.prompt, row.completion), trajectory)))
    return steps


def _ours(job: Job) -> Found:
    """`Stepper.run`, as the loop calls it."""
    student, options = load(job, torch.float32, packed=True).train(), _options(job)
    before = _apart(student.parameters())
    chat = chat_of(job, student)
    terms = terms_of("raft", options)
    stepper = Stepper(StudentPass(student, terms, chat.pad_id, by_gradient=False), terms,
                      make_teacher(job, chat), chat, adamw(student, options), options)
    told = [stepper.run([Example({"sft": [Reading(answer)], "kl": [Reading(*sampled)]})
                          for answer, *sampled in step]) for step in _views(job, chat)]
    return _found(student, before, [(one["sft_loss"], one["kl_loss"], one["lambda"]) for one in told])


def _plain(job: Job, student_dtype: torch.dtype, teacher_dtype: torch.dtype) -> Found:
    """Eqs. 8-12, clipping and AdamW; a float64 student has a float64 teacher, of the weights that
    `teacher_dtype` leaves."""
    student, options = load(job, torch.float32, packed=False).to(student_dtype).train(), _options(job)
    before = _apart(student.parameters())
    chat = chat_of(job, student)
    steps = _views(job, chat)
    exact = student_dtype == torch.float64
    taught = _taught(job, steps, teacher_dtype, torch.float64 if exact else teacher_dtype)
    decayed = [{"params": [p], "weight_decay": WEIGHT_DECAY if p.ndim > 1 else 0.0}
               for p in student.parameters()]
    optimizer = torch.optim.AdamW(decayed, lr=LEARNING_RATE, foreach=False)
    beta, m_sft, m_kl, told = options.ema_beta, 0.0, 0.0, []
    for number, (rows, tops) in enumerate(zip(steps, taught, strict=True), 1):
        sft, kl = _losses(student, rows, tops)
        m_sft, m_kl = beta * m_sft + (1 - beta) * sft.item(), beta * m_kl + (1 - beta) * kl.item()
        corrected_sft, corrected_kl = m_sft / (1 - beta**number), m_kl / (1 - beta**number)
        weight = min(corrected_sft / (corrected_kl + 1e-8), options.lambda_max)
        told.append((sft.item(), kl.item(), weight))
        optimizer.zero_grad()
        (sft + weight * kl).backward()
        norm = sum(p.grad.double().square().sum() for p in student.parameters()).sqrt()
        for p in student.parameters():
            p.grad *= min(1.0, options.max_grad_norm / norm.item())
        optimizer.step()
    return _found(student, before, told)


def _taught(job: Job, steps: list[list[tuple[View, View, View]]], weights: torch.dtype,
            dtype: torch.dtype) -> list[list[Any]]:
    """The teacher's K largest logits with their ids, of every row of every step: `weights` is what it is
    stored in, `dtype` what it computes in. All at first, so that no teacher lies beside AdamW's moments."""
    teacher = load(job, weights, packed=False).to(dtype)
    with torch.no_grad():
        return [[_logits(teacher, taught).topk(job.top_k) for *_, taught in rows] for rows in steps]


def _losses(student: Any, rows: list[tuple[View, View, View]],
            tops: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over all tokens of the answers, and Eq. 10."""
    ce, kl = [], []
    for (sft, spoken, _), top in zip(rows, tops, strict=True):
        answer = torch.tensor(sft.completion, device=student.device)
        ce.append(torch.nn.functional.cross_entropy(_logits(student, sft), answer, reduction="none"))
        v = _logits(student, spoken).gather(1, top.indices)
        log_q, log_p = ((logits / TEMPERATURE).log_softmax(-1) for logits in (top.values, v))
        kl.append((log_q.exp() * (log_q - log_p)).sum(-1).mean())
    return torch.cat(ce).mean(), TEMPERATURE**2 * torch.stack(kl).mean()


def _logits(model: Any, view: View) -> torch.Tensor:
    """[completion tokens, V], float32 or better."""
    with mixed_precision(model):
        logits = model(torch.tensor([view.ids], device=model.device), use_cache=False).logits[0]
    logits = logits[len(view.prompt) - 1 : -1]
    return logits if logits.dtype == torch.float64 else logits.float()


def _found(student: Any, before: list[torch.Tensor], told: list[tuple[float, float, float]]) -> Found:
    numbers = [[torch.tensor(column, dtype=torch.float64)] for column in zip(*told, strict=True)]
    parameters = list(student.parameters())
    moved = [now - old for now, old in zip(_apart(parameters), before, strict=True)]
    return {**dict(zip(("SFT loss", "KL loss", "lambda"), numbers, strict=True)),
            "gradient": _apart(p.grad for p in parameters), "update": moved}


def _apart(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Copies on the CPU: a GPU that holds a 3B model with AdamW in float64 has no room for more of them."""
    return [one.detach().to("cpu", copy=True) for one in tensors]


def _errors(found: Found, oracle: Found) -> dict[str, float]:
    """How far each is from the oracle, relative to its length."""
    errors = {}
    for name, right in oracle.items():
        off = torch.stack([(a.double() - b).norm() for a, b in zip(found[name], right, strict=True)]).norm()
        errors[name] = float(off / torch.stack([b.norm() for b in right]).norm())
    return errors
