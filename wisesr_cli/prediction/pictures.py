"""Pictures for predictions (`wisesr predict --explain DIR` and `--show`), drawn one by one as records are yielded."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from wisesr_cli.display.grid import percent
from wisesr_cli.engines.choose import ChosenEngine
from wisesr_cli.errors import ImageError
from wisesr_cli.explanation.explainer import Explainer, explain_paths, start_explainer
from wisesr_cli.explanation.own_pictures import OwnPictures
from wisesr_cli.explanation.pictures import explanation_picture, shown_photo
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.requests import PredictRequest, Screen
from wisesr_cli.results.streams import Prediction
from wisesr_cli.text import visible

SCREEN_SIDE = 96  # pixels: twice the resolution of a terminal

Draw = Callable[[int, Prediction], None]  # the number of a record, from 1, and the record of an image that was read


def illustrated(
    records: Generator[Prediction, None, None],
    request: PredictRequest,
    engine: ChosenEngine,
    folder: Path | None,
    *,
    first: int,
) -> Generator[Prediction, None, None]:
    """Return the records, each yielded after its pictures are drawn.

    `folder` is for explanations, which start Keras; pictures of an earlier run are removed, unless it is resumed.
    `first` is the number of records that an earlier process yielded.
    """
    pixel_limit = request.pixel_limit or PIXEL_LIMIT
    if folder is not None:
        explainer = start_explainer(engine.check(), request.device, request.listener, engine.image_size)
        request.listener.note(f"contribution maps, in {visible(folder)}: {explainer.statement}")
        own = OwnPictures(folder, is_resumed=first > 0)
        records = drawn(records, to_folder(explainer, own, pixel_limit), first)
    if request.screen is not None:
        records = drawn(records, to_screen(request.screen, engine.info, pixel_limit), first)
    return records


def drawn(records: Iterable[Prediction], draw: Draw, first: int) -> Generator[Prediction, None, None]:
    """Yield the same records, each after its picture is drawn, numbered from `first` + 1."""
    for number, record in enumerate(records, start=first + 1):
        if record.error is None:
            draw(number, record)
        yield record


def to_folder(explainer: Explainer, own: OwnPictures, pixel_limit: int) -> Draw:
    """Return a function that writes explanation pictures into a folder, skipping images that are no longer readable."""

    def draw(number: int, record: Prediction) -> None:
        explanation = next(explain_paths(explainer, [record.path], batch_size=1, pixel_limit=pixel_limit))
        if explanation.error is None:
            try:
                photo = shown_photo(record.path, explainer.info, pixel_limit=pixel_limit)
            except ImageError:
                return
            own.write(explanation_picture(photo, explanation, explainer), number, record.path)

    return draw


def to_screen(screen: Screen, info: ModelInfo, pixel_limit: int) -> Draw:
    """Return a function that shows an image on a terminal as the model sees it, with its label."""

    def draw(number: int, record: Prediction) -> None:
        try:
            photo = shown_photo(record.path, info, pixel_limit=pixel_limit, side=SCREEN_SIDE)
        except ImageError:  # removed since it was labelled
            return
        screen.show(photo, f"{record.path}: {record.label or '-'} {percent(record.score)}")

    return draw
