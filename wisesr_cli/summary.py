"""Compares what backbones and heads cost: parameters, FLOPs, megabytes and, when asked, milliseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wisesr_cli.config import ModelConfig
from wisesr_cli.engines import numpy_logits
from wisesr_cli.errors import ConfigError
from wisesr_cli.flops import count_flops
from wisesr_cli.heads import HeadOptions, effective_options, head_flops, head_parameters
from wisesr_cli.model import build_classifier, feature_map_of
from wisesr_cli.results import Listener, Summary, SummaryRow

BYTES_PER_PARAMETER = 4  # float32
LATENCY_RUNS = 20


@dataclass(frozen=True)
class SummaryRequest:
    """Which models to compare: every backbone with every head at every image size."""

    models: tuple[ModelConfig, ...]  # one per backbone
    heads: dict[str, HeadOptions]  # name in the table -> options
    image_sizes: tuple[tuple[int, int], ...]
    classes: int
    latency: bool = False


def summarize(request: SummaryRequest, listener: Listener) -> Summary:
    """Return a row for every backbone, image size and head; what cannot be built is left out with a note.

    Raises:
        ConfigError: nothing at all could be built.
    """
    rows: list[SummaryRow] = []
    notes: list[str] = []
    total = len(request.models) * len(request.image_sizes)
    with listener.progress("building", total) as progress:
        for model in request.models:
            for image_size in request.image_sizes:
                rows.extend(_rows(request, model, image_size, notes))
                progress.advance()
    if not rows:
        raise ConfigError("; ".join(notes))
    return Summary(tuple(rows), tuple(dict.fromkeys(notes)))


def _rows(
    request: SummaryRequest, model: ModelConfig, image_size: tuple[int, int], notes: list[str]
) -> Iterator[SummaryRow]:
    try:
        feature_map, backbone = feature_map_of(model, image_size)
    except ConfigError as error:
        notes.append(f"left out: {error}")
        return
    parameters = int(backbone.count_params())
    trainable = int(sum(np.prod(weight.shape, dtype="int64") for weight in backbone.trainable_weights))
    flops = count_flops(backbone)
    for name, head in request.heads.items():
        try:
            in_head = head_parameters(feature_map, request.classes, head)
            flops_of_head = head_flops(feature_map, request.classes, head)
        except ConfigError as error:
            notes.append(f"left out: {model.backbone} at {image_size[0]}x{image_size[1]} with {name}: {error}")
            continue
        if effective_options(feature_map, head).name != head.name:
            notes.append(f"{model.backbone} at {image_size[0]}x{image_size[1]}: one position only, so {name} is GAP")
        yield SummaryRow(
            backbone=model.backbone,
            image_height=image_size[0],
            image_width=image_size[1],
            classes=request.classes,
            head=name,
            feature_map=feature_map,
            backbone_parameters=parameters,
            head_parameters=in_head,
            total_parameters=parameters + in_head,
            trainable_parameters=trainable + in_head,
            head_flops=flops_of_head,
            total_flops=flops + flops_of_head,
            size_mb=BYTES_PER_PARAMETER * (parameters + in_head) / 1e6,
            latency_ms=_latency_ms(model, head, image_size, request.classes) if request.latency else None,
        )


def _latency_ms(model: ModelConfig, head: HeadOptions, image_size: tuple[int, int], classes: int) -> float:
    """Return the median time of one image through a real model, in milliseconds."""
    random = model.model_copy(update={"head": head, "weights": None})
    classifier = build_classifier(random, image_size=image_size, classes=classes)
    pixels = np.zeros((1, *image_size, 3), np.uint8)
    numpy_logits(classifier.model, pixels)
    times = []
    for _ in range(LATENCY_RUNS):
        started = time.perf_counter()
        numpy_logits(classifier.model, pixels)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def choose_models(base: ModelConfig, backbones: Sequence[str]) -> tuple[ModelConfig, ...]:
    """Return the base with each of the backbones; a feature layer stays with its own backbone only."""
    return tuple(
        base.model_copy(
            update={"backbone": name, "feature_layer": base.feature_layer if name == base.backbone else None}
        )
        for name in backbones
    )
