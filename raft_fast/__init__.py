"""raft-fast: RAFT fine-tuning (arXiv 2606.00147) in two stages.

`python -m raft_fast.refine` rewrites and fuses a domain data set, `python -m raft_fast.train`
trains on it with answer-conditioned on-policy distillation, `python -m raft_fast.evaluate`
measures what was learnt and what was kept.
"""

__version__ = "0.1.0"
