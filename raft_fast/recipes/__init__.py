"""A stand-in."""

from typing import Any, ClassVar

from raft_fast.run.errors import UserError


class Recipe:
    name = ""
    defaults: ClassVar[dict[str, Any]] = {}


NAMES = {"raft": {}, "sft": {"data_source": "gold", "distillation": False},
         "self_distilled_data": {"data_source": "rewrite", "distillation": False},
         "on_policy": {"data_source": "gold", "teacher_sees_answer": False}}


def find(recipe: Any) -> Recipe:
    if isinstance(recipe, str):
        if recipe not in NAMES:
            raise UserError(f"--recipe {recipe}: must be one of {', '.join(NAMES)}")
        found = Recipe()
        vars(found).update(name=recipe, defaults=NAMES[recipe])
        return found
    return recipe() if isinstance(recipe, type) else recipe
