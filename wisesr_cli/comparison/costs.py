"""Compares what backbones and heads cost: parameters, FLOPs, megabytes and, if requested, milliseconds.

A backbone's numbers are computed from `costs_table`. Keras is started only for what no table can know: a backbone that
is cut at a layer, and times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from wisesr_cli.config.reader import overrides_of, parse_head, parse_image_size
from wisesr_cli.config.schema import Config
from wisesr_cli.errors import ConfigError
from wisesr_cli.images.preparation import RGB, Channels
from wisesr_cli.listening import Progress
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.keras_start import DeviceChoice
from wisesr_cli.models.at_hand import find_weights
from wisesr_cli.models.backbones import BACKBONES, FROM_WEIGHTS, canonical_name, check_backbone
from wisesr_cli.models.costs_table import BACKBONE_SIZES
from wisesr_cli.models.heads import HEADS, FeatureMap, HeadOptions, effective_options, head_flops, head_parameters
from wisesr_cli.models.released import RELEASES
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.requests import SummarizeRequest
from wisesr_cli.results.models import Summary, SummaryRow
from wisesr_cli.run.located import load_source
from wisesr_cli.run.run import Run
from wisesr_cli.text import counted

DEFAULT_CLASSES = 10
BYTES_PER_PARAMETER = 4  # float32
LATENCY_RUNS = 20


@dataclass(frozen=True)
class CostPlan:
    """Which models to compare: every backbone with every head at every image size."""

    models: tuple[ModelConfig, ...]  # one per backbone
    heads: dict[str, HeadOptions]  # name in the table -> options
    image_sizes: tuple[tuple[int, int], ...]
    classes: int
    latency: bool = False
    device: DeviceChoice = "auto"
    channels: int = RGB

    @property
    def reason_for_keras(self) -> str | None:
        """Why the table is not enough; None if it is."""
        names = list(dict.fromkeys(model.backbone for model in self.models))
        if self.latency:
            built = names[0] if len(names) == 1 else f"{len(names)} backbones"
            return f"building {built} in Keras, as --latency was given"
        for model in self.models:
            if model.backbone == FROM_WEIGHTS:
                return f"reading the backbone of {model.weights} in Keras"
            if model.feature_layer is not None:
                return f"building {model.backbone} in Keras, as model.feature_layer is given"
        if self.channels != RGB:
            return f"building {counted(len(names), 'backbone')} in Keras, as data.channels is {self.channels}"
        return "starting Keras, as --device gpu was given" if self.device == "gpu" else None


@dataclass(frozen=True)
class _BackboneCost:
    """The costs of a backbone at one image size."""

    feature_map: FeatureMap
    parameters: int
    trainable_parameters: int
    flops: int


def summarize(request: SummarizeRequest) -> Summary:
    """Return a row for every backbone, image size and head that can be built, and a note for every other.

    Raises:
        ConfigError: a mistake in the config, an unknown name, or nothing at all could be built.
        MachineError: Keras is needed and does not start, or not on the requested device.
    """
    plan = plan_of(request)
    reason = plan.reason_for_keras
    if reason is None:
        return _summarize(plan, None)
    request.listener.note(reason)
    keras_start.start(plan.device)
    with request.listener.progress("building", len(plan.models) * len(plan.image_sizes)) as progress:
        return _summarize(plan, progress)


def _summarize(plan: CostPlan, progress: Progress | None) -> Summary:
    rows: list[SummaryRow] = []
    notes: list[str] = []
    for model in plan.models:
        for image_size in plan.image_sizes:
            rows.extend(_rows(plan, model, image_size, notes))
            if progress is not None:
                progress.advance()
    if not rows:
        raise ConfigError("; ".join(notes))
    return Summary(tuple(rows), tuple(dict.fromkeys(notes)))


def _rows(plan: CostPlan, model: ModelConfig, image_size: tuple[int, int], notes: list[str]) -> Iterator[SummaryRow]:
    try:
        backbone = _backbone_cost(model, image_size, plan.channels)
    except ConfigError as error:
        notes.append(f"skipped: {error}")
        return
    weights = _imagenet_weights(model)
    for name, head in plan.heads.items():
        try:
            in_head = head_parameters(backbone.feature_map, plan.classes, head)
            flops_of_head = head_flops(backbone.feature_map, plan.classes, head)
        except ConfigError as error:
            notes.append(f"skipped: {model.backbone} at {image_size[0]}x{image_size[1]} with {name}: {error}")
            continue
        if effective_options(backbone.feature_map, head).name != head.name:
            notes.append(
                f"{model.backbone} at {image_size[0]}x{image_size[1]}: only one position, so {name} equals GAP"
            )
        yield SummaryRow(
            backbone=model.backbone,
            image_height=image_size[0],
            image_width=image_size[1],
            classes=plan.classes,
            head=name,
            feature_map=backbone.feature_map,
            backbone_parameters=backbone.parameters,
            head_parameters=in_head,
            total_parameters=backbone.parameters + in_head,
            trainable_parameters=backbone.trainable_parameters + in_head,
            head_flops=flops_of_head,
            total_flops=backbone.flops + flops_of_head,
            size_mb=BYTES_PER_PARAMETER * (backbone.parameters + in_head) / 1e6,
            imagenet_weights=weights,
            latency_ms=_latency_ms(model, head, image_size, plan) if plan.latency else None,
        )


def _imagenet_weights(model: ModelConfig) -> Literal["here", "download"] | None:
    if model.backbone not in RELEASES:
        return None
    return "download" if find_weights(model.backbone, model.weights_dir) is None else "here"


def _backbone_cost(model: ModelConfig, image_size: tuple[int, int], channels: int) -> _BackboneCost:
    """Return the costs of a backbone from the table, or from Keras if it is cut at a layer or its input is not RGB."""
    if model.feature_layer is not None or model.backbone == FROM_WEIGHTS or channels != RGB:
        return _cost_in_keras(model, image_size, Channels(channels))
    check_backbone(model.backbone, image_size, None)
    sizes = BACKBONE_SIZES[model.backbone]
    return _BackboneCost(
        sizes.feature_map(image_size), sizes.parameters, sizes.trainable_parameters, sizes.flops(image_size)
    )


def _cost_in_keras(model: ModelConfig, image_size: tuple[int, int], channels: Channels) -> _BackboneCost:
    from wisesr_cli.models.build import feature_map_of
    from wisesr_cli.models.flops import count_flops

    feature_map, backbone = feature_map_of(model, image_size, channels)
    trainable = sum(prod(weight.shape) for weight in backbone.trainable_weights)
    return _BackboneCost(feature_map, int(backbone.count_params()), trainable, count_flops(backbone))


def _latency_ms(model: ModelConfig, head: HeadOptions, image_size: tuple[int, int], plan: CostPlan) -> float:
    """Return the median time that a real model takes for one image, in milliseconds."""
    import numpy as np

    from wisesr_cli.engines.keras import numpy_logits
    from wisesr_cli.models.build import build_classifier

    random = model.without_weights().model_copy(update={"head": head})
    channels = Channels(plan.channels)
    classifier = build_classifier(random, image_size=image_size, classes=plan.classes, channels=channels)
    pixels = np.zeros((1, *image_size, plan.channels), np.uint8)
    numpy_logits(classifier.model, pixels)
    times = []
    for _ in range(LATENCY_RUNS):
        started = time.perf_counter()
        numpy_logits(classifier.model, pixels)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def plan_of(request: SummarizeRequest) -> CostPlan:
    """Return what to compare: what the request names, else what the config has; of heads, all by default.

    Raises `ConfigError` for a mistake in the config, an unknown name, or an invalid size.
    """
    config = load_source(request.source, overrides_of(request.settings)).config
    chosen = request.heads if _given(request.heads) else HEADS
    return CostPlan(
        models=choose_models(config.model, _backbone_names(request.backbones, config)),
        heads={name: parse_head(name, base=config.model.head) for name in chosen},
        image_sizes=tuple(map(parse_image_size, request.image_sizes)) or (config.data.image_size,),
        classes=request.classes or _count_classes(request.source, config),
        latency=request.latency,
        device=request.device,
        channels=config.data.channels,
    )


def choose_models(base: ModelConfig, backbones: Sequence[str]) -> tuple[ModelConfig, ...]:
    """Return the base config with each of the backbones; only its own backbone keeps its feature layer."""
    return tuple(
        base.model_copy(
            update={"backbone": name, "feature_layer": base.feature_layer if name == base.backbone else None}
        )
        for name in backbones
    )


def _given(names: Sequence[str]) -> bool:
    return bool(names) and not any(name.lower() == "all" for name in names)


def _backbone_names(names: Sequence[str], config: Config) -> list[str]:
    if not names:
        return [config.model.backbone]
    try:
        return [canonical_name(name) for name in names] if _given(names) else list(BACKBONES)
    except ValueError as error:
        raise ConfigError(f"--backbone: {error}") from None


def _count_classes(source: str | Path | None, config: Config) -> int:
    """Return the number of classes of a run, of class folders or of a manifest, or 10 if no images are given."""
    if source is not None and Run(Path(source)).is_complete:
        return len(Run(Path(source)).read_classes())
    if config.data.source is None:
        return DEFAULT_CLASSES
    from wisesr_cli.data.dataset import count_classes  # brings NumPy and Pillow

    return count_classes(config.data)
