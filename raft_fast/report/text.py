"""How numbers and texts from data are written for people."""

NONE = "–"


def value(number: float | None, signed: bool = False) -> str:
    """Three decimals and a true minus sign; a dash for null."""
    return NONE if number is None else _written(number, ".3f", signed)


def short(number: float | None, signed: bool = False) -> str:
    """As `value`, but two significant digits for numbers too small for three decimals."""
    small = number is not None and 0 < abs(number) < 0.1
    return _written(number, ".2g", signed) if number is not None and small else value(number, signed)


def counted(count: int, noun: str) -> str:
    """"1 row", "2,000 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def percent(number: float | None, digits: int = 0) -> str:
    """A share in percent; a dash for null."""
    return NONE if number is None else _written(100 * number, f".{digits}f") + "\u00a0%"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def gigabytes(count: float) -> str:
    """Bytes in 10^9."""
    return f"{count / 1e9:.2f} GB"


def markdown(text: str) -> str:
    """Data inside Markdown: one line, no HTML and no table breaks."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(escaped.replace("|", "\\|").split())


def _written(number: float, form: str, signed: bool = False) -> str:
    """A true minus sign, and no sign before what is rounded to zero."""
    text = f"{number:z{form}}"
    plus = "+" if signed and float(text) > 0 else ""
    return plus + text.replace("-", "\u2212")
