"""Collapse: the student has lost the original. Training ends, and the run says so until somebody looks."""

import math
from pathlib import Path

from raft_fast.distillation import Callback, TrainingState
from raft_fast.run.files import read_json, write_json

COLLAPSE, REASON = "collapse.json", "collapse at step "


def collapsed(scores: dict[str, float | None], threshold: float) -> str | None:
    """What of an evaluation's scores is a collapse; None where nothing is. A score that is None was not
    measured."""
    for name, score in scores.items():
        if score is not None and not math.isfinite(score):
            return f"{name} is not finite"
    drift = scores["eval_general_drift"]
    if drift is not None and drift > threshold:
        return f"eval_general_drift {drift:.3g} is above --collapse_threshold {threshold:g}"
    return None


class StopOnCollapse(Callback):
    """Ends training at a collapse (see --collapse_threshold) and writes why into RUN/collapse.json. Who else
    ends it has reasons of their own."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        if why := collapsed(scores, self.threshold):
            state.finished = f"{REASON}{state.step}: {why}"

    def on_end(self, state: TrainingState) -> None:
        path = state.run_dir / COLLAPSE
        if (state.finished or "").startswith(REASON):  # from a checkpoint, where a collapsed run goes on
            write_json({"step": state.step, "reason": state.finished}, path)
        else:
            path.unlink(missing_ok=True)


def collapse_of(run_dir: Path) -> str | None:
    """Why the run in this folder ended early; None where it did not."""
    path = run_dir / COLLAPSE
    if not path.is_file():
        return None
    return str(read_json(path, "restore it, or delete it once evaluations.jsonl shows that the run did not "
                               "collapse", keys=["reason"])["reason"])
