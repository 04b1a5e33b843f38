"""Dates and clock times, as they are written in English, Swedish, German, Spanish and French.

A date becomes its day (month * 100 + day) and its year, a time of day the minutes since midnight: "5 March
2024", "2024-03-05" and "March 5, 2024" are the same two numbers, "2:30 pm" and "14:30" the same one.
"""

import re
from collections.abc import Iterator
from decimal import Decimal

MONTHS = {name: number for number, names in enumerate([
    "january januari januar enero janvier jan", "february februari februar febrero février feb",
    "march mars märz marzo mar", "april abril avril apr", "May maj mai mayo", "june juni junio juin jun",
    "july juli julio juillet jul", "august augusti agosto août aug",
    "september septiembre septembre sep sept", "october oktober octubre octobre oct okt",
    "november noviembre novembre nov", "december dezember diciembre décembre dec dez déc",
], 1) for name in names.split()}
_MONTH = r"\b(?:(?P<month>(?-i:May)|" + "|".join(
    sorted(set(MONTHS) - {"May"}, key=len, reverse=True)) + r")\b\.?)"
_YEAR = r"(?:,?\s(?:de |del )?(?P<year>(?:1[5-9]|2[01])\d\d)\b)?"
DATES = [re.compile(pattern, re.IGNORECASE) for pattern in (
    r"(?<![\d-])(?P<year>\d{4})[-/](?P<month>0[1-9]|1[0-2])[-/](?P<day>0[1-9]|[12]\d|3[01])(?![\d-])",
    r"(?<![\d./-])(?P<day>\d{1,2})(?P<mark>[./-])(?P<month>\d{1,2})(?P=mark)(?P<year>(?:1[5-9]|2[01])\d\d)(?![\d-])",
    rf"(?<![\w.,])(?P<day>\d{{1,2}})(?:st|nd|rd|th|er|:e|\.)?\s(?:of |de |d['’])?{_MONTH}{_YEAR}",
    rf"{_MONTH}\s(?P<day>\d{{1,2}})(?:st|nd|rd|th)?{_YEAR}(?![\w:]|[.,]\d)",
)]
CLOCK = re.compile(r"""
    (?P<told>\b(?:kl\.?|klockan|a\ las)\s?)?(?<![\w.,:])(?P<hour>[01]?\d|2[0-4])
    (?:(?P<mark>[:.h])(?P<minute>[0-5]\d))?(?![\d:]|[.,]\d)
    (?:\s?(?:(?P<half>[ap])\.?\ ?m\b\.?|(?P<clock>uhr|o['’]clock)\b))?
""", re.IGNORECASE | re.VERBOSE)
DIGIT = re.compile(r"\d")
DATE, TIME_OF_DAY = "date", "clock"
NOON = 12 * 60

Found = tuple[tuple[Decimal, ...], str, int, int]
"""(readings, unit, start, end)"""


def take_times(text: str) -> tuple[list[Found], str]:
    """(dates and times of day, the text with each of them blanked, as long as before)."""
    found: list[Found] = []
    if not DIGIT.search(text):
        return found, text
    for pattern, read in (*((pattern, _date) for pattern in DATES), (CLOCK, _clock)):
        taken = [(match, list(read(match))) for match in pattern.finditer(text)]
        pieces, end = [], 0
        for match, facts in taken:
            found += [(*fact, match.start(), match.end()) for fact in facts]
            if facts:
                pieces += [text[end : match.start()], ";" * len(match[0])]
                end = match.end()
        text = "".join([*pieces, text[end:]])
    return found, text


def _date(match: re.Match[str]) -> Iterator[tuple[tuple[Decimal, ...], str]]:
    day, name = int(match["day"]), match["month"].lower()
    month = int(name) if name.isdigit() else MONTHS["May" if name == "may" else name]
    either = "/" in match.groupdict().get("mark", "")  # 5/3: in March, or in May
    days = [month * 100 + day] * (month <= 12 and day <= 31)
    days += [day * 100 + month] * (either and day <= 12 and month != day)
    if days:
        yield tuple(map(Decimal, days)), DATE
        if match["year"]:
            yield (Decimal(match["year"]),), ""


def _clock(match: re.Match[str]) -> Iterator[tuple[tuple[Decimal, ...], str]]:
    hour, mark, half = int(match["hour"]), match["mark"], (match["half"] or "").lower()
    plain = mark == ":" and hour > 1  # 1:50 is a scale
    if not (plain or mark == "h" or half or match["clock"] or match["told"]) or (half and hour > 12):
        return
    minutes = hour % 24 * 60 + int(match["minute"] or 0)
    if half:
        minutes = minutes % NOON + NOON * (half == "p")
    unsure = not half and mark != "h" and 0 < hour < 12 and not match["hour"].startswith("0")
    yield (Decimal(minutes), *[Decimal(minutes + NOON)] * unsure), TIME_OF_DAY
