"""Answer fusion (Eq. 4): rounds of merging gold and rewrite, judged until one is good enough."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raft_fast.data.texts import Message
from raft_fast.engines import Sampling
from raft_fast.engines.prompting import Prompt, Prompts, ask_once, whole_question
from raft_fast.refinement.decisions import Filtered, Round, objections
from raft_fast.refinement.filter import Filter
from raft_fast.refinement.judge import judge
from raft_fast.refinement.roles import Part
from raft_fast.run.options import RefineOptions


@dataclass(frozen=True)
class Fusion:
    """Who fuses and judges, with which words and settings."""

    fuser: Part
    judges: Sequence[Part]
    filter: Filter
    prompts: Prompts
    options: RefineOptions
    sampling: Sampling

    def __call__(self, passed: Sequence[Filtered]) -> list[list[Round]]:
        """For each row that passed the filter its rounds, in order.

        Round r draws with the seed `sampling.seed + r`. A row leaves once the mean score of a round
        reaches `--judge_stop`.
        """
        rounds: list[list[Round]] = [[] for _ in passed]
        live = list(range(len(passed)))
        for number in range(1, most_rounds(self.options) + 1):
            if not live:
                break
            rows = [passed[place] for place in live]
            judged = self._judge(rows, self._draw(rows, number))
            for place, one in zip(live, judged, strict=True):
                rounds[place].append(one)
            live = [place for place in live if not self._good_enough(rounds[place][-1])]
        return rounds

    def _good_enough(self, one: Round) -> bool:
        return one.score is not None and one.score >= self.options.judge_stop

    def _draw(self, rows: Sequence[Filtered], number: int) -> list[Round]:
        prompt = self.prompts.fuse
        replies = self.fuser.ask("fuse", [fuse_request(one, prompt) for one in rows],
                                 replace(self.sampling, seed=self.sampling.seed + number), prompt)
        quorum = self.options.quorum or len(self.judges) // 2 + 1
        checked = self.filter.fusions([one.row for one in rows], replies, prompt)
        return [Round(number, reply, similarity, checks, quorum)
                for reply, (similarity, checks) in zip(replies, checked, strict=True)]

    def _judge(self, rows: Sequence[Filtered], drawn: Sequence[Round]) -> list[Round]:
        """The same rounds with verdicts; a fusion that cannot be used is not worth a judge's time."""
        usable = [place for place, one in enumerate(drawn) if not objections(one.checks)]
        judged = list(drawn)
        if usable:
            verdicts = judge([rows[place].row for place in usable],
                             [drawn[place].fusion.text for place in usable], self.judges,
                             self.prompts.judge)
            for place, found in zip(usable, verdicts, strict=True):
                judged[place] = replace(drawn[place], verdicts=found)
        return judged


def most_rounds(options: RefineOptions) -> int:
    """Greedy fusions would all be the same, so there is one round then."""
    most = options.fusion_rounds
    return most if options.rewrite_temperature > 0 else min(most, 1)


def fuse_request(one: Filtered, prompt: Prompt) -> list[Message]:
    """What the fuser is asked."""
    return ask_once(prompt.fill(question=whole_question(one.row.prompt), gold=one.row.gold,
                                rewrite=one.answer))
