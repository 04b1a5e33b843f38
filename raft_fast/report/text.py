"""How numbers are written for people."""

NONE = "–"


def value(number: float | None, signed: bool = False) -> str:
    """Three decimals and a true minus sign; a dash for null."""
    if number is None:
        return NONE
    return _written(number, ".3f", signed)


def short(number: float | None, signed: bool = False) -> str:
    """As `value`, with two significant digits where three decimals would leave nothing."""
    if number is None or number == 0 or abs(number) >= 0.1:
        return value(number, signed)
    return _written(number, ".2g", signed)


def hundredths(number: float | None) -> str:
    """Two decimals and a true minus sign; a dash for null."""
    return NONE if number is None else _written(number, ".2f")


def counted(count: int, noun: str) -> str:
    """"1 row", "2,000 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(number: float | None, signed: bool = False) -> str:
    """A share in whole percent; a dash for null."""
    return NONE if number is None else _written(100 * number, ".0f", signed) + "\u00a0%"


def duration(seconds: float) -> str:
    """Seconds in the unit a person would say."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def gigabytes(count: float) -> float:
    """10^9 bytes."""
    return count / 1e9


def markdown(text: str) -> str:
    """Data inside Markdown: one line, no HTML and no table breaks."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.replace("|", "\\|").split())


def _written(number: float, form: str, signed: bool = False) -> str:
    """A true minus sign, and none of either kind before what is rounded to zero."""
    text = f"{number:z{form}}"
    plus = "+" if signed and float(text) > 0 else ""
    return plus + text.replace("-", "\u2212")
