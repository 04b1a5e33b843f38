"""Who works on stage 1: the engines that a user names, and the workbench that a recipe's parts share."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raft_fast.data.dataset import Row
from raft_fast.data.screening import SentenceEncoder, embed_to_file, nearest
from raft_fast.data.texts import Message
from raft_fast.engines import Engine, Sampling
from raft_fast.engines.asking import Part, Prompts, load_prompts, named
from raft_fast.engines.journal import Journal
from raft_fast.refinement.candidates import Decision
from raft_fast.refinement.checks import RETRIEVAL, Checker
from raft_fast.run.errors import UserError
from raft_fast.run.options import RefineOptions
from raft_fast.run.progress import Reporter

GOLDS = "golds.npy"
RANKS = 10  # nearest gold answers that are looked at
SAME = 0.95  # gold answers this similar say the same: they are no rivals
TIE = 1e-4  # what rounding, or another precision, may move a cosine


@dataclass(frozen=True)
class Roles:
    """The engines of stage 1. Without fusion rounds there need be no fuser and no judges."""

    rewriter: Engine
    fuser: Engine | None = None
    judges: Sequence[Engine] = ()


def build_roles(options: RefineOptions, load: Callable[[str], Engine]) -> Roles:
    """Load the engines that the options name, each name once; servers first, so that a mistake there shows
    before anything heavy is loaded. Raises UserError for what `load` refuses, and if two judges are one."""
    loaded: dict[str, Engine] = {}
    for option, spec in sorted(named_engines(options), key=lambda one: "://" not in one[1]):
        try:
            loaded[spec] = loaded.get(spec) or load(spec)
        except UserError as error:
            raise named(option, error) from error
    rewriter = loaded[options.rewriter]
    if options.fusion_rounds == 0:
        return Roles(rewriter)
    judges = [loaded[spec] for spec in judge_names(options)]
    if len({judge.identity for judge in judges}) < len(judges):
        raise UserError(f"--judge {options.judge}: two of them are one model; its vote counts once")
    return Roles(rewriter, loaded[options.fuser], judges)


def check_refinement(options: RefineOptions) -> None:
    """Preflight: raises UserError for unknown checks and bad lists of judges."""
    Checker.of(options)
    named_engines(options)


def named_engines(options: RefineOptions) -> list[tuple[str, str]]:
    """(option, engine) of all engines that the options name. Raises UserError as `judge_names`."""
    found = [("--rewriter", options.rewriter)]
    if options.fusion_rounds:
        found += [("--fuser", options.fuser), *(("--judge", spec) for spec in judge_names(options))]
    return found


def judge_names(options: RefineOptions) -> list[str]:
    """The judges that --judge lists. Raises UserError for none, for one listed twice (its vote counts once),
    and for fewer than --quorum."""
    judges = [spec.strip() for spec in options.judge.split(",") if spec.strip()]
    if not judges:
        raise UserError(f"--judge {options.judge!r}: name at least one judge, or set --fusion_rounds 0 to do "
                        "without fusion")
    if twice := [spec for spec in judges if judges.count(spec) > 1]:
        raise UserError(f"--judge {options.judge}: names {twice[0]} twice: name each judge once")
    if options.quorum > len(judges):
        raise UserError(f"--quorum {options.quorum}: must be at most the number of judges ({len(judges)})")
    return judges


Asked = dict[str, tuple[int, list[Message]]]
"""What a row may ask for: option of the engine -> (how often at most, a conversation)."""


@dataclass(frozen=True)
class Stage1:
    """How a recipe makes its training answers: `decide` proposes, criticises and chooses for a block of rows;
    `requests` tells --dry_run what a row may ask for."""

    options: RefineOptions
    decide: "Callable[[Sequence[Row], Workbench], list[Decision]]"
    requests: Callable[[Row, RefineOptions, Prompts], Asked]


@dataclass(frozen=True)
class GoldIndex:
    """All gold answers of a data set, searched on `device`. `vectors` float32 [N, D]."""

    vectors: np.ndarray
    device: str
    places: dict[str, int]  # by row_id

    def of(self, rows: Sequence[Row]) -> np.ndarray:
        """The vectors of these rows' gold answers, float32 [n, D]."""
        return np.array(self.vectors[[self.places[row.row_id] for row in rows]])

    def objections(self, golds: np.ndarray, rewrites: np.ndarray) -> list[str | None]:
        """For each pair of unit vectors, float32 [n, D]: what is wrong; None if no other gold answer is
        nearer to the rewrite than its own."""
        scores, ids = nearest(rewrites, self.vectors, RANKS, self.device)
        own = (golds.astype(np.float64) * rewrites).sum(-1)
        rivals = self.vectors[ids]  # [n, RANKS, D]
        alike = np.einsum("nd,nkd->nk", golds, rivals)
        nearer = (scores > own[:, None] + TIE) & (alike < SAME)
        return ["nearer to another row's gold answer" if one else None for one in nearer.any(1)]


def index_golds(rows: Collection[Row], options: RefineOptions, encoder: SentenceEncoder, folder: Path,
                reporter: Reporter) -> GoldIndex | None:
    """The gold answers of all rows, embedded into `folder`/golds.npy unless they are there already; None if
    the check `retrieval` is skipped."""
    if RETRIEVAL in Checker.of(options).skip:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    with reporter.phase("embed gold answers", len(rows), "rows") as advance:
        vectors = embed_to_file([row.gold for row in rows], encoder, folder / GOLDS, advance)
        return GoldIndex(vectors, encoder.device, {row.row_id: at for at, row in enumerate(rows)})


@dataclass(frozen=True)
class Workbench:
    """What a recipe's parts share. All parts answer through `journal`; `golds` tells gold answers apart
    (None: no check `retrieval`)."""

    options: RefineOptions
    rewriter: Part
    fuser: Part | None
    judges: Sequence[Part]
    encoder: SentenceEncoder
    golds: GoldIndex | None
    prompts: Prompts
    sampling: Sampling
    check: Checker

    @classmethod
    def of(cls, options: RefineOptions, roles: Roles, encoder: SentenceEncoder, golds: GoldIndex | None,
           journal: Journal, seed: int) -> "Workbench":
        """Raises UserError for an unknown check name and for prompts that cannot be used."""
        check = Checker.of(options)
        return cls(
            options, Part("--rewriter", roles.rewriter, journal),
            None if roles.fuser is None else Part("--fuser", roles.fuser, journal),
            [Part("--judge", engine, journal) for engine in roles.judges],
            encoder, None if RETRIEVAL in check.skip else golds, load_prompts(options.prompts),
            Sampling(options.rewrite_max_new_tokens, options.rewrite_temperature, seed), check)

    @property
    def quorum(self) -> int:
        """How many judges must give a score for their mean to count."""
        return self.options.quorum or len(self.judges) // 2 + 1
