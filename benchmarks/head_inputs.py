"""What the head benchmarks run on: random vectors, or a model's own states on real text.

Real sets matter because neighbouring tokens share columns and some ids are in almost every row;
random ids share next to nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from raft_kernels import TopKTargets, topk_targets
from torch import Tensor

from raft_fast.data.dataset import read_table
from raft_fast.models.fetch import fetch_model
from raft_fast.run.fetch import quickstart_rows


@dataclass
class HeadInputs:
    """Student and teacher states over one head, and the teacher's targets."""

    student_ND: Tensor  # noqa: N815
    teacher_ND: Tensor  # noqa: N815
    weight_VD: Tensor  # noqa: N815
    targets: TopKTargets
    source: str
    backend: str | None = None  # of raft_kernels; None lets it choose


def random_inputs(n: int, d: int, vocab: int, k: int, dtype: torch.dtype, device: str) -> HeadInputs:
    """Normal vectors; the teacher is the student plus a third of noise."""
    torch.manual_seed(0)
    student = torch.randn(n, d, device=device)
    teacher = student + 0.3 * torch.randn(n, d, device=device)
    weight = torch.randn(vocab, d, device=device) * 2 / d**0.5
    return _with_targets(student, teacher, weight, k, dtype, "random normal vectors")


def model_inputs(model: str, text: Path | None, n: int, k: int, dtype: torch.dtype, device: str
                 ) -> HeadInputs:
    """A model's states on q/a rows (None: the quickstart's): the student reads q, the teacher q and the
    answer (Eq. 7)."""
    text = text or quickstart_rows()
    student, teacher, weight = _states(model, text, n)
    return _with_targets(student.to(device), teacher.to(device), weight.to(device), k, dtype,
                         f"{Path(model).name} on {text.name}, {n} answer tokens in reading order")


def enlarged_inputs(model: str, text: Path | None, n: int, d: int, vocab: int, k: int, dtype: torch.dtype,
                    device: str) -> HeadInputs:
    """The ids of a real run, spread over a larger vocabulary in front of random vectors.

    The real vocabulary's ids go, in order, to a random increasing subset of the larger one:
    which tokens share which columns stays exactly as it was; only the distances between rows of
    the weight grow. Real large vocabularies split text finer, so they share slightly less.
    """
    real = model_inputs(model, text, n, k, torch.float32, "cpu")
    random = random_inputs(n, d, vocab, k, dtype, device)
    generator = torch.Generator().manual_seed(0)
    spread_V = torch.randperm(vocab, generator=generator)[: real.weight_VD.shape[0]].sort().values
    random.targets = TopKTargets(
        spread_V[real.targets.ids].to(device), real.targets.logprobs.to(device),
        real.targets.temperature, vocab_size=vocab)
    random.source = f"ids of {real.source}, spread over {vocab} ids; vectors random"
    return random


def _with_targets(student: Tensor, teacher: Tensor, weight: Tensor, k: int, dtype: torch.dtype, source: str
                  ) -> HeadInputs:
    student, teacher, weight = (t.to(dtype).contiguous() for t in (student, teacher, weight))
    return HeadInputs(student, teacher, weight, topk_targets(teacher, weight, k), source)


@torch.no_grad()
def _states(model: str, text: Path, n: int) -> tuple[Tensor, Tensor, Tensor]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = fetch_model(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    students: list[Tensor] = []
    teachers: list[Tensor] = []
    for row in read_table(str(text), max_bad_rows=0.0).rows:
        question = row.prompt[-1]["content"]
        answer = tokenizer(row.gold, add_special_tokens=False)["input_ids"]
        plain = tokenizer(f"Question: {question}\nAnswer:")["input_ids"]
        seeing = tokenizer(
            f"Background reference knowledge: {row.gold}\nAnswer the question based on the "
            f"reference knowledge: {question}\nAnswer:")["input_ids"]
        for prompt, states in ((plain, students), (seeing, teachers)):
            ids = torch.tensor([prompt + answer])
            hidden = network.base_model(input_ids=ids).last_hidden_state[0]
            states.append(hidden[len(prompt) - 1 : -1])
        if sum(len(s) for s in students) >= n:
            break
    else:
        raise SystemExit(f"error: {text} has fewer than {n} answer tokens; lower --n")
    weight = network.get_output_embeddings().weight.detach()
    return torch.cat(students)[:n], torch.cat(teachers)[:n], weight
