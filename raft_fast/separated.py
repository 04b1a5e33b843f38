"""CSV as people have it: quotes that are never closed cost their own row, not those after it."""

import csv
from collections import deque
from collections.abc import Collection, Iterable, Iterator

from raft_fast.errors import UserError

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


def separated(
    file: Iterable[str], delimiter: str | None, columns: Collection[str], name: str
) -> Iterator[tuple[int, dict[str, str | None] | str]]:
    """(line, row by the first line's names, or why it is none). A row over many lines has the number of its
    last one, and of its first where it is none.

    `delimiter` None: the one of , ; and tab that the first line has most of. The names of `columns` are known
    in any case. Raises UserError, with the file's `name`, for a first line that cannot be read.
    """
    csv.field_size_limit(LONGEST)
    lines, header = Lines(file), list[str]()
    first = next(lines, "")
    lines.begin(0)
    # a spreadsheet writes semicolons where the comma is a decimal one
    reader = csv.reader(lines, delimiter=delimiter or max(",;\t", key=first.count), strict=True)
    while True:
        bad, fields = "", list[str]()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad = f"its double quotes do not match ({error}); one inside a quoted text is written twice"
        line = lines.taken[0 if bad else -1][0]
        if not header:
            header = [_known(field, columns) for field in fields]
            twice = [field for field in columns if header.count(field) > 1]
            if bad or twice:
                raise UserError(f"{name}, line {line}: {bad or f'names the column {twice[0]} twice'}")
        elif bad or len(fields) > len(header):
            line = lines.taken[0][0]
            lines.begin(1)  # a quote may have swallowed good rows
            yield line, bad or MORE
            continue
        elif fields:
            yield line, dict(zip(header, [*fields, *[None] * (len(header) - len(fields))], strict=True))
        lines.begin(len(lines.taken))


def _known(name: str, columns: Collection[str]) -> str:
    """A column's name as rows are known to have it: "Question " is question."""
    plain = name.strip().casefold()
    return plain if plain in columns else name
