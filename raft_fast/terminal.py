"""Text from elsewhere on a terminal, which would obey the control characters in it."""

VISIBLE = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160))
           if code not in (9, 10)}


def visible(text: str) -> str:
    """The text with control characters, but tab and newline, replaced by U+FFFD."""
    return text.translate(VISIBLE)
