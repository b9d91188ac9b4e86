"""Labels on a Ray worker: loads the model once, then labels one block of inputs after another.

A worker needs wisesr with its packages, and the images at the same paths; the model comes with the `Job`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wisesr_cli.data.oddities import Oddities
from wisesr_cli.display.grid import to_json
from wisesr_cli.engines.choose import ChosenEngine
from wisesr_cli.engines.engine import Engine
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.engines.litert import LiteRtEngine, LiteRtModel
from wisesr_cli.errors import DataError, MachineError, RunError, UsageError, WisesrError
from wisesr_cli.evaluation.coverage import Coverage
from wisesr_cli.images.decoding import ImageHeader
from wisesr_cli.listening import Silent
from wisesr_cli.machine.threads import limit_worker_count
from wisesr_cli.prediction.journal import prediction_from_json
from wisesr_cli.prediction.stream import predict_paths
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results.streams import Prediction
from wisesr_cli.text import visible
from wisesr_cli.version import __version__

Answer = tuple[Prediction, ImageHeader | None]  # of one input, with its header if it is readable


@dataclass(frozen=True)
class Job:
    """What every worker needs to label images.

    `model`: the model for LiteRT, or the bytes of the model file for Keras; `folder`: the base of relative paths;
    `threads`: per worker; `request`: without inputs and listener.
    """

    engine: ChosenEngine
    model: LiteRtModel | bytes
    backend: str
    folder: str
    threads: int
    request: PredictRequest
    coverage: Coverage | None = None
    version: str = __version__

    def start(self) -> Engine:
        """Return the engine, ready to compute in this process; raises a `WisesrError` if it cannot be used."""
        if self.version != __version__:
            raise MachineError(
                f"a Ray worker has wisesr {visible(__version__)}, and the command {visible(self.version)}; install the "
                "same version on every machine"
            )
        limit_worker_count(self.threads)
        if isinstance(self.model, LiteRtModel):
            return LiteRtEngine(self.model)
        os.environ["KERAS_BACKEND"] = self.backend
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(self.threads))
        with tempfile.TemporaryDirectory(prefix="wisesr-") as folder:
            file = Path(folder) / self.engine.path.name
            file.write_bytes(self.model)
            engine = replace(self.engine, path=file).start(Silent())
        if isinstance(engine, KerasEngine):
            engine.path = self.engine.path  # for errors
        return engine


class Labeller:
    """Labels blocks of inputs; Ray Data creates one in every worker.

    Our errors, including those at the start, are returned as answers, as Ray's translation loses their message. `sent`
    contains a reference to the `Job`: as a direct argument, it would be lost with the machine that holds its copy.
    """

    def __init__(self, sent: Sequence[Any]) -> None:
        import ray

        self.problem: WisesrError | MemoryError | None = None
        self.job: Job = ray.get(sent[0])
        try:
            self.engine = self.job.start()
        except (WisesrError, MemoryError) as error:
            self.problem = error

    def __call__(self, block: Any) -> Any:
        """Return the answers of a block (number and path of every input) as a table of one row."""
        import pyarrow

        first = block["number"][0].as_py()
        paths = [os.fsdecode(path.as_py()) for path in block["path"]]
        try:
            if self.problem is not None:
                raise self.problem
            answers = encoded(self.answers(paths, first))
        except (WisesrError, MemoryError) as error:
            answers = to_json({"kind": type(error).__name__, "text": str(error)})
        return pyarrow.table({"first": [first], "answers": [answers]})

    def answers(self, paths: Sequence[str], first: int) -> list[Answer]:
        """Return the answers of consecutive inputs, the first of which has the number `first`."""
        job, headers = self.job, _Headers()
        found = predict_paths(
            self.engine,
            (os.path.join(job.folder, path) if path else path for path in paths),  # noqa: PTH118  (as typed)
            job.request,
            coverage=job.coverage,
            oddities=headers,
            first=first,
        )
        return [(replace(record, path=path), headers.take()) for path, record in zip(paths, found, strict=True)]


class _Headers(Oddities):
    """Keeps the header of the image whose record was yielded last."""

    def __init__(self) -> None:
        super().__init__()
        self._last: ImageHeader | None = None

    def add(self, path: str, header: ImageHeader) -> None:
        self._last = header

    def take(self) -> ImageHeader | None:
        last, self._last = self._last, None
        return last


def encoded(answers: Sequence[Answer]) -> str:
    """Return answers as text, for sending between processes."""
    return to_json([(record.to_json(), header) for record, header in answers])


def decoded(text: str) -> list[Answer]:
    """Return the answers in `encoded` text, or raise the `WisesrError` or `MemoryError` that a worker sent instead."""
    found = json.loads(text)
    if isinstance(found, dict):
        raise MemoryError(found["text"]) if found["kind"] == "MemoryError" else _KINDS[found["kind"]](found["text"])
    return [
        (prediction_from_json(record), None if header is None else ImageHeader(*header)) for record, header in found
    ]


_KINDS: dict[str, type[WisesrError]] = {kind.__name__: kind for kind in (DataError, MachineError, RunError, UsageError)}
