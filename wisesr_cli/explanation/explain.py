"""Explains images, on standard output and in a folder: the work of `wisesr explain`, from what was typed to the end."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from wisesr_cli.data.inputs import InputRequest, not_empty
from wisesr_cli.data.oddities import Oddities, Tally
from wisesr_cli.display.grid import percent
from wisesr_cli.display.terminal import show_result
from wisesr_cli.errors import DataError, ImageError, UsageError
from wisesr_cli.explanation.explainer import Explainer, explain_paths, head_weights, start_explainer
from wisesr_cli.explanation.folder import ExplanationFolder
from wisesr_cli.explanation.output import ExplanationWriter
from wisesr_cli.explanation.own_pictures import without_own_pictures, write_picture
from wisesr_cli.explanation.pictures import decision_of, shown_photo
from wisesr_cli.explanation.screen import Screen
from wisesr_cli.explanation.weights_output import (
    HEADER,
    SHOWN_CLASSES,
    mean_panel,
    weight_rows,
    weights_grid,
    weights_picture,
    write_weights_arrays,
)
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.machine.keras_start import DeviceChoice
from wisesr_cli.machine.stopping import StopRequest, stop_on_signals
from wisesr_cli.results import Explanation, Listener, Silent
from wisesr_cli.run.names import CONTRIBUTIONS, EXPLANATIONS, EXPLANATIONS_TABLE, WEIGHTS_NUMBERS, WEIGHTS_PICTURE
from wisesr_cli.text import counted, joined, nearest, visible

MOST_REASONS = 10  # unreadable images that are named
NAMED_CLASSES = 10  # in an error

Illustrated = tuple[Explanation, Image.Image | None]  # the photo is None where the image could not be read


@dataclass(frozen=True, kw_only=True)
class Request(InputRequest):
    """Which images to explain, how many at a time, and where to compute."""

    batch_size: int = 32
    pixel_limit: int = PIXEL_LIMIT
    device: DeviceChoice = "auto"


@dataclass(frozen=True)
class Wanted:
    """What is to come out.

    `chosen`: the format of standard output; `rows`: of a table, None is all; `pictures`: how many images get a picture
    of their own; `screen`: the terminal that also shows every photo with its explanation, or the weights.
    """

    chosen: str
    rows: int | None
    pictures: int
    screen: Screen | None = None


def labels_of(names: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of classes, each once, in the order of asking.

    Raises:
        UsageError: the model has no class of that name.
    """
    for name in names:
        if name not in class_names:
            more = ", ..." if len(class_names) > NAMED_CLASSES else ""
            meant = nearest(name, class_names) or f" It has {joined(class_names[:NAMED_CLASSES])}{more}."
            raise UsageError(f"the model has no class '{visible(name)}'.{visible(meant)}")
    return tuple(dict.fromkeys(class_names.index(name) for name in names))


def explain_images(
    request: Request, labels: Sequence[int], model: Path, folder: Path, *, wanted: Wanted, listener: Listener
) -> Tally:
    """Explain all inputs, on standard output and in a folder, and return how many there were.

    Args:
        request: which images, how many at a time, and where to compute.
        labels: the classes asked for, by index.
        model: the model file.
        folder: where pictures and numbers go; see `ExplanationFolder`.
        wanted: what is to come out.
        listener: who is told what happens.

    Raises:
        WisesrError: the model, the inputs or the folder cannot be used; pictures that were written are kept.
    """
    oddities = Oddities()
    hint = f"the pictures so far are in {visible(folder)}"
    with stop_on_signals(StopRequest(hint)) as stop:
        total = None if request.is_read_once else sum(1 for _ in without_own_pictures(request.find(), folder))
        paths = not_empty(without_own_pictures(request.find(oddities), folder))
        with stop.deferred():  # an import is not broken off
            explainer = start_explainer(model, request.device, listener)
        options = {"batch_size": request.batch_size, "pixel_limit": request.pixel_limit}
        explanations = explain_paths(explainer, paths, labels=labels, oddities=oddities, **options)
        illustrated = _with_photos(explanations, explainer, request.pixel_limit)
        with ExplanationFolder(folder, explainer, labels, most_pictures=wanted.pictures) as files:
            tally = _write(illustrated, files, wanted, total, listener)
            oddities.tell(listener)
            if tally.unreadable == tally.records:
                raise DataError(tally.complaint)
            files.finish()
    _tell(files, tally, listener)
    return tally


