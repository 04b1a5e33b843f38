"""What two gloo processes do in test_processes.py; imported once and forked, so a process costs little."""

import json
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny import make_model, make_rows, make_tokenizer

from raft_fast.distillation import Callback, Teacher, train
from raft_fast.distillation.weights import whole_tensor
from raft_fast.models.chat import Chat
from raft_fast.recipes import terms_of
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes


def run(folder: Path, options: TrainOptions, tied: bool = False, nudged: bool = False) -> dict:
    """Train the tiny model in `folder`, in as many processes as there are; its metrics and its weights,
    before and after. `nudged`: from weights that are rounded to a neighbour."""
    folder.mkdir(parents=True, exist_ok=True)
    student = make_model(0, tie_word_embeddings=tied)
    if nudged:
        with torch.no_grad():
            for weight in student.parameters():
                weight.copy_(torch.nextafter(weight, torch.rand_like(weight) - 0.5))
    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    run_with(folder, options, (), student)
    weights = {name: whole_tensor(tensor).clone() for name, tensor in student.state_dict().items()}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {"metrics": [json.loads(line) for line in lines], "start": start,
            "weights": weights}


def run_with(folder: Path, options: TrainOptions, callbacks: Sequence[Callback],
             student: Any = None) -> None:
    """Train a tiny model in `folder` while `callbacks` listen."""
    student = student or make_model(0)
    chat = Chat(make_tokenizer(), student.generation_config, "tiny")
    teacher = Teacher(make_model(1), chat, options.teacher_top_k, options.distillation_temperature)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(student, teacher, chat, make_rows(7), terms_of("raft", options), options, 0, folder, callbacks)
    finally:
        torch.set_num_threads(threads)  # other tests share the process, and compare with one of their own


def work(rank: int, folder: Path, scenarios: dict) -> None:
    """One of two processes: every scenario in turn, results by name into a file of the process."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    warnings.simplefilter("ignore")
    results = {}
    for name, (where, settings) in scenarios.items():
        try:
            results[name] = run(folder / where, **settings)
        except Exception:
            results[name] = traceback.format_exc()
    results["talk"] = talk(Processes())
    torch.save(results, folder / f"rank-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def talk(processes: Processes) -> dict:
    """What `Processes` promises, seen from one of two."""
    def fails() -> None:
        raise ValueError("of the first process")

    try:
        processes.first(fails)
    except (ValueError, SystemExit) as error:
        told = repr(error)
    done: list[int] = []
    shares = processes.deal(list("abcde"))
    return {"first": processes.first(lambda: processes.rank), "error": told,
            "collected": processes.collect(shares[processes.rank]),
            "turns": processes.first_then_others(lambda: done.append(processes.rank) or list(done)),
            "sum": processes.sum(torch.tensor([1.0 + processes.rank])).item()}
