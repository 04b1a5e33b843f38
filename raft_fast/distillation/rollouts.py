"""The student's own trajectories: the engine interface and transformers' engine, the buffer between sampling
and training, and the check that engine and trainer have the same model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from raft_fast.data.dataset import Row
from raft_fast.distillation.weights import copied, whole_model
from raft_fast.engines import Sampling, stable_seed
from raft_fast.engines.generation import draw_ids, evaluating
from raft_fast.models.architecture import head_of
from raft_fast.models.chat import Chat, View
from raft_fast.models.packing import completion_hidden, completion_ids, is_mixed
from raft_fast.run.errors import UserError, first_line
from raft_fast.run.options import TrainOptions
from raft_fast.run.processes import Processes
from raft_fast.run.progress import console

ROLLOUT_ROWS = 64  # with few rows the matrix units idle
ROLLOUT_TOKENS = 65536  # upper bound of the cache of keys and values, padding and completions included
LESS_MEMORY = ("use --gradient_checkpointing true or a smaller --max_tokens_per_micro_batch; or, in a new "
               "--output_dir, --use_peft true, a shorter --max_length or --max_completion_length")
CHECKED = 8  # trajectories of a refill that are compared, over all processes
ROUNDINGS = 16  # of a logit and the states behind it; SmolLM2-135M in bf16 is 6 off, on average
OF_SUMS = 2e-4  # nats: of a float32 sum over the vocabulary
ANOTHER_MODEL = 0.2  # nats a token that no rounding explains: a temperature of 0.7 for 1 is 0.28 off
CAUSE = ("the engine has other weights than the student (they did not arrive, or it is quantised), samples "
         "at another temperature, or has another tokenizer")


@dataclass(frozen=True)
class Draw:
    """One trajectory to sample: the token ids of the student's prompt, and the seed of its noise, which
    depends on the run's seed, the step and the row."""

    prompt: list[int]
    seed: int


@dataclass(frozen=True)
class Trajectory:
    """Sampled token ids, eos included if the student ended, and their log-probabilities in nats under the
    distribution that was sampled from (rollout temperature included); None if they were not asked for."""

    ids: list[int]
    logprobs: list[float] | None = None

    def __post_init__(self) -> None:
        if self.logprobs is not None and len(self.ids) != len(self.logprobs):
            raise ValueError(f"{len(self.ids)} token ids with {len(self.logprobs)} log-probabilities")


class RolloutEngine(Protocol):
    """Samples trajectories z ~ p_S(. | x) from the student (Eq. 6). Each process has its own engine, and all
    processes call theirs together."""

    def sync(self, student: Any) -> None:
        """Take over the student's current weights; called before every `sample`. `student` is a whole model
        in training mode, with its adapter if it has one."""
        ...

    def sample(self, draws: Sequence[Draw], logprobs: bool = False) -> list[Trajectory]:
        """One trajectory per draw, in their order; `draws` may be empty. With `logprobs` every trajectory
        must have its log-probabilities. Memory that only sampling needs may be freed until the next `sync`.
        Raises UserError if a trajectory cannot be sampled."""
        ...


class BatchedRollouts(RolloutEngine):
    """Samples from the student itself. A draw's noise depends on its seed alone, its probabilities on the
    student, and by rounding on its batch (by more where rotary frequencies follow the longest sequence).

    At most `rows` rows and `tokens` tokens are sampled at once; out of memory, `rows` is halved for good."""

    def __init__(self, chat: Chat, sampling: Sampling) -> None:
        self.chat, self.sampling, self.rows, self.tokens = chat, sampling, ROLLOUT_ROWS, ROLLOUT_TOKENS
        self.student: Any = None

    def sync(self, student: Any) -> None:
        slow = is_mixed(student) and student.device.type == "cpu"  # autocast: it casts every token
        self.student = copied(student, torch.bfloat16) if slow else student

    def sample(self, draws: Sequence[Draw], logprobs: bool = False) -> list[Trajectory]:
        drawn: dict[int, Trajectory] = {}
        while missing := [index for index in range(len(draws)) if index not in drawn]:
            failed = ""
            try:
                for one in draw_ids(self.student, self.chat, [draws[index].prompt for index in missing],
                                    self.sampling.max_new_tokens, self.sampling.temperature,
                                    [draws[index].seed for index in missing], self.rows, self.tokens):
                    drawn[missing[one.index]] = Trajectory(one.ids, one.logprobs)
            except torch.OutOfMemoryError as error:
                failed = first_line(error)
            if failed:  # outside of the handler: the error holds on to the cache of keys and values
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                if (tried := min(self.rows, len(missing))) == 1:
                    raise UserError(f"out of memory while sampling one trajectory ({failed}): {LESS_MEMORY}")
                self.rows = (tried + 1) // 2
                console.print(f"out of memory while sampling {tried} trajectories: {self.rows} at once from "
                              "here on", markup=False, soft_wrap=True)
        self.student = None  # frees its copy, if it is one, while the student trains
        return [drawn[index] for index in range(len(draws))]


