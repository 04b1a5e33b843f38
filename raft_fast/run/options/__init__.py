"""Every option of the program, grouped by stage; flat on the command line and in YAML.

Names are those of transformers and TRL where the same thing exists.
"""

from raft_fast.run.options.adapter import AdapterOptions
from raft_fast.run.options.data import DataOptions
from raft_fast.run.options.engines import EngineOptions
from raft_fast.run.options.evaluate import BaseOptions, EvaluateOptions
from raft_fast.run.options.given import check_given
from raft_fast.run.options.jury import JuryOptions
from raft_fast.run.options.lm_eval import LMEvalOptions
from raft_fast.run.options.model import MINILM, SMOLLM2, ModelOptions
from raft_fast.run.options.paraphrase import ParaphraseOptions
from raft_fast.run.options.refine import RefineOptions, RefineRunOptions
from raft_fast.run.options.run import Groups, Options, flat
from raft_fast.run.options.screen import ScreenOptions
from raft_fast.run.options.several import check_rollouts, check_several
from raft_fast.run.options.show import CardOptions, ShowOptions
from raft_fast.run.options.train import TrainOptions
from raft_fast.run.options.watch import WatchOptions

ALL_GROUPS: list[type] = [DataOptions, ModelOptions, EngineOptions, ScreenOptions, RefineOptions,
                          RefineRunOptions, TrainOptions, AdapterOptions, WatchOptions, EvaluateOptions,
                          BaseOptions, ShowOptions, CardOptions, ParaphraseOptions, JuryOptions,
                          LMEvalOptions]

__all__ = ["ALL_GROUPS", "MINILM", "SMOLLM2", "AdapterOptions", "BaseOptions", "CardOptions", "DataOptions",
           "EngineOptions", "EvaluateOptions", "Groups", "JuryOptions", "LMEvalOptions", "ModelOptions",
           "Options", "ParaphraseOptions", "RefineOptions", "RefineRunOptions", "ScreenOptions",
           "ShowOptions", "TrainOptions", "WatchOptions", "check_given", "check_rollouts", "check_several",
           "flat"]
