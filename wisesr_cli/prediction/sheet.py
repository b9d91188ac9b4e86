"""The contact sheet of `wisesr predict --sheet FILE`: thumbnails of the first records' images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from wisesr_cli.display.grid import percent
from wisesr_cli.display.pictures import check_sheet_file, contact_sheet, photo_tile
from wisesr_cli.errors import UsageError
from wisesr_cli.images.color import Pixels
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.listening import Listener
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results.streams import Prediction
from wisesr_cli.text import counted, visible

MOST, COLUMNS, SIDE = 60, 6, 180  # images; pixels of one


class Sheet:
    """A PNG of images with label, score and name, in the order of their records.

    Raises a `UsageError` if the file exists and may not be replaced, its name does not end in .png, or its folder does
    not exist.
    """

    def __init__(self, path: str, info: ModelInfo, request: PredictRequest) -> None:
        self.path, self.info = Path(path), info
        self.pixel_limit, self.order = request.pixel_limit or PIXEL_LIMIT, request.sort
        if self.path.suffix.lower() != ".png":
            raise UsageError(f"--sheet {visible(path)}: a sheet is a PNG; give a name that ends in .png")
        if request.only is not None and self.order is None:
            self.order = "uncertain"
        check_sheet_file(self.path, overwrite=request.overwrite or request.resume)

    def drawn(self, records: Iterable[Prediction], listener: Listener) -> Iterator[Prediction]:
        """Yield the same records, and write the sheet after the last one."""
        tiles: list[tuple[Pixels, str, bool | None]] = []
        total = 0
        for record in records:
            total += record.error is None
            if record.error is None and len(tiles) < MOST:
                photo = photo_tile(record.path, SIDE, self.info.preparation, pixel_limit=self.pixel_limit)
                tiles.append((photo, _caption(record), None))
            yield record
        if not tiles:
            listener.note(f"no image could be read: {visible(self.path)} was not written")
            return
        foot = f"{len(tiles):,} of {counted(total, 'image')}" + (f", sorted: {self.order}" if self.order else "")
        contact_sheet(tiles, columns=min(COLUMNS, len(tiles)), tile=SIDE, path=self.path, foot=[foot])
        listener.note(f"contact sheet: {visible(self.path)} ({foot})")


def _caption(record: Prediction) -> str:
    label = record.label or f"({record.top[0].label})"
    return f"{label} {percent(record.score)}  {Path(record.path).name}"
