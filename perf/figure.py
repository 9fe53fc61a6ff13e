"""One measured figure, its goal, and what stands beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Figure:
    """`goal` is a bound on `value`: at least with `more_is_better`, else at most. `beside`: what else was measured."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    more_is_better: bool = False
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the goal was reached; None without one."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.more_is_better else self.value <= self.goal

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "value": rounded(self.value), "reached": self.reached} | {
            "beside": {name: rounded(value) for name, value in self.beside.items()}
        }


def rounded(value: float) -> float:
    """Three digits that mean something."""
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))
