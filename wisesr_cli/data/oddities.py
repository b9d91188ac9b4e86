"""Counts readable but unusual images, and words the messages about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from wisesr_cli.data.listing.folders import ignored_message
from wisesr_cli.errors import SOME_UNREADABLE, DataError
from wisesr_cli.images.decoding import ImageHeader
from wisesr_cli.images.supported import SUFFIXES
from wisesr_cli.listening import Listener
from wisesr_cli.results.streams import Embedding, Explanation, Prediction
from wisesr_cli.text import counted, joined

SHOWN = 3  # names in a message


@dataclass
class Counted:
    """A count, and the first names."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(path)


@dataclass
class Oddities:
    """Counts of unusual images in a stream, in constant memory, to be reported at its end."""

    animated: Counted = field(default_factory=Counted)
    misnamed: Counted = field(default_factory=Counted)
    damaged: Counted = field(default_factory=Counted)
    ignored: Counter[str] = field(default_factory=Counter)  # suffix, or `folders.HIDDEN` -> skipped files

    def add(self, path: str, header: ImageHeader) -> None:
        """Count a decoded image."""
        if header.animated:
            self.animated.add(path)
        if header.damage:
            self.damaged.add(path)
        if SUFFIXES.get(PurePath(path).suffix.lower(), header.format) != header.format:
            self.misnamed.add(path)

    def tell(self, listener: Listener) -> None:
        """Report the counts."""
        if self.ignored:
            listener.note(ignored_message(self.ignored))
        if self.misnamed.count:
            listener.note(misnamed_message(self.misnamed.count, self.misnamed.first))
        if self.damaged.count:
            listener.warn(damaged_message(self.damaged.count, self.damaged.first))
        if self.animated.count:
            listener.warn(animated_message(self.animated.count, self.animated.first))


def misnamed_message(count: int, paths: Sequence[str]) -> str:
    """Return the note about files with the suffix of another format."""
    return f"{counted(count, 'file')} read by content, not by suffix: {_first(count, paths)}"


def damaged_message(count: int, paths: Sequence[str]) -> str:
    """Return the warning about JPEG files with damaged data."""
    message = "damaged but decoded: parts of the picture may be wrong"
    return f"{counted(count, 'JPEG image')} {message}: {_first(count, paths)}"


def animated_message(count: int, paths: Sequence[str]) -> str:
    """Return the warning about images with more than one frame or page."""
    return f"{counted(count, 'animated or multi-page image')}: only the first frame is used: {_first(count, paths)}"


def _first(count: int, paths: Sequence[str]) -> str:
    return joined(paths[:SHOWN]) + (", ..." if count > SHOWN else "")


class Tally:
    """The number of records, and of unreadable ones."""

    def __init__(self) -> None:
        self.records = self.unreadable = 0

    def add(self, record: Prediction | Explanation | Embedding) -> None:
        """Count one record."""
        self.records += 1
        self.unreadable += record.error is not None

    @property
    def complaint(self) -> str:
        """The number of unreadable images, as a sentence."""
        return f"{self.unreadable:,} of {counted(self.records, 'image')} could not be read"

    def exit_code(self, *, strict: bool) -> int:
        """Return the exit code; raises `DataError` if all images, or with `strict` any, could not be read."""
        if self.unreadable and (strict or self.unreadable == self.records):
            raise DataError(self.complaint)
        return SOME_UNREADABLE if self.unreadable else 0