class RolloutBuffer:
    """Hands out the trajectories of each step, sampled from the student as it was at the last refill.

    steps: the rows of every step of the run; `draws` trajectories are sampled for each row, the first of them
    the same for any number. One refill feeds --steps_per_generation steps. Every process samples its share.
    `waiting`: the trajectories of later steps, the same on every process. Of the last `take`: `drawn_tokens`
    were sampled in all, and `gap` is the `logprob_gap`, if taken."""

    def __init__(self, engine: RolloutEngine, chat: Chat, steps: Sequence[Sequence[Row]],
                 options: TrainOptions, seed: int, draws: int = 1) -> None:
        self.engine, self.chat, self.steps, self.seed, self.draws = engine, chat, steps, seed, draws
        self.every, self.temperature = options.steps_per_generation, options.rollout_temperature
        self.longest = options.max_completion_length
        self.waiting: dict[int, list[list[int]]] = {}
        self.drawn_tokens = 0
        self.gap: float | None = None

    def take(self, step: int, student: Any) -> list[list[int]]:
        """Token ids of the step's trajectories, row by row; steps count from 0. All processes take part.
        Raises UserError if the engine samples from another model."""
        self.drawn_tokens, self.gap = 0, None
        if step not in self.waiting:
            self._refill(range(step, min(step + self.every, len(self.steps))), student)
        return self.waiting.pop(step)

    def _refill(self, fed: range, student: Any) -> None:
        processes, refill = Processes(), fed.start // self.every
        checked = refill & (refill - 1) == 0  # 0, 1, 2, 4, 8, ...: seldom enough to cost nothing
        whole = whole_model(student, torch.bfloat16 if is_mixed(student) else None)
        share = processes.deal([draw for step in fed for draw in self._draws(step)])[processes.rank]
        self.engine.sync(whole)
        drawn = processes.together(lambda: self._sampled(share, checked))
        self.gap = logprob_gap(whole, self.chat, self.temperature, share, drawn) if checked else None
        every = processes.collect([trajectory.ids for trajectory in drawn])
        self.drawn_tokens = sum(map(len, every))
        one = iter(every)
        self.waiting = {step: [next(one) for _ in range(self.draws * len(self.steps[step]))] for step in fed}

    def _sampled(self, draws: Sequence[Draw], logprobs: bool) -> list[Trajectory]:
        drawn = list(self.engine.sample(draws, logprobs=logprobs))
        if len(drawn) != len(draws):
            raise UserError(f"the rollout engine returned {len(drawn)} trajectories for {len(draws)} draws: "
                            "it must return one for each, in their order")
        if (longest := max((len(one.ids) for one in drawn), default=0)) > self.longest:
            raise UserError(f"the rollout engine returned a trajectory of {longest} tokens: give it the "
                            f"{self.longest} of --max_completion_length as its limit")
        return drawn

    def _draws(self, step: int) -> Iterator[Draw]:
        for row in self.steps[step]:
            prompt = self.chat.student_prompt(row.prompt)
            for number in range(self.draws):
                yield Draw(prompt, stable_seed(self.seed, step, row.row_id, *([number] if number else [])))


def logprob_gap(student: Any, chat: Chat, temperature: float, draws: Sequence[Draw],
                drawn: Sequence[Trajectory]) -> float | None:
    """Mean |engine - trainer| of the first trajectories' log-probabilities in nats a token, the same on every
    process; None without tokens. draws, drawn: this process's share; all processes take part.

    Warns of a gap above rounding; raises UserError for one that only another model explains."""
    processes = Processes()
    few = len(range(processes.rank, CHECKED, processes.size))  # the same ones for any number of processes
    pairs = [(draw.prompt, one) for draw, one in list(zip(draws, drawn, strict=True))[:few] if one.ids]
    if any(one.logprobs is None for _, one in pairs):
        raise UserError("the rollout engine returned no log-probabilities: with sample(draws, logprobs=True) "
                        "each Trajectory must have them")
    sums = torch.zeros(2, dtype=torch.float64, device=student.device)
    if pairs:
        views = [View(prompt, one.ids) for prompt, one in pairs]
        theirs = torch.tensor([value for _, one in pairs for value in one.logprobs or ()], device=sums.device)
        with torch.no_grad(), evaluating(student):
            hidden, head = completion_hidden(student, views, chat.pad_id), head_of(student)
            own = -head.nll(hidden, completion_ids(views, hidden.device), temperature,
                            chat.lacking(head.weight.shape[0]))
        sums += torch.stack([(theirs - own).double().abs().sum(), sums.new_tensor(len(theirs))])
    total, tokens = processes.sum(sums).tolist()
    if not tokens:
        return None
    gap, dtype = total / tokens, torch.bfloat16 if is_mixed(student) else student.dtype
    usual = ROUNDINGS * torch.finfo(dtype).eps + OF_SUMS
    text = f"rollout engine and trainer log-probs differ by {gap:.2g} nats/token ({tokens:.0f} tokens)"
    if not gap <= max(ANOTHER_MODEL, 2 * usual):  # true of NaN
        raise UserError(f"{text}: {CAUSE}")
    if gap > usual and processes.is_first:
        console.print(f"warning: {text}, above the {usual:.2g} of rounding: {CAUSE}", markup=False,
                      soft_wrap=True)
    return gap
