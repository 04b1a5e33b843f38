"""The student's own trajectories z ~ p_S(. | x) (Eq. 6)."""

from collections.abc import Sequence
from typing import Any

from raft_fast.chat import Chat
from raft_fast.dataset import Row
from raft_fast.engines import stable_seed
from raft_fast.engines.hf import generate_ids

ROLLOUT_BATCH = 64  # rows generated at once; with few rows the matrix units idle


def sample_trajectories(
    student: Any, chat: Chat, requests: Sequence[tuple[int, Row]], max_new_tokens: int,
    temperature: float, seed: int,
) -> list[list[int]]:
    """Completion ids for each (step, row), eos included where the student ended.

    A draw depends on (seed, step, row_id) and the student alone, so batching and a resumed run
    change nothing.
    """
    prompts = [chat.student_prompt(row.prompt) for _, row in requests]
    seeds = [stable_seed(seed, step, row.row_id) for step, row in requests]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))  # little padding
    drawn: list[list[int]] = [[] for _ in requests]
    for start in range(0, len(order), ROLLOUT_BATCH):
        chosen = order[start : start + ROLLOUT_BATCH]
        completions = generate_ids(student, chat, [prompts[index] for index in chosen],
                                   max_new_tokens, temperature, [seeds[index] for index in chosen])
        for index, completion in zip(chosen, completions, strict=True):
            drawn[index] = completion
    return drawn
