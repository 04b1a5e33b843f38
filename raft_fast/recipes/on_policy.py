"""Gold answers, and a teacher that sees only what the student sees: on-policy distillation as an anchor.

    z ~ p_S(· | x)                 the student in its own words
    q = p_T(· | x, z)              the frozen original, shown no answer
    L = L_SFT(y) + λ L_KL(q, p_S)  on y, and on the tokens of z

The second term only pulls back to the original; what is new comes from the first. --sft false leaves the
distillation alone, for a --teacher that knows more than the student."""

from raft_fast.recipes.raft import RAFT


class OnPolicy(RAFT):
    """RAFT on gold answers, whose teacher does not see them."""

    name = "on_policy"
    defaults = {"data_source": "gold", "teacher_sees_answer": False}
