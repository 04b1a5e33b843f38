"""What two gloo processes do in test_processes.py; imported once and forked, so a process costs little."""

import json
import os
import signal
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from tiny import make_model, make_rows, make_tokenizer

from raft_fast.distillation import Callback, SoftStop, Teacher, checkpoint, train
from raft_fast.distillation.rollouts import BatchedRollouts
from raft_fast.distillation.step import Stepper
from raft_fast.distillation.weights import whole_tensor
from raft_fast.models.chat import Chat
from raft_fast.recipes import terms_of
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes


def run(folder: Path, options: TrainOptions, tied: bool = False, callbacks: Sequence[Callback] = ()) -> dict:
    """Train the tiny model in `folder`, in as many processes as there are, in float64, which hides nothing
    behind rounding; its metrics and its weights, before and after."""
    folder.mkdir(parents=True, exist_ok=True)
    student = make_model(0, tie_word_embeddings=tied).double()
    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    chat = Chat(make_tokenizer(), student.generation_config, "tiny")
    teacher = Teacher(make_model(1).double(), chat, options.teacher_top_k, options.distillation_temperature)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(student, teacher, chat, make_rows(7), terms_of("raft", options), options, 0, folder, callbacks)
    finally:
        torch.set_num_threads(threads)  # other tests share the process, and compare with one of their own
    weights = {name: whole_tensor(tensor).clone() for name, tensor in student.state_dict().items()}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {"metrics": [json.loads(line) for line in lines], "start": start, "weights": weights}


def meet(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    warnings.simplefilter("ignore")


def work(rank: int, folder: Path, scenarios: dict) -> None:
    """One of two processes: every scenario in turn, results by name into a file of the process."""
    meet(rank, folder)
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


def talk(processes: Processes) -> tuple:
    """What `Processes` promises, seen from one of two."""
    told, done = "", []
    try:
        processes.first(fails(ValueError("of the first process")))
    except (ValueError, SystemExit) as error:
        told = repr(error)
    return (processes.first(lambda: processes.rank), told,
            processes.collect(processes.deal(list("abcde"))[processes.rank]),
            processes.first_then_others(lambda: done.append(processes.rank) or done),
            processes.sum(torch.tensor([1.0 + processes.rank])).item())


class StopAfterOne(Callback):
    def on_step(self, state):
        state.stop = True


def fails(error):
    def work(*args, **settings):
        raise error

    return work


def signalled(real):
    """Two signals, as Slurm and then torchrun would send them, in the second step."""
    count = []

    def step(self, examples):
        count.append(1)
        for _ in range(2 * (len(count) == 2)):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, examples)

    return step


def fail(rank: int, folder: Path, options: TrainOptions, what: str) -> None:
    """One of two processes, the second of which fails so; how it ended goes into a file of its own."""
    meet(rank, folder)
    if rank == 1 and what == "checkpoint":
        checkpoint.load_file = fails(OSError(5, "Input/output error"))
    if rank == 1 and what == "sample":
        BatchedRollouts.sample = fails(UserError("the engine of process 1"))
    if rank == 1 and what == "signal":
        Stepper.run = signalled(Stepper.run)
    told = ["ended"]
    try:
        with SoftStop() as stopping:
            run(folder, options, callbacks=[*([StopAfterOne()] if what == "stop" else []), stopping])
    except BaseException as error:
        told = [type(error).__name__, str(error), getattr(error, "exit_code", None)]
    (folder / f"rank-{rank}.json").write_text(json.dumps(told))
    os._exit(0)  # as a process that died would: without a word to the other
