"""Labels images: the work of `wisesr predict`, from the request to the last record."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from pathlib import Path

from wisesr_cli.data.inputs import Inputs, WantedInputs, not_empty
from wisesr_cli.data.oddities import Oddities, Tally
from wisesr_cli.data.shards import ShardInputs, parse_shard
from wisesr_cli.data.stream import Records
from wisesr_cli.engines.choose import ChosenEngine, choose_engine
from wisesr_cli.errors import UsageError
from wisesr_cli.evaluation.coverage import Coverage, coverage_of
from wisesr_cli.explanation.place import explanation_folder
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.listening import Silent
from wisesr_cli.machine.files import sha256
from wisesr_cli.prediction.ending import Ending
from wisesr_cli.prediction.formats import chosen_format
from wisesr_cli.prediction.journal import JournalHeader
from wisesr_cli.prediction.ordering import check_order
from wisesr_cli.prediction.output import open_output
from wisesr_cli.prediction.placing import placing_folder
from wisesr_cli.prediction.sheet import Sheet
from wisesr_cli.prediction.stream import predict_paths
from wisesr_cli.prediction.tables import LabelTally, Layout
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results.streams import Prediction
from wisesr_cli.run.located import locate
from wisesr_cli.text import counted


class Predictions(Records[Prediction]):
    """The records of predictions, the count of each label, and the columns to show them in."""

    tally: LabelTally

    def __init__(
        self, records: Generator[Prediction, None, None], held: ExitStack, tally: LabelTally, layout: Layout
    ) -> None:
        super().__init__(records, held, tally)
        self.layout = layout


def predict(request: PredictRequest) -> Predictions:
    """Return a lazily computed record per image, in order; with an output, each is written before it is yielded.

    Raises a `WisesrError` if the model, the inputs or the output cannot be used; records written before are kept.
    """
    _check(request)
    run = locate(request.run, request.listener)
    engine = choose_engine(
        run,
        "auto" if request.engine == "ray" else request.engine,
        device=request.device,
        precision=request.precision,
        image_size=request.image_size,
        listener=request.listener,
    )
    if engine.info.is_multilabel and request.sort_into is not None:
        raise UsageError(
            "--sort-into puts every image into the folder of its one label, and this model may give an image several; "
            "write them with -o FILE.csv, a table of labels that training reads"
        )
    layout = Layout(
        labels="set" if request.coverage is not None else "all" if engine.info.is_multilabel else None,
        margin="uncertain" in f"{request.sort} {request.only}",
        class_names=engine.info.class_names if request.probabilities else (),
    )
    with ExitStack() as held:
        folder = None
        if request.explain is not None:
            folder = held.enter_context(explanation_folder(run.model, request.explain, "--explain"))
        coverage = None
        if request.coverage is not None:
            size, precision = engine.image_size, request.precision
            coverage = coverage_of(run, request.coverage, precision=precision, image_size=size)
            request.listener.note(str(coverage))
        output = open_output(request, lambda: header_of(request, engine), layout)
        ending = Ending(
            request,
            output,
            sheet=None if request.sheet is None else Sheet(request.sheet, engine.info, request),
            placing=None if request.sort_into is None else held.enter_context(placing_folder(request, engine.info)),
        )
        if request.resume and ending.is_left:
            return Predictions(ending.rest(), held.pop_all(), LabelTally(layout), layout)
        tally = LabelTally(layout) if output is None else held.enter_context(output).tally
        records = _Labelling(request, engine, coverage, ending, folder, tally).records()
        return Predictions(records, held.pop_all(), tally, layout)


def _check(request: PredictRequest) -> None:
    """Check that options can be combined, before anything slow.

    Raises:
        UsageError: an option is only for Ray, or not possible with it; or images cannot be ordered or selected as
            requested.
        MachineError: Ray or Parquet was requested, and is not installed.
    """
    if request.shard is not None:
        parse_shard(request.shard)
    if request.output:
        chosen_format(request.output, request.output_format, probabilities=request.probabilities)
    _check_order(request)
    if request.sort_into is None and request.sort_into_by != "copy":
        raise UsageError("--sort-into-by needs --sort-into DIR")
    if request.engine == "ray":
        from wisesr_cli.prediction.ray.session import check_installed

        check_installed()
        if request.explain is not None or request.screen is not None:
            raise UsageError("--engine ray draws no pictures: leave out --explain and --show, or use wisesr explain")
    elif request.ray_address is not None or request.ray_workers is not None:
        raise UsageError("--ray-address and --ray-workers need --engine ray")


def _check_order(request: PredictRequest) -> None:
    check_order(request.sort, request.only)
    for option, value in (("--sort", request.sort), ("--only", request.only)):
        if value is not None and request.shard is not None:
            raise UsageError(f"{option} only sees its own shard: leave it out, and join the shards first")
        if value is not None and request.screen is not None:
            raise UsageError(
                f"--show shows images as they are labelled, but {option} decides after the last one; use --sheet "
                "FILE.png instead"
            )
    if request.only is not None and request.explain is not None:
        raise UsageError(
            "--explain draws images as they are labelled, but --only chooses after the last one; leave out --explain, "
            "and give the chosen ones to wisesr explain"
        )


def header_of(request: PredictRequest, engine: ChosenEngine) -> JournalHeader:
    """Return everything that the records depend on."""
    options = {name: getattr(request, name) for name in ("top_k", "min_score", "batch_size", "precision")}
    shard = None if request.shard is None else str(parse_shard(request.shard))
    options |= {} if request.coverage is None else {"coverage": request.coverage}
    options |= {"probabilities": True} if request.probabilities else {}
    options |= {"pixel_limit": request.pixel_limit or PIXEL_LIMIT, "shard": shard, "engine": engine.identity}
    return JournalHeader(sha256(engine.path), options)


class _Labelling:
    """The labelling of one request's inputs; their names and the model are checked before the first record."""

    def __init__(
        self,
        request: PredictRequest,
        engine: ChosenEngine,
        coverage: Coverage | None,
        ending: Ending,
        folder: Path | None,
        tally: Tally,
    ) -> None:
        self.request, self.engine, self.coverage = request, engine, coverage
        self.ending, self.output, self.folder, self.tally = ending, ending.output, folder, tally
        shard = None if request.shard is None else parse_shard(request.shard)
        inputs = tuple(map(str, request.inputs))
        self.wanted = WantedInputs(inputs, request.from_file, request.null_separated, shard)
        self.stop = ending.stop

    def records(self) -> Generator[Prediction, None, None]:
        """Start the engine and return the remaining records."""
        listener, oddities = self.request.listener, Oddities()
        total = self._count()
        found = self.wanted.find(oddities)
        inputs = self._inputs(found)
        paths = inputs if isinstance(found, ShardInputs) else not_empty(inputs)
        left = paths if self.output is None else self.output.skip_done(paths)
        done = self.tally.records
        if done:
            listener.note(f"{counted(done, 'record')} found in the journal")
        with self.stop.deferred():  # an import must not be interrupted
            records = self._open(left, found, oddities, done)
        return self._written(records, found, oddities, None if total is None else total - done)

    def _count(self) -> int | None:
        """Return the number of inputs, if it is to be shown and they can be read more than once."""
        if isinstance(self.request.listener, Silent) or self.wanted.is_read_once:
            return None
        return sum(1 for _ in self._inputs(self.wanted.find()))

    def _inputs(self, found: Iterable[str]) -> Iterable[str]:
        """Return the inputs except files that wisesr itself wrote among them."""
        if self.folder is not None:
            from wisesr_cli.explanation.own_pictures import without_own_pictures

            found = without_own_pictures(found, self.folder)
        return self.ending.without_own_files(found)

    def _open(
        self, paths: Iterable[str], found: Inputs | ShardInputs, oddities: Oddities, done: int
    ) -> Generator[Prediction, None, None]:
        request = self.request
        if request.engine == "ray":
            from wisesr_cli.prediction.ray.driver import job_of, ray_records

            with self._off_standard_output():
                job = job_of(request, self.engine, self.coverage)
                return ray_records(job, self._interruptible(paths), request=request, oddities=oddities, first=done)
        engine = self.engine.start(request.listener)
        records = predict_paths(
            engine, paths, request, coverage=self.coverage, oddities=oddities, ready=found.ready, first=done
        )
        if self.folder is None and request.screen is None:
            return records
        from wisesr_cli.prediction.pictures import illustrated

        return illustrated(records, request, self.engine, self.folder, first=done)

    def _written(
        self,
        records: Generator[Prediction, None, None],
        found: Inputs | ShardInputs,
        oddities: Oddities,
        total: int | None,
    ) -> Generator[Prediction, None, None]:
        """Count, write and yield every record, and report oddities at the end."""
        with closing(self._counted(records, total)) as counted_records:
            yield from self.ending.given(counted_records)
        listener = self.request.listener
        if isinstance(found, ShardInputs):
            found.tell(listener)
        oddities.tell(listener)

    def _counted(
        self, records: Generator[Prediction, None, None], total: int | None
    ) -> Generator[Prediction, None, None]:
        """Yield every record after counting it or, with an output, writing it to the journal."""
        with self.request.listener.progress("labelling", total) as progress:
            for record in self._iterate(records):
                self.stop.check(self.stop.hint)
                if self.output is None:
                    self.tally.add(record)
                else:
                    self.output.write(record)
                yield record
                progress.advance()

    def _iterate(self, records: Generator[Prediction, None, None]) -> Iterator[Prediction]:
        """Iterate over the records; with Ray, defer signals, as an immediate stop would crash it."""
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

    def _interruptible(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield the same paths; a signal ends the wait for the next one even while stops are deferred."""
        iterator = iter(paths)
        while True:
            with self.stop.at_once():
                path = next(iterator, None)
            if path is None:
                return
            yield path

    @contextmanager
    def _off_standard_output(self) -> Iterator[None]:
        """Keep Ray's messages off standard output."""
        if self.request.engine != "ray":
            yield
            return
        from wisesr_cli.prediction.ray.session import off_standard_output

        with off_standard_output(self.request.listener):
            yield
