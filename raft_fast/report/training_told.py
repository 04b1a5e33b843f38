"""What a model card says of the training: by which method, with which options, for how long."""

from collections.abc import Iterator
from typing import Any

from raft_fast.report.run_files import RunFiles
from raft_fast.report.text import counted

PAPER = "([arXiv 2606.00147](https://arxiv.org/abs/2606.00147))"
ANSWERS = {"fused": f"answers refined by the first stage of RAFT {PAPER}",
           "rewrite": "the model's own filtered rewrites", "gold": "gold answers"}
Config = dict[str, Any]


def method(config: Config) -> str:
    """"by RAFT (...)", or what else it was: each term that was off changes the name."""
    answers = ANSWERS[config.get("data_source", "fused")]
    if not config.get("distillation", True):
        told = f"by supervised fine-tuning on {answers}"
    elif not config.get("sft", True):
        told = f"by the distillation of RAFT {PAPER} alone"
    elif answers == ANSWERS["fused"]:
        told = f"by RAFT {PAPER}"
    else:
        told = f"by the second stage of RAFT {PAPER} on {answers}"
    if config.get("use_peft"):
        told += f", through a LoRA adapter of rank {config['lora_r']} that is merged into the weights"
    return told


def tags(config: Config) -> list[str]:
    """What the hub finds the model by."""
    plain = config.get("data_source") == "gold" and not config.get("distillation", True)
    return ["sft" if plain else "raft", *(["lora"] if config.get("use_peft") else [])]


def shown_options(run: RunFiles) -> Config:
    """The options that had a part in this run, with their values."""
    return {name: run.config[name] for name in _took_part(run) if name in run.config}


def amount(run: RunFiles) -> str:
    """"Trained on 64 rows in 48 optimizer steps on 90,000 tokens ...", or nothing where no step is known."""
    if not run.steps:
        return ""
    read, drawn = _total(run, "tokens"), _total(run, "trajectory_tokens")
    rows = run.steps[-1].get("rows_seen")
    on = f"on {counted(rows, 'row')} " if rows else ""
    own = f", {drawn:,} of them the student's own words" if drawn else ""
    return (f"Trained {on}in {counted(len(run.steps), 'optimizer step')} on {counted(read, 'token')}, "
            f"prompts included{own}.")


def _total(run: RunFiles, key: str) -> int:
    return sum(step.get(key) or 0 for step in run.steps)


def _took_part(run: RunFiles) -> Iterator[str]:
    config = run.config
    sft, distils = config.get("sft", True), config.get("distillation", True)
    yield from ("data_source", "sft", "distillation")
    if run.summary:  # stage 1 was part of the run
        yield from ("tau", *(("fusion_rounds", "judge_stop") if config.get("data_source") == "fused" else ()))
    if distils:
        yield from ("teacher", "teacher_sees_answer", "distillation_temperature", "teacher_top_k",
                    "max_completion_length")
        yield from _balance(config, sft)
    if config.get("use_peft"):
        yield from ("use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
    yield from ("learning_rate", "lr_scheduler_type", _length(run), "per_device_train_batch_size",
                "gradient_accumulation_steps", "seed")


def _balance(config: Config, both: bool) -> Iterator[str]:
    """λ weighs two terms, or one where it is given."""
    if config.get("balance") == "fixed":
        yield from ("balance", "fixed_lambda")
    elif both:
        yield from ("balance", "ema_beta")


def _length(run: RunFiles) -> str:
    """Which of the two options says how long training takes."""
    return "max_steps" if run.config.get("max_steps", -1) > 0 else "num_train_epochs"
