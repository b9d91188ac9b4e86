"""What is odd about images that can be read, counted and put in words with the first names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from wisesr_cli.data.folders import ignored_message
from wisesr_cli.errors import SOME_UNREADABLE, DataError
from wisesr_cli.images.decoding import SUFFIXES, ImageHeader
from wisesr_cli.listening import Listener
from wisesr_cli.results import Explanation, Prediction
from wisesr_cli.text import counted, joined

SHOWN = 3  # names in a message


@dataclass
class Oddities:
    """Counts what is odd about a stream of images, in constant memory, to be told once at its end."""

    animated: Counted = field(default_factory=lambda: Counted())
    misnamed: Counted = field(default_factory=lambda: Counted())
    ignored: Counter[str] = field(default_factory=Counter)  # suffix, or `folders.HIDDEN` -> files passed over

    def add(self, path: str, header: ImageHeader) -> None:
        """Count an image that was read."""
        if header.animated:
            self.animated.add(path)
        if SUFFIXES.get(PurePath(path).suffix.lower(), header.format) != header.format:
            self.misnamed.add(path)

    def tell(self, listener: Listener) -> None:
        """Say what was counted."""
        if self.ignored:
            listener.note(ignored_message(self.ignored))
        if self.misnamed.count:
            listener.note(misnamed_message(self.misnamed.count, self.misnamed.first))
        if self.animated.count:
            listener.warn(animated_message(self.animated.count, self.animated.first))


@dataclass
class Counted:
    """How many there were, and the names of the first."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(path)


def misnamed_message(count: int, paths: Sequence[str]) -> str:
    """Return the note about files with another format's suffix."""
    return f"{counted(count, 'file')} read by content, not by suffix: {_first(count, paths)}"


def animated_message(count: int, paths: Sequence[str]) -> str:
    """Return the warning of images with more than one frame or page."""
    return f"{counted(count, 'animated or many-page image')}: only the first frame is used: {_first(count, paths)}"


def _first(count: int, paths: Sequence[str]) -> str:
    return joined(paths[:SHOWN]) + (", ..." if count > SHOWN else "")


class Tally:
    """How many records there were, and how many of them could not be read."""

    def __init__(self) -> None:
        self.records = self.unreadable = 0

    def add(self, record: Prediction | Explanation) -> None:
        """Count one record."""
        self.records += 1
        self.unreadable += record.error is not None

    @property
    def complaint(self) -> str:
        """How many could not be read, as a sentence."""
        return f"{self.unreadable:,} of {counted(self.records, 'image')} could not be read"

    def exit_code(self, *, strict: bool) -> int:
        """Return the exit code that the records come to.

        Raises:
            DataError: with `strict` one could not be read, or all could not.
        """
        if self.unreadable and (strict or self.unreadable == self.records):
            raise DataError(self.complaint)
        return SOME_UNREADABLE if self.unreadable else 0
