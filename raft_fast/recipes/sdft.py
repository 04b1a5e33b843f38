"""SDFT, "Self-Distillation Enables Continual Learning" (arXiv 2601.19897): demonstrations, on-policy.

    z ~ p_S(· | x)                       the student in its own words
    q = p_T(· | x, y, z)                 the same model, shown the demonstration y
    L = mean over the tokens of z of KL(p_S || q)

The model that has read a demonstration teaches the one that has not. No token of y is ever a target.

What differs from the paper: the teacher is the model before training (TRL's `teacher_model_kind="base"`),
not an average of the student's weights, which would be a second copy of them. KL is taken over the teacher's
--teacher_top_k likeliest tokens (512, renormalised). With --steps_per_generation above 1 later steps see
older samples, without importance weights. The prompt that shows y is RAFT's (`chat.REFERENCE_PROMPT`)."""

from raft_fast.distillation.losses import Distillation, Term
from raft_fast.recipes.raft import RAFT
from raft_fast.run.options import TrainOptions


class SDFT(RAFT):
    """On gold answers; --data_source fused or rewrite shows the teacher refined ones."""

    name = "sdft"
    defaults = {"data_source": "gold", "sft": False, "divergence": "reverse_kl",
                "distillation_temperature": 1.0}

    def terms(self, options: TrainOptions) -> list[Term]:
        return [Distillation.of(options)]
