"""How numbers are written for people."""

NONE = "–"


def value(number: float | None, signed: bool = False) -> str:
    """Three decimals and a true minus sign; a dash for null."""
    if number is None:
        return NONE
    text = f"{number:+.3f}" if signed else f"{number:.3f}"
    return text.replace("-", "\u2212")


def short(number: float | None, signed: bool = False) -> str:
    """As `value`, with two significant digits where three decimals would leave nothing."""
    if number is None or number == 0 or abs(number) >= 0.1:
        return value(number, signed)
    return f"{number:{'+' if signed else ''}.2g}".replace("-", "\u2212")


def percent(number: float | None) -> str:
    """A share in whole percent; a dash for null."""
    return NONE if number is None else f"{100 * number:.0f}\u00a0%"


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
