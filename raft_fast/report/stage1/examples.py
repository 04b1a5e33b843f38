"""A few rows to look at: the same ones every time, and not all for the same reason."""

import hashlib
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

Record = dict[str, Any]


@dataclass
class Examples:
    """Keeps at most `count` rows of every reason; which ones, only their row_id decides."""

    count: int
    _kept: dict[str, list[tuple[str, Record]]] = field(default_factory=dict)

    def add(self, reason: str, record: Record) -> None:
        kept = self._kept.setdefault(reason, [])
        rank = hashlib.sha256(str(record["row_id"]).encode()).hexdigest()
        if len(kept) < self.count or rank < kept[-1][0]:
            kept.append((rank, record))
            kept.sort(key=lambda pair: pair[0])
            del kept[self.count :]

    def chosen(self) -> list[Record]:
        """At most `count` rows, one of every reason before a second of any."""
        groups = [[record for _, record in self._kept[reason]] for reason in sorted(self._kept)]
        turns = [record for turn in zip_longest(*groups) for record in turn if record is not None]
        return turns[: self.count]
