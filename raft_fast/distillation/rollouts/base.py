"""The protocol of whoever samples trajectories z ~ p_S(. | x) (Eq. 6): token ids in, token ids out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Draw:
    """One trajectory to sample: the token ids of the student's prompt, and the seed of its noise, which
    the run's seed, the step and the row give."""

    prompt: list[int]
    seed: int


@dataclass(frozen=True)
class Trajectory:
    """Token ids, eos included where the student ended, and how likely each was when it was drawn:
    log-probabilities in nats under the distribution that was sampled from, rollout temperature included.
    None where nobody asked."""

    ids: list[int]
    logprobs: list[float] | None = None

    def __post_init__(self) -> None:
        if self.logprobs is not None and len(self.ids) != len(self.logprobs):
            raise ValueError(f"{len(self.ids)} token ids with {len(self.logprobs)} log-probabilities")


class RolloutEngine(Protocol):
    """Samples from the student. Every process of a run has an engine of its own, and all call it together."""

    def sync(self, student: Any) -> None:
        """Take over the student's weights as they are now. Called before every `sample`; `student` is a
        whole model, in training mode, with its adapter inside where it has one."""
        ...

    def sample(self, draws: Sequence[Draw], logprobs: bool = False) -> list[Trajectory]:
        """One trajectory a draw, in their order; there may be none to draw. `logprobs`: whether they must
        say how likely their tokens were; an engine that knows anyway may always say. What sampling alone
        needs may be freed until the next `sync`. Raises UserError where one cannot be had."""
        ...

    def state(self) -> dict[str, Any]:
        """Plain JSON that a resumed run hands to `load`."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Go on as the engine did that gave `state`."""
        ...
