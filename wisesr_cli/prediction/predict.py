"""Labels images into an output: the work of `wisesr predict`, from what was typed to what was written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wisesr_cli.data.inputs import InputRequest, not_empty
from wisesr_cli.data.oddities import Oddities, Tally
from wisesr_cli.data.shards import ShardInputs
from wisesr_cli.engines.choose import ChosenEngine, choose_engine
from wisesr_cli.errors import UsageError
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.machine.files import sha256
from wisesr_cli.machine.keras_start import DeviceChoice
from wisesr_cli.machine.stopping import StopRequest, stop_on_signals
from wisesr_cli.machine.threads import always
from wisesr_cli.prediction.journal import JournalHeader
from wisesr_cli.prediction.output import FileOutput, StreamOutput, open_output
from wisesr_cli.prediction.pictures import Pictures
from wisesr_cli.prediction.stream import predict_paths
from wisesr_cli.results import Listener, Prediction, Silent
from wisesr_cli.text import counted, visible

if TYPE_CHECKING:
    from wisesr_cli.models.image_sizes import ImageSize


EngineOrRay = Literal["auto", "litert", "keras", "ray"]


@dataclass(frozen=True, kw_only=True)
class Request(InputRequest):
    """What to label, with which model, and how; the engine `ray` is that of `auto` on the workers of Ray."""

    run: str | Path
    top_k: int = 5
    min_score: float = 0.0
    batch_size: int = 32
    pixel_limit: int = PIXEL_LIMIT
    device: DeviceChoice = "auto"
    precision: str = "float32"
    image_size: ImageSize | None = None
    engine: EngineOrRay = "auto"
    ray_address: str | None = None
    ray_workers: int | None = None

    def check(self) -> None:
        """Find what excludes itself, and a package that is missing, before anything slow.

        Raises:
            UsageError: something is meant for Ray, and Ray is not asked for.
            MachineError: Ray is asked for, and is not installed.
        """
        if self.engine == "ray":
            from wisesr_cli.prediction.ray.session import check_installed

            check_installed()
        elif self.ray_address is not None or self.ray_workers is not None:
            raise UsageError("--ray-address and --ray-workers need --engine ray")

    def on_standard_output(self, listener: Listener) -> AbstractContextManager[None]:
        """Return what keeps all but the records off standard output."""
        if self.engine != "ray":
            return nullcontext()
        from wisesr_cli.prediction.ray.session import off_standard_output

        return off_standard_output(listener)

    def choose_engine(self, listener: Listener) -> ChosenEngine:
        """Return what runs the model; see `choose.choose_engine`."""
        choice = "auto" if self.engine == "ray" else self.engine
        return choose_engine(
            self.run,
            choice,
            device=self.device,
            precision=self.precision,
            image_size=self.image_size,
            listener=listener,
        )

    def header(self, chosen: ChosenEngine) -> JournalHeader:
        """Return what the records depend on."""
        names = ("top_k", "min_score", "batch_size", "precision", "pixel_limit")
        options = {name: getattr(self, name) for name in names}
        options["shard"] = None if self.shard is None else str(self.shard)
        return JournalHeader(sha256(chosen.path), {**options, "engine": chosen.identity})


def label(
    request: Request,
    *,
    chosen: str,
    file: str | None,
    overwrite: bool,
    resume: bool,
    pictures: Pictures | None = None,
    listener: Listener,
) -> Tally:
    """Label all inputs into an output, and return how many there were.

    Args:
        request: what to label and how.
        chosen: the output's format.
        file: the output; None is standard output.
        overwrite: whether an output that exists is replaced.
        resume: whether to go on with an output that was begun.
        pictures: which pictures are made; None is none.
        listener: who is told what happens.

    Raises:
        WisesrError: the model, the inputs or the output cannot be used; what was labelled before is kept.
    """
    request.check()
    if request.engine == "ray" and pictures is not None:
        raise UsageError("--engine ray makes no pictures: leave --explain and --show out, or use wisesr explain")
    engine = request.choose_engine(listener)
    output = open_output(
        chosen, file, lambda: request.header(engine), overwrite=overwrite, resume=resume, reads=request.from_file
    )
    if output.has_nothing_to_resume:
        listener.note(
            f"{visible(file)} exists, and there is no journal beside it: nothing to go on with; "
            "replace it with --overwrite"
        )
        return output.tally
    hint = "the records so far were written" if file is None else "go on with the same command and --resume"
    oddities = Oddities()
    with stop_on_signals(StopRequest(hint)) as stop, output, request.on_standard_output(listener):
        total = None if request.is_read_once else sum(1 for _ in _inputs(request.find(), output, pictures))
        found = request.find(oddities)
        inputs = _inputs(found, output, pictures)
        left = output.skip_done(inputs if isinstance(found, ShardInputs) else not_empty(inputs))
        if request.engine == "ray":
            left = _stoppable(left, stop)
        done = output.tally.records
        if done:
            listener.note(f"{counted(done, 'record')} found in the journal")
        with stop.deferred():  # an import is not broken off
            records = open_records(request, engine, left, oddities, listener, ready=found.ready, first=done)
            if pictures is not None:
                from wisesr_cli.prediction.pictures import illustrated

                records = illustrated(
                    records,
                    pictures,
                    model=engine.path,
                    image_size=engine.image_size,
                    device=request.device,
                    pixel_limit=request.pixel_limit,
                    first=done,
                    listener=listener,
                )
        # A stop at once would break off whatever Ray is in the middle of, and crash the process.
        with closing(records), stop.deferred() if request.engine == "ray" else nullcontext():
            _write(records, output, None if total is None else total - done, stop, hint, listener)
        if isinstance(found, ShardInputs):
            found.tell(listener)
    oddities.tell(listener)
    return output.tally


def _stoppable(paths: Iterable[str], stop: StopRequest) -> Iterator[str]:
    """Give the same paths; within a block that puts stops off, a signal still ends the wait for the next one."""
    iterator = iter(paths)
    while True:
        with stop.at_once():
            path = next(iterator, None)
        if path is None:
            return
        yield path


def _inputs(found: Iterable[str], output: StreamOutput | FileOutput, pictures: Pictures | None) -> Iterable[str]:
    """Return the inputs without what an earlier time wrote among them."""
    if pictures is not None and pictures.folder is not None:
        from wisesr_cli.explanation.own_pictures import without_own_pictures

        found = without_own_pictures(found, pictures.folder)
    return output.not_its_own(found)


def open_records(
    request: Request,
    chosen: ChosenEngine,
    paths: Iterable[str],
    oddities: Oddities,
    listener: Listener,
    *,
    ready: Callable[[], bool] = always,
    first: int = 0,
) -> Generator[Prediction, None, None]:
    """Start the engine and return the records of paths, computed as they are taken; see `stream.predict_paths`."""
    if request.engine == "ray":
        from wisesr_cli.prediction.ray import driver
        from wisesr_cli.prediction.ray.session import RayOptions

        names = ("top_k", "min_score", "batch_size", "pixel_limit")
        order = driver.order_of(chosen, **{name: getattr(request, name) for name in names})
        options = RayOptions(request.ray_address, request.ray_workers)
        return driver.ray_records(order, paths, options=options, oddities=oddities, first=first, listener=listener)
    return predict_paths(
        chosen.start(listener),
        paths,
        top_k=request.top_k,
        min_score=request.min_score,
        batch_size=request.batch_size,
        pixel_limit=request.pixel_limit,
        oddities=oddities,
        ready=ready,
        first=first,
    )


def _write(
    records: Iterable[Prediction],
    output: StreamOutput | FileOutput,
    total: int | None,
    stop: StopRequest,
    hint: str,
    listener: Listener,
) -> None:
    bar = listener.progress("labelling", total) if output.leaves_terminal_free else Silent().progress("", None)
    with bar as progress:
        for record in records:
            stop.check(hint)
            output.write(record)
            progress.advance()
    output.finish()
