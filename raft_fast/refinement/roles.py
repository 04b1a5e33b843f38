"""Who does what in stage 1: rewriter, fuser and judges, by the names a user gives them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from raft_fast.engines import Engine, Message, Reply, Sampling
from raft_fast.errors import UserError
from raft_fast.options import RefineOptions
from raft_fast.refinement.journal import Journal
from raft_fast.refinement.prompting import Prompt

PATIENCE = 8  # calls of an engine that all fail before the run stops without waiting for the rest


@dataclass(frozen=True)
class Roles:
    """The engines of stage 1. Without fusion rounds there need be no fuser and no judges."""

    rewriter: Engine
    fuser: Engine | None = None
    judges: Sequence[Engine] = ()


def build_roles(options: RefineOptions, load: Callable[[str], Engine]) -> Roles:
    """Load the engines that the options name, each name once.

    Raises UserError, with the option in front, for whatever `load` refuses.
    """
    loaded: dict[str, Engine] = {}

    def engine(option: str, spec: str) -> Engine:
        if spec not in loaded:
            try:
                loaded[spec] = load(spec)
            except UserError as error:
                raise _named(option, error) from error
        return loaded[spec]

    rewriter = engine("--rewriter", options.rewriter)
    if options.fusion_rounds == 0:
        return Roles(rewriter)
    judges = [spec.strip() for spec in options.judge.split(",") if spec.strip()]
    if not judges:
        raise UserError(f"--judge {options.judge!r}: name at least one judge, or set "
                        "--fusion_rounds 0 to do without fusion")
    if len(set(judges)) < len(judges):
        raise UserError(f"--judge {options.judge}: names a judge twice; its vote counts once")
    return Roles(rewriter, engine("--fuser", options.fuser),
                 [engine("--judge", spec) for spec in judges])


class Part:
    """An engine in its part. It answers through the journal, and if it never can, the run stops.

    One failed reply costs one row its answer or one round a score. An engine that fails at every
    call is a mistake in the set-up, and going on would quietly hand back the gold answers.
    """

    def __init__(self, option: str, engine: Engine, journal: Journal) -> None:
        self.option, self.engine, self.journal = option, engine, journal
        self._calls = 0
        self._errors: list[str] = []

    @property
    def name(self) -> str:
        return self.engine.identity

    def ask(
        self, kind: str, conversations: Sequence[list[Message]], sampling: Sampling | None,
        prompt: Prompt, advance: Callable[[int], None],
    ) -> list[Reply]:
        """As `Journal.ask`, with the space around a reply's text gone.

        Raises UserError where none of this part's calls has worked and there were enough to tell.
        """
        try:
            replies = self.journal.ask(kind, self.engine, conversations, sampling, prompt.version,
                                       advance)
        except UserError as error:
            raise _named(self.option, error) from error
        self._calls += len(replies)
        self._errors += [reply.error for reply in replies if reply.error is not None]
        if self._calls >= PATIENCE:
            self.must_have_worked()
        return [replace(reply, text=reply.text.strip()) for reply in replies]

    def must_have_worked(self) -> None:
        """Raises UserError, quoting the last reply, where every call so far failed."""
        if self._errors and len(self._errors) == self._calls:
            raise UserError(f"{self.option} {self.name}: none of {self._calls} replies can be "
                            f"used, the last one: {self._errors[-1]}. Choose another "
                            f"{self.option}; what was answered so far is kept")


def _named(option: str, error: UserError) -> UserError:
    """The error with the option in front, where it does not name one itself."""
    return error if str(error).startswith("--") else UserError(f"{option} {error}")
