"""Options that say nothing without another one: asked for on the command line they must not be ignored."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from raft_fast.run.errors import UserError
from raft_fast.run.options.run import Options


class Need(NamedTuple):
    """`options` have a part in the run only where `met`; `asked` says how to get there."""

    asked: str
    met: Callable[[Options], bool]
    options: tuple[str, ...]


NEEDS = (
    Need("--distillation true", lambda run: run.train.distillation, (
        "teacher", "teacher_quantization", "teacher_sees_answer", "teacher_top_k", "distillation_temperature",
        "rollout_engine", "rollout_temperature", "steps_per_generation", "max_completion_length",
        "num_loss_tokens_to_skip", "balance", "log_completions")),
    Need("--rollout_engine vllm_server", lambda run: run.train.rollout_engine == "vllm_server",
         ("vllm_server_base_url",)),
    Need("--rollout_engine vllm", lambda run: run.train.rollout_engine == "vllm",
         ("vllm_gpu_memory_utilization",)),
    Need("--balance fixed", lambda run: run.train.balance == "fixed", ("fixed_lambda",)),
    Need("--balance ema or gradient", lambda run: run.train.balance != "fixed", ("ema_beta",)),
    Need("--use_peft true", lambda run: run.adapter.use_peft,
         ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")),
    Need("--log_completions true", lambda run: run.watch.log_completions, ("log_completions_steps",)),
    Need("--push_to_hub true", lambda run: run.watch.push_to_hub, ("hub_model_id", "hub_private_repo")),
    Need("--eval_steps", lambda run: run.watch.eval_steps > 0,
         ("eval_general_prompts", "eval_general_max_new_tokens", "collapse_threshold")),
)


def check_given(argv: Sequence[str], options: Options) -> None:
    """Raises UserError for an option among the words `argv` that has no part in this run. What a file of
    options holds may wait there for another command line."""
    given = {word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--")}
    for need in NEEDS:
        for name in need.options:
            if name in given and not need.met(options):
                raise UserError(f"--{name}: has no part in this run without {need.asked}")
