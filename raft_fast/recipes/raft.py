"""RAFT (arXiv 2606.00147): learn a fused answer, and be held to the original model that was shown it.

For a question x with a gold answer y,

    stage 1   ỹ ~ p_θ(· | x, y)                    the model rewrites the gold answer      Eq. 1
              ȳ = ỹ if cos(φ(y), φ(ỹ)) ≥ τ else y  a rewrite that says the same is kept    Eqs. 2-3
              ŷ = best of several fusions of y, ȳ  judges score each                       Eq. 4
    stage 2   z ~ p_S(· | x)                       the student in its own words            Eq. 6
              q = p_T(· | x, ŷ, z)                 the frozen original, shown ŷ            Eq. 7
              L = L_SFT(ŷ) + λ L_KL(q, p_S)        on ŷ, and on the tokens of z            Eqs. 8-10
              λ = m̂_SFT / m̂_KL                     moving averages of both losses          Eqs. 11-12

Stage 1 is `refinement/equations.py`.
"""

from raft_fast.distillation.losses import CrossEntropy, Distillation, Term
from raft_fast.recipes.base import Recipe
from raft_fast.run.options import TrainOptions


class RAFT(Recipe):
    """--sft false and --distillation false leave one of the two terms out."""

    name = "raft"

    def terms(self, options: TrainOptions) -> list[Term]:
        sft = [CrossEntropy()] if options.sft else []
        kl = [Distillation.of(options, balanced=True)] if options.distillation else []
        return [*sft, *kl]
