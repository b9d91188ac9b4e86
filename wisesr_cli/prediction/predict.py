"""Labels images: the work of `wisesr predict`, from what was asked for to the last record."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from wisesr_cli.data.inputs import Inputs, WantedInputs, not_empty
from wisesr_cli.data.oddities import Oddities, Tally
from wisesr_cli.data.shards import ShardInputs, parse_shard
from wisesr_cli.data.stream import Records
from wisesr_cli.engines.choose import ChosenEngine, choose_engine
from wisesr_cli.errors import UsageError
from wisesr_cli.explanation.place import explanation_folder
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.listening import Silent
from wisesr_cli.machine.files import sha256
from wisesr_cli.machine.stopping import StopRequest
from wisesr_cli.prediction.journal import JournalHeader
from wisesr_cli.prediction.output import FileOutput, open_output
from wisesr_cli.prediction.stream import predict_paths
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results import Prediction
from wisesr_cli.run.located import locate
from wisesr_cli.text import counted, visible


def predict(request: PredictRequest) -> Records[Prediction]:
    """Return a record per image, in order, computed as they are taken; with an output, each after it was written.

    Raises:
        WisesrError: the model, the inputs or the output cannot be used; what was labelled before is kept.
    """
    _check(request)
    run = locate(request.run)
    engine = choose_engine(
        run,
        "auto" if request.engine == "ray" else request.engine,
        device=request.device,
        precision=request.precision,
        image_size=request.image_size,
        listener=request.listener,
    )
    with ExitStack() as held:
        folder = None
        if request.explain is not None:
            folder = held.enter_context(explanation_folder(run.model, request.explain, "--explain"))
        output = open_output(request, lambda: header_of(request, engine))
        if output is not None and output.has_nothing_to_resume:
            request.listener.note(
                f"{visible(request.output)} exists, and there is no journal beside it: nothing to go on with; "
                "replace it with --overwrite"
            )
            return Records(_nothing(), held.pop_all(), output.tally)
        tally = Tally() if output is None else held.enter_context(output).tally
        records = _Labelling(request, engine, output, folder, tally).records()
        return Records(records, held.pop_all(), tally)


def _nothing() -> Generator[Prediction, None, None]:
    yield from ()


def _check(request: PredictRequest) -> None:
    """Find what excludes itself, and a package that is missing, before anything slow.

    Raises:
        UsageError: something is meant for Ray, and Ray is not asked for; or Ray cannot do it.
        MachineError: Ray is asked for, and is not installed.
    """
    if request.engine == "ray":
        from wisesr_cli.prediction.ray.session import check_installed

        check_installed()
        if request.explain is not None or request.screen is not None:
            raise UsageError("--engine ray makes no pictures: leave --explain and --show out, or use wisesr explain")
    elif request.ray_address is not None or request.ray_workers is not None:
        raise UsageError("--ray-address and --ray-workers need --engine ray")


def header_of(request: PredictRequest, engine: ChosenEngine) -> JournalHeader:
    """Return what the records depend on."""
    names = ("top_k", "min_score", "batch_size", "precision")
    options = {name: getattr(request, name) for name in names}
    shard = None if request.shard is None else str(parse_shard(request.shard))
    options |= {"pixel_limit": request.pixel_limit or PIXEL_LIMIT, "shard": shard, "engine": engine.identity}
    return JournalHeader(sha256(engine.path), options)


class _Labelling:
    """The labelling of the inputs of one request.

    Everything that can be wrong with the inputs' names and the model is found before the first record is asked for.
    """

    def __init__(
        self,
        request: PredictRequest,
        engine: ChosenEngine,
        output: FileOutput | None,
        folder: Path | None,
        tally: Tally,
    ) -> None:
        self.request, self.engine, self.output, self.folder, self.tally = request, engine, output, folder, tally
        shard = None if request.shard is None else parse_shard(request.shard)
        inputs = tuple(map(str, request.inputs))
        self.wanted = WantedInputs(inputs, request.from_file, request.null_separated, shard)
        self.stop = request.stop or StopRequest()

    def records(self) -> Generator[Prediction, None, None]:
        """Return the records that are left to give, having started what gives them."""
        listener, oddities = self.request.listener, Oddities()
        total = self._count()
        found = self.wanted.find(oddities)
        inputs = self._inputs(found)
        paths = inputs if isinstance(found, ShardInputs) else not_empty(inputs)
        left = paths if self.output is None else self.output.skip_done(paths)
        done = self.tally.records
        if done:
            listener.note(f"{counted(done, 'record')} found in the journal")
        with self.stop.deferred():  # an import is not broken off
            records = self._open(left, found, oddities, done)
        return self._given(records, found, oddities, None if total is None else total - done)

    def _count(self) -> int | None:
        """Return how many inputs there are, where somebody is shown it and they can be read more than once."""
        if isinstance(self.request.listener, Silent) or self.wanted.is_read_once:
            return None
        return sum(1 for _ in self._inputs(self.wanted.find()))

    def _inputs(self, found: Iterable[str]) -> Iterable[str]:
        """Return the inputs without what an earlier time wrote among them."""
        if self.folder is not None:
            from wisesr_cli.explanation.own_pictures import without_own_pictures

            found = without_own_pictures(found, self.folder)
        return found if self.output is None else self.output.not_its_own(found)

    def _open(
        self, paths: Iterable[str], found: Inputs | ShardInputs, oddities: Oddities, done: int
    ) -> Generator[Prediction, None, None]:
        """Start the engine and return the records of paths, computed as they are taken."""
        request = self.request
        if request.engine == "ray":
            from wisesr_cli.prediction.ray.driver import ray_records

            with self._off_standard_output():
                return ray_records(request, self.engine, self._stoppable(paths), oddities=oddities, first=done)
        records = predict_paths(
            self.engine.start(request.listener), paths, request, oddities=oddities, ready=found.ready, first=done
        )
        if self.folder is None and request.screen is None:
            return records
        from wisesr_cli.prediction.pictures import illustrated

        return illustrated(records, request, self.engine, self.folder, first=done)

    def _given(
        self,
        records: Generator[Prediction, None, None],
        found: Inputs | ShardInputs,
        oddities: Oddities,
        total: int | None,
    ) -> Generator[Prediction, None, None]:
        """Give every record, counted and written, and say at the end what was odd."""
        listener = self.request.listener
        with listener.progress("labelling", total) as progress:
            for record in self._taken(records):
                self.stop.check(self.stop.hint)
                if self.output is None:
                    self.tally.add(record)
                else:
                    self.output.write(record)
                yield record
                progress.advance()
            if self.output is not None:
                self.output.finish()
        if isinstance(found, ShardInputs):
            found.tell(listener)
        oddities.tell(listener)

    def _taken(self, records: Generator[Prediction, None, None]) -> Iterator[Prediction]:
        """Take record by record; a stop at once would break off whatever Ray is in the middle of, and crash it."""
        try:
            while True:
                deferred = self.stop.deferred() if self.request.engine == "ray" else nullcontext()
                with deferred, self._off_standard_output():
                    record = next(records, None)
                if record is None:
                    return
                yield record
        finally:
            records.close()

    def _stoppable(self, paths: Iterable[str]) -> Iterator[str]:
        """Give the same paths; within a block that puts stops off, a signal still ends the wait for the next one."""
        iterator = iter(paths)
        while True:
            with self.stop.at_once():
                path = next(iterator, None)
            if path is None:
                return
            yield path

    @contextmanager
    def _off_standard_output(self) -> Iterator[None]:
        """Keep what Ray prints off standard output."""
        if self.request.engine != "ray":
            yield
            return
        from wisesr_cli.prediction.ray.session import off_standard_output

        with off_standard_output(self.request.listener):
            yield
