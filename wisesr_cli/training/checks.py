"""Checks a config, alone and with its images, for errors and likely training problems. No Keras.

`train` raises what these checks raise before it creates or decodes anything; `check` turns them into rows. To add a
check of settings: a function that raises, and a row in `SETTINGS` or `SETTINGS_WITH_DATA`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from wisesr_cli.config.recipe import PREFERRED, Recipe
from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import TrainConfig, position_warning
from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.data.inspection import FEW_FOR_RANDOM_WEIGHTS, Copies, inspect_data
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.survey import find_layout
from wisesr_cli.errors import ConfigError, DataError, WisesrError
from wisesr_cli.images.preparation import RGB
from wisesr_cli.listening import Listener, Silent
from wisesr_cli.model_files.archive import check_weights_file
from wisesr_cli.model_files.info import check_same_channels, weights_file
from wisesr_cli.models.at_hand import resolve_weights
from wisesr_cli.models.backbones import check_backbone
from wisesr_cli.models.costs_table import BACKBONE_SIZES
from wisesr_cli.models.image_sizes import check_map, naming_size, needs_of
from wisesr_cli.models.released import RELEASES
from wisesr_cli.results.images import CheckResult, Finding
from wisesr_cli.text import counted, joined, visible
from wisesr_cli.training.devices.distribution import Distribution

LONGEST_WARMUP = 20  # times the epochs of a phase


def check_config(
    config: Config, listener: Listener, *, recipe: Recipe | None = None, copies: Copies | None = None
) -> CheckResult:
    """Return all findings: about the settings first, then about the images.

    `recipe` is the recipe of an image folder; `copies` is passed to `inspect_data`.
    """
    model = f"{config.model.backbone} with the head '{config.model.head.name}'"
    config, about_weights = _with_resolved_weights(config)
    if recipe is not None and recipe.warning is not None and not about_weights:
        about_weights.append(Finding("warn", "imagenet-weights", recipe.warning))
    findings = [
        Finding("pass", "config", model),
        *_about_settings(config),
        *about_weights,
        *inspect_data(config.data, seed=config.seed, listener=listener, copies=copies),
        *_about_settings_with_data(config),
    ]
    return CheckResult(tuple(findings))


def _with_resolved_weights(config: Config) -> tuple[Config, list[Finding]]:
    """Return the config with the weights that training would start from now, and any problems with them."""
    try:
        resolved = resolve_weights(config.model, Silent(), may_download=False)
    except WisesrError as error:
        return config, [Finding("fail", "imagenet-weights", str(error))]
    warnings = [Finding("warn", "imagenet-weights", resolved.warning)] if resolved.warning else []
    return config.model_copy(update={"model": resolved.model}), warnings


def check_settings(config: Config) -> None:
    """Check the settings alone.

    Raises:
        ConfigError: settings that exclude each other.
        RunError: a weights file that does not exist, or cannot be loaded.
    """
    for check in SETTINGS.values():
        check(config)


def check_shared(config: Config, distribution: Distribution) -> None:
    """Raise a `ConfigError` for settings that several devices do not support."""
    if not distribution.is_shared:
        return
    reasons = {f"augment.{name}": "each has only its share of the batch to mix" for name in config.augmentation.mixes}
    if config.train.gradient_accumulation_steps > 1:
        reasons["train.gradient_accumulation_steps"] = "untested; a larger train.batch_size is shared among them"
    if config.train.ema is not None and distribution.processes > 1:
        reasons["train.ema"] = "untested with several processes"
    for key, reason in reasons.items():
        raise ConfigError(
            f"{key} is for one device, but {distribution.devices} train together ({reason}); remove it, or set "
            "distribute.strategy=none"
        )


def check_settings_with_data(config: Config, index: DatasetIndex) -> None:
    """Raise a `ConfigError` for a setting that these images do not allow."""
    for check in SETTINGS_WITH_DATA.values():
        check(config, index)


def idle_settings(config: Config, index: DatasetIndex) -> list[str]:
    """Return a sentence for each setting that has no effect when training on these images."""
    return [f"{setting} has no effect: {reason}" for setting, reason in _idle(config, index)]


def about_updates(config: Config, images: int) -> list[str]:
    """Return a sentence for each likely problem with the weight updates for this number of training images."""
    train, found = config.train, []
    steps = [phase.epochs * math.ceil(images / train.batch_size) for phase in config.phases]
    updates = [count // train.gradient_accumulation_steps for count in steps]
    for number, left in enumerate(count % train.gradient_accumulation_steps for count in steps):
        if left:
            place = f" of phase {number + 1}" if len(steps) > 1 else ""
            found.append(
                f"train.gradient_accumulation_steps is {train.gradient_accumulation_steps}: the last "
                f"{'step' if left == 1 else counted(left, 'step')}{place} "
                f"{'makes' if left == 1 else 'make'} no update of the weights"
            )
    if train.ema_momentum is not None and updates[-1] < (span := 1 / (1 - train.ema_momentum)):
        found.append(
            f"train.ema averages over about the last {span:.0f} updates, but the last phase has {updates[-1]}: the "
            "saved weights are close to those at its start; a smaller momentum averages over fewer"
        )
    return found


def _idle(config: Config, index: DatasetIndex) -> Iterator[tuple[str, str]]:
    data, train = config.data, config.train
    draws_validation_alone = len(index.folders) < 2 and data.fold is None
    if "validation" in index.folders:
        why = "the validation images have their own folder"
        if data.manifest is not None:
            why = "the manifest names the validation images"
        if data.split_strategy == "hash" and data.fold is None:
            yield "data.split_strategy: hash", why
        if data.validation_split != DataConfig().validation_split:
            yield f"data.validation_split: {data.validation_split:g}", why
    elif data.validation_split == 0 and data.split_strategy != "stratified" and draws_validation_alone:
        yield f"data.split_strategy: {data.split_strategy}", "data.validation_split is 0"
    elif data.split_strategy != "group" and index.splits["train"].groups is not None and draws_validation_alone:
        yield "the group column", f"data.split_strategy is {data.split_strategy}, not group"
    if not any(phase.freeze == "backbone" for phase in config.phases):
        why = "no phase freezes the backbone"
        if train.augmented_views != TrainConfig().augmented_views:
            yield f"train.augmented_views: {train.augmented_views}", why
        if train.feature_cache != TrainConfig().feature_cache:
            yield f"train.feature_cache: {train.feature_cache}", why
    if config.model.weights_dir is not None and config.model.is_random:
        yield f"model.weights_dir: {visible(config.model.weights_dir)}", "the backbone starts from random weights"


def _about_settings(config: Config) -> Iterator[Finding]:
    for code, check in SETTINGS.items():
        try:
            check(config)
        except WisesrError as error:
            yield Finding("fail", code, str(error))
    if warning := position_warning(config.augmentation, config.model.head):
        yield Finding("warn", "augmentation", warning)
    frozen = sum(phase.epochs for phase in config.phases if phase.freeze == "backbone")
    if frozen and config.model.weights is None:
        message = f"{counted(frozen, 'epoch')} train a head on a frozen backbone with random weights"
        yield Finding("warn", "frozen-random-backbone", message)


def _about_settings_with_data(config: Config) -> Iterator[Finding]:
    try:
        index = build_index(config.data.model_copy(update={"on_error": "skip"}), seed=config.seed, listener=Silent())
    except DataError:
        return  # already reported by a row about the images
    for code, check in SETTINGS_WITH_DATA.items():
        try:
            check(config, index)
        except WisesrError as error:
            yield Finding("fail", code, str(error))
    for sentence in idle_settings(config, index):
        yield Finding("warn", "idle-setting", sentence)
    images = len(index.splits["train"])
    for sentence in about_updates(config, images):
        yield Finding("warn", "updates", sentence)
    if config.model.is_random and images < FEW_FOR_RANDOM_WEIGHTS:
        name = config.model.backbone
        other = f"--backbone {PREFERRED[0]} " if name not in RELEASES else ""
        message = (
            f"{counted(images, 'training image')} are few for {name} from random weights, which often need "
            f"{FEW_FOR_RANDOM_WEIGHTS:,}; on photos, ImageNet weights need a few hundred: {other}--weights imagenet"
        )
        yield Finding("warn", "random-weights", message, images)


def _backbone(config: Config) -> None:
    check_backbone(config.model.backbone, config.data.image_size, config.model.weights)


def _phase_sizes(config: Config) -> None:
    """Check the image sizes of phases; Keras later checks those of a truncated backbone or one from a file."""
    model, full_size = config.model, config.data.image_size
    sizes = BACKBONE_SIZES.get(model.backbone) if model.feature_layer is None else None
    for number, phase in enumerate(config.phases):
        if phase.image_size is None or phase.image_size == full_size:
            continue
        with naming_size(f"train.phases.{number}.image_size", phase.image_size):
            check_backbone(model.backbone, phase.image_size, model.weights)
            if sizes is not None:
                needs = needs_of(model.head, sizes.feature_map(full_size))
                check_map(needs, model.backbone, full_size, phase.image_size)


def _weights(config: Config) -> None:
    model = config.model
    if not model.is_random and model.weights != "imagenet":
        path = weights_file(str(model.weights))
        checked = check_weights_file(path)
        if checked is not None and checked.record is not None:
            check_same_channels(checked.info, config.data.channels, path)


def _output_dir(config: Config) -> None:
    """Check that runs are not written among class folders, where they would be read as a class."""
    try:
        folders = find_layout(config.data).folders.values()
    except DataError:
        return  # reported with the images
    output = config.output_dir.expanduser().resolve()
    inside = [folder for folder in folders if output.is_relative_to(Path(folder).resolve())]
    if inside:
        raise ConfigError(
            f"output_dir {visible(config.output_dir)} is among the class folders of {visible(inside[0])}, where runs "
            "would be mistaken for a class; give another with --output-dir"
        )


def _class_weights(config: Config, index: DatasetIndex) -> None:
    weights = config.train.class_weights
    unknown = sorted(weights.keys() - set(index.class_names)) if isinstance(weights, dict) else []
    if unknown:
        raise ConfigError(
            f"train.class_weights has '{visible(unknown[0])}', which is not a class; "
            f"classes: {joined(index.class_names)}"
        )


def _accumulation(config: Config, index: DatasetIndex) -> None:
    """Raise a `ConfigError` if a phase ends before its first weight update."""
    steps, size = config.train.gradient_accumulation_steps, config.train.batch_size
    for number, phase in enumerate(config.phases, start=1):
        of_phase = phase.epochs * math.ceil(len(index.splits["train"]) / size)
        if of_phase < steps:
            raise ConfigError(
                f"train.gradient_accumulation_steps is {steps}, but phase {number} has {counted(of_phase, 'step')}: "
                "the weights would never be updated; use fewer, or a smaller train.batch_size"
            )


def _monitors(config: Config, index: DatasetIndex) -> None:
    """Raise a `ConfigError` if a setting monitors a validation metric but there is no validation split."""
    schedules = {f"train.phases.{number}.schedule": phase.schedule for number, phase in enumerate(config.phases)}
    watching = {
        "train.early_stopping": config.train.early_stopping,
        "train.schedule": config.train.schedule,
        **schedules,
    }
    for key, options in watching.items():
        monitor = getattr(options, "monitor", "")
        if monitor.startswith("val_") and "validation" not in index.splits:
            raise ConfigError(
                f"{key}.monitor is {monitor}, but there is no validation split; allowed here: loss, top1_accuracy"
            )


def _rand_augment(config: Config) -> None:
    """Raise a `ConfigError` for RandAugment, which changes colours, on images that are not RGB."""
    if config.augmentation.rand_augment and config.data.channels != RGB:
        raise ConfigError(
            f"augment.rand_augment changes colours and needs RGB, but data.channels is {config.data.channels}; use the "
            "other operations, rotation, zoom, shift, brightness and contrast"
        )


def _warmup(config: Config) -> None:
    """Raise a `ConfigError` if the warmup is so long that the learning rate stays near zero."""
    for number, phase in enumerate(config.phases):
        schedule = phase.schedule or config.train.schedule
        if schedule.warmup_epochs > LONGEST_WARMUP * phase.epochs:
            key = "train.schedule" if phase.schedule is None else f"train.phases.{number}.schedule"
            raise ConfigError(
                f"{key}.warmup_epochs is {schedule.warmup_epochs:g} in a phase of {counted(phase.epochs, 'epoch')}: "
                f"the learning rate would stay below {1 / LONGEST_WARMUP:.0%} of the one that is set"
            )


SETTINGS: dict[str, Callable[[Config], None]] = {
    "rand-augment": _rand_augment,
    "warmup": _warmup,
    "backbone": _backbone,
    "phase-sizes": _phase_sizes,
    "weights": _weights,
    "output-dir": _output_dir,
}
SETTINGS_WITH_DATA: dict[str, Callable[[Config, DatasetIndex], None]] = {
    "class-weights": _class_weights,
    "monitors": _monitors,
    "accumulation": _accumulation,
}
