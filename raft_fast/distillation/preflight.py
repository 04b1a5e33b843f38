"""Preflight checks of stage 2: fail before loading models or calling paid APIs."""

import importlib.util
from collections.abc import Collection
from pathlib import Path

from raft_fast.data.records import own_file
from raft_fast.distillation.watching import find_trackers
from raft_fast.engines.load import not_a_server
from raft_fast.models.fetch import own_folder
from raft_fast.models.load import pick_device, quantization_config
from raft_fast.run.errors import UserError, require
from raft_fast.run.fetch import check_upload
from raft_fast.run.option import check
from raft_fast.run.options import MEMORY, Options, TrainOptions


def check_stage2(options: Options, run_dir: Path, processes: int, in_memory: Collection[str] = ()) -> None:
    """Raises UserError for missing packages, options that this device or number of processes does not
    support, an upload without a token, and, in a new run, files and folders that are not there. (A resumed
    run tells what has changed.) `in_memory`: options that name loaded models."""
    train, device = options.train, pick_device(options.model.device)
    check_processes(options, processes)
    find_trackers(options.watch.report_to)
    if options.adapter.use_peft:
        require("peft", "lora")
    if train.distillation:
        check_rollouts(train, processes, device.type == "cuda")
        quantization_config(train.teacher_quantization, device)
    check_upload(options.watch, run_dir)
    if run_dir.exists():
        return
    if options.data.data not in (None, MEMORY):
        own_file(str(options.data.data))
    if "model" not in in_memory:
        own_folder(options.model.model)
    own_folder(options.model.encoder, "--encoder")
    if train.distillation and train.teacher != "self" and "teacher" not in in_memory:
        own_folder(not_a_server(train.teacher), "--teacher")


def check_rollouts(options: TrainOptions, processes: int, on_gpu: bool) -> None:
    """Raises UserError for a --rollout_engine that is not installed, or that this device or number of
    processes does not support."""
    name = options.rollout_engine
    check(on_gpu or name == "transformers", "--rollout_engine", name,
          "transformers on a CPU: the others need a GPU")
    check(processes == 1 or name != "vllm", "--rollout_engine", name,
          f"vllm_server or continuous for {processes} processes: it shares the GPU of one")
    needed = {"vllm": ["vllm"], "vllm_server": ["trl", "vllm"]}.get(name, [])
    if missing := [one for one in needed if importlib.util.find_spec(one) is None]:
        raise UserError(f"--rollout_engine {name}: {' and '.join(missing)} not installed: "
                        f"pip install {' '.join(missing)}")


def check_processes(options: Options, processes: int) -> None:
    """Raises UserError for options that are not supported with this number of processes."""
    if processes == 1:
        return
    check(":" not in options.model.device, "--device", options.model.device,
          f"auto or cuda for {processes} processes: each takes the GPU of its local rank")
    if options.train.parallelism == "fsdp2":
        check(not options.adapter.use_peft, "--parallelism fsdp2 --use_peft", True,
              "--parallelism ddp: adapters are small, and FSDP2 trains whole models")
        check(not options.watch.eval_steps, "--parallelism fsdp2 --eval_steps", options.watch.eval_steps,
              "0, or --parallelism ddp: the first process evaluates alone and needs whole weights")
