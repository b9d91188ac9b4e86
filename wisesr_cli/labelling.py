"""Labels images into an output: the work of `wisesr predict`, from what was typed to what was written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wisesr_cli.engines import ChosenEngine, choose_engine
from wisesr_cli.errors import UsageError
from wisesr_cli.files import sha256
from wisesr_cli.guard import StopRequest, stop_on_signals
from wisesr_cli.images import PIXEL_LIMIT
from wisesr_cli.journal import JournalHeader
from wisesr_cli.oddities import Oddities
from wisesr_cli.output import FileOutput, StreamOutput, Tally, open_output
from wisesr_cli.parallel import always
from wisesr_cli.prediction import Inputs, find_inputs, not_empty, predict_paths
from wisesr_cli.results import Listener, Prediction, Silent
from wisesr_cli.runtime import DeviceChoice
from wisesr_cli.shards import Shard, ShardInputs
from wisesr_cli.text import counted, visible

if TYPE_CHECKING:  # what draws is not loaded where nothing is drawn
    from wisesr_cli.image_sizes import ImageSize
    from wisesr_cli.terminal_picture import Screen

EngineOrRay = Literal["auto", "litert", "keras", "ray"]


@dataclass(frozen=True)
class Pictures:
    """Which pictures are made of the images that are labelled.

    `folder`: where their explanations go, one by one, each before its record; `screen`: the terminal that shows them.
    """

    folder: Path | None = None
    screen: Screen | None = None


@dataclass(frozen=True)
class Request:
    """What to label, with which model, and how.

    `inputs` and `from_file` are those of `prediction.find_inputs`; the others are the options of the command. `shard`:
    which of the inputs; None is all. The engine `ray` is the one of `auto` on the workers of Ray, at `ray_address`.
    """

    run: str | Path
    inputs: tuple[str, ...] = ()
    from_file: str | None = None
    null_separated: bool = False
    top_k: int = 5
    min_score: float = 0.0
    batch_size: int = 32
    pixel_limit: int = PIXEL_LIMIT
    device: DeviceChoice = "auto"
    precision: str = "float32"
    image_size: ImageSize | None = None
    engine: EngineOrRay = "auto"
    shard: Shard | None = None
    ray_address: str | None = None
    ray_workers: int | None = None

    def check(self) -> None:
        """Find what excludes itself, and a package that is missing, before anything slow.

        Raises:
            UsageError: something is meant for Ray, and Ray is not asked for.
            MachineError: Ray is asked for, and is not installed.
        """
        if self.engine == "ray":
            from wisesr_cli.ray_session import check_installed

            check_installed()
        elif self.ray_address is not None or self.ray_workers is not None:
            raise UsageError("--ray-address and --ray-workers need --engine ray")

    def on_standard_output(self, listener: Listener) -> AbstractContextManager[None]:
        """Return what keeps all but the records off standard output."""
        if self.engine != "ray":
            return nullcontext()
        from wisesr_cli.ray_session import off_standard_output

        return off_standard_output(listener)

    def find(self, oddities: Oddities | None = None) -> Inputs | ShardInputs:
        """Return the inputs; what was passed over is counted among the oddities."""
        ignored = None if oddities is None else oddities.ignored
        found = find_inputs(self.inputs, from_file=self.from_file, null_separated=self.null_separated, ignored=ignored)
        return found if self.shard is None else ShardInputs(found, found.ready, self.shard)

    @property
    def is_read_once(self) -> bool:
        """Whether the inputs come through a pipe, and cannot be counted beforehand."""
        return "-" in self.inputs or (self.from_file is not None and not Path(self.from_file).is_file())

    def choose_engine(self, listener: Listener) -> ChosenEngine:
        """Return what runs the model; see `engines.choose_engine`."""
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
                from wisesr_cli.prediction_pictures import illustrated

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
        from wisesr_cli.own_pictures import without_own_pictures

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
    """Start the engine and return the records of paths, computed as they are taken; see `prediction.predict_paths`."""
    if request.engine == "ray":
        from wisesr_cli import ray_prediction
        from wisesr_cli.ray_session import RayOptions

        names = ("top_k", "min_score", "batch_size", "pixel_limit")
        order = ray_prediction.order_of(chosen, **{name: getattr(request, name) for name in names})
        options = RayOptions(request.ray_address, request.ray_workers)
        return ray_prediction.ray_records(
            order, paths, options=options, oddities=oddities, first=first, listener=listener
        )
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
