"""Callbacks that show a run: the progress line, advice, samples, the first batch, trackers."""

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raft_fast.distillation.callbacks import Callback, TrainingState
from raft_fast.distillation.examples import Reading
from raft_fast.distillation.metrics import cut_back
from raft_fast.models.chat import Chat, View
from raft_fast.run.errors import UserError, first_line, require

PARTS = {"rollout": "rollouts", "teacher": "teacher", "train": "training"}
ENOUGH_STEPS, MOSTLY = 3, 0.6  # steps until advice on rollouts, and the share of time that asks for it
COMPLETIONS, FIRST_BATCH, TRACKERS, SHOWN = "completions.jsonl", "first_batch.md", "trackers", 4
NO_TRACKER, ALL_TRACKERS = ("", "none", "no", "off", "false"), "all"  # all: whatever is installed


def describe_split(metrics: dict[str, Any]) -> str:
    """Where a step's time went: 12.3 s: rollouts 61 % (240 tokens/s), teacher ..., training ..."""
    seconds = {part: metrics[f"{part}_seconds"] or 0.0 for part in PARTS}
    total = sum(seconds.values()) or 1.0
    parts = []
    for part, name in PARTS.items():
        speed = metrics.get(f"{part}_tokens_per_second")
        told = f" ({speed:,.0f} tokens/s)" if speed else ""
        parts.append(f"{name} {100 * seconds[part] / total:.0f} %{told}")
    return f"{total:.1f} s: {', '.join(parts)}"


