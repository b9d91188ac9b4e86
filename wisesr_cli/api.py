"""What the commands do, as typed Python functions; `predict` streams here, and the command adds its journal.

Paths are relative to the current folder. Every function takes a `listener`, which is told what happens; without one
nothing is shown. What goes wrong is a `wisesr_cli.errors.WisesrError`, with the exit code that the program would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from wisesr_cli.comparison.request import DEFAULT_HEADS, DEFAULT_SEEDS, request_of, seeds_up_to
from wisesr_cli.config import reader
from wisesr_cli.config.reader import LoadedConfig, Override, parse_image_size
from wisesr_cli.config.schema import Config
from wisesr_cli.data.inputs import find_inputs, not_empty
from wisesr_cli.data.oddities import Oddities
from wisesr_cli.data.settings import SplitName
from wisesr_cli.data.shards import parse_shard
from wisesr_cli.engines.choose import EngineChoice, choose_engine
from wisesr_cli.evaluation.evaluate import choose_subject, data_settings, output_folder
from wisesr_cli.evaluation.evaluate import evaluate as evaluate_subject
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.machine.keras_start import DeviceChoice
from wisesr_cli.model_files.info_file import read_model_info
from wisesr_cli.prediction.predict import EngineOrRay, Request, open_records
from wisesr_cli.results import (
    Comparison,
    Evaluation,
    Explanation,
    Exports,
    Listener,
    Prediction,
    Silent,
    Summary,
    TrainingListener,
    TrainingResult,
    Upgrade,
)
from wisesr_cli.run.names import REPORT
from wisesr_cli.run.run import config_source, model_path, place_of
from wisesr_cli.training import train as training
from wisesr_cli.training.train import TrainingOptions

Record = TypeVar("Record")
Settings = Mapping[str, Any] | Sequence[Override]
Precision = Literal["float32", "mixed_float16", "mixed_bfloat16"]


def load_config(source: str | Path | None = None, settings: Settings | None = None) -> Config:
    """Return the resolved config of a YAML file, an image folder or a run directory; None gives the defaults.

    Args:
        source: where the config comes from.
        settings: values laid over it, by key: `{"train.epochs": 5}`.

    Raises:
        ConfigError: mistakes in the config, a line each.
    """
    return _load(source, settings).config


def _load(source: str | Path | None, settings: Settings | None) -> LoadedConfig:
    return reader.load_config(config_source(source), _overrides(settings))


def _overrides(settings: Settings | None) -> Sequence[Override]:
    if isinstance(settings, Mapping):
        return [Override(tuple(key.split(".")), value, f"{key}={value}") for key, value in settings.items()]
    return settings or ()


def train(
    source: str | Path | LoadedConfig,
    settings: Settings | None = None,
    *,
    options: TrainingOptions | None = None,
    listener: TrainingListener | None = None,
) -> TrainingResult:
    """Train a classifier and return what it came to, its run directory first of all.

    Args:
        source: a YAML config, an image folder, or a run directory, which resuming goes on with.
        settings: values laid over the config, by key: `{"train.epochs": 5}`.
        options: resume, overwrite, limits, device.
        listener: who is told what happens.

    Raises:
        WisesrError: see `training.train.train`.
    """
    options = options or TrainingOptions()
    if not isinstance(source, LoadedConfig):
        own_place = place_of(source) if options.resume or options.overwrite else []
        source = reader.load_config(config_source(source), [*own_place, *_overrides(settings)])
    return training.train(source, options, listener or Silent())


def evaluate(
    run: str | Path,
    *,
    split: SplitName | None = None,
    data: str | Path | None = None,
    batch_size: int = 32,
    on_error: Literal["fail", "skip"] | None = None,
    pixel_limit: int | None = None,
    device: DeviceChoice = "auto",
    precision: Precision = "float32",
    image_size: str | int | tuple[int, int] | None = None,
    engine: EngineChoice = "auto",
    report: bool = False,
    listener: Listener | None = None,
) -> Evaluation:
    """Judge a run on labelled images, and write metrics, tables and plots beside it.

    Args:
        run: a run directory, or its best.keras.
        split: a split of the run; None is its test split when it has one, else validation.
        data: another image folder instead; classes are matched by name.
        batch_size: images per step; does not change the metrics.
        on_error: what an unreadable image does; None does as the run did.
        pixel_limit: width times height above which an image is refused; None is the run's.
        device: where to compute.
        precision: arithmetic.
        image_size: 288, "224x320" or (224, 320), height and width; None is that of the training. Results at another
            size have their own folder.
        engine: what runs the model; `auto` is LiteRT where it can, see `choose.choose_engine`.
        report: also write a self-contained report.html, with contribution maps.
        listener: who is told what happens.

    Raises:
        WisesrError: the run, the split or the images cannot be used.
    """
    if report:  # Jinja is loaded, and found to be there, before anything slow
        from wisesr_cli.report.content import gather
        from wisesr_cli.report.facts import ReportRequest
        from wisesr_cli.report.page import write_report
    listener = listener or Silent()
    size = None if image_size is None else reader.parse_image_size(image_size)
    chosen = choose_engine(run, engine, device=device, precision=precision, image_size=size, listener=listener)
    settings = data_settings(run)
    rule, limit = on_error or settings.on_error, pixel_limit or settings.pixel_limit
    subject = choose_subject(run, split=split, data=data, on_error=rule, pixel_limit=limit, listener=listener)
    subject = replace(subject, image_size=chosen.image_size)
    with output_folder(run, subject) as output:
        started = chosen.start(listener)
        evaluation, answers = evaluate_subject(
            run,
            started,
            subject,
            batch_size=batch_size,
            on_error=rule,
            pixel_limit=limit,
            output=output,
            listener=listener,
        )
        if report:
            request = ReportRequest(
                run,
                subject,
                started.info,
                chosen.name,
                precision,
                device=device,
                batch_size=batch_size,
                pixel_limit=limit,
            )
            write_report(gather(request, evaluation, answers, listener), output / REPORT)
        elif (output / REPORT).exists():
            listener.note(f"{output / REPORT} is of an earlier evaluation; --report writes it anew")
        return evaluation


def predict(
    run: str | Path,
    inputs: Iterable[str | Path],
    *,
    top_k: int = 5,
    min_score: float = 0.0,
    batch_size: int = 32,
    pixel_limit: int = PIXEL_LIMIT,
    device: DeviceChoice = "auto",
    precision: Precision = "float32",
    image_size: str | int | tuple[int, int] | None = None,
    engine: EngineOrRay = "auto",
    shard: str | None = None,
    ray_address: str | None = None,
    ray_workers: int | None = None,
    listener: Listener | None = None,
) -> Iterator[Prediction]:
    """Label images: a record per image, in order; an unreadable one has the reason in `error`.

    Args:
        run: a run directory, or its best.keras.
        inputs: files, folders (recursive) and globs.
        top_k: labels per image.
        min_score: below it a record's label is None.
        batch_size: images per step; does not change the scores.
        pixel_limit: width times height above which an image is not decoded.
        device: where to compute.
        precision: arithmetic.
        image_size: 288, "224x320" or (224, 320), height and width; None is that of the training.
        engine: what runs the model; `auto` is LiteRT where it can, see `choose.choose_engine`; `ray`: workers of Ray,
            of the cluster that the process is connected to, or else of the one at `ray_address`.
        shard: "I/N" for part I, from 0, of N equal parts of the inputs; None is all.
        ray_address: HOST:PORT of a Ray cluster, or auto; None is what RAY_ADDRESS says, else a Ray of its own.
        ray_workers: how many label; None is one per processor, or per GPU.
        listener: who is told what happens, and at the end what is odd about the images.

    Raises:
        WisesrError: the run cannot be used, or there is no input.
    """
    listener, oddities = listener or Silent(), Oddities()
    request = Request(
        run=run,
        inputs=tuple(str(item) for item in inputs),
        top_k=top_k,
        min_score=min_score,
        batch_size=batch_size,
        pixel_limit=pixel_limit,
        device=device,
        precision=precision,
        image_size=None if image_size is None else reader.parse_image_size(image_size),
        engine=engine,
        shard=None if shard is None else parse_shard(shard),
        ray_address=ray_address,
        ray_workers=ray_workers,
    )
    request.check()
    chosen = request.choose_engine(listener)
    found = request.find(oddities)
    paths = not_empty(found) if request.shard is None else found  # a shard may well be empty
    records = open_records(request, chosen, paths, oddities, listener, ready=found.ready)
    return _telling(records, oddities, listener)


def compare(
    source: str | Path,
    settings: Settings | None = None,
    *,
    heads: Sequence[str] = DEFAULT_HEADS,
    seeds: int | Sequence[int] = DEFAULT_SEEDS,
    resume: bool = False,
    device: DeviceChoice = "auto",
    listener: Listener | None = None,
) -> Comparison:
    """Train heads over seeds, all else equal, and return how they compare: mean, spread, paired difference, cost.

    Args:
        source: a YAML config or an image folder.
        settings: values laid over the config, by key; `name` is that of the comparison's folder in `output_dir`.
        heads: each as `wise` or `wise:pooling=valid`; the others are compared to the first one.
        seeds: how many, 3 being 0, 1 and 2; or which ones.
        resume: go on with the comparison of this name; what is trained is not trained again.
        device: where to compute.
        listener: who is told what happens.

    Raises:
        WisesrError: see `comparison.compare`. A loss that is not finite is none: see `missing_seeds` of the rows.
    """
    from wisesr_cli.comparison import compare as comparing

    chosen = seeds_up_to(seeds) if isinstance(seeds, int) else tuple(seeds)
    request = request_of(config_source(source), _overrides(settings), heads=heads, seeds=chosen)
    start = comparing.open_comparison(request, resume=resume)
    return comparing.compare(request, start, device=device, listener=listener or Silent())


def _telling(records: Iterator[Record], oddities: Oddities, listener: Listener) -> Iterator[Record]:
    yield from records
    oddities.tell(listener)


def explain(
    run: str | Path,
    inputs: Iterable[str | Path],
    *,
    classes: Sequence[str] = (),
    batch_size: int = 32,
    pixel_limit: int = PIXEL_LIMIT,
    device: DeviceChoice = "auto",
    listener: Listener | None = None,
) -> Iterator[Explanation]:
    """Explain images: a record per image, in order, of what every position of the feature map adds to the logits.

    The sum of a map and its bias is the logit: exact on the feature map, not on pixels. `overlays.overlay` lays a map
    over a photo. An unreadable image has the reason in `error`.

    Args:
        run: a run directory, or its best.keras.
        inputs: files, folders (recursive) and globs.
        classes: names of classes to explain beside the predicted one and its runner-up.
        batch_size: images per step; does not change what is said.
        pixel_limit: width times height above which an image is not decoded.
        device: where to compute.
        listener: who is told what happens, and at the end what is odd about the images.

    Raises:
        WisesrError: the run cannot be used, its head cannot be explained, a class is none of its, or there is no input.
    """
    from wisesr_cli.explanation.explain import labels_of
    from wisesr_cli.explanation.explainer import explain_paths, start_explainer

    listener, oddities = listener or Silent(), Oddities()
    model = model_path(run)
    labels = labels_of(classes, read_model_info(model).class_names)
    paths = not_empty(find_inputs([str(item) for item in inputs], ignored=oddities.ignored))
    explainer = start_explainer(model, device, listener)
    records = explain_paths(
        explainer, paths, labels=labels, batch_size=batch_size, pixel_limit=pixel_limit, oddities=oddities
    )
    return _telling(records, oddities, listener)


def export(
    run: str | Path,
    to: str | Sequence[str],
    *,
    quantize: Literal["int8", "float16"] | None = None,
    image_size: str | int | tuple[int, int] | None = None,
    data: str | Path | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    device: DeviceChoice = "auto",
    listener: Listener | None = None,
) -> Exports:
    """Write a run's best model in other formats, each loaded again by its own runtime and compared with the run.

    Args:
        run: a run directory, or its best.keras.
        to: keras, onnx, litert, saved_model: several, or one.
        quantize: how numbers are stored for LiteRT; the accuracy that it costs is in the record.
        image_size: 224, "224x320" or (height, width); None is the size that the model was trained at.
        data: compare on this image folder; None is the run's validation split, else test, else train.
        output_dir: the folder; None is `export` beside the model file.
        overwrite: replace earlier exports.
        device: where to compute what the exports are compared with.
        listener: who is told what happens.

    Raises:
        WisesrError: see `exporting.export.export`.
    """
    from wisesr_cli.exporting import export as exporting

    sides = "x".join(map(str, image_size)) if isinstance(image_size, tuple) else image_size
    request = exporting.Request(
        run=run,
        formats=exporting.formats_of([to] if isinstance(to, str) else to),
        quantize=quantize,
        image_size=None if sides is None else parse_image_size(sides),
        data=data,
        output_dir=None if output_dir is None else str(output_dir),
        overwrite=overwrite,
        device=device,
    )
    return exporting.export(request, listener or Silent())


def upgrade(
    model: str | Path,
    settings: Settings | None = None,
    *,
    classes: str | Path | None = None,
    overwrite: bool = False,
    device: DeviceChoice = "auto",
    listener: Listener | None = None,
) -> Upgrade:
    """Make a run of a Keras classifier that ends in global average pooling; its head gives the same outputs.

    Args:
        model: a `.keras` file, or a run whose head is `gap`.
        settings: values of the run's config, by key: `data.dir` (images to compare on and to fine-tune on), `name`,
            `output_dir`, `data.image_size` (where the model takes any), `model.preprocessing` (how pixels are scaled
            before the model), options of the head.
        classes: a file with a class name per line; None takes the image folder's, or makes names up.
        overwrite: replace the run of this name.
        device: where to compute.
        listener: who is told what happens.

    Raises:
        WisesrError: see `upgrading.upgrade.upgrade`.
    """
    from wisesr_cli.upgrading.upgrade import UpgradeRequest
    from wisesr_cli.upgrading.upgrade import upgrade as make_run

    file = None if classes is None else Path(classes)
    request = UpgradeRequest(Path(model), _overrides(settings), file, overwrite, device)
    return make_run(request, listener or Silent())


def summarize(
    source: str | Path | None = None,
    settings: Settings | None = None,
    *,
    backbones: Sequence[str] = (),
    heads: Sequence[str] = (),
    image_sizes: Sequence[str | int] = (),
    classes: int | None = None,
    latency: bool = False,
    device: DeviceChoice = "auto",
    listener: Listener | None = None,
) -> Summary:
    """Return parameters, FLOPs and sizes of backbones with heads, a row each.

    Keras is started only for latency, for a config with a `feature_layer`, and to see whether there is a GPU.

    Args:
        source: a config, an image folder or a run directory; None is MobileNetV2 at 224 pixels.
        settings: values laid over the config, by key.
        backbones: names, or `all`; empty is the config's.
        heads: heads, also as `wise:pooling=valid`, or `all`; empty is all.
        image_sizes: 224 or "224x320" (height x width); empty is the config's.
        classes: number of classes; None counts those of the source, else 10.
        latency: also time one image through each model.
        device: where to compute the latency.
        listener: who is told what happens.

    Raises:
        ConfigError: an unknown name, or nothing that can be built.
    """
    from wisesr_cli.comparison import costs

    config = _load(source, settings).config
    request = costs.request_of(
        config,
        source,
        backbones=backbones,
        heads=heads,
        image_sizes=image_sizes,
        classes=classes,
        latency=latency,
        device=device,
    )
    return costs.summarize(request, listener or Silent())
