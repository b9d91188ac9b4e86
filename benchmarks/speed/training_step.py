"""What does a training step cost with the Wise head, against the same model with global average pooling?

    python -m benchmarks.speed.training_step

The whole step of `wisesr train` except augmentation: forward, backward, AdamW, on batches in memory. Both models run in
one process and take their steps alternately.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from benchmarks.measuring import Answer, Question, Settings, alternate, main

MODELS = (("MobileNetV2", 224), ("ResNet50", 96))
QUICK_MODELS = (("MobileNetV2", 96),)
CLASSES = 10
REACH, AIM = 1.02, 1.01


def measure(settings: Settings) -> Iterator[Answer]:
    """Yield an answer for every model."""
    steps, batch = (4, 8) if settings.quick else (12, 32)
    for backbone, side in QUICK_MODELS if settings.quick else MODELS:
        question = Question(
            f"training step with the Wise head, {backbone} at {side} px, batch {batch}",
            "gap head",
            "milliseconds",
            None if settings.quick else REACH,
            None if settings.quick else AIM,
        )
        sides = (
            partial(milliseconds, build_step(backbone, side, head, batch), repetitions=steps)
            for head in ("wise", "gap")
        )
        yield Answer(question, *alternate(*sides, repetitions=settings.repetitions), note=f"median of {steps} steps")


def build_step(backbone: str, side: int, head: str, batch: int) -> Callable[[], object]:
    """Return a training step on random images, already traced and run twice."""
    import keras

    from wisesr_cli.config.schema import Config
    from wisesr_cli.models.build import build_classifier
    from wisesr_cli.training.optimizers import build_optimizer

    config = Config.model_validate({"model": {"backbone": backbone, "head": {"name": head}}})
    model = build_classifier(config.model, image_size=(side, side), classes=CLASSES).model
    model.compile(
        optimizer=build_optimizer(config, config.phases[0], steps_per_epoch=1000),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    random = np.random.default_rng(0)
    images = keras.ops.convert_to_tensor(random.integers(0, 256, (batch, side, side, 3)).astype("float32"))
    targets = keras.ops.convert_to_tensor(np.eye(CLASSES, dtype="float32")[random.integers(0, CLASSES, batch)])
    step = partial(model.train_on_batch, images, targets)
    step()
    step()
    return step


def milliseconds(step: Callable[[], object], *, repetitions: int) -> float:
    """Return the median time of a step."""
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main(__doc__, measure)
