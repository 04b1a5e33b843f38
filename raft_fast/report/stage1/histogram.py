"""Mean and quantiles of any number of values in constant memory."""

import math
from dataclasses import dataclass, field


@dataclass
class Histogram:
    """Equal bins over [low, high]; what lies outside counts in the outermost bin."""

    low: float
    high: float
    bins: int
    counts: list[int] = field(init=False)
    n: int = 0
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * self.bins

    @property
    def width(self) -> float:
        return (self.high - self.low) / self.bins

    @property
    def edges(self) -> list[float]:
        return [self.low + self.width * place for place in range(self.bins + 1)]

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.n else None

    def add(self, value: float) -> None:
        self.n += 1
        self.total += value
        place = math.floor((value - self.low) / self.width)
        self.counts[min(max(place, 0), self.bins - 1)] += 1

    def quantile(self, share: float) -> float | None:
        """The value below which `share` of all lie, to within a bin; None where there are none."""
        if not self.n:
            return None
        left = share * self.n
        for place, count in enumerate(self.counts):
            if count and left <= count:
                return self.low + self.width * (place + left / count)
            left -= count
        return self.high