class StepsInProgress(Callback):
    """Moves a phase on by its `advance`; beside it stand the losses, the last evaluation and the time's
    split."""

    def __init__(self, advance: Callable[..., None]) -> None:
        self.advance, self.losses, self.scores, self.split = advance, "", "", ""

    def on_begin(self, state: TrainingState) -> None:
        self._move(found=state.step)

    def on_step(self, state: TrainingState) -> None:
        terms = {key: key.removesuffix("_loss") for key in state.metrics if key.endswith("_loss")}
        self.losses = "  ".join(f"{label} {state.metrics[key]:.3g}" for key, label in
                                {"loss": "loss", **terms, "lambda": "λ"}.items()
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


class LogCompletions(Callback):
    """The first four trajectories of the first step and of every `steps`-th, as text."""

    def __init__(self, steps: int, chat: Chat) -> None:
        self.steps, self.chat = steps, chat

    def on_begin(self, state: TrainingState) -> None:
        self.path = state.run_dir / COMPLETIONS
        cut_back(self.path, state.step)

    def on_step(self, state: TrainingState) -> None:
        if state.step != 1 and state.step % self.steps:
            return
        with self.path.open("a", encoding="utf-8") as file:
            each = len(state.trajectories) // len(state.rows)
            for place, ids in enumerate(state.trajectories[:SHOWN]):
                row = state.rows[place // each]
                file.write(json.dumps({
                    "step": state.step, "row_id": row.row_id, "prompt": row.prompt,
                    "completion": self.chat.decode(ids), "answer": row.completion, "tokens": len(ids),
                    "ended": bool(ids) and ids[-1] in self.chat.eos_ids}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a torn line between others would be in the way of a run that goes on


HEAD = """# The first batch

The token ids that went into step 1, decoded with their special tokens. What is *masked* is read and not
learnt from: a prompt. Look whether each view begins and ends as your model's chat template has it, whether
the teacher is shown the answer, and whether nothing of a prompt is scored. Control marks in the text of a row
are plain text to the model, and look the same here: what a view really has stands under *Control tokens*.
"""


class FirstBatch(Callback):
    """Writes the first four rows of step 1, from the ids that the losses saw."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    def on_step(self, state: TrainingState) -> None:
        if state.step != 1:
            return
        parts = [HEAD]
        for row, example in list(zip(state.rows, state.examples, strict=True))[:SHOWN]:
            parts.append(f"## row_id {_inline(row.row_id)}\n")
            for term, readings in example.readings.items():
                parts += self._term(term, readings)
        (state.run_dir / FIRST_BATCH).write_text("\n".join(parts), encoding="utf-8")

    def _term(self, term: str, readings: Sequence[Reading]) -> list[str]:
        if not readings:
            return [f"### Trajectory ({term})\n", "None: the trajectory is empty.\n"]
        parts = []
        for reading in readings:
            if reading.teacher is None:
                parts += [f"### Answer to train on ({term.upper()})\n", *self._shown(reading.student)]
                continue
            for who, view in (("student", reading.student), ("teacher", reading.teacher)):
                parts += [f"### Trajectory, as the {who} reads it ({term.upper()})\n", *self._shown(view)]
        return parts

    def _shown(self, view: View) -> list[str]:
        start, end = len(view.prompt), len(view.ids)
        return [f"Token spans: masked [0, {start}), in the loss [{start}, {end}).\n",
                f"Control tokens: {self._controls(view.ids)}.\n",
                self._block("masked", view.prompt), self._block("in the loss", view.completion)]

    def _controls(self, ids: Sequence[int]) -> str:
        """The control tokens among the ids, with how many of each."""
        names = {at: name for name, at in self.chat.template.controls.items()}
        found = Counter(name for token in ids if (name := names.get(token)))
        return ", ".join(f"{_code(name)} {count}" for name, count in found.items()) or "none"

    def _block(self, what: str, ids: Sequence[int]) -> str:
        text = self.chat.decode_all(ids)
        fence = _fence(text, 3)
        return f"{what}, {len(ids)} tokens:\n\n{fence}text\n{text}\n{fence}\n"


def _inline(text: str) -> str:
    """A text of the data's inside a line: as it is where no markup can be in it, else as code."""
    if re.fullmatch(r"[\w .:/-]*", text):
        return text
    return _code(json.dumps(text, ensure_ascii=False))


def _code(text: str) -> str:
    fence = _fence(text, 1)
    return f"{fence}{text}{fence}" if "`" not in text else f"{fence} {text} {fence}"


def _fence(text: str, least: int) -> str:
    """Backticks that nothing in the text can close."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def find_trackers(report_to: str) -> list[Any]:
    """The classes of the trackers that --report_to lists. Raises UserError for one that is not installed."""
    names = [name.strip() for name in report_to.split(",") if name.strip().lower() not in NO_TRACKER]
    if not names:
        return []
    require("accelerate", "trackers")
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers

    PartialState()  # trackers ask it which process they are in
    kinds = []
    for name in names:
        try:
            found = filter_trackers([name], TRACKERS)
        except ValueError as error:
            raise UserError(f"--report_to {name}: {error}") from error
        if not found and name != ALL_TRACKERS:
            raise UserError(f"--report_to {name}: not installed: pip install {name}")
        kinds += [LOGGER_TYPE_TO_CLASS[str(kind)] for kind in found]
    return kinds


class Trackers(Callback):
    """Hands every number of a step or an evaluation on. A tracker that fails is left out from then on,
    with a warning: no run is lost over it."""

    def __init__(self, kinds: Sequence[Any], run_dir: Path, config: dict[str, Any]) -> None:
        """kinds: as `find_trackers` gives them."""
        folder = {"logging_dir": str(run_dir / TRACKERS)}
        self.trackers = [kind(run_dir.resolve().name, **(folder if kind.requires_logging_directory else {}))
                         for kind in kinds]
        plain = {key: value if isinstance(value, int | float | str) else str(value)
                 for key, value in config.items()}
        self._each(lambda tracker: tracker.start() if hasattr(tracker, "start") else None)
        self._each(lambda tracker: tracker.store_init_configuration(plain))

    def on_step(self, state: TrainingState) -> None:
        self._log(state.metrics, state.step)

    def on_evaluate(self, state: TrainingState, scores: dict[str, float | None]) -> None:
        self._log(scores, state.step)

    def on_end(self, state: TrainingState) -> None:
        self._each(lambda tracker: tracker.finish())

    def _log(self, values: dict[str, Any], step: int) -> None:
        numbers = {name: float(value) for name, value in values.items()
                   if name != "step" and isinstance(value, int | float)}
        self._each(lambda tracker: tracker.log(numbers, step=step))

    def _each(self, do: Any) -> None:
        for tracker in list(self.trackers):
            try:
                do(tracker)
            except Exception as error:  # whatever a service may throw
                warnings.warn(f"the tracker {tracker.name} failed and is left out: {first_line(error)}",
                              stacklevel=3)
                self.trackers.remove(tracker)
