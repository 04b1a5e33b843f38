"""What a method says of itself."""

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from raft_fast.distillation import Term
    from raft_fast.refinement import Stage1
    from raft_fast.run.options import Options, TrainOptions


class Recipe:
    """A method: subclass it in a file of your own, and pass `--recipe file:Class` or
    `RAFTConfig(recipe=Class)`.

    name: how the method is called. defaults: options whose default this method changes; what the user sets
    on the command line, in YAML or in RAFTConfig wins. Which answers are trained on is among them
    (`data_source`: fused, rewrite or gold).
    """

    name: str = ""
    defaults: ClassVar[dict[str, Any]] = {}

    def answers(self, options: "Options") -> "Stage1 | None":
        """Where the training answers come from: a `Stage1` whose `decide` proposes, criticises and chooses.
        None trains on the gold answers."""
        return None

    def terms(self, options: "TrainOptions") -> "list[Term]":
        """What stage 2 minimises: losses with names of their own (`raft_fast.distillation.losses`)."""
        raise NotImplementedError
