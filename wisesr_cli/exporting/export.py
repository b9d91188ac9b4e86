"""Exports a run: builds, writes, reloads and compares its model in other formats, and keeps all of them or none.

To add a format: how it is written in `conversion`, how it is run in `runtimes`, its record in
`metadata`, how it is used in `readme`, its name in `run.names`, and a row in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np

from wisesr_cli.config.reader import parse_image_size
from wisesr_cli.data.index import Labels
from wisesr_cli.engines.engine import padded_logits
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.errors import MachineError, RunError, UsageError
from wisesr_cli.evaluation.card import card_beside
from wisesr_cli.exporting import runtimes
from wisesr_cli.exporting.agreement import (
    BATCH,
    Numbers,
    Pixels,
    RunModel,
    compare,
    doubt,
    logits_in_batches,
    objection,
)
from wisesr_cli.exporting.conversion import ConversionError, Form, FormatName, Layout, Quantization, Resize, convert
from wisesr_cli.exporting.folder import Place, export_folder, source_of
from wisesr_cli.exporting.images import ExportImages, choose_images
from wisesr_cli.exporting.metadata import (
    describe_keras,
    describe_litert,
    describe_onnx,
    describe_saved_model,
    labels_text,
    thresholds_text,
)
from wisesr_cli.exporting.readme import readme
from wisesr_cli.exporting.resizing import Nearness, at_hand, calls_for, nearness
from wisesr_cli.exporting.serving import SERVERS, arrange, check_layout
from wisesr_cli.images.geometry import RESIZERS
from wisesr_cli.images.preparation import RGB
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.files import flush_to_disk, naming
from wisesr_cli.machine.installation import install_line
from wisesr_cli.machine.stopping import StopRequest, stop_on_signals
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.models.image_sizes import check_image_size
from wisesr_cli.requests import ExportRequest
from wisesr_cli.results.models import ExportedModel, Exports
from wisesr_cli.run.located import locate
from wisesr_cli.run.names import EXPORT_README, EXPORTED_MODELS, LABELS, THRESHOLDS
from wisesr_cli.text import joined, nearest, on_one_line, visible

STOPPED = "nothing was exported; repeat the command"


@dataclass(frozen=True)
class Format:
    """A row of `FORMATS`: functions that run and describe an export, and required packages.

    `packages`: the module of each, and its argument for `install_line`.
    """

    open: Callable[[Path, Form], RunModel]
    describe: Callable[[Path, ModelInfo, Form], None]
    packages: dict[str, str]


def formats_of(to: str | Sequence[str]) -> tuple[FormatName, ...]:
    """Return the distinct formats in `onnx,litert` and the like; `UsageError` if none or an unknown one is given."""
    words = [to] if isinstance(to, str) else to
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--to is missing: {joined(FORMATS)}, or several separated by commas")
    for name in names:
        if name not in FORMATS:
            raise UsageError(
                f"no format is called '{visible(name)}'.{nearest(name, FORMATS)} Allowed: {joined(FORMATS)}"
            )
    return tuple(dict.fromkeys(names))  # type: ignore[arg-type]


def export(request: ExportRequest) -> Exports:
    """Export a run's best model into a folder, with class names, a README and a record.

    Raises:
        UsageError: the request is invalid, or a file exists where an export would be written.
        MachineError: a package is missing, or the folder is not writable.
        RunError: the run cannot be used, or an export disagrees with it: then no export is kept.
        DataError: there are no images to compare on.
    """
    planned = _plan(request)
    run, listener = locate(request.run, request.listener), request.listener
    model, checked = run.model, run.checked
    image_size = None if request.image_size is None else parse_image_size(request.image_size)
    if image_size is not None:
        check_image_size(checked.config, checked.info, image_size)
    if request.resize == "inside" and checked.info.preparation.resize != "squash":
        raise UsageError(
            "--resize inside distorts images to the model's size, but this model uses data.resize: "
            f"{checked.info.preparation.resize}; leave it out"
        )
    images = choose_images(run, request.data, listener)
    source = source_of(model, image_size or checked.info.image_size)
    names = [*(item.file for item in planned), *([] if request.layout == "plain" else [request.layout])]
    output_dir = None if request.output_dir is None else str(request.output_dir)
    with (
        stop_on_signals(StopRequest(STOPPED)) as stop,
        export_folder(model, output_dir, names, source, overwrite=request.overwrite) as place,
    ):
        with stop.deferred():
            listener.note(f"device: {keras_start.start(request.device)}")
            engine = KerasEngine(checked, image_size=image_size)
        exporter = _Exporter(engine, images, place, listener)
        rows = exporter.all(planned)
        _write_beside(place, model, engine.info, place.all_rows(rows), exporter.resized_by_others())
        if request.layout != "plain":
            with naming(place.folder):
                arrange(request.layout, place.temporary, rows, engine.info, run.name)
        if source_of(model, engine.info.image_size) != source:
            raise RunError(f"{visible(model)}: was rewritten in the meantime; repeat the command")
        with stop.deferred():
            place.take_in(rows)
            stop.hint = f"everything was exported to {visible(place.folder)}"
    if place.outdated:
        listener.note(f"exports of an earlier model removed: {joined(place.outdated)}")
    return Exports(str(place.folder), tuple(rows))


@dataclass(frozen=True)
class _Planned:
    """An export to be made: its format, the name of its file, and its inputs and outputs."""

    format: FormatName
    file: str
    form: Form


def _plan(request: ExportRequest) -> list[_Planned]:
    """Return the planned exports, after rejecting what can be rejected before any slow work."""
    formats = formats_of(request.to)
    _check_choices(request, formats)
    for name in formats:
        for package, wanted in FORMATS[name].packages.items():
            if find_spec(package) is None:
                raise MachineError(
                    f"--to {name} needs {package.replace('_', '-')}, which is not installed; install it with: "
                    f"{install_line(wanted)}"
                )
    litert = Form(request.quantize, "logits" if request.logits else "probabilities", batch=request.fixed_batch)
    forms = {"litert": litert, "onnx": Form(layout=request.pixel_layout, resize=request.resize)}
    planned = [(name, forms.get(name, Form(resize=request.resize))) for name in formats]
    return [_Planned(name, EXPORTED_MODELS[name, form.quantize], form) for name, form in planned]


def _check_choices(request: ExportRequest, formats: Sequence[FormatName]) -> None:
    """Raise `UsageError` for an unknown value, and for an option of a format that is not exported."""
    for option, value, allowed in (
        ("--quantize", request.quantize, get_args(Quantization)),
        ("--pixel-layout", request.pixel_layout, get_args(Layout)),
        ("--layout", request.layout, ("plain", *SERVERS)),
        ("--resize", request.resize, get_args(Resize)),
    ):
        if value is not None and value not in allowed:
            raise UsageError(f"{option} {visible(value)} is not one of {joined(allowed)}")
    if request.resize == "inside" and "litert" in formats:
        raise UsageError("--resize inside: LiteRT has no resizing with antialiasing; leave it out, or --to litert")
    check_layout(request.layout, formats, resizes=request.resize == "inside")
    if request.fixed_batch is not None and request.fixed_batch < 1:
        raise UsageError(f"--fixed-batch {request.fixed_batch}: give at least 1 image")
    given = (
        ("litert", "LiteRT", f"--quantize {request.quantize}", request.quantize is not None),
        ("litert", "LiteRT", "--logits", request.logits),
        ("litert", "LiteRT", f"--fixed-batch {request.fixed_batch}", request.fixed_batch is not None),
        ("onnx", "ONNX", f"--pixel-layout {request.pixel_layout}", request.pixel_layout != "nhwc"),
    )
    for name, title, option, is_given in given:
        if is_given and name not in formats:
            raise UsageError(f"{option} is for {title}: add --to {name}, or leave it out")


class _Exporter:
    """Makes exports, one after the other."""

    def __init__(self, engine: KerasEngine, images: ExportImages, place: Place, listener: Listener) -> None:
        from wisesr_cli.exporting.stock_layers import with_stock_layers

        self.engine, self.images, self.place, self.listener = engine, images, place, listener
        self.model = with_stock_layers(engine.model)
        self.pixels = images.compared(engine.info)
        self.exact = logits_in_batches(self._run, self.pixels)
        if reason := doubt(self.exact):
            listener.warn(f"{reason}; train it longer, or compare on other images with --data FOLDER")

    def all(self, planned: Sequence[_Planned]) -> list[ExportedModel]:
        """Return a row for every export, each written, reloaded and compared with the run."""
        rows = []
        with self.listener.progress("exporting", len(planned)) as progress:
            for item in planned:
                progress.describe(f"exporting {item.file}")
                info = self.engine.info
                form = replace(item.form, temperature=info.temperature, multilabel=info.is_multilabel)
                rows.append(self._one(item.format, item.file, form))
                progress.advance()
        return rows

    def _one(self, name: FormatName, file: str, form: Form) -> ExportedModel:
        """Write one export, reload it, and compare it."""
        target = self.place.temporary / file
        self._write(name, target, form)
        run = self._reload(name, target, form)
        exact, inputs = self._expected(form)
        found = np.concatenate([run_or_refuse(run, pixels, file) for pixels in inputs])
        has_logits, resizes = form.output == "logits", form.resize == "inside"
        agreement = compare(exact if has_logits else exact / form.temperature, found, multilabel=form.multilabel)
        reason = objection(agreement, exact, quantized=form.quantize is not None, logits=has_logits, resizes=resizes)
        if reason is not None:
            raise RunError(f"{file}: {reason}; compared on {agreement.images:,} images of {self.images.title}")
        row = ExportedModel(
            format=name,
            file=file,
            quantize=form.quantize,
            bytes=sum(part.stat().st_size for part in [target, *target.rglob("*")] if part.is_file()),
            compared_on=self.images.title,
            compared_images=agreement.images,
            max_probability_difference=agreement.probability_difference,
            max_logit_difference=agreement.logit_difference if has_logits else None,
            top1_agreement=agreement.top1_agreement,
            output=form.output,
            layout=form.layout,
            batch=form.batch,
            resize=form.resize,
        )
        return row if form.quantize is None else self._with_accuracies(row, run)

    def _expected(self, form: Form) -> tuple[Numbers, list[Pixels]]:
        """Return the run's logits, and in batches the images for which an export must return the same."""
        return (self.exact, [self.pixels]) if form.resize == "outside" else self._expected_of_originals

    @cached_property
    def _expected_of_originals(self) -> tuple[Numbers, list[Pixels]]:
        """The same for original images, for a model that resizes them itself."""
        info = self.engine.info
        originals, size = [whole for whole, _ in self.images.originals(info)], info.image_size
        small = [RESIZERS["squash"](image, size, (0, 0, image.shape[1], image.shape[0])) for image in originals]
        return logits_in_batches(self._run, np.stack(small)), [image[None] for image in originals]

    def _run(self, pixels: Pixels) -> Numbers:
        return padded_logits(self.engine, pixels, BATCH)

    def resized_by_others(self) -> list[Nearness]:
        """Compare the run's answers to images resized by the other libraries that are at hand."""
        info = self.engine.info
        if info.preparation.channels != RGB:  # the calls are for RGB
            return []
        calls = calls_for(info.preparation.resize, at_hand())
        with self.listener.progress("resizing as others do", len(self.pixels)) as progress:
            originals = self.images.originals(info, decoded=progress.advance)
            return nearness(self._run, originals, info.image_size, calls, multilabel=info.is_multilabel)

    def _write(self, name: FormatName, target: Path, form: Form) -> None:
        examples = self.images.calibration(self.engine.info) if form.quantize == "int8" else None
        try:
            with naming(self.place.folder):
                convert(self.model, name, target, form, examples)
                FORMATS[name].describe(target, self.engine.info, form)
                for path in [target, *target.rglob("*")]:
                    flush_to_disk(path)
        except ConversionError as error:
            if isinstance(error.__cause__, ImportError):
                raise _unloadable(name, error.__cause__) from error
            raise RunError(f"{visible(self.engine.path)}: {error}") from error

    def _reload(self, name: FormatName, target: Path, form: Form) -> RunModel:
        try:
            return FORMATS[name].open(target, form)
        except (MachineError, MemoryError):
            raise
        except ImportError as error:
            raise _unloadable(name, error) from error
        except Exception as error:  # runtimes raise exceptions of any type
            raise RunError(f"{target.name}: cannot be loaded again: {on_one_line(error)}") from error

    def _with_accuracies(self, row: ExportedModel, run: RunModel) -> ExportedModel:
        """Return a row with the accuracies of the run and a quantized model on the same images."""
        pixels, labels = self.images.labelled(self.engine.info)
        right = np.zeros(2, np.int64)
        with closing(pixels), self.listener.progress(f"evaluating {row.file}", len(pixels)) as progress:
            for start in range(0, len(pixels), BATCH):
                rows = np.arange(start, min(start + BATCH, len(pixels)))
                batch = pixels.batch(rows)
                answers = padded_logits(self.engine, batch, BATCH), run_or_refuse(run, batch, row.file)
                right += [_right(answer, labels[rows]) for answer in answers]
                progress.advance(len(rows))
        before, after = (right / len(labels)).tolist()
        values = {**asdict(row), "judged_images": len(labels), "run_top1_accuracy": before, "top1_accuracy": after}
        return ExportedModel(**values)


