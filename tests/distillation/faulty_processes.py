"""What goes wrong in one of two gloo processes, in test_process_faults.py; forked like two_processes.py."""

import json
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from two_processes import run_with

from raft_fast.distillation import Callback, SoftStop, checkpoint
from raft_fast.distillation.rollout_engines import BatchedRollouts
from raft_fast.distillation.step import Stepper
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions

ALONE = TrainOptions(per_device_train_batch_size=4, num_train_epochs=2, teacher_top_k=16,
                     max_completion_length=8, save_steps=2)
BOTH = replace(ALONE, per_device_train_batch_size=2)


class StopAfterOne(Callback):
    def on_step(self, state):
        state.stop = True


def fails(error):
    def work(*args, **settings):
        raise error

    return work


def signalled(real):
    """Two signals, as Slurm and then torchrun would send them, in the second step."""
    def step(self, examples):
        step.count += 1
        if step.count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, examples)

    step.count = 0
    return step


def work(rank: int, folder: Path, what: str) -> None:
    """One of two processes; how it ended goes into a file of its own."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    warnings.simplefilter("ignore")
    callbacks = [StopAfterOne()] if what == "stop" else []
    if rank == 1 and what == "checkpoint":
        checkpoint.load_file = fails(OSError(5, "Input/output error"))
    if rank == 1 and what == "sample":
        BatchedRollouts.sample = fails(UserError("the engine of process 1"))
    if rank == 1 and what == "signal":
        Stepper.run = signalled(Stepper.run)
    told = ["ended"]
    try:
        with SoftStop() as stopping:
            run_with(folder, BOTH, [*callbacks, stopping])
    except BaseException as error:
        told = [type(error).__name__, str(error), getattr(error, "exit_code", None)]
    (folder / f"rank-{rank}.json").write_text(json.dumps(told))
    os._exit(0)  # as a process that died would: without a word to the other
