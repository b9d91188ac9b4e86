"""A training as TensorBoard logs in its run directory: always written, and part of the run like its history."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wisesr_cli.machine.files import make_folder, naming
from wisesr_cli.run.written import Written

TRAINING = ("loss", "top1_accuracy", "learning_rate")
VALIDATION = ("val_loss", "val_top1_accuracy")


class TensorBoardTracker:
    """Logs epochs to files below `folder` of a run, created with the first epoch; see `tracker.Tracker`.

    TensorBoard's own writer uses a thread, whose errors, such as a full disk, are lost.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.written = folder, Written(folder.parent)
        self._logs: dict[str, Any] = {}

    @property
    def is_possible(self) -> bool:
        """Whether TensorBoard can read the folder: its name must be UTF-8."""
        try:
            str(self.folder).encode("utf-8")
        except UnicodeEncodeError:
            return False
        return True

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Log numbers of an epoch, from 1; raises a `MachineError` if they cannot be written."""
        for split, names in (("train", TRAINING), ("validation", VALIDATION)):
            found = {name.removeprefix("val_"): values[name] for name in names if name in values}
            if found:
                self._add(split, epoch, found)

    def _add(self, split: str, epoch: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        with naming(self.folder / split):
            if split not in self._logs:
                self._logs[split] = _new_log(self.folder / split, self.written)
            rows = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            event = Event(wall_time=time.time(), step=epoch, summary=Summary(value=rows))
            self._logs[split].write(event.SerializeToString())
            self._logs[split].flush()

    def end(self) -> None:
        """Close the files."""
        for log in self._logs.values():
            with suppress(OSError):  # of rows that could not be written before
                log.close()


def _new_log(folder: Path, written: Written) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    make_folder(folder, inside=written.folder)
    name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.{time.time_ns()}"
    log = RecordWriter((folder / name).open("xb"))
    log.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    log.flush()
    written.add(folder / name, grows=True)
    return log
