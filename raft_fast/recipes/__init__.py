"""Methods, one a file: where the training answers come from, and what the student minimises on them."""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, ClassVar

from raft_fast.run.config import shipped
from raft_fast.run.errors import UserError

if TYPE_CHECKING:
    from raft_fast.distillation import Term
    from raft_fast.refinement import Stage1
    from raft_fast.run.options import Options, TrainOptions


class Recipe:
    """A method: subclass it in your own file, and pass `--recipe file:Class` or `RAFTConfig(recipe=Class)`.

    defaults: options whose default this method changes, `data_source` (fused, rewrite or gold answers) among
    them; what the user sets on the command line, in YAML or in RAFTConfig wins."""

    name: str = ""
    defaults: ClassVar[dict[str, Any]] = {}

    def answers(self, options: "Options") -> "Stage1 | None":
        """Where the training answers come from: a `Stage1` whose `decide` proposes, criticises and chooses.
        None trains on the gold answers."""
        return None

    def terms(self, options: "TrainOptions") -> "list[Term]":
        """What stage 2 minimises: losses with names of their own (`raft_fast.distillation.losses`)."""
        raise UserError(f"{type(self).__name__}: a recipe must have a method terms(options)")


def names() -> list[str]:
    """The recipes of the package: a module beside this one each."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(recipe: "str | type[Recipe] | Recipe") -> Recipe:
    """A recipe by its name, by `module:Class` (or `module:object`) for one of your own, or as it is.

    Raises UserError if there is no such module or object, or it is not a recipe."""
    found: Any = recipe
    if isinstance(recipe, str):
        module, _, name = recipe.partition(":")
        if not name and recipe not in names():
            config = f"; for the configuration --config {recipe}" if recipe in shipped() else ""
            raise UserError(f"--recipe {recipe}: must be {', '.join(names())}, or module:Class{config}")
        try:
            found = importlib.import_module(module if name else f"{__name__}.{recipe}")
        except (ImportError, TypeError, ValueError) as error:  # :Class, .module:Class
            raise UserError(f"--recipe {recipe}: cannot import {module} ({error})") from error
        found = getattr(found, name, None) if name else next(
            one for one in vars(found).values() if isinstance(one, type) and one.__module__ == found.__name__
            and issubclass(one, Recipe))
    if isinstance(found, type) and issubclass(found, Recipe):
        found = found()
    if not isinstance(found, Recipe):
        raise UserError(f"--recipe {recipe}: must name a subclass of raft_fast.recipes.Recipe")
    return found


def terms_of(recipe: "str | type[Recipe] | Recipe", options: "TrainOptions") -> "list[Term]":
    """What the recipe minimises under these options.

    Raises UserError if there is no term, if two share a name, or if --sft or --distillation ask for terms
    that the recipe does not have, or leave out ones that it has."""
    chosen = find(recipe)
    terms = chosen.terms(options)
    told = ", ".join(term.name for term in terms)
    if not terms or len({term.name for term in terms}) < len(terms):
        raise UserError(f"--recipe {chosen.name}: must have terms, each with its own name, and has: {told}")
    for option, asked, there in (
            ("sft", options.sft, any(not term.draws and not term.taught for term in terms)),
            ("distillation", options.distillation, any(term.draws or term.taught for term in terms))):
        if asked != there:
            raise UserError(f"--{option} {str(asked).lower()}: must be {str(there).lower()} for the recipe "
                            f"{chosen.name}, whose loss has the terms {told} (a recipe of your own puts "
                            f"{option!r}: {there} into its defaults)")
    return terms


def needs_answers(recipe: Recipe, options: "Options") -> bool:
    """Whether rows must have answers: for a term, for stage 1, or because the model is its own teacher."""
    return options.train.teacher == "self" or recipe.answers(options) is not None or any(
        term.needs_answer for term in recipe.terms(options.train))
