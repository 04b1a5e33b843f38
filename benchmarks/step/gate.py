"""The correctness gate of the step benchmark: losses and gradient against float64, one row at a time."""

from typing import Any

import torch

from benchmarks.step.inputs import TEMPERATURE, Job, chat_of, load
from benchmarks.step.ours import make_teacher
from raft_fast.chat import Chat, View
from raft_fast.distillation.examples import Counts, Example
from raft_fast.distillation.student_pass import StudentPass
from raft_fast.models import frozen_dtype
from raft_fast.packing import mixed_precision

ROWS = 2  # float64 is slow
FLOOR = 16 * torch.finfo(torch.float32).eps
NAMES = ("SFT loss", "KL loss", "gradient")
Found = tuple[float, float, list[torch.Tensor]]


def gate(job: Job) -> dict[str, Any]:
    """Relative errors of ours and of dense logits in the same precision; green where ours are at most
    three times those, and rounding. Trajectories are the beginnings of the answers."""
    oracle = _dense(job, torch.float64, torch.float64)
    usual = _errors(_dense(job, torch.float32, frozen_dtype(torch.device(job.device))), oracle)
    ours = _errors(_ours(job), oracle)
    green = all(mine <= 3 * theirs + FLOOR for mine, theirs in zip(ours, usual, strict=True))
    return {"green": green, "rows": ROWS, "errors": {
        name: {"ours": f"{mine:.1e}", "dense logits": f"{theirs:.1e}"}
        for name, mine, theirs in zip(NAMES, ours, usual, strict=True)}}


def _views(job: Job, chat: Chat) -> list[tuple[View, View, View]]:
    """SFT view, and the trajectory as student and teacher see it."""
    views = []
    for row in job.plan()[0][:ROWS]:
        trajectory = chat.completion(row.completion)[: job.max_completion_length]
        views.append((chat.sft_view(row.prompt, row.completion),
                      View(chat.student_prompt(row.prompt), trajectory),
                      View(chat.teacher_prompt(row.prompt, row.completion), trajectory)))
    return views


def _ours(job: Job) -> Found:
    """As a step makes them: packed, the teacher's K ids, no logits of the student."""
    student = load(job, torch.float32, packed=True).train()
    chat = chat_of(job, student)
    teacher = make_teacher(job, chat)
    examples = [Example(*views) for views in _views(job, chat)]
    targets = teacher.targets([views[2] for views in _views(job, chat)])
    student_pass = StudentPass(student, chat.pad_id, by_gradient=False)
    (sft, kl), _ = student_pass(examples, targets, Counts.of(examples))
    (sft + kl).backward()
    return sft.item(), kl.item(), [p.grad for p in student.parameters() if p.grad is not None]


def _dense(job: Job, student_dtype: torch.dtype, teacher_dtype: torch.dtype) -> Found:
    """Eqs. 8-10 with full logits, one row at a time."""
    student, teacher = (load(job, dtype, packed=False) for dtype in (student_dtype, teacher_dtype))
    chat = chat_of(job, student)
    counts = Counts.of([Example(*views) for views in _views(job, chat)])
    ce = kl = torch.zeros((), dtype=torch.float64)
    for sft, spoken, taught in _views(job, chat):
        answer = torch.tensor(sft.completion, device=student.device)[:, None]
        one = -_logits(student, sft).log_softmax(-1).gather(1, answer).sum() / counts.sft_tokens
        with torch.no_grad():
            u = _logits(teacher, taught)
        top = u.topk(job.top_k)
        v = _logits(student, spoken).gather(1, top.indices)
        log_q, log_p = ((logits / TEMPERATURE).log_softmax(-1) for logits in (top.values, v))
        per_token = (log_q.exp() * (log_q - log_p)).sum(-1)
        other = TEMPERATURE**2 * per_token.mean() / counts.trajectories
        (one + other).backward()
        ce, kl = ce + one.item(), kl + other.item()
    return ce.item(), kl.item(), [p.grad for p in student.parameters() if p.grad is not None]


def _logits(model: Any, view: View) -> torch.Tensor:
    """[completion tokens, V], float32 or better."""
    with mixed_precision(model):
        logits = model(torch.tensor([view.ids], device=model.device), use_cache=False).logits[0]
    logits = logits[len(view.prompt) - 1 : -1]
    return logits if logits.dtype == torch.float64 else logits.float()


def _errors(found: Found, oracle: Found) -> list[float]:
    """Relative errors of both losses and of the whole gradient."""
    off = torch.stack([(a.double() - b).norm() for a, b in zip(found[2], oracle[2], strict=True)]).norm()
    size = torch.stack([b.norm() for b in oracle[2]]).norm()
    losses = [abs(a - b) / abs(b) for a, b in zip(found[:2], oracle[:2], strict=True)]
    return [*losses, float(off / size)]
