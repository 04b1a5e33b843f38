"""Answer fusion (Eq. 4): rounds of merging gold and rewrite, judged until one is good enough."""

from collections.abc import Sequence
from dataclasses import replace

from raft_fast.engines import Sampling
from raft_fast.options import RefineOptions
from raft_fast.progress import Reporter
from raft_fast.refinement.decisions import Filtered, Round, objections
from raft_fast.refinement.filter import SimilarityEncoder, below, plain_checks, similarity_to_gold
from raft_fast.refinement.judge import judge
from raft_fast.refinement.prompting import ask_once, load_prompt, whole_question
from raft_fast.refinement.roles import Part


def fuse(
    passed: Sequence[Filtered], fuser: Part, judges: Sequence[Part], encoder: SimilarityEncoder,
    options: RefineOptions, sampling: Sampling, reporter: Reporter,
) -> list[list[Round]]:
    """For each row that passed the filter its rounds, in order.

    Round r draws with the seed `sampling.seed + r`. A row leaves once the mean score of a round
    reaches `options.judge_stop`. Greedy fusions would all be the same, so there is one round then.
    """
    rounds: list[list[Round]] = [[] for _ in passed]
    live = list(range(len(passed)))
    for number in range(1, _most_rounds(options) + 1):
        if not live:
            break
        seeded = replace(sampling, seed=sampling.seed + number)
        drawn = _draw([passed[place] for place in live], number, fuser, encoder, options, seeded,
                      reporter)
        judged = _judge([passed[place] for place in live], drawn, judges, reporter)
        for place, one in zip(live, judged, strict=True):
            rounds[place].append(one)
        live = [place for place in live if not _good_enough(rounds[place][-1], options.judge_stop)]
    return rounds


def _most_rounds(options: RefineOptions) -> int:
    most = options.fusion_rounds
    return most if options.rewrite_temperature > 0 else min(most, 1)


def _good_enough(one: Round, judge_stop: float) -> bool:
    return one.score is not None and one.score >= judge_stop


def _draw(
    rows: Sequence[Filtered], number: int, fuser: Part, encoder: SimilarityEncoder,
    options: RefineOptions, sampling: Sampling, reporter: Reporter,
) -> list[Round]:
    prompt = load_prompt("fuse")
    conversations = [
        ask_once(prompt.fill(question=whole_question(one.row.prompt), gold=one.row.gold,
                             rewrite=one.answer))
        for one in rows
    ]
    with reporter.phase(f"fuse, round {number}", len(rows), "rows") as advance:
        replies = fuser.ask("fuse", conversations, sampling, prompt, advance)
        similarities = similarity_to_gold([one.row.gold for one in rows], replies, encoder)
    found = []
    for one, reply, similarity in zip(rows, replies, similarities, strict=True):
        checks = plain_checks(reply, one.row.gold)
        if options.fused_tau:
            checks["similarity"] = below(similarity, options.fused_tau, "--fused_tau")
        found.append(Round(number, reply, similarity, checks))
    return found


def _judge(
    rows: Sequence[Filtered], drawn: Sequence[Round], judges: Sequence[Part], reporter: Reporter
) -> list[Round]:
    """The same rounds with verdicts; a fusion that cannot be used is not worth a judge's time."""
    usable = [place for place, one in enumerate(drawn) if not objections(one.checks)]
    judged = list(drawn)
    if not usable:
        return judged
    total = len(usable) * len(judges)
    with reporter.phase(f"judge, round {drawn[0].number}", total, "scores") as advance:
        verdicts = judge([rows[place].row for place in usable],
                         [drawn[place].fusion.text for place in usable], judges, advance)
    for place, found in zip(usable, verdicts, strict=True):
        judged[place] = replace(drawn[place], verdicts=found)
    return judged
