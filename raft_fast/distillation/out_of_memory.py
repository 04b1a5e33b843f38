"""Out of memory: the step again in smaller micro-batches, with the same gradient at equal λ."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from raft_fast.distillation.examples import Example
from raft_fast.distillation.random_state import random_state, set_random_state
from raft_fast.distillation.step import Stepper
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.progress import console


def run_halving(stepper: Stepper, examples: Sequence[Example]) -> dict[str, Any]:
    """`stepper.run`; when memory runs out the micro-batches are halved and the step begins again, with
    every random generator where it was. They stay halved.

    λ then comes from the averages of the step before, as with any step of several micro-batches. Raises
    UserError where one row is too much, and where there are other processes, which would wait for ever.
    """
    before = random_state()
    updating: list[bool] = []
    hook = stepper.optimizer.register_step_pre_hook(lambda *_: updating.append(True))
    try:
        while True:
            try:
                return stepper.run(examples)
            except torch.OutOfMemoryError as error:
                reason = first_line(error)
            # outside of the handler: the error holds on to everything the step has made
            stepper.optimizer.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if updating:  # some weights may have been updated already
                raise UserError(f"out of memory while the optimizer made its state ({reason}): {ADVICE}")
            _halve(stepper, examples, reason)
            set_random_state(before)
    finally:
        hook.remove()


ADVICE = "--gradient_checkpointing true and, where rows share a pass, --max_tokens_per_micro_batch 4096 " \
         "need less, and a run goes on with them; --use_peft true needs least, a shorter --max_length or " \
         "--max_completion_length less: a run that has done a step needs another --output_dir for these"


def _halve(stepper: Stepper, examples: Sequence[Example], reason: str) -> None:
    cut = stepper.limits.cut(examples)
    rows, tokens = max(map(len, cut)), max(sum(example.tokens for example in part) for part in cut)
    alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
    if rows == 1 or not alone:
        most = max(example.tokens for example in examples)
        at = f"with one row of {most} tokens" if rows == 1 else f"with {rows} rows a micro-batch in one of " \
            f"several processes (--max_tokens_per_micro_batch {tokens // 2} halves them)"
        raise UserError(f"out of memory {at} ({reason}): {ADVICE}")
    stepper.limits = replace(stepper.limits, rows=(rows + 1) // 2)
    console.print(f"out of memory with {rows} rows a micro-batch: the step again with {(rows + 1) // 2}; "
                  "gradients stay the same, λ comes from the averages of the step before", markup=False,
                  soft_wrap=True)
