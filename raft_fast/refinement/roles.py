"""Who does what in stage 1: rewriter, fuser and judges, by the names a user gives them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from raft_fast.data.texts import Message
from raft_fast.engines import OF_ONE_REQUEST, Engine, Reply, Sampling, score
from raft_fast.engines.journal import Journal, Listener
from raft_fast.engines.journal_lines import Recorded
from raft_fast.engines.prompting import Prompt
from raft_fast.run.errors import UserError
from raft_fast.run.options import RefineOptions

PATIENCE = 8  # calls of an engine that all fail before the run stops without waiting for the rest
STREAK = 100  # failures in a row after which an engine that did work counts as gone


@dataclass(frozen=True)
class Roles:
    """The engines of stage 1. Without fusion rounds there need be no fuser and no judges."""

    rewriter: Engine
    fuser: Engine | None = None
    judges: Sequence[Engine] = ()


def build_roles(options: RefineOptions, load: Callable[[str], Engine]) -> Roles:
    """Load the engines that the options name, each name once; servers before models in this process, so
    that a mistake there shows before anything heavy is loaded.

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

    for option, spec in named_engines(options):
        if "://" in spec:
            engine(option, spec)
    rewriter = engine("--rewriter", options.rewriter)
    if options.fusion_rounds == 0:
        return Roles(rewriter)
    judges = load_judges(options.judge, options.quorum, lambda spec: engine("--judge", spec))
    return Roles(rewriter, engine("--fuser", options.fuser), judges)


def named_engines(options: RefineOptions) -> list[tuple[str, str]]:
    """(option, engine) for everyone that the options name. Raises UserError as `name_judges`."""
    named = [("--rewriter", options.rewriter)]
    if options.fusion_rounds:
        named.append(("--fuser", options.fuser))
        named += [("--judge", spec) for spec in name_judges(options.judge, options.quorum)]
    return named


def load_judges(names: str, quorum: int, load: Callable[[str], Engine],
                option: str = "--judge") -> list[Engine]:
    """The judges that an option lists. Raises UserError as `name_judges`, and for two that are one."""
    judges = [load(spec) for spec in name_judges(names, quorum, option)]
    if len({judge.identity for judge in judges}) < len(judges):
        raise UserError(f"{option} {names}: two of them are one model; its vote counts once "
                        "(MODEL@URL+URL are replicas of one judge)")
    return judges


def name_judges(names: str, quorum: int, option: str = "--judge") -> list[str]:
    """The judges that an option lists. Raises UserError for none, twice the same, or too few for the
    quorum (the option of the same name, with quorum for judge)."""
    judges = [spec.strip() for spec in names.split(",") if spec.strip()]
    if not judges:
        raise UserError(f"{option} {names!r}: name at least one judge" + (
            ", or set --fusion_rounds 0 to do without fusion" if option == "--judge" else ""))
    check_once(option, names)
    if quorum > len(judges):
        raise UserError(f"{option.replace('judge', 'quorum')} {quorum}: is more than the {len(judges)} "
                        "judges there are")
    return judges


def check_once(option: str, names: str) -> None:
    """Raises UserError where an option lists a judge twice: its vote counts once."""
    judges = [spec.strip() for spec in names.split(",") if spec.strip()]
    if twice := [spec for spec in judges if judges.count(spec) > 1]:
        raise UserError(f"{option} {names}: names {twice[0]} twice: name each judge once")


class Part:
    """An engine in its part. It answers through the journal; where it never can, or no longer, the
    run stops.

    One failed reply costs one row its answer or one round a score. An engine that fails at every
    call is a mistake in the set-up, and going on would quietly hand back the gold answers. What only its
    own request is to blame for (`OF_ONE_REQUEST`) stops no run before its end: such refusals come at
    once, and so before the first answer of an engine that works.
    """

    def __init__(
        self, option: str, engine: Engine, journal: Journal, heard: Listener = lambda *_: None
    ) -> None:
        self.option, self.engine, self.journal, self.heard = option, engine, journal, heard
        self._worked, self._failures, self._streak, self._last = False, 0, 0, ""
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.engine.identity

    def ask(
        self, kind: str, conversations: Sequence[list[Message]], sampling: Sampling | None,
        prompt: Prompt,
    ) -> list[Recorded]:
        """As `Journal.ask`, with the space around a reply's text gone.

        Raises UserError, as soon as it shows, where none of this part's calls works or none does any
        longer.
        """
        version = prompt.version if sampling is not None else prompt.version + score.VERSION
        try:
            replies = self.journal.ask(kind, self.engine, conversations, sampling, version, self._listen)
        except UserError as error:
            raise _named(self.option, error) from error
        return [replace(reply, text=reply.text.strip()) for reply in replies]

    def must_have_worked(self) -> None:
        """Raises UserError, quoting the last reply, where every call so far failed."""
        if self._failures and not self._worked:
            raise self._useless(f"none of {self._failures} replies can be used")

    def _listen(self, reply: Reply, fresh: bool) -> None:
        with self._lock:
            self.heard(reply, fresh)
            if reply.error is None:
                self._worked, self._streak = True, 0
            elif fresh:  # what failed in an earlier run says nothing of how the engine is now
                self._failures, self._last = self._failures + 1, reply.error
                self._streak += not reply.error.startswith(OF_ONE_REQUEST)
                if self._streak >= PATIENCE:
                    self.must_have_worked()
                if self._streak >= STREAK:
                    raise self._useless(f"the last {STREAK} replies cannot be used")

    def _useless(self, what: str) -> UserError:
        return UserError(f"{self.option} {self.name}: {what}, the last one: {self._last}. Mend it or "
                         f"choose another {self.option}; what was answered so far is kept")


def _named(option: str, error: UserError) -> UserError:
    """The error with the option in front, where it does not name one itself."""
    return error if str(error).startswith("--") else UserError(f"{option} {error}")
