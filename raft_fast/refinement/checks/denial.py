"""Words that deny, and those that deny in other words."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from raft_fast.refinement.checks.case import words
from raft_fast.refinement.checks.language import guess_language
from raft_fast.refinement.checks.wording import untwisted
from raft_fast.refinement.facts.remembered import remembered

# the word that answers the question; "no" and "si" are other words where no punctuation follows
OPENING = re.compile(r"(?<!\W)\W*(?:(yes|ja|jo|sí|oui|nej|nein|non)(?![\w-])|(no|si)(?=\s*(?:[,.;:!–—]|$)))",
                     re.IGNORECASE)
DENIES = {
    "English": "not no never neither nor none nothing nobody cannot without",
    "Swedish": "inte ej icke aldrig ingen inget inga varken utan",
    "German": "nicht nie niemals kein keine keinen keinem keiner keines nichts weder ohne",
    "Spanish": "no nunca ningún ninguna ninguno nada tampoco ni sin",
    "French": "ne pas jamais aucun aucune rien sans non",
}
ELSEWHERE = frozenset({"sin"})  # means something else in another language: counts in its own only
IDIOMS = re.compile(r"\bno (?:later|more|less|fewer|longer|sooner) than\b|\bnot only\b|\binte bara\b"
                    r"|\bnicht nur\b|\bno s[oó]lo\b|\bpas seulement\b|\bno (?:extra )?(?:cost|charge)\b"
                    r"|\butan kostnad\b", re.IGNORECASE)
# denials in other words: where one of these stands nothing can be said
OTHERWISE = re.compile(r"""
    exempt|\bfree\b|\bfail|\bmiss(?:es|ing)?\b|\bincorrect|\bseparate|\bun(?:able|less|limit|lawful|necessary|permit|author)
  | prohibit|forbid|\bban(?:s|ned)?\b|\bonly\b|\bexcept|\bexclud|\bvoid\b|illegal|invalid|\black|\brefus
  | \boptional|\bvoluntar|\brather\ than|\binstead\b|\bavoid|\bimpossible|\bat\ least\b|\bat\ most\b
  | befri|förbj|\bendast\b|\bbara\b
  | \bfri(?:tt|a)?\b|fri(?:tt|a)?\b|\bfrivillig|\bvalfri|\bundanta|\bolag|\bolov|\bogilt
  | \bsaknas?\b|\bundvik|\bfrei|frei\b
  | verboten|\bverbiet|\bnur\b|unzuläss|unwirksam|ungültig|\bausgenommen|\bentfällt
  | \bfreiwillig|\bopcional|\bexent|prohib
  | \bs[oó]lo\b|solamente|\bsalvo\b|\bexcepto|\bfalta
  | \binterdi|\bexon[ée]r|\bdispens|\bseulement|\bsauf\b|\bmanqu|\bgratuit|\bfacultati
""", re.IGNORECASE | re.VERBOSE)


def denies_anything(text: str) -> bool:
    """Whether it denies, in words that do or in others."""
    return denies(text) is not None or OTHERWISE.search(text) is not None


@remembered
def denies(text: str) -> str | None:
    """The first word that denies; see `plain` for what is left out."""
    said = words(plain(text))
    return next((said[place] for place in denials(said, guess_language(text))), None)


def plain(text: str) -> str:
    """The text without a "no" that answers the question and a "not" that belongs to a bound, as in "not more
    than 5"."""
    opening = OPENING.match(text)
    return IDIOMS.sub(" ", untwisted(text[opening.end() :] if opening else text))


def denials(said: Sequence[str], language: str | None) -> Iterator[int]:
    """The places of the words that deny in a text of this language."""
    denying = _denying(language)
    return (place for place, word in enumerate(said)
            if word in denying or word.endswith("n't") or word.startswith("n'"))  # isn't, n'est


@lru_cache
def _denying(language: str | None) -> frozenset[str]:
    """The denying words of a language, of all where it is not known."""
    if language in DENIES:
        return frozenset(DENIES[language].split())
    return frozenset(" ".join(DENIES.values()).split()) - ELSEWHERE
