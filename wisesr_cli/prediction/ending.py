"""The last steps of a prediction: orders or selects records, writes them, draws the contact sheet, places images."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from wisesr_cli.errors import UsageError
from wisesr_cli.machine.stopping import StopRequest
from wisesr_cli.prediction.ordering import check_order, in_order
from wisesr_cli.prediction.output import FileOutput, is_same
from wisesr_cli.prediction.placing import Placing
from wisesr_cli.prediction.sheet import Sheet
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results.streams import Prediction
from wisesr_cli.text import visible


class Ending:
    """The outputs of one request, each of which may be None."""

    def __init__(
        self, request: PredictRequest, output: FileOutput | None, *, sheet: Sheet | None, placing: Placing | None
    ) -> None:
        self.output, self.sheet, self.placing = output, sheet, placing
        self.sort, self.most = request.sort, check_order(request.sort, request.only)
        self.listener, self.stop = request.listener, request.stop or StopRequest()
        self.name = request.output
        if output is not None:
            output.arrange = self._arranged

    @property
    def is_left(self) -> bool:
        """Whether an earlier process did everything except, perhaps, placing images.

        Raises a `UsageError` if images of another command are being placed.
        """
        if self.output is None:
            return self.placing is not None and (self.placing.is_planned or self.placing.is_done)
        if self.output.is_complete:
            return True
        if self.placing is not None and self.placing.is_begun:
            raise UsageError(
                f"{visible(self.placing.folder)}: images of another command are being placed there; finish that "
                "command first"
            )
        return False

    def rest(self) -> Generator[Prediction, None, None]:
        """Do the remaining work, which yields no records."""
        if self.placing is not None and self.placing.is_planned:
            self._place(self.placing)
        elif self.output is None and self.placing is not None:
            self.placing.clear()
            self.listener.note(f"{visible(self.placing.folder)}: every image is there; nothing to resume")
        else:
            assert self.output is not None, "without images to place, only an output is left"
            self.listener.note(self.output.nothing_left)
        yield from ()

    def without_own_files(self, paths: Iterable[str]) -> Iterable[str]:
        """Return the inputs without this command's own files; raises a `UsageError` for a path that would be both."""
        if self.sheet is not None:
            paths = self._without_sheet(paths, self.sheet.path)
        if self.placing is not None:
            paths = self.placing.outside(paths)
        return paths if self.output is None else self.output.without_own_files(paths)

    def _without_sheet(self, paths: Iterable[str], sheet: Path) -> Iterator[str]:
        for path in paths:
            if Path(path).name != sheet.name or not is_same(path, sheet):
                yield path

    def given(self, records: Generator[Prediction, None, None]) -> Generator[Prediction, None, None]:
        """Yield the selected records in the requested order and write everything; without an output, as they come."""
        if self.output is None:
            yield from self._arranged(records)
        elif self.sort is None and self.most is None:
            yield from records
            self.output.finish()
        else:
            for _ in records:  # into the journal
                pass
            yield from self.output.rendered()
        if self.placing is not None:
            self._place(self.placing)

    def _arranged(self, records: Iterable[Prediction]) -> Iterator[Prediction]:
        folder = None if self.output is None else self.output.path.parent
        records = in_order(records, sort=self.sort, most=self.most, folder=folder)
        if self.sheet is not None:
            records = self.sheet.drawn(records, self.listener)
        return records if self.placing is None else self.placing.planned(records)

    def _place(self, placing: Placing) -> None:
        with self.stop.deferred():  # between two images
            placing.carry_out(self.listener, lambda: self.stop.check(self.stop.hint))
