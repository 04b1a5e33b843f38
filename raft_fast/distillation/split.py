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
    """Says once what would help where rollouts take most of the time of several steps.

    engine: what --rollout_engine is; `on_gpu`: whether it may be another.
    """

    def __init__(self, steps_per_generation: int, engine: str, on_gpu: bool, longest: int,
                 say: Callable[[str], None]) -> None:
        self.every, self.engine, self.on_gpu, self.longest = steps_per_generation, engine, on_gpu, longest
        self.say = say
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.steps, self.drawn, self.cut, self.trajectories, self.said = 0, 0, 0, 0, False

    def on_step(self, state: TrainingState) -> None:
        self.steps += 1
        self.drawn += state.metrics["rollout_tokens"]
        self.trajectories += len(state.trajectories)
        self.cut += sum(len(ids) >= self.longest for ids in state.trajectories)
        for part in PARTS:
            self.seconds[part] += state.metrics[f"{part}_seconds"] or 0.0
        # whole rounds only: a refill feeds several steps
        few = self.steps < ENOUGH_STEPS or self.steps % self.every
        if self.said or few or self.share("rollout") < MOSTLY:
            return
        self.said = True
        self.say(self._advice())

    def share(self, part: str) -> float:
        return self.seconds[part] / (sum(self.seconds.values()) or 1.0)

    def _advice(self) -> str:
        shares = ", ".join(f"{name} {100 * self.share(part):.0f} %" for part, name in PARTS.items())
        helps = [f"--steps_per_generation {4 * self.every} (fewer, larger rounds; less on-policy)"]
        if self.engine == "transformers":
            helps.append("--rollout_engine continuous or vllm" if self.on_gpu else
                         "a GPU, and there --rollout_engine continuous or vllm")
        if self.cut:
            helps.append(f"a shorter --max_completion_length ({100 * self.cut / self.trajectories:.0f} % of "
                         f"the trajectories reach its {self.longest} tokens)")
        speed = self.drawn / self.seconds["rollout"]
        return (f"rollouts dominate after {self.steps} steps: {shares}; {speed:,.0f} tokens/s drawn. What "
                f"helps: {'; '.join(helps)}")
