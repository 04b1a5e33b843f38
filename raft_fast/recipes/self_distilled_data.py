"""Self-distilled data: supervised fine-tuning on the model's own rewrites of the gold answers.

    ỹ ~ p_θ(· | x, y)                    the model rewrites the gold answer          Eq. 1
    ȳ = ỹ if cos(φ(y), φ(ỹ)) ≥ τ else y  a rewrite that says the same is kept        Eqs. 2-3
    L = -log p_S(ȳ | x)                  a mean over the tokens of ȳ

What is learnt is close to what the model would say anyway, so it forgets less than on y. RAFT's stage 1
without fusion, and no stage 2. Nothing is sampled while training: that is `sdft`."""

from raft_fast.recipes.raft import RAFT


class SelfDistilledData(RAFT):
    """RAFT on filtered rewrites, without its teacher."""

    name = "self_distilled_data"
    defaults = {"data_source": "rewrite", "distillation": False}
