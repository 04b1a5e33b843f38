"""A model that declines to answer, where the gold answer answers."""

import re

from raft_fast.refinement.checks.case import Case

WHERE = 240  # characters: a refusal comes first
PHRASES = re.compile(r"""
    \bas\ an?\ (?:ai|artificial\ intelligence|(?:large\ )?language\ model)\b
  | \bi(?:'m|\ am)\ (?:just\ |only\ )?an?\ (?:ai|language\ model)\b
  | \bi(?:'m|\ am)\ (?:very\ |so\ )?(?:sorry|afraid),?\ (?:but\ )?(?:i|that\ i)\b
  | \bi(?:'m|\ am)\ (?:unable|not\ able)\ to\ (?:\w+\ )?(?:help|assist|answer|provide|give)
  | \bi\ (?:can(?:'t|\ ?not)|won't)\ (?:\w+\ )?(?:help|assist|answer|provide|give|comply|reword|rewrite)
  | \b(?:som|i\ egenskap\ av)\ (?:en\ )?(?:ai\b|språkmodell|artificiell)
  | \bjag\ (?:kan\ (?:tyvärr\ )?inte|är\ ledsen|beklagar),?\ (?:men\ |att\ )?(?:jag|hjälpa|svara|ge)
  | \bals\ (?:ki\b|künstliche\ intelligenz|sprachmodell|ki-)
  | \b(?:es\ tut\ mir\ leid|leider\ kann\ ich|ich\ kann\ (?:ihnen\ |dir\ )?(?:dabei\ |leider\ )+nicht)
  | \bcomo\ (?:una?\ )?(?:ia\b|inteligencia\ artificial|modelo\ de\ lenguaje)
  | \b(?:lo\ siento|lamento),?\ (?:pero\ )?(?:no\ puedo|que)
  | \bno\ puedo\ (?:ayudar|responder|proporcionar|ofrecer)
  | \ben\ tant\ qu(?:'|e\ )(?:ia\b|intelligence\ artificielle|modèle\ de\ langage|assistant)
  | \bje\ (?:suis\ (?:vraiment\ )?désolée?,?\ (?:mais|je)|regrette,?\ (?:mais|je))
  | \bje\ ne\ (?:peux|puis)\ pas\ (?:vous\ )?(?:aider|répondre|fournir)
""", re.IGNORECASE | re.VERBOSE)


def refusal(case: Case) -> str | None:
    """It begins by saying that it cannot help, and the gold answer does not."""
    found = _refuses(case.answer)
    return f"refuses: {found!r}" if found is not None and _refuses(case.gold) is None else None


def _refuses(text: str) -> str | None:
    found = PHRASES.search(text[:WHERE].replace("’", "'"))
    return found[0] if found else None
