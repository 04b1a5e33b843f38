"""RAFT (arXiv 2606.00147): learn a fused answer, and be held to the original model that was shown it.

For a question x with a gold answer y,

    stage 1   ỹ ~ p_θ(· | x, y)                    the model rewrites the gold answer      Eq. 1
              ȳ = ỹ if cos(φ(y), φ(ỹ)) ≥ τ else y  a rewrite that says the same is kept    Eqs. 2-3
              ŷ = best of several fusions of y, ȳ  judges score each                       Eq. 4
    stage 2   z ~ p_S(· | x)                       the student in its own words            Eq. 6
              q = p_T(· | x, ŷ, z)                 the frozen original, shown ŷ            Eq. 7
              L = L_SFT(ŷ) + λ L_KL(q, p_S)        on ŷ, and on the tokens of z            Eqs. 8-10
              λ = m̂_SFT / m̂_KL                     moving averages of both losses          Eqs. 11-12"""

from collections.abc import Sequence
from dataclasses import replace

from raft_fast.data.dataset import Row
from raft_fast.distillation.losses import CrossEntropy, Distillation, Term
from raft_fast.engines.asking import Prompts
from raft_fast.recipes import Recipe
from raft_fast.refinement.bench import Asked, Stage1, Workbench
from raft_fast.refinement.candidates import JUDGE, Candidate, Decision, best
from raft_fast.refinement.parts import (
    criticise,
    fuse,
    fuse_request,
    judge,
    judge_request,
    likelihoods,
    rewrite,
    rewrite_request,
)
from raft_fast.run.options import Options, RefineOptions, TrainOptions


class RAFT(Recipe):
    """--sft and --distillation false leave a term out; --data_source rewrite or gold trains on ȳ or y."""

    name = "raft"

    def answers(self, options: Options) -> Stage1 | None:
        one = {"rewrite": replace(options.refine, fusion_rounds=0), "fused": options.refine}
        return stage1(one[source]) if (source := options.train.data_source) != "gold" else None

    def terms(self, options: TrainOptions) -> list[Term]:
        sft = [CrossEntropy()] if options.sft else []
        kl = [Distillation.of(options, balanced=True)] if options.distillation else []
        return [*sft, *kl]


def stage1(options: RefineOptions) -> Stage1:
    """Stage 1 by itself, as `python -m raft_fast.refine` runs it."""
    return Stage1(options, decide, requests)


def decide(rows: Sequence[Row], bench: Workbench) -> list[Decision]:
    """Eqs. 1-4 for a block of rows."""
    rewrites = rewrite(rows, bench)
    criticise(rewrites, bench, bench.prompts.rewrite, bench.options.tau, retrieval=True)
    fusions = fuse_and_judge(rewrites, bench)
    decisions = [choose(one, fused, bench.options.fused_least)
                 for one, fused in zip(rewrites, fusions, strict=True)]
    likelihoods([one for decision in decisions for one in decision.candidates
                 if one.origin != "fused" or one in decision.picks], bench)
    return decisions


def fuse_and_judge(rewrites: Sequence[Candidate], bench: Workbench) -> list[list[Candidate]]:
    """The fusions of each rewrite, in order: drawn until the judges' mean reaches --judge_stop."""
    fusions: list[list[Candidate]] = [[] for _ in rewrites]
    live = [place for place, one in enumerate(rewrites) if one.passed and bench.fuser is not None]
    for number in range(1, most_rounds(bench.options) + 1):
        if not live:
            break
        drawn = fuse([rewrites[place] for place in live], number, bench)
        criticise(drawn, bench, bench.prompts.fuse, bench.options.fused_tau or None, "--fused_tau")
        judge(drawn, bench)
        for place, one in zip(live, drawn, strict=True):
            fusions[place].append(one)
        live = [place for place, one in zip(live, drawn, strict=True)
                if (score := one.scores.get(JUDGE)) is None or score < bench.options.judge_stop]
    return fusions


def choose(rewrite: Candidate, fusions: Sequence[Candidate], least: float = 0.0) -> Decision:
    """ŷ: the fusion with the best mean score, the earlier of equals. A row that failed the filter keeps y;
    one without a fusion whose score is at least `least` (0, as in the paper: any) keeps ȳ."""
    row, gold = rewrite.row, Candidate.gold(rewrite.row)
    candidates = [gold, rewrite, *fusions]
    if not rewrite.passed:
        return Decision(row, candidates, [gold], "; ".join(rewrite.reasons))
    fused = best(fusions, JUDGE)
    if fused is None:
        reasons = ", ".join(f"round {one.number}: {one.no_score}" for one in fusions)
        return Decision(row, candidates, [rewrite], f"no fusion has a score ({reasons})" if fusions else
                        "it passed the filter, and no fusion was asked for")
    score = fused.scores[JUDGE] or 0.0
    if score < least:
        return Decision(row, candidates, [rewrite],
                        f"no fusion's mean score reaches {least:g}; the best is {score:.3f}")
    return Decision(row, candidates, [fused],
                    f"round {fused.number} of {len(fusions)} has the best mean score, {score:.3f} from "
                    f"{len(fused.given)} of {len(fused.verdicts)} judges")


def requests(row: Row, options: RefineOptions, prompts: Prompts) -> Asked:
    """The most that a row asks for: it passes the filter, no round is good enough; gold answers stand in."""
    rounds = most_rounds(options)
    return {"--rewriter": (1, rewrite_request(row, prompts.rewrite)),
            "--fuser": (rounds, fuse_request(row, row.gold, prompts.fuse)),
            "--judge": (rounds, judge_request(row, row.gold, prompts.judge))}


def most_rounds(options: RefineOptions) -> int:
    """Fusions of a row at most. Greedy ones would all be the same, so there is one then."""
    return options.fusion_rounds if options.rewrite_temperature > 0 else min(options.fusion_rounds, 1)
