"""What this many processes on these devices cannot do, said before anything is paid for."""

from raft_fast.run.options.adapter import AdapterOptions
from raft_fast.run.options.check import check
from raft_fast.run.options.model import ModelOptions
from raft_fast.run.options.train import TrainOptions
from raft_fast.run.options.watch import WatchOptions


def check_several(processes: int, model: ModelOptions, train: TrainOptions, adapter: AdapterOptions,
                  watch: WatchOptions) -> None:
    """Raises UserError where these options cannot hold for so many processes; one can do everything."""
    if processes == 1:
        return
    check(":" not in model.device, "--device", model.device,
          f"auto or cuda for {processes} processes: each takes the GPU of its local rank")
    if train.parallelism == "fsdp2":
        check(not adapter.use_peft, "--parallelism fsdp2 --use_peft", True,
              "--parallelism ddp: adapters are small, and FSDP2 trains whole models")
        check(not watch.eval_steps, "--parallelism fsdp2 --eval_steps", watch.eval_steps,
              "0, or --parallelism ddp: the first process evaluates alone and needs whole weights")


def check_rollouts(processes: int, on_gpu: bool, train: TrainOptions) -> None:
    """Raises UserError where --rollout_engine cannot run on this device, or in so many processes."""
    name = train.rollout_engine
    check(on_gpu or name == "transformers" or not train.distillation, "--rollout_engine", name,
          "transformers on a CPU: the others need a GPU")
    check(processes == 1 or name != "vllm", "--rollout_engine", name,
          f"vllm_server or continuous for {processes} processes: it shares the GPU of one")
