"""Facts that an answer gets right or wrong: legal references, and numbers with their units.

Both come out as sets of canonical strings, so that "PBL 9 kap. 27 §" and "Chapter 9, Section 27 of
the Planning and Building Act" name the same two facts: the law, and the place in it.
"""

import re
from collections.abc import Callable
from decimal import Decimal

# acronym or the law's names -> one name; acronyms are matched in capitals only
LAWS = {
    "pbl": r"PBL|(?i:planning and building act|plan- och bygglagen)",
    "pbf": r"PBF|(?i:planning and building ordinance|plan- och byggförordningen)",
    "mb": r"(?i:environmental code|miljöbalken)",
    "jb": r"(?i:land code|jordabalken)",
    "ktjl": r"KTjL|(?i:consumer services act|konsumenttjänstlagen)",
    "aml": r"AML|(?i:work environment act|arbetsmiljölagen)",
    "lou": r"LOU|(?i:public procurement act|lagen om offentlig upphandling)",
    "gdpr": r"GDPR|(?i:general data protection regulation)",
    "bbr": r"BBR(?! ?\d)",
    "eks": r"EKS(?! ?\d)",
}
# 27 §, 2 a §, 11–13 §§, 4 a-c §§; and the other way round
SECTION = r"(\d+(?: ?[a-z])?(?:\s?[-–]\s?(?:\d+(?: ?[a-z])?|[a-z]))?)\s?§§?"
SECTION_AFTER = r"(?:sections?|sec\.|clause|paragraf|§§?)\s?(\d+[a-z]?(?:\s?[-–]\s?\d+[a-z]?)?)\b"
CHAPTER_WORD = r"\b(?:chapter|ch\.|kapitel|kap\.?)\s?(\d+)"

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def _rule(pattern: str, name: Callable[[re.Match[str]], str], flags: int = re.IGNORECASE) -> Rule:
    return re.compile(pattern, flags), name


# first come, first served: what a rule has taken is not seen by the next
REFERENCES: list[Rule] = [
    _rule(r"\b(?:([A-ZÅÄÖ]{3,5}(?:-FS)?)\s)?(\d{4}:\d{1,4})\b",  # SFS 2010:900
          lambda m: f"{(m[1] or 'sfs').lower()} {m[2]}", 0),
    _rule(r"\(EU\)\s?(?:no\.? ?)?(\d+/\d+)|\b(\d+/\d+)/E[UCG]G?\b", lambda m: f"eu {m[1] or m[2]}"),
    _rule(r"\b(AB|ABT|ABK|ABS|ABM|ABFF|ALOS|BBR|EKS) ?(\d{2})\b",
          lambda m: f"{m[1].lower()} {m[2]}", 0),
    _rule(r"\b(?:(?:SS|EN|ISO|IEC)[- ]?){1,3}(\d{3,}(?:-\d+)*)", lambda m: f"standard {m[1]}", 0),
    _rule(r"\beurocode (\d)\b", lambda m: f"eurocode {m[1]}"),
    _rule(rf"\b(\d+)\s?kap\.?\s?{SECTION}", lambda m: f"{m[1]}:{_tight(m[2])}"),
    _rule(rf"{CHAPTER_WORD},?\s{{0,2}}{SECTION_AFTER}", lambda m: f"{m[1]}:{_tight(m[2])}"),
    _rule(rf"{CHAPTER_WORD},?\s?{SECTION}", lambda m: f"{m[1]}:{_tight(m[2])}"),
    _rule(rf"{SECTION_AFTER}\s(?:of|in|i)\s{CHAPTER_WORD}", lambda m: f"{m[2]}:{_tight(m[1])}"),
    _rule(rf"\b(\d+)\s?kap\b|{CHAPTER_WORD}", lambda m: f"chapter {m[1] or m[2]}"),
    _rule(rf"(?<!\w){SECTION}", lambda m: f"§ {_tight(m[1])}"),
    _rule(rf"(?<!\w){SECTION_AFTER}", lambda m: f"§ {_tight(m[1])}"),
    _rule(r"\b(?:article|artikel|art\.)\s?(\d+[a-z]?)\b", lambda m: f"article {m[1].lower()}"),
    *[_rule(rf"\b(?:{names})\b", lambda m, law=law: law, 0)  # type: ignore[misc]
      for law, names in LAWS.items()],
    _rule(r"\b((?:[A-ZÅÄÖ][\w-]+ (?:and |of )?)+(?:Act|Code|Ordinance))\b",
          lambda m: re.sub(r"^(the|this|under|in) ", "", m[1].lower()), 0),
    _rule(r"\b([^\W\d]{4,}(?:lagen|balken|förordningen))\b", lambda m: m[1].lower()),
]

