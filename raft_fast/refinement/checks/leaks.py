"""An answer that talks about the texts it was made from: a user never sees those."""

import re
from functools import lru_cache

from raft_fast.refinement.checks.case import LOOKED, Case, words

WORDS_OF_PROMPT = 6  # as many words in a row as in the instructions are no chance
LABELLED = 80
LABEL = re.compile(r"^([^\W\d_][^:\n{}]{2,40}):", re.MULTILINE)  # "First answer:" of a template
# (an adjective, a noun) in either order; English also "the answer above"
PHRASES = re.compile(r"""
    \b(?:reference|gold|given|provided|original|reworded|rewritten|rephrased|combined|merged|revised
       |above|first|second)\ (?:reference\ )?answers?\b
  | \b(?:reference|original|given|provided|above)\ questions?\b|\banswer\ to\ (?:the|this|your)\ question\b
  | \banswers?\ (?:above|below|(?:that\ (?:was|were|is)\ )?(?:provided|given))\b
  | \b(?:referens|ursprungs|original)svaret\b
  | \b(?:givna|angivna|ursprungliga|omformulerade|omskrivna|kombinerade|sammanslagna|första|andra)\ svaret\b
  | \bsvaret\ (?:ovan|nedan)\b
  | \breferenzantwort
  | \b(?:gegebenen?|obigen?|ursprünglichen?|umformulierten?|kombinierten?|vorliegenden?)\ antwort\b
  | \b(?:ersten?|zweiten?)\ antwort\b
  | \brespuestas?\ (?:de\ referencia|proporcionadas?|dadas?|anterior(?:es)?|original(?:es)?)
  | \brespuestas?\ (?:reformuladas?|combinadas?)
  | \b(?:primera|segunda)\ respuesta\b
  | \bréponses?\ (?:de\ référence|fournies?|données?|ci-dessus|originales?|reformulées?|combinées?)
  | \b(?:première|deuxième|seconde)\ réponse\b
""", re.IGNORECASE | re.VERBOSE)


def leak(case: Case) -> str | None:
    """It names the texts it was given, opens with a label of its prompt, or repeats its instructions.

    Labels and instructions are read from the prompt itself, in whatever language that is; of a long answer
    the first LOOKED characters are searched.
    """
    found = PHRASES.search(case.answer[:LOOKED])
    if found and not PHRASES.search(f"{case.gold}\n{case.question}"):
        return f"speaks of its sources: {found[0]!r}"
    labels, runs = _marks(case.instructions)
    for label in labels:
        if case.answer[:LABELLED].casefold().startswith(label) \
                and not case.gold.lstrip()[:LABELLED].casefold().startswith(label):
            return f"repeats the prompt's label {label!r}"
    return _repeated(case, runs)


def _repeated(case: Case, runs: frozenset[tuple[str, ...]]) -> str | None:
    found = _runs(case.answer[:LOOKED]) & runs
    if found:
        found -= _runs(case.gold) | _runs(case.question)
    return f"repeats its instructions: {' '.join(min(found))!r}" if found else None


@lru_cache(maxsize=16)
def _marks(instructions: str) -> tuple[tuple[str, ...], frozenset[tuple[str, ...]]]:
    """(labels with their colon, runs of words) of a prompt."""
    labels = tuple(f"{label}:".casefold() for label in LABEL.findall(instructions))
    return labels, _runs(instructions)


def _runs(text: str) -> frozenset[tuple[str, ...]]:
    said = words(text)
    return frozenset(said[at : at + WORDS_OF_PROMPT] for at in range(len(said) - WORDS_OF_PROMPT + 1))
