"""The commands as typed Python functions, which return or yield records.

Paths are relative to the current folder. A function takes the fields of its request, which are documented in
`requests`. Without a `listener` nothing is shown. Errors are `wisesr_cli.errors.WisesrError`, with the program's exit
code. Nothing is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from wisesr_cli.listening import Listener, Silent, TrainingListener
from wisesr_cli.requests import (
    AddWeightsRequest,
    CompareRequest,
    EmbedRequest,
    EvaluateRequest,
    ExplainRequest,
    ExportRequest,
    FetchWeightsRequest,
    PredictRequest,
    SummarizeRequest,
    UpgradeRequest,
    WeightsRequest,
)
from wisesr_cli.results.evaluation import AnyEvaluation
from wisesr_cli.results.images import CheckResult, Starter
from wisesr_cli.results.models import Exports, Summary, Upgrade
from wisesr_cli.results.streams import Embedding
from wisesr_cli.results.training import Comparison, RemovedRun, RunSummary, TrainingResult

if TYPE_CHECKING:
    from wisesr_cli.config.reader import LoadedConfig
    from wisesr_cli.config.schema import Config
    from wisesr_cli.data.stream import Records
    from wisesr_cli.explanation.explain import Explanations
    from wisesr_cli.explanation.weights_output import LearnedWeights
    from wisesr_cli.machine.keras_start import DeviceChoice
    from wisesr_cli.prediction.predict import Predictions
    from wisesr_cli.pretrained.records import PretrainedWeights
    from wisesr_cli.requests import Settings
    from wisesr_cli.training.train import TrainingOptions

Fields = ParamSpec("Fields")
Request = TypeVar("Request")
Result = TypeVar("Result")


def takes(request: Callable[Fields, Request]) -> Callable[[Callable[[Request], Result]], Callable[Fields, Result]]:
    """Let a function of a request be called with the request's fields, which become its signature."""

    def decorate(work: Callable[[Request], Result]) -> Callable[Fields, Result]:
        @wraps(work)
        def call(*args: Fields.args, **named: Fields.kwargs) -> Result:
            return work(request(*args, **named))

        call.__signature__ = signature(request)  # type: ignore[attr-defined]
        return call

    return decorate


def load_config(
    source: str | Path | None = None, settings: Settings | None = None, *, listener: Listener | None = None
) -> Config:
    """Return the resolved config of a YAML file, an image folder or a run directory; None gives the defaults.

    Args:
        settings: values that override it, by key: `{"train.epochs": 5}`.
        listener: gets notes on unusual settings.

    Raises a `ConfigError` that lists the mistakes in the config, a line each.
    """
    from wisesr_cli.config.reader import overrides_of
    from wisesr_cli.run.located import load_source

    loaded = load_source(source, overrides_of(settings))
    for note in loaded.notes:
        (listener or Silent()).note(note)
    return loaded.config


