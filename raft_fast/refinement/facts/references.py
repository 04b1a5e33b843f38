"""Legal references: laws, and places in them, as canonical strings.

"PBL 9 kap. 27 §" and "Chapter 9, Section 27 of the Planning and Building Act" name the same two facts:
the law, and the place in it. Swedish and English are known best; of German, Spanish and French the
common forms.
"""

import re
from collections.abc import Callable

from raft_fast.refinement.facts.remembered import remembered

# acronym or the law's names -> one name; acronyms are matched in capitals only
LAWS = {
    "pbl": r"PBL|(?i:planning and building act|plan- och bygglagen)",
    "pbf": r"PBF|(?i:planning and building ordinance|plan- och byggförordningen)",
    "mb": r"(?i:environmental code|miljöbalken)",
    "jb": r"(?i:land code|jordabalken)",
    "ktjl": r"KTjL|(?i:consumer services act|konsumenttjänstlagen)",
    "aml": r"AML|(?i:work environment act|arbetsmiljölagen)",
    "lou": r"LOU|(?i:public procurement act|lagen om offentlig upphandling)",
    "gdpr": r"GDPR|DSGVO|RGPD|(?i:general data protection regulation)",
    "bbr": r"BBR(?! ?\d)",
    "eks": r"EKS(?! ?\d)",
    "bgb": r"BGB|(?i:bürgerliche[sn]? gesetzbuch(?:e?s)?)",
    **{name.lower(): name for name in ("HGB", "StGB", "ZPO", "BauGB", "GmbHG")},
}
# 27 §, 2 a §, 11–13 §§, 4 a-c §§; and the other way round
SECTION = r"(\d+(?: ?[a-z])?(?:\s?[-–]\s?(?:\d+(?: ?[a-z])?|[a-z]))?)\s?§§?"
SECTION_AFTER = (r"(?:sections?|sec\.|clause|paragraf|punkt|avsnitt|§§?)\s?"
                 r"(\d+(?:\.\d+)*[a-z]?(?:\s?[-–]\s?\d+[a-z]?)?)\b")
CHAPTER_WORD = r"\b(?:chapter|ch\.|kapitel|kap\.?|capítulo|chapitre)\s?(\d+)"

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def _rule(pattern: str, name: Callable[[re.Match[str]], str], flags: int = re.IGNORECASE) -> Rule:
    return re.compile(pattern, flags), name


# first come, first served: what a rule has taken is not seen by the next
NUMBERED: list[Rule] = [
    _rule(r"\b(?:([A-ZÅÄÖ]{3,5}(?:-FS)?)\s)?(\d{4}:\d{1,4})\b",  # SFS 2010:900
          lambda m: f"{(m[1] or 'sfs').lower()} {m[2]}", 0),
    _rule(r"\(EU\)\s?(?:no\.? ?)?(\d+/\d+)|\b(\d+/\d+)/E[UCG]G?\b", lambda m: f"eu {m[1] or m[2]}"),
    _rule(r"\b(ley|real decreto)(?: orgánica)? (\d+/\d{4})", lambda m: f"{m[1].lower()} {m[2]}"),
    _rule(r"\b(?:loi|décret) n[°o]\s?(\d+-\d+)", lambda m: f"loi {m[1]}"),
    _rule(r"\b(AB|ABT|ABK|ABS|ABM|ABFF|ALOS|BBR|EKS) ?(\d{2})\b",
          lambda m: f"{m[1].lower()} {m[2]}", 0),
    _rule(r"\b(?:(?:SS|EN|DIN|ISO|IEC)[- ]?){1,3}(\d{3,}(?:-\d+)*)", lambda m: f"standard {m[1]}", 0),
    _rule(r"\beurocode (\d)\b", lambda m: f"eurocode {m[1]}"),
    _rule(rf"\b(\d+)\s?kap\.?\s?{SECTION}", lambda m: f"{m[1]}:{_tight(m[2])}"),
    _rule(rf"{CHAPTER_WORD},?\s{{0,2}}{SECTION_AFTER}", lambda m: f"{m[1]}:{_tight(m[2])}"),
    _rule(rf"{CHAPTER_WORD},?\s?{SECTION}", lambda m: f"{m[1]}:{_tight(m[2])}"),
    _rule(rf"{SECTION_AFTER}\s(?:of|in|i)\s{CHAPTER_WORD}", lambda m: f"{m[2]}:{_tight(m[1])}"),
    _rule(rf"\b(\d+)\s?kap\b|{CHAPTER_WORD}", lambda m: f"chapter {m[1] or m[2]}"),
    _rule(rf"(?<!\w){SECTION}", lambda m: f"§ {_tight(m[1])}"),
    _rule(rf"(?<!\w){SECTION_AFTER}", lambda m: f"§ {_tight(m[1])}"),
    _rule(r"\b(?:article|artikel|artículo|art\.)\s?((?:[LRD]\.?\s?)?\d+[a-z]?(?:-\d+)*)\b",
          lambda m: f"article {_tight(m[1]).replace('.', '')}"),
]
NAMED: list[Rule] = [
    _rule(r"\b(?:" + "|".join(f"(?P<{law}>{names})" for law, names in LAWS.items()) + r")(?:s|'s|’s)?\b",
          lambda m: m.lastgroup or "", 0),
    _rule(r"\b((?:[A-ZÅÄÖ][\w-]{1,40} (?:and |of )?){1,8}(?:Act|Code|Ordinance))\b",
          lambda m: re.sub(r"^(the|this|under|in) ", "", m[1].lower()), 0),
    _rule(r"\b([^\W\d]{4,}(?:lagen|balken|förordningen|gesetz|gesetzbuch|verordnung))\b",
          lambda m: m[1].lower()),
]


def references(text: str) -> frozenset[str]:
    """The legal references of a text, canonical: laws ("pbl", "sfs 2010:900", "ab 04") and places
    in them ("9:27" is chapter 9 section 27, "chapter 9", "§ 5", "article 6")."""
    return take_references(text)[0]


@remembered
def take_references(text: str) -> tuple[frozenset[str], str]:
    """(references, the text without them)."""
    taken: set[str] = set()
    for pattern, name in (*NUMBERED, *NAMED) if re.search(r"\d", text) else NAMED:
        def take(match: re.Match[str], name: Callable[[re.Match[str]], str] = name) -> str:
            taken.add(name(match))
            return " ; "  # keeps the numbers left and right of it apart

        text = pattern.sub(take, text)
    return frozenset(taken), text


def _tight(section: str) -> str:
    return re.sub(r"\s", "", section).replace("–", "-").lower()