UNITS = {
    "%": "% percent procent", "°c": "°c", "°": "° degrees grader",
    "sek": "sek kr kronor", "msek": "msek mkr mnkr", "eur": "eur € euro euros",
    "usd": "usd $ dollars", "million": "million miljoner", "billion": "billion miljarder",
    "m2": "m2 m² sqm kvm square|metres square|meters square|metre kvadratmeter",
    "m3": "m3 m³ cubic|metres cubic|meters kubikmeter",
    "mm": "mm millimetres millimeters millimeter", "cm": "cm centimetres centimeters centimeter",
    "km": "km kilometres kilometers kilometer", "m": "m metre metres meter meters",
    "ha": "ha hectare hectares hektar", "l": "l litre litres liter liters",
    "kg": "kg kilo", "tonne": "tonne tonnes ton", "kn": "kn", "kpa": "kpa", "mpa": "mpa",
    "kwh": "kwh", "kw": "kw", "w": "w", "v": "v", "ma": "ma", "a": "ampere amp amps",
    "db": "db", "dba": "dba db(a)", "bq": "bq", "k": "k",
    "second": "second seconds sekunder", "minute": "minute minutes minuter",
    "hour": "hour hours h timme timmar", "day": "day days dag dagar dagars",
    "week": "week weeks vecka veckor veckors", "month": "month months månad månader månaders",
    "year": "year years år års",
}
UNIT_NAMES = {word.replace("|", " "): unit
              for unit, words in UNITS.items() for word in words.split()}
_UNIT = "|".join(sorted(map(re.escape, UNIT_NAMES), key=len, reverse=True))
NUMBER = re.compile(
    r"(?:(?P<before>\b(?:sek|eur|usd|kr)|€|\$)\s?)?"
    r"(?<![\w.,])(?P<value>[1-9]\d{0,2}(?:[ \u00a0\u202f,]\d{3})+(?:\.\d+)?(?!\d)|\d+(?:[.,]\d+)?)"
    rf"(?:[ \u00a0-]?(?P<unit>{_UNIT})(?!\w)(?:(?:/| per )(?P<per>{_UNIT})(?!\w))?|(?![^\W_]))",
    re.IGNORECASE)
RANGE = re.compile(r"\s?[-–—]\s?|\s(?:to|till|and|och|or|eller)\s", re.IGNORECASE)
LIST_MARKER = re.compile(r"^\s*\d{1,2}[.)]\s", re.MULTILINE)
GROUPED = re.compile(r"[1-9]\d{0,2}(?:[ \u00a0\u202f,]\d{3})+(?:\.\d+)?")


def references(text: str) -> set[str]:
    """The legal references of a text, canonical: laws ("pbl", "sfs 2010:900", "ab 04") and places
    in them ("9:27" is chapter 9 section 27, "chapter 9", "§ 5", "article 6")."""
    return _take_references(text)[0]


def numbers(text: str) -> set[str]:
    """The numbers of a text with the unit that follows: "15000 sek", "30 m2", "4.5 m", "1998".

    Numbers of legal references and of list markers are not among them. In a range ("4–6 weeks") the
    unit belongs to both ends.
    """
    rest = LIST_MARKER.sub(" ", _take_references(text)[1])
    found = list(NUMBER.finditer(rest))
    result: set[str] = set()
    unit_of_next, start_of_next = "", len(rest)
    for match in reversed(found):
        unit = _unit(match)
        if not unit and RANGE.fullmatch(rest[match.end() : start_of_next]):
            unit = unit_of_next
        result.add(f"{_value(match['value'])} {unit}".strip())
        unit_of_next, start_of_next = unit, match.start()
    return result


def set_f1(gold: set[str], found: set[str]) -> float | None:
    """F1 of two sets; None where the gold one is empty: there is nothing to agree with."""
    if not gold:
        return None
    return 2 * len(gold & found) / (len(gold) + len(found))


def _take_references(text: str) -> tuple[set[str], str]:
    """(references, the text without them)."""
    taken: set[str] = set()
    for pattern, name in REFERENCES:
        def take(match: re.Match[str], name: Callable[[re.Match[str]], str] = name) -> str:
            taken.add(name(match))
            return " ; "  # keeps the numbers left and right of it apart

        text = pattern.sub(take, text)
    return taken, text


def _tight(section: str) -> str:
    return re.sub(r"\s", "", section).replace("–", "-").lower()


def _unit(match: re.Match[str]) -> str:
    name = match["unit"] or match["before"]
    unit = UNIT_NAMES[name.lower()] if name else ""
    return f"{unit}/{UNIT_NAMES[match['per'].lower()]}" if match["per"] else unit


def _value(written: str) -> str:
    if GROUPED.fullmatch(written):
        plain = re.sub(r"[ \u00a0\u202f,]", "", written)
    else:
        plain = written.replace(",", ".")
    return format(Decimal(plain).normalize(), "f")
