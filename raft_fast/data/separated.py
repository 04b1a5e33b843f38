"""CSV as people have it: quotes that are never closed cost their own row, not those after it."""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

LONGEST = 1 << 24  # characters of a row
REREAD = 4  # times that a file may be read again for quotes that are not closed
MORE = "has more fields than the first line names; a text with the separator in it must be in double quotes"


class Lines:
    """A file's lines for a csv reader. Those of a row that is none can be read again, so often that the work
    stays in proportion to the file."""

    def __init__(self, file: Iterable[str]) -> None:
        self._new, self._again = enumerate(file, 1), deque[tuple[int, str]]()
        self.taken: list[tuple[int, str]] = []  # of this row
        self._length, self._left = 0, 0  # characters of this row; those that may still be read again

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        if self.taken and (self._length > LONGEST or self._left < 0):
            raise StopIteration
        again = bool(self._again)
        line = self._again.popleft() if again else next(self._new)
        self.taken.append(line)
        self._length += len(line[1])
        self._left += len(line[1]) * (-1 if again else REREAD)
        return line[1]

    def begin(self, keep: int) -> None:
        """A new row begins after the first `keep` of the lines taken."""
        self._again.extendleft(reversed(self.taken[keep:]))
        self.taken, self._length = [], 0


def separated(file: Iterable[str], delimiter: str | None) -> Iterator[tuple[int, list[str] | str]]:
    """(line, fields, or why they cannot be read), the header first; no row has more fields than it. A row
    over many lines has the number of its last one, and of its first where it is none.

    `delimiter` None: the one of , ; and tab that the first line has most of.
    """
    csv.field_size_limit(LONGEST)
    file, width = iter(file), 0
    first = next(file, "")
    # a spreadsheet writes semicolons where the comma is a decimal one
    delimiter = delimiter or max(",;\t", key=first.count)
    # blanks between a closing quote and the separator, which csv refuses
    blanks = re.compile(rf'(?<=[^"{delimiter}\r\n])("(?:"")*) +(?=[{delimiter}\r\n]|\Z)')
    lines = Lines(blanks.sub(r"\1", line) if '" ' in line else line for line in chain([first], file))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        bad, fields = "", list[str]()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad = f"its double quotes do not match ({error}); one inside a quoted text is written twice"
        line = lines.taken[0 if bad else -1][0]
        width = width or len(fields)
        if bad or len(fields) > width:
            line = lines.taken[0][0]
            lines.begin(1)  # a quote may have swallowed good rows
            yield line, bad or MORE
            continue
        if fields:
            yield line, fields
        lines.begin(len(lines.taken))
