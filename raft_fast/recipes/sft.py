"""Supervised fine-tuning on the gold answers: L = -log p_S(y | x), a mean over the tokens of y.

The baseline that learns and forgets most. Nothing is rewritten, nobody teaches. --data_source rewrite or
fused trains on refined answers instead; --distillation true adds RAFT's second term."""

from raft_fast.recipes.raft import RAFT


class SFT(RAFT):
    """RAFT without its stage 1 and without its teacher."""

    name = "sft"
    defaults = {"data_source": "gold", "distillation": False}
