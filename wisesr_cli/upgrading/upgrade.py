"""Converts a Keras classifier into a run: its backbone, and a head with the same outputs that can learn positions.

Invalid names, settings and images are reported before Keras starts. The run appears complete or not at all: it is
created in a temporary folder next to its own, and compared with the model before it is moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wisesr_cli.config.reader import LoadedConfig, Override, default_name, load_config, overrides_of
from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import FreezePart, PhaseConfig
from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.data.pixels import DecodedImages, open_pixels
from wisesr_cli.data.settings import LABEL_SEPARATOR
from wisesr_cli.errors import ConfigError, RunError, UsageError
from wisesr_cli.exporting.agreement import sample
from wisesr_cli.images.preparation import MOST_CHANNELS, RGB, Preparation
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.files import TEMPORARY_PREFIX, naming
from wisesr_cli.machine.stopping import StopRequest, stop_on_signals
from wisesr_cli.model_files.architecture import objects_in
from wisesr_cli.model_files.archive import CheckedModel, check_model
from wisesr_cli.model_files.info import BEST, ModelInfo
from wisesr_cli.model_files.older import OLDER_SUFFIXES, check_older_model, is_older
from wisesr_cli.models.backbones import FROM_WEIGHTS
from wisesr_cli.models.heads import PooledOptions
from wisesr_cli.requests import UpgradeRequest
from wisesr_cli.results.models import Upgrade
from wisesr_cli.run.folders import choose_run, held_start, prepare_folder, temporary_run
from wisesr_cli.run.listing import resolved
from wisesr_cli.run.names import CLASSES
from wisesr_cli.run.run import Run
from wisesr_cli.text import joined, typed, visible
from wisesr_cli.upgrading.class_names import Named, choose_class_names, choose_names
from wisesr_cli.upgrading.made_images import MadeImages

if TYPE_CHECKING:
    from wisesr_cli.upgrading.convert import Upgraded

HEAD_NAMES = ("wise", "depthwise", "gap")  # heads that can equal global average pooling
LEARNING_RATE = 1e-4  # for already trained weights
COMPARED = 32  # images
PREFIX = f"{TEMPORARY_PREFIX}upgrade-"
_DECIDED: dict[tuple[str, ...], str] = {
    ("model", "backbone"): "the backbone is that of the model",
    ("model", "weights"): "the weights are those of the model",
    ("model", "feature_layer"): "the backbone ends where the model pools",
    ("model", "load_head"): "the head is that of the model",
}


def upgrade(request: UpgradeRequest) -> Upgrade:
    """Make the run; return what was found and how exact the run is.

    Raises:
        UsageError: a setting that does not apply, an unknown scaling, or a name already in use.
        DataError: the classes or images do not match the model.
        RunError: the model is rejected or cannot be converted, or the run gives different outputs.
        MachineError: a requested GPU is missing, the disk is full, or a permission is missing.
        Interrupted: a signal asked to stop; nothing is left behind.
    """
    listener, settings = request.listener, overrides_of(request.settings)
    model = resolved(request.model, listener.note)
    path = model / BEST if (model / BEST).is_file() else model
    checked = check_model_file(path)
    info = None if checked.record is None else checked.info
    loaded = _load_settings(settings, path, checked)
    named = choose_names(None if request.classes is None else Path(request.classes), info)
    image_size_given = any(override.path == ("data", "image_size") for override in settings)
    in_place = {"resume": False, "overwrite": request.overwrite}
    with (
        held_start(lambda: choose_run(loaded.config, loaded.default_name, **in_place)) as start,
        stop_on_signals(StopRequest("nothing was made")) as stop,
        temporary_run(start.run.path.parent, PREFIX) as aside,
        ExitStack() as stack,
    ):
        data = loaded.config.data
        index = build_index(data, seed=loaded.config.seed, listener=listener) if data.source is not None else None
        with stop.deferred():
            device = keras_start.start(request.device)
            from wisesr_cli.upgrading import convert
        listener.note(f"device: {device}")
        found = convert.convert(checked, loaded.config, image_size_given, listener)
        if found.channels != loaded.config.data.channels:
            raise UsageError(f"data.channels is {loaded.config.data.channels}, but the model takes {found.channels}")
        loaded = replace(loaded, config=_with_task(loaded.config, found, path))
        names = choose_class_names(found.classes, named, index, of_one_unit=found.parts.folded.is_one_unit)
        found = found.with_classes(names, index)
        frozen = convert.frozen_part(found.parts) if found.parts.frozen else None
        config = _config_of(loaded.config, found, start.run, frozen)
        images, compared_on = _open_images(config, index, listener)
        if isinstance(images, DecodedImages):
            stack.callback(images.close)
        convert.write_model(found, config, aside.upgraded)
        result = convert.compare(found, aside.upgraded, images, compared_on, listener)
        convert.write_rest(aside, config, index, device, images, listener)
        with stop.deferred():
            prepare_folder(start.run, overwrite=start.overwrites, listener=listener)
            with naming(start.run.path):  # the class file, which marks it as a run, comes last
                for path in sorted(aside.path.iterdir(), key=lambda path: (path.name == CLASSES, path.name)):
                    if path != aside.lock:
                        path.replace(start.run.path / path.name)
        return replace(result, run_dir=str(start.run.path), notes=_notes(named, index, found, info))


def _load_settings(settings: Sequence[Override], path: Path, checked: CheckedModel) -> LoadedConfig:
    """Return the config of the run, as far as it is known before the model is loaded."""
    info = None if checked.record is None else checked.info
    for override in settings:
        if reason := _DECIDED.get(tuple(map(str, override.path))):
            raise UsageError(f"{visible(override.origin)}: {reason}; leave it out")
    defaults = [Override(("train", "optimizer", "learning_rate"), LEARNING_RATE, "upgrade")]
    if info is not None:  # wisesr models scale pixels themselves
        defaults.append(Override(("model", "preprocessing"), "none", "upgrade"))
    seen = (info.preparation if info is not None else Preparation(channels=channels_in(checked.config))).to_json()
    seen["value_range"] = seen["value_range"] or "full"
    defaults += [Override(("data", key), value, "upgrade") for key, value in seen.items()]
    loaded = load_config(None, [*defaults, *settings])
    _check_head(loaded.config)
    name = default_name(path, loaded.config)
    if path.name == BEST:  # named after its run, whose name ends in its head
        name = f"{path.absolute().parent.name.removesuffix('-gap')}-{loaded.config.model.head.name}"
    return replace(loaded, default_name=name)


def channels_in(config: Mapping[str, Any]) -> int:
    """Return the channels that a model takes, from the input shape of its first layer; by default those of RGB."""
    shapes = (part.get("batch_shape") for part in objects_in(config))
    shape = next((shape for shape in shapes if isinstance(shape, list) and len(shape) == 4), [RGB])
    is_known = isinstance(shape[-1], int) and 1 <= shape[-1] <= MOST_CHANNELS
    return shape[-1] if is_known else RGB


def _check_head(config: Config) -> None:
    """Raise a `ConfigError` for a head that cannot equal global average pooling."""
    head = config.model.head
    if head.name not in HEAD_NAMES:
        raise ConfigError(
            f"model.head.name is {head.name}, which gives other outputs than global average pooling; allowed here: "
            f"{joined(HEAD_NAMES)}"
        )
    if head.hidden:
        raise ConfigError("model.head.hidden: the hidden layers are those of the model; leave it out")
    if getattr(head, "initializer", "uniform") == "paper":
        raise ConfigError(
            "model.head.initializer is paper; only uniform and even start equal to global average pooling"
        )
    if isinstance(head, PooledOptions) and head.pooling == "valid":
        raise ConfigError("model.head.pooling is valid, which drops positions; only tile averages all of the map")


def check_model_file(path: Path) -> CheckedModel:
    """Check the file of a Keras or wisesr model.

    Raises `RunError` unless it is a model saved by Keras, made of safe classes, without a wisesr head.
    """
    if path.is_dir():
        raise RunError(f"{visible(path)}: is a folder; give a model that Keras saved as .keras or .h5")
    if not path.is_file():
        raise RunError(f"{visible(path)}: no such file; give a model that Keras saved as .keras or .h5")
    if path.suffix not in (".keras", *OLDER_SUFFIXES):
        raise RunError(f"{visible(path)}: is not a .keras or .h5 file")
    if is_older(path):
        return _check_older(path)
    checked = check_model(path)
    if checked.record is not None and (head := checked.info.head) != "gap":
        raise RunError(
            f"{visible(path)}: is already a model of wisesr, with the head '{visible(head)}'; to train its backbone "
            f"with another head: wisesr train FOLDER -s model.backbone={FROM_WEIGHTS} "
            f"-s {typed(f'model.weights={path}')}"
        )
    return checked


def _check_older(path: Path) -> CheckedModel:
    try:
        return check_older_model(path)
    except RunError as error:
        raise RunError(
            f"{error}. Its weights can be used without its layers: wisesr train FOLDER "
            f"--backbone NAME --weights {typed(path)}"
        ) from None


def _open_images(
    config: Config, index: DatasetIndex | None, listener: Listener
) -> tuple[DecodedImages | MadeImages, str]:
    """Return photos spread over a split of the run, or made images if it has none, and their name for messages."""
    if index is None:
        return MadeImages(COMPARED, config.data.image_size, config.data.channels), "made images"
    split = next(name for name in ("validation", "test", "train") if name in index.splits)
    pixels = open_pixels(
        sample(index.absolute(split), COMPARED),
        image_size=config.data.image_size,
        preparation=config.data.preparation,
        cache="none",
        on_error=config.data.on_error,
        pixel_limit=config.data.pixel_limit,
        listener=listener,
    )
    return pixels, f"{split} images"


def _config_of(config: Config, found: Upgraded, run: Run, frozen: FreezePart | Literal["backbone"] | None) -> Config:
    """Return the config with the model's settings; training with it starts from the upgraded model.

    `frozen`: the part of the backbone that the model does not train, or None.
    """
    folded, head = found.parts.folded, config.model.head
    head = head.model_copy(update={"hidden": tuple(hidden.options for hidden in folded.hidden)})
    if "dropout" not in config.model.head.model_fields_set:
        head = head.model_copy(update={"dropout": folded.dropout})
    model = config.model.model_copy(
        update={
            "backbone": FROM_WEIGHTS,
            "weights": str(run.upgraded.absolute()),
            "load_head": True,
            "preprocessing": found.scaling,
            "head": head,
        }
    )
    data = config.data.model_copy(update={"image_size": found.image_size})
    train = config.train
    if train.phases is None and frozen is not None:
        train = train.model_copy(update={"phases": [PhaseConfig(epochs=train.epochs, freeze=frozen)]})
    return config.model_copy(update={"model": model, "data": data, "train": train})


def _with_task(config: Config, found: Upgraded, path: Path) -> Config:
    """Return the config with the task of a model; raises a `UsageError` if images are labelled for the other task."""
    task: Literal["single", "multilabel"] = "single" if found.thresholds is None else "multilabel"
    if config.model.task == task:
        return config
    if task == "single":
        raise UsageError(f"model.task is multilabel, but {visible(path)} gives an image one label; leave it out")
    if config.data.source is not None:
        raise UsageError(
            f"{visible(path)}: its {found.classes} outputs are independent probabilities (sigmoid), so an image may "
            "have several labels: give --set model.task=multilabel, and as --data a table of labels such as cat|dog"
        )
    data = config.data.model_copy(update={"label_separator": LABEL_SEPARATOR})
    return config.model_copy(update={"model": config.model.model_copy(update={"task": task}), "data": data})


def _notes(named: Named | None, index: DatasetIndex | None, found: Upgraded, info: ModelInfo | None) -> tuple[str, ...]:
    notes = list(found.notes)
    if named is None and index is None:
        notes.append(
            f"the model does not name its classes: they are called class_0 to class_{found.classes - 1}; give the "
            "names with --classes FILE, a line per class"
        )
    elif named is None:
        notes.append("the classes are the folders in alphabetical order, as Keras reads them")
    if index is not None and info is None:
        notes.append(
            "photos are shrunk with antialiasing here, but not by Keras' image_dataset_from_directory: accuracies on "
            "them may differ from those measured there"
        )
    return tuple(notes)
