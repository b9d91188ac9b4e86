"""Labels images on a Ray cluster with Ray Data: the driver's side of `wisesr predict --engine ray`.

A pool of actors, each of which loads the model once, labels the inputs in blocks. Answers return in input order, each
exactly once: Ray repeats the blocks of a lost worker or machine. Inputs are sent in parts of `PART`, to bound the
driver's memory.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from wisesr_cli.data.oddities import Oddities
from wisesr_cli.engines.choose import ChosenEngine
from wisesr_cli.engines.litert import LiteRtModel
from wisesr_cli.errors import MachineError, WisesrError
from wisesr_cli.evaluation.coverage import Coverage
from wisesr_cli.listening import Listener, Silent
from wisesr_cli.machine import keras_start
from wisesr_cli.prediction.ray.session import STORE_BYTES, RayOptions, session
from wisesr_cli.prediction.ray.worker import Job, Labeller, decoded
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results.streams import Prediction
from wisesr_cli.text import counted, first_line

PART = 1 << 18  # inputs given to Ray Data at a time; each part restarts the workers
BLOCK = 256  # maximum inputs of a block, unless a batch is larger
BLOCKS_PER_WORKER = 8  # minimum, if there are enough batches, so that all workers end at about the same time
RESTARTS = 10  # of one worker, so that an image that kills workers is not retried for ever


def job_of(request: PredictRequest, chosen: ChosenEngine, coverage: Coverage | None = None) -> Job:
    """Return what workers need, including the model itself, so that no shared disk is needed."""
    model: LiteRtModel | bytes = chosen.litert.model if chosen.litert else chosen.path.read_bytes()
    return Job(
        engine=replace(chosen, litert=None, checked=None),
        model=model,
        backend=keras_start.backend_name(),
        folder=os.getcwd(),  # noqa: PTH109  (keeps bytes that are not UTF-8)
        threads=1,
        request=replace(request, inputs=(), listener=Silent(), stop=None),
        coverage=coverage,
    )


def ray_records(
    job: Job, paths: Iterable[str], *, request: PredictRequest, oddities: Oddities, first: int = 0
) -> Generator[Prediction, None, None]:
    """Start or join Ray, and return the lazily computed records of paths, in order; see `stream.predict_paths`.

    Raises a `MachineError` if the cluster does not exist or lacks resources.
    """
    listener, options = request.listener, RayOptions(request.ray_address, request.ray_workers)
    needs_gpu = job.engine.device == "gpu"
    model_bytes = len(job.model.content if isinstance(job.model, LiteRtModel) else job.model)
    stack = ExitStack()
    try:
        stack.enter_context(session(options, 4 * model_bytes + STORE_BYTES))
        workers = _workers(options, needs_gpu=needs_gpu, listener=listener)
        engine = f"{'LiteRT' if job.engine.name == 'litert' else 'Keras'} on the {'GPU' if needs_gpu else 'CPU'}"
        listener.note(f"device: {counted(workers, 'Ray worker')} with {engine}")
    except BaseException:
        stack.close()
        raise
    records = _records(stack, job, iter(paths), workers, oddities, first)
    weakref.finalize(records, stack.close)  # a generator that is never started does not enter its `with`
    return records


def _records(
    stack: ExitStack, job: Job, paths: Iterator[str], workers: int, oddities: Oddities, first: int
) -> Generator[Prediction, None, None]:
    import ray

    with stack, _translated_errors():
        sent = [ray.put(job)]
        while part := list(islice(paths, PART)):
            with closing(_answers(part, first, job, sent, workers)) as answers:
                for number, text in answers:
                    if number != first:  # Ray Data keeps the order; if not, better no output than a wrong one
                        raise RuntimeError(f"Ray gave input {number} where {first} was due")
                    for record, header in decoded(text):
                        if header is not None:
                            oddities.add(record.path, header)
                        first += 1
                        yield record


def _answers(
    part: list[str], first: int, job: Job, sent: list[Any], workers: int
) -> Generator[tuple[int, str], None, None]:
    """Yield the number of every block's first input and the block's answers as text, in order."""
    import pyarrow
    import ray.data

    size = block_size(len(part), job.request.batch_size, workers)
    blocks = [
        ray.put(
            pyarrow.table(
                {
                    "number": range(first + start, first + start + len(part[start : start + size])),
                    "path": [os.fsencode(path) for path in part[start : start + size]],
                }
            )
        )
        for start in range(0, len(part), size)
    ]
    workers = min(workers, len(blocks))
    part.clear()  # the blocks hold the paths now
    with warnings.catch_warnings(action="ignore"):  # Ray renames its options from release to release
        labelled = ray.data.from_arrow_refs(blocks).map_batches(
            Labeller,
            fn_constructor_args=(sent,),
            batch_size=size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=job.threads,
            num_gpus=1 if job.engine.device == "gpu" else 0,
            max_restarts=RESTARTS,
            max_task_retries=-1,  # every attempt to reach a lost machine counts as one
        )
    for batch in labelled.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        yield from zip(batch["first"].to_pylist(), batch["answers"].to_pylist(), strict=True)


def block_size(inputs: int, batch_size: int, workers: int) -> int:
    """Return the number of inputs per block: whole batches, several blocks per worker, `BLOCK` inputs at most."""
    most = max(1, BLOCK // batch_size)
    return batch_size * min(most, max(1, inputs // (batch_size * workers * BLOCKS_PER_WORKER)))


def _workers(options: RayOptions, *, needs_gpu: bool, listener: Listener) -> int:
    """Return the number of workers; raises a `MachineError` if the cluster cannot run any."""
    import ray

    kind = "GPU" if needs_gpu else "CPU"
    there = int(ray.cluster_resources().get(kind, 0))
    if there < 1:
        raise MachineError(
            f"no {kind}: the Ray cluster has none now; start a machine with one, then repeat the command"
        )
    if options.workers is not None and options.workers > there:
        listener.note(f"the Ray cluster has {counted(there, kind)} now: some of the {options.workers} workers wait")
    return options.workers or there


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (WisesrError, GeneratorExit):
        raise
    except Exception as error:
        if "No module named 'wisesr_cli'" in str(error):
            raise MachineError(
                "a Ray worker has no wisesr; install the same version as here on every machine"
            ) from None
        from ray.exceptions import RayError, RayTaskError

        if not isinstance(error, RayError) or isinstance(error, RayTaskError):  # the latter: a bug in a worker
            raise
        raise MachineError(f"Ray failed: {first_line(error)}; continue with --resume where -o was given") from error
