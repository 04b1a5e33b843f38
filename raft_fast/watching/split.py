"""Where a step's time goes: rollouts, teacher, training; and what would help."""

from collections.abc import Callable
from typing import Any

from raft_fast.distillation import Callback, TrainingState

PARTS = {"rollout": "rollouts", "teacher": "teacher", "train": "training"}
ENOUGH_STEPS, MOSTLY = 3, 0.6


def describe_split(metrics: dict[str, Any]) -> str:
    """One line for a step: rollouts 61 % (240 tokens/s), teacher ..., training ..."""
    seconds = {part: metrics[f"{part}_seconds"] or 0.0 for part in PARTS}
    total = sum(seconds.values()) or 1.0
    parts = []
    for part, name in PARTS.items():
        speed = metrics.get(f"{part}_tokens_per_second")
        told = f" ({speed:,.0f} tokens/s)" if speed else ""
        parts.append(f"{name} {100 * seconds[part] / total:.0f} %{told}")
    return f"{total:.1f} s: {', '.join(parts)}"


class RolloutAdvice(Callback):
    """Says once what would help where plain generation takes most of the time."""

    def __init__(self, steps_per_generation: int, say: Callable[[str], None]) -> None:
        self.every, self.say = steps_per_generation, say
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps, self.said = 0, False

    def on_step(self, state: TrainingState) -> None:
        self.steps += 1
        for part in PARTS:
            self.seconds[part] += state.metrics[f"{part}_seconds"] or 0.0
        share = self.seconds["rollout"] / (sum(self.seconds.values()) or 1.0)
        # whole rounds only: a refill feeds several steps
        if self.said or share < MOSTLY or self.steps < ENOUGH_STEPS or self.steps % self.every:
            return
        self.said = True
        self.say(f"rollouts take {100 * share:.0f} % of the time. What helps: --steps_per_generation "
                 f"{4 * self.every} (fewer, larger rounds, less on-policy), a shorter "
                 "--max_completion_length, a GPU")
