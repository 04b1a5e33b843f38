"""What was learnt and what was kept: domain and general scores, tables, report, model card."""

from raft_fast.evaluation.both_models import evaluate
from raft_fast.evaluation.table import print_table

__all__ = ["evaluate", "print_table"]
