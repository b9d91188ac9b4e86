"""The files of explanations: a picture per image, contact sheets, and numbers as arrays, JSON and CSV.

Every file is written atomically: pictures one by one, sheets when they are full, numbers at the end.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from wisesr_cli.display.pictures import contact_sheet
from wisesr_cli.explanation.arrays import ContributionArrays
from wisesr_cli.explanation.explainer import Explainer
from wisesr_cli.explanation.output import ExplanationWriter
from wisesr_cli.explanation.overlays import overlay, scale_of
from wisesr_cli.explanation.own_pictures import OwnPictures, check_place
from wisesr_cli.explanation.pictures import decision_of, explanation_picture
from wisesr_cli.machine.files import naming, replacing
from wisesr_cli.results.streams import Explanation
from wisesr_cli.run.names import CONTRIBUTIONS, EXPLAINED_SHEET, EXPLANATIONS, EXPLANATIONS_TABLE

ROWS = {EXPLANATIONS: "json", EXPLANATIONS_TABLE: "csv"}
TILES, SHEET_COLUMNS, TILE_SIDE = 24, 6, 200
SHEET_FOOT = (
    "orange speaks for the predicted class, blue for the runner-up; ±: value of full colour, differs from tile to tile"
)


class ExplanationFolder:
    """Adds explanations one by one; `finish` writes the rest. Memory grows by the path of every image.

    Earlier pictures in `folder` are removed with the first new one. `labels` are indices of the requested classes.
    """

    def __init__(self, folder: Path, explainer: Explainer, labels: Sequence[int], *, most_pictures: int) -> None:
        self.folder, self.explainer, self.most_pictures = folder, explainer, most_pictures
        self.pictures = self.sheets = 0
        self._number = 0
        self._tiles: list[tuple[Image.Image, str, bool | None]] = []
        self._own = OwnPictures(folder)
        self._arrays = ContributionArrays(folder, explainer.info.class_names, labels)
        self._writers: dict[str, ExplanationWriter] = {}

    def __enter__(self) -> ExplanationFolder:
        with ExitStack() as files, naming(self.folder):
            files.enter_context(self._arrays)
            for file, name in ROWS.items():
                # Unnamed: it disappears even if the process is killed.
                stream = tempfile.TemporaryFile("w+", encoding="utf-8", newline="", dir=self.folder)
                self._writers[file] = ExplanationWriter(name, files.enter_context(stream), self.explainer)
            self._files = files.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()

    def add(self, explanation: Explanation, photo: Image.Image | None) -> None:
        """Add an image with the photo from `pictures.shown_photo`, or an unreadable one without."""
        self._number += 1
        self._arrays.add(explanation)
        with naming(self.folder):
            for writer in self._writers.values():
                writer.write(explanation)
        if photo is None:
            return
        self._own.begin()
        if self.pictures < self.most_pictures:
            picture = explanation_picture(photo, explanation, self.explainer)
            self._own.write(picture, self._number, explanation.path)
            self.pictures += 1
        self._tiles.append((_small_overlay(photo, explanation), f"{self._number}: {_tile_caption(explanation)}", None))
        if len(self._tiles) == TILES:
            self._write_sheet()

    def finish(self) -> None:
        """Write the last sheet, the arrays and the rows."""
        if len(self._tiles) > (0 if self.sheets else 1):  # a single image needs no sheet
            self._write_sheet()
        self._arrays.write(self.folder / CONTRIBUTIONS)
        for name, writer in self._writers.items():
            with naming(self.folder):
                writer.end()
                writer.stream.seek(0)
            with replacing(self.folder / name) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
                shutil.copyfileobj(writer.stream, file)

    def _write_sheet(self) -> None:
        self.sheets += 1
        path = self.folder / EXPLAINED_SHEET.format(self.sheets)
        foot = SHEET_FOOT, self.explainer.statement
        check_place(path)
        contact_sheet(self._tiles, columns=SHEET_COLUMNS, tile=TILE_SIDE, path=path, foot=foot)
        self._tiles.clear()


def _small_overlay(photo: Image.Image, explanation: Explanation) -> Image.Image:
    """Return a photo reduced to the size of a tile, overlaid with the decision in its own colour scale."""
    decision = decision_of(explanation)
    scale = TILE_SIDE / max(photo.size)
    small = photo.resize((max(1, round(photo.width * scale)), max(1, round(photo.height * scale))))
    return small if decision is None else overlay(small, decision)


def _tile_caption(explanation: Explanation) -> str:
    decision, predicted, runner_up = decision_of(explanation), explanation.predicted, explanation.runner_up
    if decision is None or predicted is None:
        return ""
    names = predicted.label if runner_up is None else f"{predicted.label}, not {runner_up.label}"
    return f"±{scale_of([decision]):.2g} {names}"
