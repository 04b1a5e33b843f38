"""Which rows are taken and which are held out: evenly over the categories, the same for equal seeds."""

import random
from collections import defaultdict
from collections.abc import Sequence

from raft_fast.data.rows import Row


def spread(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows drawn evenly over the categories (0: all), in the file's order."""
    if count == 0 or count >= len(rows):
        return list(rows)
    chosen = spread_places([row.category or "" for row in rows], count, seed)
    return [row for place, row in enumerate(rows) if place in chosen]


def spread_places(categories: Sequence[str], count: int, seed: int) -> set[int]:
    """The places of `count` rows drawn evenly over their categories."""
    queues = [list(reversed(group)) for group in _shuffled_categories(categories, seed)]
    chosen: set[int] = set()
    while len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.add(queue.pop())
    return chosen


def split(rows: Sequence[Row], heldout: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows), by category: each category with two rows has both."""
    out: set[int] = set()
    for group in _shuffled_categories([row.category or "" for row in rows], seed):
        count = min(max(round(heldout * len(group)), 1), len(group) - 1)
        out.update(group[:count])
    return ([row for place, row in enumerate(rows) if place not in out],
            [row for place, row in enumerate(rows) if place in out])


def _shuffled_categories(categories: Sequence[str], seed: int) -> list[list[int]]:
    """The places of every category's rows, shuffled; categories by name."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(categories):
        groups[name].append(place)
    for name, group in groups.items():
        random.Random(f"{seed} {name}").shuffle(group)
    return [groups[name] for name in sorted(groups)]
