"""The results about image folders: `check` and `init`. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wisesr_cli.results.records import Level, PlainJson


@dataclass(frozen=True)
class Finding(PlainJson):
    """One row of `wisesr check`."""

    _optional = ("pairs",)
    level: Level
    code: str  # identifies the check
    message: str
    count: int = 0  # of affected images or files
    paths: tuple[str, ...] = ()  # of some of these
    pairs: tuple[tuple[str, str], ...] | None = None  # of paths; None if the row is not about pairs


@dataclass(frozen=True)
class CheckResult:
    """All findings about a config and its image folders."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> Level:
        """The worst level found."""
        levels: tuple[Level, ...] = ("pass", "warn", "fail")
        return max((finding.level for finding in self.findings), key=levels.index, default="pass")

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr check --format json`."""
        return {"status": self.status, "findings": [finding.to_json() for finding in self.findings]}


@dataclass(frozen=True)
class Starter:
    """A first config for an image folder: its text, and the reasons for its values, one per line."""

    config: str
    choices: tuple[str, ...]
