"""Runs a wisesr command line that kills its own process with SIGKILL during a save.

Arguments: the run directory, the number of the disk change at which to kill, the delay in seconds, then the command
line. Only changes during saves of a state or of the best model count. With a delay of 0, the change does not happen;
with a longer one, this change or a later one is cut short at some point.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from disk_events import hearing

from wisesr_cli.__main__ import main
from wisesr_cli.machine.files import TEMPORARY_PREFIX

MARK = "killed inside a save"


class Killer:
    """Listens to every change to the disk, and kills the process at the chosen one."""

    def __init__(self, run: Path, at: int, seconds: float) -> None:
        self.run, self.at, self.seconds = str(run), at, seconds
        self.heard = 0
        self.inside = False

    def __call__(self, event: str, path: str) -> None:
        name = os.path.relpath(path, self.run)
        is_model = name == "best.keras" or (name.startswith(TEMPORARY_PREFIX) and name.endswith(".keras"))
        self.inside = is_model or name.startswith("state/")
        if not self.inside:
            return
        self.heard += 1
        if self.heard < self.at:
            return
        os.write(2, f"{MARK}: {event} {name}\n".encode())
        if self.seconds == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        threading.Thread(target=self._kill_soon, daemon=True).start()

    def _kill_soon(self) -> None:
        time.sleep(self.seconds)
        if self.inside:  # otherwise the save is over, and the next change is tried
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, change, delay, *words = sys.argv[1:]
    sys.argv = ["wisesr", *words]
    with hearing(Path(folder), Killer(Path(folder), int(change), float(delay))):
        main()
