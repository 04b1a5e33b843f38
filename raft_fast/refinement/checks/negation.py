"""An answer that says no where the gold answer says yes, or the other way round.

Words can show only so much: that a denial came or went altogether. Which of two statements is denied
they do not show, and "permit-exempt" for "needs no permit" is known only where a list has it.
"""

import re
from functools import lru_cache

from raft_fast.refinement.checks.case import Case, words
from raft_fast.refinement.checks.language import guess_language

YES = frozenset({"yes", "ja", "jo", "sí", "si", "oui"})
NO = frozenset({"no", "nej", "nein", "non"})
# the word that answers the question; "no" and "si" are other words where no punctuation follows
OPENING = re.compile(r"\W*(?:(yes|ja|jo|sí|oui|nej|nein|non)(?![\w-])|(no|si)(?=\s*(?:[,.;:!–—]|$)))",
                     re.IGNORECASE)
DENIES = {
    "English": "not no never neither nor none nothing nobody cannot without",
    "Swedish": "inte ej icke aldrig ingen inget inga varken utan",
    "German": "nicht nie niemals kein keine keinen keinem keiner keines nichts weder ohne",
    "Spanish": "no nunca ningún ninguna ninguno nada tampoco ni sin",
    "French": "ne pas jamais aucun aucune rien sans non",
}
SHORT = re.compile(r"n't$|^n'")  # isn't, n'est
ELSEWHERE = frozenset({"sin"})  # means something else in another language: counts in its own only
IDIOMS = re.compile(r"\bno (?:later|more|less|fewer|longer|sooner) than\b|\bnot only\b|\binte bara\b"
                    r"|\bnicht nur\b|\bno s[oó]lo\b|\bpas seulement\b|\bno (?:extra )?(?:cost|charge)\b"
                    r"|\butan kostnad\b", re.IGNORECASE)
# denials in other words: where one of these stands nothing can be said
OTHERWISE = re.compile(r"""
    exempt|\bfree\b|\bfail|\bmiss(?:es|ing)?\b|\bincorrect|\bseparate|\bun(?:able|less|limit|lawful|necessary|permit|author)
  | prohibit|forbid|\bban(?:s|ned)?\b|\bonly\b|\bexcept|\bexclud|\bvoid\b|illegal|invalid|\black|\brefus
  | \brather\ than|\binstead\b|\bavoid|\bimpossible|\bat\ least\b|\bat\ most\b|befri|förbj|\bendast\b|\bbara\b
  | \bfri(?:tt|a)?\b|fri(?:tt|a)?\b|\bundanta|\bolag|\bolov|\bogilt|\bsaknas?\b|\bundvik|\bfrei|frei\b
  | verboten|\bverbiet|\bnur\b|unzuläss|unwirksam|ungültig|\bausgenommen|\bentfällt|\bexent|prohib
  | \bs[oó]lo\b|solamente|\bsalvo\b|\bexcepto|\bfalta
  | \binterdi|\bexon[ée]r|\bdispens|\bseulement|\bsauf\b|\bmanqu|\bgratuit
""", re.IGNORECASE | re.VERBOSE)


def negation(case: Case) -> str | None:
    """A yes became a no, or words that deny came or went without others in their place."""
    gold, said = _opening(case.gold), _opening(case.answer)
    if (gold in YES and said in NO) or (gold in NO and said in YES):
        return f"begins with {said!r}, the gold answer with {gold!r}"
    denied_there, denied_here = _denies(case.gold), _denies(case.answer)
    if denied_here and not (denied_there or gold in NO or OTHERWISE.search(case.gold)):
        return f"denies ({denied_here!r}), the gold answer does not"
    if denied_there and not (denied_here or said in NO or OTHERWISE.search(case.answer)):
        return f"does not deny, the gold answer does ({denied_there!r})"
    return None


def _denies(text: str) -> str | None:
    """The first word that denies; a "no" that answers the question is left out."""
    opening = OPENING.match(text)
    said = words(IDIOMS.sub(" ", text[opening.end() :] if opening else text))
    denying = _denying(guess_language(text))
    return next((word for word in said if word in denying or SHORT.search(word)), None)


def _opening(text: str) -> str | None:
    """The yes or no that a text begins with."""
    found = OPENING.match(text)
    return (found[1] or found[2]).casefold() if found else None


@lru_cache
def _denying(language: str | None) -> frozenset[str]:
    """The denying words of a language, of all where it is not known."""
    if language in DENIES:
        return frozenset(DENIES[language].split())
    return frozenset(" ".join(DENIES.values()).split()) - ELSEWHERE
