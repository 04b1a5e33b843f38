"""The weights of the best evaluation, kept apart from the checkpoints."""

import json
import math
import warnings
from pathlib import Path

from safetensors import SafetensorError

from raft_fast.distillation import Callback, TrainingState
from raft_fast.durable import check_seal, discard, seal, write_folder
from raft_fast.watching.collapse import collapsed

METRIC, SCORE, WEIGHTS = "eval_domain_nll", "score.json", "model"


class KeepBest(Callback):
    """RUN/best/step-N: the weights with the lowest `METRIC` that have not collapsed; training ends with them.

    threshold: of --collapse_threshold. An evaluation is heard here before training is told to end.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def on_begin(self, state: TrainingState) -> None:
        self.folder = state.run_dir / "best"
        self.score = min((score for kept in self._kept() if (score := _score(kept)) is not None),
                         default=math.inf)

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
        for kept in self._kept():
            if kept != best:
                discard(kept)

    def on_end(self, state: TrainingState) -> None:
        for best in sorted(self._kept(), key=lambda kept: _score(kept) or math.inf):
            try:
                check_seal(best)
                state.weights.put(state.weights.read(best / WEIGHTS))
                return
            except (SafetensorError, OSError, ValueError) as error:
                warnings.warn(f"{best} is damaged ({error}); the last weights are kept", stacklevel=2)

    def _kept(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def _score(kept: Path) -> float | None:
    try:
        return json.loads((kept / SCORE).read_text())[METRIC]
    except (OSError, ValueError, KeyError):
        return None