def _check_keras() -> None:
    """Raise a `MachineError` before any work where Keras is missing, as in the small installation."""
    from wisesr_cli.machine import keras_start

    keras_start.check_installed()


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config, for editors that complete and check YAML."""
    from wisesr_cli.config.schema import Config

    return Config.model_json_schema()


def init(
    folder: str | Path, *, task: Literal["single", "multilabel"] = "single", listener: Listener | None = None
) -> Starter:
    """Return a commented config for an image folder or a manifest, and the choices made.

    The choices depend on its classes, image sizes and balance; `task` sets `model.task`. Raises a `DataError` for any
    other source, and a `ConfigError` for the multilabel task on a folder, as folders give one label per image.
    """
    from wisesr_cli.config.reader import load_config as read_config
    from wisesr_cli.config.reader import overrides_of
    from wisesr_cli.config.recipe import Wanted, choose, describe
    from wisesr_cli.config.starter import write_starter
    from wisesr_cli.data.listing.manifest_formats import is_manifest
    from wisesr_cli.run.located import images_root

    path = Path(folder).absolute()
    places = {"manifest": path, "dir": images_root(path)} if is_manifest(path) else {"dir": path}
    settings = {**{f"data.{name}": str(place) for name, place in places.items()}, "model.task": task}
    facts = describe(read_config(None, overrides_of(settings)).config.data, listener or Silent())
    recipe = choose(facts, Wanted())
    if recipe.warning is not None:
        (listener or Silent()).warn(recipe.warning)
    return Starter(write_starter(facts, recipe), recipe.reasons)


def init_from_sample(name: str, folder: str | Path | None = None, *, written_as: str = "config.yaml") -> Starter:
    """Return a sample config (see `list_samples`) adapted to an image folder, or unchanged if `folder` is None.

    `written_as` is the path of the config for the command in its comments. Raises a `UsageError` for an unknown name,
    and a `DataError` if the folder does not exist.
    """
    from wisesr_cli.config.samples import start_from_sample

    return start_from_sample(name, folder, written_as)


def list_samples() -> dict[str, str]:
    """Return the name of every sample config, with a sentence on what it is for."""
    from wisesr_cli.config.samples import list_samples as list_all

    return list_all()


def write_config(path: str | Path, text: str) -> Path:
    """Write the text of a config, and beside it the JSON Schema for editors; return the path of the schema.

    Raises a `UsageError`, before anything is written, if another file has the name of the schema.
    """
    from wisesr_cli.config import starter

    return starter.write_config(Path(path), text)


def check(
    source: str | Path,
    settings: Settings | None = None,
    *,
    near_duplicates: bool = False,
    sheet: str | Path | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> CheckResult:
    """Check a config and its images, decoding every image, and return the findings; nothing is trained.

    Args:
        source: a YAML config, an image folder or a run directory.
        settings: values that override the config, by key.
        near_duplicates: also look for copies that were re-encoded, resized or mirrored.
        sheet: PNG file to show them in, if there are any.
        overwrite: whether a sheet that exists is replaced.

    Raises a `ConfigError` that lists the mistakes in the config; a `UsageError` for a sheet that exists, or one without
    `near_duplicates`.
    """
    from wisesr_cli.config.reader import overrides_of
    from wisesr_cli.data.copies.near_duplicates import check_sheet
    from wisesr_cli.data.inspection import Copies
    from wisesr_cli.run.located import load_source

    path = None if sheet is None else Path(sheet)
    check_sheet(path, near_duplicates=near_duplicates, overwrite=overwrite)
    loaded = load_source(source, overrides_of(settings))
    from wisesr_cli.training.checks import check_config

    copies = Copies(path) if near_duplicates else None
    return check_config(loaded.config, listener or Silent(), recipe=loaded.recipe, copies=copies)


def train(
    source: str | Path | LoadedConfig,
    settings: Settings | None = None,
    *,
    options: TrainingOptions | None = None,
    listener: TrainingListener | None = None,
) -> TrainingResult:
    """Train a classifier and return the result, including its run directory.

    Args:
        source: a YAML config, an image folder, a manifest, or a run directory to resume or overwrite.
        settings: values that override the config, by key: `{"train.epochs": 5}`.
        options: resume, overwrite, limits, device.

    Raises as `training.train.train` does.
    """
    from wisesr_cli.config.reader import LoadedConfig, overrides_of
    from wisesr_cli.run.located import load_training
    from wisesr_cli.training.train import TrainingOptions
    from wisesr_cli.training.train import train as train_config

    options = options or TrainingOptions()
    if not isinstance(source, LoadedConfig):
        resume, overwrite = options.resume, options.overwrite
        source = load_training(source, overrides_of(settings), resume=resume, overwrite=overwrite)
    return train_config(source, options, listener or Silent())


@takes(EvaluateRequest)
def evaluate(request: EvaluateRequest) -> AnyEvaluation:
    """Evaluate a run on labelled images, and write metrics, tables and plots beside it.

    Raises a `WisesrError` if the run, the split or the images cannot be used.
    """
    if request.report:  # what is missing is reported before anything slow
        _check_keras()
        from wisesr_cli.report.content import write_report
    from wisesr_cli.evaluation.evaluate import evaluate as evaluate_run

    return evaluate_run(request, write_report if request.report else None)


@takes(PredictRequest)
def predict(request: PredictRequest) -> Predictions:
    """Label images: a record per image, in order; an unreadable one has the reason in `error`.

    With `sort` or `only`, the records come in that order after the last image. Raises a `WisesrError` if the run or the
    output cannot be used, or there is no input.
    """
    from wisesr_cli.prediction.predict import predict as label_images

    return label_images(request)


@takes(EmbedRequest)
def embed(request: EmbedRequest) -> Records[Embedding]:
    """Compute the feature vectors of images, the input of the classifier layer: a record per image, in order.

    An unreadable image has the reason in `error`. Raises a `WisesrError` if the run or the output cannot be used, or
    there is no input.
    """
    from wisesr_cli.embedding.embed import embed as embed_images

    return embed_images(request)


@takes(CompareRequest)
def compare(request: CompareRequest) -> Comparison:
    """Train heads over seeds, all else equal, and return how they compare: mean, spread, paired difference, cost.

    Raises as `comparison.compare` does. A non-finite loss raises nothing: see `missing_seeds` of the rows.
    """
    from wisesr_cli.comparison.compare import compare as compare_heads

    _check_keras()
    return compare_heads(request)


@takes(ExplainRequest)
def explain(request: ExplainRequest) -> Explanations:
    """Explain images: a record per image, in order, of every position's contribution to the logits.

    A map and its bias sum to the logit: exact on the feature map, not on pixels. `overlays.overlay` draws a map over a
    photo. An unreadable image has the reason in `error`. Raises a `WisesrError` if the run cannot be used, its head
    cannot be explained, a class is unknown, or there is no input.
    """
    from wisesr_cli.explanation.explain import explain as explain_images

    _check_keras()
    return explain_images(request)


@takes(WeightsRequest)
def position_weights(request: WeightsRequest) -> LearnedWeights:
    """Return the learned position weights of a head: means over channels, and each class's strongest channels.

    Raises a `WisesrError` if the run cannot be used, a class is unknown, or its head has no position weights.
    """
    from wisesr_cli.explanation.explain import explain_weights

    return explain_weights(request)


@takes(ExportRequest)
def export(request: ExportRequest) -> Exports:
    """Write a run's best model in other formats, each reloaded by its own runtime and compared with the run.

    Raises as `exporting.export.export` does.
    """
    from wisesr_cli.exporting.export import export as export_model

    _check_keras()
    return export_model(request)


@takes(UpgradeRequest)
def upgrade(request: UpgradeRequest) -> Upgrade:
    """Make a run of a Keras classifier that ends in global average pooling; its head gives the same outputs.

    Raises as `upgrading.upgrade.upgrade` does.
    """
    from wisesr_cli.upgrading.upgrade import upgrade as make_run

    _check_keras()
    return make_run(request)


@takes(SummarizeRequest)
def summarize(request: SummarizeRequest) -> Summary:
    """Return parameters, FLOPs and sizes of backbones with heads, a row each.

    Keras is started only for latency, for a config with a `feature_layer`, and to see whether there is a GPU. Raises a
    `ConfigError` for an unknown name, or when nothing can be built.
    """
    from wisesr_cli.comparison.costs import summarize as count_costs

    return count_costs(request)


def list_runs(folder: str | Path = "runs") -> tuple[RunSummary, ...]:
    """Return a row per run in a folder, the newest first; damaged runs are marked in `status`.

    Raises a `RunError` if there is no such folder.
    """
    from wisesr_cli.run.listing import summaries

    return summaries(Path(folder))


def remove_runs(
    names: Sequence[str | Path], folder: str | Path = "runs", *, listener: Listener | None = None
) -> tuple[RemovedRun, ...]:
    """Remove what wisesr wrote into runs, without asking; the user's own files stay.

    Args:
        names: names of runs in `folder`, or paths that contain a `/`.

    Removes none and raises a `RunError` if one is not a run, or an `InUseError` if one is being trained.
    """
    from wisesr_cli.run.removal import remove_runs as remove
    from wisesr_cli.run.removal import runs_to_remove

    return remove(runs_to_remove(names, Path(folder), listener), listener)


def list_weights() -> tuple[PretrainedWeights, ...]:
    """Return a row per backbone with ImageNet weights: the release by Keras, and the file on this machine, if any."""
    from wisesr_cli.pretrained.manage import list_weights as list_all

    return list_all()


def weights_paths(backbone: str | None = None) -> tuple[Path, ...]:
    """Return the file of a backbone's ImageNet weights, or (None) the folders that are searched for weights.

    Raises a `RunError` if the backbone's weights are not on this machine.
    """
    from wisesr_cli.pretrained.manage import paths

    return paths(backbone)


@takes(FetchWeightsRequest)
def fetch_weights(request: FetchWeightsRequest) -> tuple[PretrainedWeights, ...]:
    """Download Keras' ImageNet weights of backbones, checked by their checksums, into Keras' cache or a folder.

    Raises as `pretrained.manage.fetch` does.
    """
    from wisesr_cli.pretrained.manage import fetch

    return fetch(request)


@takes(AddWeightsRequest)
def add_weights(request: AddWeightsRequest) -> PretrainedWeights:
    """Add a file to the ImageNet weights of this machine, after checking that it fits the backbone.

    Raises as `pretrained.manage.add` does.
    """
    from wisesr_cli.pretrained.manage import add

    return add(request)


def doctor(
    output_dir: str | Path = "runs", *, device: DeviceChoice = "auto", listener: Listener | None = None
) -> CheckResult:
    """Return findings about this machine: versions, devices, a writable `output_dir`, one real training step."""
    from wisesr_cli.training.diagnosis import diagnose

    return diagnose(str(output_dir), device, listener or Silent())
