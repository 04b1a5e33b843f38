"""What was learnt and what was kept: domain and general scores of both models."""

from raft_fast.evaluation.both_models import evaluate as evaluate
