"""The progress line of training: losses, λ, and where the time goes."""

from collections.abc import Callable

from raft_fast.distillation import Callback, TrainingState
from raft_fast.distillation.split import describe_split

SHOWN = {"loss": "loss", "sft_loss": "sft", "kl_loss": "kl", "lambda": "λ"}


class StepsInProgress(Callback):
    """Moves a phase on by its `advance`; beside it stand the losses, the last evaluation and the time's
    split."""

    def __init__(self, advance: Callable[..., None]) -> None:
        self.advance, self.losses, self.scores, self.split = advance, "", "", ""

    def on_begin(self, state: TrainingState) -> None:
        self._move(found=state.step)

    def on_step(self, state: TrainingState) -> None:
        self.losses = "  ".join(f"{label} {state.metrics[key]:.3g}" for key, label in SHOWN.items()
                                if state.metrics[key] is not None)
        if skipped := state.metrics["skipped_steps"]:
            self.losses += f"  skipped {skipped}"
        self.split = describe_split(state.metrics)
        self._move(1)

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        self.scores = "".join(f"  {name.removeprefix('eval_')} {score:.3g}"
                              for name, score in scores.items() if score is not None)
        self._move()

    def _move(self, steps: int = 0, found: int = 0) -> None:
        self.advance(steps, note=f"{self.losses}{self.scores}\n{self.split}".strip(), found=found)
