"""λ at its bound: a KL loss so small that no allowed weight makes it as large as the SFT loss."""

from collections.abc import Callable

from raft_fast.distillation import Callback, TrainingState

ENOUGH_STEPS = 5


class LambdaAtBound(Callback):
    """Says once, after several steps in a row at --lambda_max, what it means and what helps."""

    def __init__(self, lambda_max: float, say: Callable[[str], None]) -> None:
        self.lambda_max, self.say = lambda_max, say
        self.steps, self.said = 0, False

    def on_step(self, state: TrainingState) -> None:
        if state.metrics["skipped"]:  # tells nothing of λ
            return
        self.steps = self.steps + 1 if state.metrics["lambda_bounded"] else 0
        if self.steps >= ENOUGH_STEPS and not self.said:
            self.said = True
            self.say(self._advice(state.metrics["sft_loss"], state.metrics["kl_loss"]))

    def _advice(self, sft: float, kl: float) -> str:
        return (f"λ has been at its bound (--lambda_max {self.lambda_max:g}) for {self.steps} steps: the KL "
                f"loss, {kl:.3g}, is too small beside the SFT loss, {sft:.3g}, to be made as large. Early on "
                "that is usual: the student still says what the teacher says. If it lasts: a higher "
                "--lambda_max, a λ of your own (--balance fixed --fixed_lambda 1), or a look at "
                "first_batch.md, whether the teacher is shown the answer")
