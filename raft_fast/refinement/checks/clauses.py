"""Two texts clause by clause: does one deny what the other says in the same words?

A clause that denies is held against the nearest clause of the other text, by the words that both have. Of
clauses that share few words nothing can be said.
"""

import re
from dataclasses import dataclass
from functools import cached_property

from raft_fast.refinement.checks.case import words
from raft_fast.refinement.checks.denial import OPENING, OTHERWISE, denials, plain
from raft_fast.refinement.checks.language import SPEAKERS, guess_language

ALIKE = 0.7  # of the words of two clauses, from where on they speak of the same
STEM = 6  # letters: requires, required
END = re.compile(r"[.!?](?=\s|$)|[;:()\n]|,\s(?=(?:but|men|aber|sondern|pero|sino|mais)\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Clause:
    """`said`: the stems that carry meaning; `denied`: those next to a word that denies."""

    text: str
    said: frozenset[str]
    denied: frozenset[str]

    @cached_property
    def denies(self) -> bool:
        """Whether anything is denied, be it in other words."""
        return bool(self.denied) or OTHERWISE.search(self.text) is not None

    def alike(self, other: "Clause") -> float:
        """Dice coefficient of what is said, 0 to 1."""
        return 2 * len(self.said & other.said) / max(1, len(self.said) + len(other.said))


def contradicted(denying: str, saying: str) -> Clause | None:
    """The first clause of a text that denies what the nearest clause of the other says, and nothing there
    denies: neither that, nor anything of what the nearest clause leaves out."""
    others = clauses(saying)
    for one in clauses(denying):
        about_it = [other for other in others if one.denied & other.said]
        nearest = max(about_it, key=one.alike, default=None)
        if nearest is not None and one.denied <= nearest.said and one.alike(nearest) >= ALIKE \
                and not any(other.denies for other in about_it) \
                and not any(other.denies and other.said & (one.said - nearest.said) for other in others):
            return one
    return None


def clauses(text: str) -> tuple[Clause, ...]:
    """The clauses of a text; a comma ends one only before "but"."""
    language = guess_language(text)
    return tuple(_clause(part.strip(), language) for part in END.split(plain(text)) if part.strip())


def _clause(text: str, language: str | None) -> Clause:
    said = words(OPENING.sub("", text))
    denying = set(denials(said, language))
    stems = ["" if place in denying else _stem(word) for place, word in enumerate(said)]
    # of each word that denies the next that carries meaning; without one, the last one before
    following, last = "", next(filter(None, reversed(stems)), "")
    denied = set()
    for place in reversed(range(len(stems))):
        following = stems[place] or following
        if place in denying:
            denied.add(following or last)
    return Clause(text, frozenset(filter(None, stems)), frozenset(filter(None, denied)))


def _stem(word: str) -> str:
    """Empty for the words that every text has."""
    return "" if word in SPEAKERS or len(word) < 3 else word[:STEM]
