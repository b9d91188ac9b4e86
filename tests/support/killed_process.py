"""Runs a command line of wisesr that kills its own process inside a save, with SIGKILL.

Arguments: the run directory, the number of the change to the disk to be killed at, seconds to go on after it, then the
command line. Only changes inside saves count: those of a state or of the best model. With 0 seconds the change does not
happen; with more, it and what follows is cut short somewhere.
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
    """Hears of every change to the disk, and kills the process at the chosen one."""

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
        if self.inside:  # or the save is over: the next one is tried
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, change, delay, *words = sys.argv[1:]
    sys.argv = ["wisesr", *words]
    with hearing(Path(folder), Killer(Path(folder), int(change), float(delay))):
        main()
