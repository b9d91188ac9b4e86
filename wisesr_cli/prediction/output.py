"""Writes predictions to a stream, or through a journal to a file that is complete or does not exist.

When all inputs are done, the journal is rendered and renamed. If the process is killed, `--resume` continues after the
journal's last complete record, so that the output is byte for byte that of an uninterrupted run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.machine.files import TEMPORARY_PREFIX, flush_to_disk, is_link_of_another, replacing
from wisesr_cli.prediction.formats import Renderer, chosen_format, rendering
from wisesr_cli.prediction.journal import FIRST_RECORD, PREDICTIONS, SUFFIX, Journal, JournalHeader
from wisesr_cli.prediction.tables import PLAIN, LabelTally, Layout
from wisesr_cli.requests import EmbedRequest, PredictRequest
from wisesr_cli.results.streams import Embedding, Prediction
from wisesr_cli.text import visible

__all__ = ["FileOutput", "JournalHeader", "Renderer", "is_same", "open_output"]


class FileOutput:
    """Predictions in a file of the format `chosen`, through a journal next to it.

    `header` is what the journal must match to be resumed; `overwrite` replaces an existing file and journal. `arrange`
    orders and selects the records when they are rendered.
    """

    form = PREDICTIONS

    def __init__(
        self,
        chosen: str,
        path: Path,
        header: JournalHeader,
        layout: Layout = PLAIN,
        *,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.chosen, self.path, self.header, self.layout = chosen, path, header, layout
        self.overwrite, self.resume = overwrite, resume
        self.journal_path = path.with_name(path.name + SUFFIX)
        self.tally = LabelTally(layout)
        self.arrange: Callable[[Iterator[Prediction]], Iterator[Prediction]] = lambda records: records

    def __enter__(self) -> FileOutput:
        """Open the journal, which locks the output.

        Raises:
            UsageError: the file or journal exists, and neither overwriting nor resuming was requested.
            MachineError: another process writes this output, or it cannot be written.
            RunError: the journal to resume is damaged, or belongs to another model or other options.
        """
        self.journal = Journal(self.journal_path, self.header, self.form)
        try:
            self._refuse_existing()
            for leftover in self.path.parent.glob(f"{self._rendering}*"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            if self.resume:
                self.journal.resume()
            else:
                self.journal.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.journal.close()

    def _refuse_existing(self) -> None:
        if self.overwrite or self.resume:
            return
        if self.path.exists():
            raise UsageError(f"{visible(self.path)} exists; replace it with --overwrite")
        if self.journal.has_records:
            raise UsageError(
                f"{visible(self.journal_path)} exists: continue with --resume, or start over with --overwrite"
            )

    def without_own_files(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield the inputs except the journal, which a pattern may match.

        Raises a `UsageError` if the output itself is an input.
        """
        for path in paths:
            name = Path(path).name
            if name == self.path.name and is_same(path, self.path):
                raise UsageError(f"{visible(path)}: is both an input and the output; choose another name with -o")
            if name != self.journal_path.name or not is_same(path, self.journal_path):
                yield path

    def skip_done(self, paths: Iterable[str]) -> Iterable[str]:
        """Return the inputs that are not in the journal yet; raises a `RunError` if the earlier ones differ from it."""
        rest = iter(paths)
        for number, record in enumerate(self.journal.records(), start=FIRST_RECORD):
            path = next(rest, None)
            if path != record.path:
                raise RunError(
                    f"{visible(self.journal_path)}:{number}: the inputs have changed: {visible(record.path)} "
                    f"was here, now {'nothing' if path is None else visible(path)}; start over with --overwrite"
                )
            self.tally.add(record)
        return rest

    def write(self, record: Prediction | Embedding) -> None:
        """Append one record to the journal."""
        self.tally.add(record)
        self.journal.append(record)

    @property
    def _rendering(self) -> str:
        """The prefix of the temporary file that becomes the output, by which leftovers are found and removed."""
        return f"{TEMPORARY_PREFIX}{sha256(os.fsencode(self.path.name)).hexdigest()[:12]}-"

    @property
    def is_complete(self) -> bool:
        """Whether the output exists and there is nothing to resume."""
        return self.path.exists() and not self.journal_path.exists()

    @property
    def nothing_left(self) -> str:
        """The message for a request to resume an output that is complete."""
        return (
            f"{visible(self.path)} exists, and there is no journal next to it: nothing to resume; replace it with "
            "--overwrite"
        )

    def finish(self) -> None:
        """Render the journal into the output and remove the journal."""
        for _ in self.rendered():
            pass

    def rendered(self) -> Iterator[Prediction]:
        """Yield each record as it is rendered; after the last one, put the output in place and remove the journal."""
        with self.completed() as temporary, rendering(self.chosen, temporary, self.layout) as renderer:
            for record in self.arrange(self.journal.records()):
                renderer.write(record)
                yield record
            renderer.end()

    @contextmanager
    def completed(self) -> Iterator[Path]:
        """Yield an empty file that becomes the output when the block ends; then remove the journal."""
        self.journal.flush_to_disk()
        with replacing(self.path, begin=self._rendering, end="") as temporary:
            yield temporary
        self.journal.remove()
        flush_to_disk(self.path.parent)


def is_same(path: str, other: Path) -> bool:
    """Return whether a path leads to the same file as another."""
    try:
        return Path(path).samefile(other)
    except (OSError, ValueError):  # one does not exist, or its name is invalid
        return False


def open_output(
    request: PredictRequest, header: Callable[[], JournalHeader], layout: Layout = PLAIN
) -> FileOutput | None:
    """Return the output file of a request, or None; `header` hashes the model, and is called last.

    Raises a `UsageError` as `checked_output` does, for an unknown format, and if there is nothing to resume although
    resuming was requested.
    """
    path = request.output
    if path is None:
        if request.overwrite and request.resume:
            raise UsageError("--resume and --overwrite exclude each other")
        replaced = (request.sort_into, request.sheet) if request.overwrite else (request.sort_into,)
        if (request.resume or request.overwrite) and not any(replaced):
            raise UsageError("--resume and --overwrite need -o FILE or --sort-into DIR, --overwrite or --sheet FILE")
        return None
    file = checked_output(path, request)
    chosen = chosen_format(path, request.output_format, probabilities=request.probabilities)
    return FileOutput(chosen, file, header(), layout, overwrite=request.overwrite, resume=request.resume)


def checked_output(path: str, request: PredictRequest | EmbedRequest) -> Path:
    """Return the path to write a request's output to, following links.

    Raises a `UsageError` if it exists and is neither to be replaced nor resumed, or if no file can be written there.
    """
    file = Path(path)
    if request.overwrite and request.resume:
        raise UsageError("--resume and --overwrite exclude each other")
    if not path:
        raise UsageError("-o is empty; it takes a file")
    if is_link_of_another(file):
        raise UsageError(f"{visible(path)}: is a link that another user made; choose another name with -o")
    if file.is_dir():
        raise UsageError(f"{visible(path)} is a folder; -o takes a file")
    if file.exists() and not file.is_file():
        raise UsageError(f"{visible(path)} is not a regular file; leave -o out, and write > {visible(path)}")
    file = file.resolve()  # keep the link, and write its target
    if request.from_file is not None and is_same(request.from_file, file):
        raise UsageError(f"{visible(path)}: is both the list of inputs and the output; choose another name with -o")
    if file.exists() and not request.overwrite and not request.resume:
        raise UsageError(f"{visible(path)} exists; replace it with --overwrite")
    if not file.parent.is_dir():
        raise UsageError(f"{visible(file.parent)}: no such folder for the output")
    return file
