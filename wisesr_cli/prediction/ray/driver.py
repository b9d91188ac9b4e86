"""Labels images on the machines of a Ray cluster, with Ray Data: the driver's side of `wisesr predict --engine ray`.

The inputs go out in blocks; a pool of actors, each with the model loaded once, labels them; the answers come back in
the order of the inputs, every one exactly once, also where a worker or a machine is lost on the way: Ray repeats its
blocks. In parts of `PART` inputs, so that the driver's memory does not grow with their number.
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
from wisesr_cli.listening import Listener, Silent
from wisesr_cli.machine import keras_start
from wisesr_cli.prediction.ray.session import STORE_BYTES, RayOptions, session
from wisesr_cli.prediction.ray.worker import Labeller, Order, decoded
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results import Prediction
from wisesr_cli.text import counted, first_line

PART = 1 << 18  # inputs that Ray Data knows of at a time; each part starts its workers anew
BLOCK = 256  # inputs in a block at most, where a batch is no larger
BLOCKS_PER_WORKER = 8  # at least, where there are as many batches, so that all workers end at about the same time
RESTARTS = 10  # of one worker; an image at which every one of them dies must not go round for ever


def order_of(request: PredictRequest, chosen: ChosenEngine) -> Order:
    """Return what the workers label with: the model itself goes with it, so that no disk needs to be shared for it."""
    model: LiteRtModel | bytes = chosen.litert.model if chosen.litert else chosen.path.read_bytes()
    return Order(
        engine=replace(chosen, litert=None, checked=None),
        model=model,
        backend=keras_start.backend_name(),
        folder=os.getcwd(),  # noqa: PTH109  (bytes that are no UTF-8 stay as they are)
        threads=1,
        request=replace(request, inputs=(), listener=Silent(), stop=None),
    )


def ray_records(
    request: PredictRequest, chosen: ChosenEngine, paths: Iterable[str], *, oddities: Oddities, first: int = 0
) -> Generator[Prediction, None, None]:
    """Start or join Ray, and return the records of paths, in order, computed as they are taken.

    Args:
        request: what is asked for.
        chosen: the engine that the workers label with.
        paths: image files, read a part at a time.
        oddities: counts what is odd about images that can be read.
        first: the number of the first path among all that are labelled, those of an earlier process included.

    Raises:
        MachineError: there is no such cluster, or it lacks what is needed.
    """
    order, listener = order_of(request, chosen), request.listener
    options = RayOptions(request.ray_address, request.ray_workers)
    needs_gpu = order.engine.device == "gpu"
    model_bytes = len(order.model.content if isinstance(order.model, LiteRtModel) else order.model)
    stack = ExitStack()
    try:
        stack.enter_context(session(options, 4 * model_bytes + STORE_BYTES))
        workers = _workers(options, needs_gpu=needs_gpu, listener=listener)
        engine = f"{'LiteRT' if order.engine.name == 'litert' else 'Keras'} on the {'GPU' if needs_gpu else 'CPU'}"
        listener.note(f"device: {counted(workers, 'Ray worker')} with {engine}")
    except BaseException:
        stack.close()
        raise
    records = _records(stack, order, iter(paths), workers, oddities, first)
    weakref.finalize(records, stack.close)  # where no record is ever taken, its own `with` is never entered
    return records


def _records(
    stack: ExitStack, order: Order, paths: Iterator[str], workers: int, oddities: Oddities, first: int
) -> Generator[Prediction, None, None]:
    import ray

    with stack, _telling_what_failed():
        sent = [ray.put(order)]
        while part := list(islice(paths, PART)):
            with closing(_answers(part, first, order, sent, workers)) as answers:
                for number, text in answers:
                    if number != first:  # Ray Data keeps order; should it ever not, a wrong output is worse than none
                        raise RuntimeError(f"Ray gave input {number} where {first} was due")
                    for record, header in decoded(text):
                        if header is not None:
                            oddities.add(record.path, header)
                        first += 1
                        yield record


def _answers(
    part: list[str], first: int, order: Order, sent: list[Any], workers: int
) -> Generator[tuple[int, str], None, None]:
    """Give the number of the first input of every block, and the block's answers as text, in order."""
    import pyarrow
    import ray.data

    size = block_size(len(part), order.request.batch_size, workers)
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
    with warnings.catch_warnings(action="ignore"):  # names of Ray's options change from release to release
        labelled = ray.data.from_arrow_refs(blocks).map_batches(
            Labeller,
            fn_constructor_args=(sent,),
            batch_size=size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=order.threads,
            num_gpus=1 if order.engine.device == "gpu" else 0,
            max_restarts=RESTARTS,
            max_task_retries=-1,  # every attempt to reach a machine that is lost counts as one
        )
    for batch in labelled.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        yield from zip(batch["first"].to_pylist(), batch["answers"].to_pylist(), strict=True)


def block_size(inputs: int, batch_size: int, workers: int) -> int:
    """Return how many inputs a block has: whole batches, a few blocks for every worker, none that takes long."""
    most = max(1, BLOCK // batch_size)
    return batch_size * min(most, max(1, inputs // (batch_size * workers * BLOCKS_PER_WORKER)))


def _workers(options: RayOptions, *, needs_gpu: bool, listener: Listener) -> int:
    """Return how many workers there will be.

    Raises:
        MachineError: the cluster has nothing that they could run on.
    """
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
def _telling_what_failed() -> Iterator[None]:
    """Turn what Ray raises where it fails into an error of ours."""
    try:
        yield
    except (WisesrError, GeneratorExit):
        raise
    except Exception as error:
        if "No module named 'wisesr_cli'" in str(error):
            raise MachineError(
                "a Ray worker has no wisesr; install the same one on every machine: pip install wisesr"
            ) from None
        from ray.exceptions import RayError, RayTaskError

        if not isinstance(error, RayError) or isinstance(error, RayTaskError):  # the latter: a bug of a worker's
            raise
        raise MachineError(f"Ray failed: {first_line(error)}; go on with --resume where -o was given") from error
