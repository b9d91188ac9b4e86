"""The base of all results: records with the fields of the JSON output. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

Level = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class PlainJson:
    """A record whose JSON output has its fields."""

    _optional: ClassVar[tuple[str, ...]] = ()  # fields omitted when None

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the command's JSON output."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in self._optional}
