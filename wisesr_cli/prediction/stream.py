"""Labels a stream of images in order, one record each, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.data.oddities import Oddities
from wisesr_cli.data.settings import LABEL_SEPARATOR
from wisesr_cli.data.stream import Decoded, decode_in_order
from wisesr_cli.engines.engine import Engine
from wisesr_cli.errors import DataError
from wisesr_cli.evaluation.coverage import Coverage
from wisesr_cli.evaluation.probabilities import entropy, probabilities_of
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.machine.stopping import signals_held
from wisesr_cli.machine.threads import always, results
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results.streams import Prediction, ScoredLabel


def predict_paths(
    engine: Engine,
    paths: Iterable[str],
    request: PredictRequest,
    *,
    coverage: Coverage | None = None,
    oddities: Oddities | None = None,
    ready: Callable[[], bool] = always,
    first: int = 0,
) -> Generator[Prediction, None, None]:
    """Yield a record per path, in order; only a few batches are in memory at any time.

    Of `request`, `top_k`, `min_score` (below it a record keeps its `top`), `probabilities`, `batch_size` and
    `pixel_limit` are used.
    `coverage` adds the set of labels to a record, and withholds the label if its score is too low to stand alone.
    `oddities` counts what is odd about readable images. When `ready` says that the next path is not available without
    waiting, pending images are labelled first. `first` is the number of the first path among all that are labelled,
    including those of an earlier process.
    """
    oddities, batch_size = oddities or Oddities(), request.batch_size
    batches = decode_in_order(
        paths,
        image_size=engine.info.image_size,
        preparation=engine.info.preparation,
        batch_size=batch_size,
        pixel_limit=request.pixel_limit or PIXEL_LIMIT,
        ready=ready,
    )

    def compute(batch: Sequence[Decoded], number: int) -> Sequence[Row | None]:
        rows = rows_of(batch, engine, "logits", first=number, batch_size=batch_size)
        return [None if row is None else probabilities_of(row[None], engine.info)[0] for row in rows]

    with closing(batches), closing(computed(batches, compute, ready=ready, first=first)) as labelled:
        for decoded, row in labelled:
            if decoded.header is not None:
                oddities.add(decoded.path, decoded.header)
            yield _record(decoded, row, engine.info, request, coverage)


Row = NDArray[Any]  # a model's output for one image


def computed(
    batches: Iterator[list[Decoded]],
    compute: Callable[[list[Decoded], int], Sequence[Row | None]],
    *,
    ready: Callable[[], bool] = always,
    first: int = 0,
) -> Generator[tuple[Decoded, Row | None], None, None]:
    """Yield every input with its row, in order, decoding each batch while the engine computes the previous one.

    `compute` gets a batch and the number of its first input. If the next input is not available yet, finished results
    do not wait for it.
    """
    computing: deque[tuple[list[Decoded], Future[Sequence[Row | None]]]] = deque()

    def finished() -> Iterator[tuple[Decoded, Row | None]]:
        while computing:
            batch, rows = computing.popleft()
            yield from zip(batch, results([rows])[0], strict=True)

    with ThreadPoolExecutor(1, thread_name_prefix="engine") as executor:
        while True:
            try:
                batch = next(batches, None) if not computing or ready() else []
            except Exception:
                yield from finished()  # records before the error are still valid
                raise
            yield from finished()
            if batch is None:
                return
            if batch:
                with signals_held():
                    computing.append((batch, executor.submit(compute, batch, first)))
                first += len(batch)


def rows_of(
    batch: Sequence[Decoded], engine: Engine, name: Literal["logits", "features"], *, first: int, batch_size: int
) -> list[Row | None]:
    """Return the logits or features of every input, None for unreadable ones; raises a `DataError` if not finite.

    `first` is the number of the first input.
    """
    give = {"logits": engine.logits, "features": engine.features}[name]
    readable = [position for position, decoded in enumerate(batch) if decoded.pixels is not None]
    found: list[Row | None] = [None] * len(batch)
    if not readable:
        return found
    pixels = np.stack([decoded.pixels for decoded in batch if decoded.pixels is not None])
    if engine.full_batches:
        rows = _in_full_batch(give, pixels, [(first + position) % batch_size for position in readable], batch_size)
    else:
        rows = give(pixels)
    if not np.isfinite(rows).all():
        raise DataError(
            f"the model's {name} are not finite: no label is defined; train again with a lower learning rate, or in "
            "float32"
        )
    for position, row in zip(readable, rows, strict=True):
        found[position] = row
    return found


def _in_full_batch(
    give: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    pixels: NDArray[np.uint8],
    rows: list[int],
    batch_size: int,
) -> NDArray[np.float32]:
    """Return a model's output for images, computed in a full batch, so that nothing is compiled twice.

    An image's row in the batch depends only on its number, so that scores are bit-identical whatever was unreadable,
    slow, or labelled by an earlier process.
    """
    whole = np.zeros((batch_size, *pixels.shape[1:]), np.uint8)
    whole[rows] = pixels
    return give(whole)[rows]


def _record(
    decoded: Decoded,
    probabilities: Row | None,
    info: ModelInfo,
    request: PredictRequest,
    coverage: Coverage | None,
) -> Prediction:
    if probabilities is None:
        return Prediction(decoded.path, None, None, (), decoded.error)
    names = info.class_names
    best = np.argsort(-probabilities, kind="stable")
    top = tuple(ScoredLabel(names[index], float(probabilities[index])) for index in best[: request.top_k])
    damage = decoded.header.damage if decoded.header is not None else ""
    record = Prediction(
        decoded.path,
        None,
        top[0].score,
        top,
        note=f"damaged inside: {damage}" if damage else None,
        probabilities=dict(zip(names, map(float, probabilities), strict=True)) if request.probabilities else None,
    )
    if info.thresholds is not None:
        return _with_labels(record, probabilities, best, info, request)
    may_stand_alone = coverage is None or coverage.is_answer(top[0].score)
    return replace(
        record,
        label=top[0].label if top[0].score >= request.min_score and may_stand_alone else None,
        margin=top[0].score - float(probabilities[best[1]]),
        entropy=entropy(probabilities),
        labels=None if coverage is None else tuple(names[index] for index in coverage.labels(probabilities)),
    )


def _with_labels(
    record: Prediction, probabilities: Row, best: Row, info: ModelInfo, request: PredictRequest
) -> Prediction:
    """Return a record with all labels that reach their thresholds, or `min_score` if given, best first.

    Its margin is that of the label nearest to its threshold, its entropy the sum over all labels.
    """
    thresholds = np.full(len(best), request.min_score) if request.min_score else np.asarray(info.thresholds)
    labels = tuple(info.class_names[index] for index in best if probabilities[index] >= thresholds[index])
    return replace(
        record,
        label=LABEL_SEPARATOR.join(labels) if labels else None,
        margin=float(np.abs(probabilities - thresholds).min()),
        entropy=entropy(probabilities) + entropy(1 - probabilities),
        labels=labels,
    )