def _right(answers: Numbers, labels: Labels) -> int:
    """Return the number of images whose best class is the true one, or one of the labels."""
    best = answers.argmax(axis=1)
    return int((labels[np.arange(len(best)), best] if labels.ndim == 2 else best == labels).sum())


def run_or_refuse(run: RunModel, pixels: Pixels, file: str) -> Numbers:
    """Return logits, the first image computed alone; `RunError` when the exported model cannot compute them."""
    try:
        return logits_in_batches(run, pixels)
    except MemoryError:
        raise
    except Exception as error:  # runtimes raise exceptions of any type
        raise RunError(f"{file}: its runtime cannot run it: {on_one_line(error)}") from error


def _unloadable(name: FormatName, error: ImportError) -> MachineError:
    """Return the error for a package that is installed but cannot be imported."""
    return MachineError(
        f"--to {name} needs a package that cannot be loaded: {on_one_line(error)}; reinstall it with: "
        f"{install_line(next(iter(FORMATS[name].packages.values())))}"
    )


def _write_beside(
    place: Place, model: Path, info: ModelInfo, rows: Sequence[ExportedModel], resized_by: Sequence[Nearness]
) -> None:
    """Write labels, thresholds and README; the README begins with the front matter of the run's model card."""
    head = card_beside(model) or ""
    texts = {LABELS: labels_text(info.class_names), EXPORT_README: f"{head}{readme(info, rows, resized_by)}"}
    if info.thresholds is not None:
        texts[THRESHOLDS] = thresholds_text(info.thresholds)
    for name, text in texts.items():
        path = place.temporary / name
        with naming(place.folder):
            path.write_text(text, encoding="utf-8", newline="")
            flush_to_disk(path)


FORMATS: dict[str, Format] = {
    "keras": Format(runtimes.open_keras, describe_keras, {"keras": "keras"}),
    "onnx": Format(
        runtimes.open_onnx,
        describe_onnx,
        {**dict.fromkeys(("onnx", "onnxruntime", "tf2onnx"), "onnx"), "tensorflow": "tensorflow"},
    ),
    "litert": Format(
        runtimes.open_litert, describe_litert, {"tensorflow": "tensorflow", "ai_edge_litert": "ai-edge-litert"}
    ),
    "saved_model": Format(runtimes.open_saved_model, describe_saved_model, {"tensorflow": "tensorflow"}),
}