def _write(
    illustrated: Generator[Illustrated, None, None],
    files: ExplanationFolder,
    wanted: Wanted,
    total: int | None,
    listener: Listener,
) -> Tally:
    """Write every explanation to its places, and return how many there were."""
    tally = Tally()
    writer = ExplanationWriter(wanted.chosen, sys.stdout, files.explainer, limit=wanted.rows)
    with closing(illustrated), _bar(wanted.chosen, total, listener) as progress:
        for explanation, photo in illustrated:
            tally.add(explanation)
            if explanation.error is not None and tally.unreadable <= MOST_REASONS:
                listener.warn(f"{visible(explanation.path)}: {explanation.error}")
            files.add(explanation, photo)
            writer.write(explanation)
            if wanted.screen is not None and photo is not None:
                show_decision(wanted.screen, photo, explanation)
            progress.advance()
    writer.end()  # a table is drawn when the bar is gone
    return tally


def explain_weights(
    labels: Sequence[int],
    model: Path,
    folder: Path,
    *,
    wanted: Wanted,
    device: DeviceChoice,
    listener: Listener,
) -> None:
    """Show what a head has learned about positions, on standard output and in a folder.

    Args:
        labels: the classes asked for, by index; none are all.
        model: the model file.
        folder: where picture and numbers go.
        wanted: what is to come out on standard output.
        device: where to compute.
        listener: who is told what happens.

    Raises:
        RunError: the head has no position weights.
    """
    with stop_on_signals(StopRequest("nothing was written")) as stop, stop.deferred():
        weights = head_weights(start_explainer(model, device, listener))
    classes = [weights.of_class(label) for label in labels or range(len(weights.class_names))]
    shown = classes if labels else classes[:SHOWN_CLASSES]
    write_picture(weights_picture(weights, shown), folder / WEIGHTS_PICTURE)
    write_weights_arrays(weights, classes, folder / WEIGHTS_NUMBERS)
    rows = list(weight_rows(weights, classes))
    show_result(
        wanted.chosen,
        grids=[weights_grid(rows)],
        header=HEADER,
        rows=[row.cells() for row in rows],
        value={"rows": [row.to_json() for row in rows], "statement": weights.statement},
        limit=wanted.rows,
    )
    if wanted.screen is not None:
        mean = mean_panel(weights)
        wanted.screen.show(mean.image, ", ".join(mean.lines))
    listener.note(weights.statement)
    if len(shown) < len(classes):
        listener.note(
            f"the picture shows the first {len(shown)} of {len(classes):,} classes; --class NAME shows others"
        )
    listener.note(f"written to {visible(folder)}: {WEIGHTS_PICTURE}, {WEIGHTS_NUMBERS}")


def show_decision(screen: Screen, photo: Image.Image, explanation: Explanation) -> None:
    """Show a photo and what decided about it on a terminal."""
    predicted, runner_up = explanation.predicted, explanation.runner_up
    if predicted is not None:
        against = "" if runner_up is None else f", not {runner_up.label}"
        caption = f"{explanation.path}: {predicted.label} {percent(explanation.score)}{against}"
        screen.show(photo, caption, decision_of(explanation))


def _bar(chosen: str, total: int | None, listener: Listener) -> Any:
    """Return a progress, hidden where standard output is written meanwhile on the same screen."""
    hidden = chosen in ("json", "csv") and sys.stdout.isatty()
    return Silent().progress("", None) if hidden else listener.progress("explaining", total)


def _with_photos(
    explanations: Iterable[Explanation], explainer: Explainer, pixel_limit: int
) -> Generator[Illustrated, None, None]:
    """Give explanations with the photos that they are about, in the size of a picture."""
    for explanation in explanations:
        if explanation.error is not None:
            yield explanation, None
            continue
        try:
            photo = shown_photo(explanation.path, explainer.info, pixel_limit=pixel_limit)
        except ImageError as error:  # gone or changed since it was explained
            yield Explanation(explanation.path, error=str(error)), None
        else:
            yield explanation, photo


def _tell(files: ExplanationFolder, tally: Tally, listener: Listener) -> None:
    """Say what the maps are worth and what was written."""
    listener.note(f"contribution maps: {files.explainer.statement}")
    readable = tally.records - tally.unreadable
    if files.pictures < readable:
        listener.note(f"{counted(files.pictures, 'picture')} of {counted(readable, 'image')}; --pictures N draws more")
    drawn = counted(files.pictures, "picture")
    if files.sheets:
        drawn += f", {counted(files.sheets, 'contact sheet')}"
    listener.note(f"written to {visible(files.folder)}: {drawn}, {CONTRIBUTIONS}, {EXPLANATIONS}, {EXPLANATIONS_TABLE}")
