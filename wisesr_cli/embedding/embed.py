"""Computes feature vectors of images: the work of `wisesr embed`, from the request to the last record."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, closing

from wisesr_cli.data.inputs import Inputs, WantedInputs, not_empty
from wisesr_cli.data.oddities import Oddities, Tally
from wisesr_cli.data.shards import ShardInputs
from wisesr_cli.data.stream import Decoded, Records, decode_in_order
from wisesr_cli.embedding.output import VectorsFile, open_vectors
from wisesr_cli.engines.choose import ChosenEngine, choose_engine
from wisesr_cli.engines.engine import Engine
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.listening import Silent
from wisesr_cli.machine.files import sha256
from wisesr_cli.machine.stopping import StopRequest
from wisesr_cli.prediction.journal import JournalHeader
from wisesr_cli.prediction.stream import Row, computed, rows_of
from wisesr_cli.requests import EmbedRequest
from wisesr_cli.results.streams import Embedding
from wisesr_cli.run.located import locate
from wisesr_cli.text import counted, visible

MOST_REASONS = 10  # unreadable images to name


def embed(request: EmbedRequest) -> Records[Embedding]:
    """Return a lazily computed record per image, in order; with an output, each is stored before it is yielded.

    Raises a `WisesrError` if the model, the inputs or the output cannot be used; records stored before are kept.
    """
    output = open_vectors(request)
    listener = request.listener
    run = locate(request.run, listener)
    engine = choose_engine(
        run, request.engine, device=request.device, image_size=request.image_size, features=True, listener=listener
    )
    with ExitStack() as held:
        tally, stop = Tally(), request.stop or StopRequest()
        if output is not None:
            output.header = header_of(request, engine)
            if request.resume and output.is_complete:
                listener.note(output.nothing_left)
                return Records((record for record in list[Embedding]()), held.pop_all(), tally)
            tally = held.enter_context(output).tally
        wanted = WantedInputs(tuple(map(str, request.inputs)), request.from_file, request.null_separated)
        total = None
        if not isinstance(listener, Silent) and not wanted.is_read_once:
            total = sum(1 for _ in _inputs(wanted.find(), output))
        oddities = Oddities()
        found = wanted.find(oddities)
        paths: Iterable[str] = not_empty(_inputs(found, output))
        if output is not None:
            paths = output.skip_done(paths)
        if done := tally.records:
            listener.note(f"{counted(done, 'record')} found in the journal")
        with stop.deferred():  # an import must not be interrupted
            started = engine.start(listener)
        records = _embedded(request, started, paths, found, oddities, first=done)
        rest = None if total is None else total - done
        return Records(_kept(request, records, output, tally, oddities, stop, rest), held.pop_all(), tally)


def header_of(request: EmbedRequest, engine: ChosenEngine) -> JournalHeader:
    """Return everything that the vectors depend on."""
    options = {"vectors": True, "batch_size": request.batch_size, "pixel_limit": request.pixel_limit or PIXEL_LIMIT}
    return JournalHeader(sha256(engine.path), {**options, "engine": engine.identity})


def _inputs(found: Iterable[str], output: VectorsFile | None) -> Iterable[str]:
    """Return the inputs except the output's own journal."""
    return found if output is None else output.without_own_files(found)


def _embedded(
    request: EmbedRequest,
    engine: Engine,
    paths: Iterable[str],
    found: Inputs | ShardInputs,
    oddities: Oddities,
    *,
    first: int,
) -> Generator[Embedding, None, None]:
    """Yield a record per path, in order; only a few batches are in memory at any time."""
    batches = decode_in_order(
        paths,
        image_size=engine.info.image_size,
        preparation=engine.info.preparation,
        batch_size=request.batch_size,
        pixel_limit=request.pixel_limit or PIXEL_LIMIT,
        ready=found.ready,
    )

    def compute(batch: Sequence[Decoded], number: int) -> Sequence[Row | None]:
        return rows_of(batch, engine, "features", first=number, batch_size=request.batch_size)

    with closing(batches), closing(computed(batches, compute, ready=found.ready, first=first)) as rows:
        for decoded, row in rows:
            if decoded.header is not None:
                oddities.add(decoded.path, decoded.header)
            yield Embedding(decoded.path, None if row is None else tuple(row.tolist()), decoded.error)


def _kept(
    request: EmbedRequest,
    records: Generator[Embedding, None, None],
    output: VectorsFile | None,
    tally: Tally,
    oddities: Oddities,
    stop: StopRequest,
    total: int | None,
) -> Generator[Embedding, None, None]:
    """Count, store and yield every record, write the output after the last one, and report oddities."""
    with closing(records), request.listener.progress("embedding", total) as progress:
        for record in records:
            stop.check(stop.hint)
            if output is None:
                tally.add(record)
            else:
                output.write(record)
            if record.error is not None and tally.unreadable <= MOST_REASONS:
                request.listener.warn(f"{visible(record.path)}: {record.error}")
            yield record
            progress.advance()
        if output is not None:
            output.finish()
    oddities.tell(request.listener)
