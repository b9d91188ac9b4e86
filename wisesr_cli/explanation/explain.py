"""Explains images and heads: the work of `wisesr explain`, from the request to the last record."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from PIL import Image

from wisesr_cli.data.inputs import WantedInputs, not_empty
from wisesr_cli.data.oddities import Oddities, Tally
from wisesr_cli.data.stream import Records
from wisesr_cli.display.grid import percent
from wisesr_cli.errors import ImageError, UsageError
from wisesr_cli.explanation.explainer import Explainer, explain_paths, start_explainer
from wisesr_cli.explanation.folder import ExplanationFolder
from wisesr_cli.explanation.own_pictures import without_own_pictures, write_picture
from wisesr_cli.explanation.pictures import decision_of, shown_photo
from wisesr_cli.explanation.place import explanation_folder
from wisesr_cli.explanation.receptive_field import ReceptiveField
from wisesr_cli.explanation.weights_output import (
    SHOWN_CLASSES,
    LearnedWeights,
    mean_panel,
    weight_rows,
    weights_picture,
    write_weights_arrays,
)
from wisesr_cli.images.color import checked_bands
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.listening import Listener, Silent
from wisesr_cli.machine.stopping import StopRequest
from wisesr_cli.requests import ExplainRequest, Screen, WeightsRequest
from wisesr_cli.results.streams import Explanation
from wisesr_cli.run.located import locate
from wisesr_cli.run.names import CONTRIBUTIONS, EXPLANATIONS, EXPLANATIONS_TABLE, WEIGHTS_NUMBERS, WEIGHTS_PICTURE
from wisesr_cli.text import counted, joined, nearest, visible

MOST_REASONS = 10  # unreadable images that are named
NAMED_CLASSES = 10  # in an error

Illustrated = tuple[Explanation, Image.Image | None]  # the photo is None if it is not shown, or unreadable


class Explanations(Records[Explanation]):
    """Lazily computed explanations.

    `statement`: a sentence about what is exact in a contribution map; `receptive_field`: which pixels each position
    can see, None if unknown.
    """

    statement: str
    receptive_field: ReceptiveField | None


def labels_of(names: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...]:
    """Return the unique indices of classes, in the given order; raises a `UsageError` for an unknown one."""
    labels = {name: label for label, name in enumerate(class_names)}
    for name in names:
        if name not in labels:
            more = ", ..." if len(class_names) > NAMED_CLASSES else ""
            meant = nearest(name, class_names) or f" It has {joined(class_names[:NAMED_CLASSES])}{more}."
            raise UsageError(f"the model has no class '{visible(name)}'.{visible(meant)}")
    return tuple(dict.fromkeys(labels[name] for name in names))


def explain(request: ExplainRequest) -> Explanations:
    """Return a lazily computed record per image, in order, each written before it is yielded if requested.

    Raises a `WisesrError` if the run, the inputs or the folder cannot be used, the head cannot be explained, or a class
    is unknown. Pictures that were written are kept.
    """
    run, stop = locate(request.run, request.listener), request.stop or StopRequest()
    labels = labels_of(request.classes, run.checked.info.class_names)
    bands = _bands_of(request.bands, run.checked.info.preparation.channels)
    with ExitStack() as held:
        folder = None
        if request.write:
            folder = held.enter_context(explanation_folder(run.model, request.output_dir, "-o"))
            stop.hint = f"the pictures so far are in {visible(folder)}"
        wanted = WantedInputs(tuple(map(str, request.inputs)), request.from_file, request.null_separated)
        oddities, total = Oddities(), None
        if not isinstance(request.listener, Silent) and not wanted.is_read_once:
            total = sum(1 for _ in _inputs(wanted.find(), folder))
        paths = not_empty(_inputs(wanted.find(oddities), folder))
        with stop.deferred():  # an import must not be interrupted
            explainer = start_explainer(run.checked, request.device, request.listener)
        explainer.bands = bands
        options = {"batch_size": request.batch_size, "pixel_limit": request.pixel_limit or PIXEL_LIMIT}
        found = explain_paths(explainer, paths, labels=labels, oddities=oddities, **options)
        held.callback(found.close)
        files, tally = None, Tally()
        if folder is not None:
            files = held.enter_context(ExplanationFolder(folder, explainer, labels, most_pictures=request.pictures))
        records = Explanations(_stream(request, found, files, explainer, oddities, tally, total), held.pop_all(), tally)
        records.statement, records.receptive_field = explainer.statement, explainer.receptive_field
        return records


def _bands_of(given: str | Sequence[int], channels: int) -> tuple[int, ...]:
    """Return the bands of `--bands`, none if it was not given; raises a `UsageError` for invalid ones."""
    if not given:
        return ()
    try:
        return checked_bands(given, channels)
    except ValueError as error:
        raise UsageError(f"--bands {visible(given)}: {error}") from None


def _inputs(paths: Iterable[str], folder: Path | None) -> Iterable[str]:
    """Return the inputs, without any pictures that earlier commands wrote."""
    return paths if folder is None else without_own_pictures(paths, folder)


def _stream(
    request: ExplainRequest,
    found: Iterable[Explanation],
    files: ExplanationFolder | None,
    explainer: Explainer,
    oddities: Oddities,
    tally: Tally,
    total: int | None,
) -> Generator[Explanation, None, None]:
    """Count, write, show and yield every explanation, and report oddities at the end."""
    listener, screen = request.listener, request.screen
    shown = files is not None or screen is not None
    with listener.progress("explaining", total) as progress:
        limit = request.pixel_limit or PIXEL_LIMIT
        for explanation, photo in _with_photos(found, explainer, limit) if shown else ((row, None) for row in found):
            tally.add(explanation)
            if explanation.error is not None and tally.unreadable <= MOST_REASONS:
                listener.warn(f"{visible(explanation.path)}: {explanation.error}")
            if files is not None:
                files.add(explanation, photo)
            if screen is not None and photo is not None:
                show_decision(screen, photo, explanation)
            yield explanation
            progress.advance()
    oddities.tell(listener)
    if files is not None and tally.unreadable < tally.records:
        files.finish()
        _tell(files, tally, listener)


def explain_weights(request: WeightsRequest) -> LearnedWeights:
    """Return the learned position weights of a head, and write them if requested.

    Raises a `WisesrError` if the run or the folder cannot be used, a class is unknown, or the head has none.
    """
    listener, stop = request.listener, request.stop or StopRequest()
    run = locate(request.run, listener)
    labels = labels_of(request.classes, run.checked.info.class_names)
    with ExitStack() as held:
        folder = None
        if request.write:
            folder = held.enter_context(explanation_folder(run.model, request.output_dir, "-o"))
        with stop.deferred():
            weights = start_explainer(run.checked, request.device, listener).weights()
        if labels and weights.logit_sum is None:
            raise UsageError(
                "--class: the head has hidden layers, so how a class weighs positions depends on the image; leave it "
                "out for the position weights, or explain images"
            )
        every = range(len(weights.class_names)) if weights.logit_sum else ()
        classes = [weights.of_class(label) for label in labels or every]
        if folder is not None:
            shown = classes if labels else classes[:SHOWN_CLASSES]
            write_picture(weights_picture(weights, shown), folder / WEIGHTS_PICTURE)
            write_weights_arrays(weights, classes, folder / WEIGHTS_NUMBERS)
        if request.screen is not None:
            mean = mean_panel(weights)
            request.screen.show(mean.image, ", ".join(mean.lines))
        listener.note(weights.statement)
        if folder is not None:
            if len(shown) < len(classes):
                listener.note(
                    f"the picture shows the first {len(shown)} of {len(classes):,} classes; --class NAME shows others"
                )
            listener.note(f"written to {visible(folder)}: {WEIGHTS_PICTURE}, {WEIGHTS_NUMBERS}")
        return LearnedWeights(tuple(weight_rows(weights, classes)), weights.statement)


def show_decision(screen: Screen, photo: Image.Image, explanation: Explanation) -> None:
    """Show a photo and the contributions to its decision on a terminal."""
    predicted, runner_up = explanation.predicted, explanation.runner_up
    if predicted is not None:
        against = "" if runner_up is None else f", not {runner_up.label}"
        caption = f"{explanation.path}: {predicted.label} {percent(explanation.score)}{against}"
        screen.show(photo, caption, decision_of(explanation))


def _with_photos(
    explanations: Iterable[Explanation], explainer: Explainer, pixel_limit: int
) -> Generator[Illustrated, None, None]:
    """Yield explanations with their photos, in the size of a picture."""
    for explanation in explanations:
        if explanation.error is not None:
            yield explanation, None
            continue
        try:
            photo = shown_photo(explanation.path, explainer.info, pixel_limit=pixel_limit, bands=explainer.bands)
        except ImageError as error:  # removed or changed since it was explained
            yield Explanation(explanation.path, error=str(error)), None
        else:
            yield explanation, photo


def _tell(files: ExplanationFolder, tally: Tally, listener: Listener) -> None:
    listener.note(f"contribution maps: {files.explainer.statement}")
    readable = tally.records - tally.unreadable
    if files.pictures < readable:
        listener.note(f"{counted(files.pictures, 'picture')} of {counted(readable, 'image')}; --pictures N draws more")
    drawn = counted(files.pictures, "picture")
    if files.sheets:
        drawn += f", {counted(files.sheets, 'contact sheet')}"
    listener.note(f"written to {visible(files.folder)}: {drawn}, {CONTRIBUTIONS}, {EXPLANATIONS}, {EXPLANATIONS_TABLE}")
