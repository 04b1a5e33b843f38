"""The weights of the best evaluation, kept apart from the checkpoints."""

import json
import math
import warnings
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError

from raft_fast.distillation import Callback, TrainingState
from raft_fast.distillation.checkpoint import checkpoints, step_of
from raft_fast.evaluation.collapse import collapsed
from raft_fast.run.durable import check_seal, discard, seal, sweep, write_folder
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json

METRIC, SCORE, WEIGHTS = "eval_domain_nll", "score.json", "model"


class KeepBest(Callback):
    """RUN/best/step-N: the weights with the lowest `METRIC` that have not collapsed; training ends with them.

    threshold: of --collapse_threshold. An evaluation is heard here before training is told to end. Steps
    after the checkpoint that a run goes on from are made again and may come out otherwise, so what was best
    in them is forgotten then; until that cannot happen, the best before each checkpoint is kept too.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def on_begin(self, state: TrainingState) -> None:
        self.folder = state.run_dir / "best"
        sweep(self.folder)
        _discard(kept for kept in checkpoints(self.folder) if step_of(kept) > state.step)
        self.score = min(map(_score, checkpoints(self.folder)), default=math.inf)

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        score = scores[METRIC]
        if score is None or score >= self.score or collapsed(scores, self.threshold):
            return
        self.score, best = score, self.folder / f"step-{state.step:06d}"

        def fill(partial: Path) -> None:
            state.weights.save(partial / WEIGHTS)
            (partial / SCORE).write_text(json.dumps({"step": state.step, METRIC: score}))
            seal(partial)

        write_folder(best, fill)
        self._keep_needed(state)

    def on_save(self, state: TrainingState, checkpoint: Path) -> None:
        self._keep_needed(state)

    def on_end(self, state: TrainingState) -> None:
        for best in sorted(checkpoints(self.folder), key=_score):
            try:
                check_seal(best)
                state.weights.put(state.weights.read(best / WEIGHTS))
                return
            except (SafetensorError, OSError, ValueError) as error:
                warnings.warn(f"{best} is damaged ({error}); the last weights are kept", stacklevel=2)

    def _keep_needed(self, state: TrainingState) -> None:
        """Drop all but the best so far and the best before each checkpoint (or the start) to go on from."""
        every = checkpoints(self.folder)
        moments = [step_of(saved) for saved in checkpoints(state.run_dir / "checkpoints")] or [0]
        needed = {min((kept for kept in every if step_of(kept) <= moment), key=_score, default=None)
                  for moment in (*moments, state.step)}
        _discard(kept for kept in every if kept not in needed)


def _discard(unwanted: Iterable[Path]) -> None:
    for kept in unwanted:
        discard(kept)


def _score(kept: Path) -> float:
    """Infinite where it cannot be read."""
    try:
        return float(read_json(kept / SCORE, keys=[METRIC])[METRIC])
    except (UserError, ValueError, TypeError):
        return math.inf
