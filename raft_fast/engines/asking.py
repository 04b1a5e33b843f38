"""How engines are asked: prompts (one file a task in `prompts/`), parts that engines play, work at once."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import NamedTuple, TypeVar

from raft_fast.data.texts import Message
from raft_fast.engines import OF_ONE_REQUEST, Engine, Reply, Sampling, score, valid
from raft_fast.engines.journal import Journal, Listener, Stopped
from raft_fast.run.errors import WORKER, UserError

FIELDS = {"rewrite": {"question", "answer"}, "fuse": {"question", "gold", "rewrite"},
          "judge": {"question", "gold", "answer"}, "jury": {"question", "gold", "answer"},
          "paraphrase": {"question"}}
PATIENCE = 8  # calls of an engine that all fail before the run stops without waiting for the rest
STREAK = 100  # failures in a row after which an engine that did work counts as gone

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prompt:
    """A text with {fields}. Its version is a hash of the words: other words, other journal keys."""

    name: str
    text: str

    @property
    def version(self) -> str:
        return f"{self.name}-{hashlib.sha256(self.text.encode()).hexdigest()[:12]}"

    def fill(self, **fields: str) -> str:
        """The text with every field in place. Raises KeyError for one that is not given."""
        return self.text.format(**fields)


class Prompts(NamedTuple):
    """One prompt for each task of stage 1."""

    rewrite: Prompt
    fuse: Prompt
    judge: Prompt


def load_prompts(folder: str | None = None) -> Prompts:
    """Stage 1's prompts: those in `folder`, the shipped ones for what it lacks. Raises as `load_prompt`."""
    return Prompts(*(load_prompt(name, folder) for name in Prompts._fields))


def load_prompt(name: str, folder: str | None = None) -> Prompt:
    """The prompt of one task: `<name>.txt` in the folder of --prompts, else the shipped one.

    Raises UserError for a folder without prompts or with unknown ones, and for {fields} of another task."""
    if folder is not None:
        names, known = {file.stem for file in Path(folder).glob("*.txt")}, ".txt, ".join(FIELDS) + ".txt"
        if not names or names - set(FIELDS):
            what = f"{min(names - set(FIELDS))}.txt is no prompt" if names else "holds no prompt"
            raise UserError(f"--prompts {folder}: {what}; known are {known}")
    own = Path(folder or "") / f"{name}.txt"
    if folder is None or not own.is_file():
        shipped = resources.files("raft_fast.engines") / "prompts" / f"{name}.txt"
        return Prompt(name, shipped.read_text(encoding="utf-8").strip())
    try:
        prompt = Prompt(name, own.read_text(encoding="utf-8").strip())
        found = {field for _, field, _, _ in Formatter().parse(prompt.text) if field is not None}
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{own}: {error}; a brace that is only a brace is written twice") from error
    if wrong := sorted(found ^ FIELDS[name]):
        raise UserError(f"{own}: {'lacks' if wrong[0] in FIELDS[name] else 'has'} the placeholder "
                        f"{{{wrong[0]}}}; its placeholders are {', '.join(sorted(FIELDS[name]))}")
    return prompt


def ask_once(text: str) -> list[Message]:
    """A conversation of one user turn: some chat templates know no system role."""
    return [Message(role="user", content=text)]


def in_context(prompt: Sequence[Message], text: str) -> list[Message]:
    """The row's own conversation with the words of its last turn replaced by `text`."""
    return [*prompt[:-1], Message(role="user", content=text)]


def whole_question(prompt: Sequence[Message]) -> str:
    """The row's prompt as one text, for a model that stands outside the conversation."""
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


class Part:
    """An engine in its part: it answers through the journal; the run stops if it never works, or no longer.

    One failed reply costs one row its answer or one round a score; an engine that always fails would quietly
    hand back the gold answers. Errors of single requests (`OF_ONE_REQUEST`) stop no run before its end: they
    come at once, and so before the first answer of an engine that works."""

    def __init__(self, option: str, engine: Engine, journal: Journal,
                 heard: Listener = lambda *_: None) -> None:
        self.option, self.engine, self.journal, self.heard = option, engine, journal, heard
        self._worked, self._failures, self._streak, self._last = False, 0, 0, ""
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.engine.identity

    def ask(self, kind: str, conversations: Sequence[list[Message]], sampling: Sampling | None,
            prompt: Prompt) -> list[Reply]:
        """As `Journal.ask`, with the space around a reply's text removed.

        Raises UserError, as soon as it shows, if none of this part's calls works or none does any longer."""
        version = prompt.version if sampling is not None else prompt.version + score.VERSION
        try:
            replies = self.journal.ask(kind, self.engine, conversations, sampling, version, self.listen)
        except UserError as error:
            raise named(self.option, error) from error
        return [replace(reply, text=valid(reply.text).strip()) for reply in replies]

    def must_have_worked(self) -> None:
        """Raises UserError, quoting the last reply, if every call so far failed."""
        if self._failures and not self._worked:
            raise self._useless(f"none of {self._failures} replies can be used")

    def listen(self, reply: Reply, fresh: bool) -> None:
        """Hear of a reply. Raises UserError as `ask`."""
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
        return UserError(f"{self.option} {self.name}: {what}, the last one: {self._last}. Fix it or "
                         f"choose another {self.option}; what was answered so far is kept")


def named(option: str, error: UserError) -> UserError:
    """The error with the option in front, unless it names one itself."""
    return error if str(error).startswith("--") else UserError(f"{option} {error}")


def at_once(work: Callable[[Item], Result], items: Iterable[Item], limit: int,
            stop: Callable[[], None]) -> Iterator[Result]:
    """Yield work(item) for each item, in the items' order, with `limit` of them under way.

    At most twice as many are begun and not yet yielded. If one fails, or the caller leaves, `stop` is called
    and must make the others end: with Stopped, if they are not done. They are waited for, until a second
    Ctrl-C, and the first error but Stopped is raised."""
    coming, begun = iter(items), deque[Future[Result]]()
    pool = ThreadPoolExecutor(limit, thread_name_prefix=WORKER)
    try:
        while True:
            begun.extend(pool.submit(work, item) for item in islice(coming, 2 * limit - len(begun)))
            for future in begun:
                if future.done() and future.exception():
                    future.result()
            if not begun:
                return
            if begun[0].done():
                yield begun.popleft().result()
            else:
                wait([future for future in begun if not future.done()], return_when=FIRST_COMPLETED)
    except BaseException as error:
        stop()
        pool.shutdown(wait=False, cancel_futures=True)
        ended, _ = wait([future for future in begun if not future.cancelled()])
        failed = [why for future in ended if (why := future.exception()) and not isinstance(why, Stopped)]
        if isinstance(error, Stopped) and failed:  # whoever made it stop failed later, or was heard later
            raise failed[0] from None
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
