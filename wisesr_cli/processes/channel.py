"""What the processes of a training tell one another beside the numbers of a step, by way of JAX's coordinator.

Values are JSON in the coordinator's store, which is there before any device is; arrays are handed out by the devices.
JAX watches whether every process lives, and ends the others with a message of its own when one does not.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from wisesr_cli.errors import INTERRUPTED, EndedElsewhere
from wisesr_cli.text import visible

LOOK_MILLISECONDS = 1000  # after which a process that waits for a value hears of signals
END_MILLISECONDS = 3000  # for which a process that ends waits for others that do


class Channel:
    """The way to the other processes; of a training of one process, a way to nobody, which costs nothing.

    Every process calls `exchange`, `from_main`, `arrays_from_main` and `stop_after` in the same order. `state` is JAX's
    `distributed.global_state`, `multihost` its `multihost_utils`: this module is imported where there is no JAX.
    """

    def __init__(self, processes: int = 1, process: int = 0, state: Any = None, multihost: Any = None) -> None:
        self.processes, self.process = processes, process
        self.hosts: list[str] = []
        self._state, self._multihost = state, multihost
        self._exchanges, self._told = 0, 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and shows everything."""
        return self.process == 0

    @property
    def place_on_host(self) -> tuple[int, int]:
        """Which process of its machine this is, from 0, and how many run there."""
        same = [number for number, host in enumerate(self.hosts) if host == self.hosts[self.process]] or [0]
        return same.index(self.process), len(same)

    def exchange(self, value: Any) -> list[Any]:
        """Return what every process gave here, by process. Values are JSON's."""
        if self.processes == 1:
            return [value]
        values, name = [value], f"exchange {self._exchanges} of"
        if self.is_main:
            values += [self._get(f"{name} {other}") for other in range(1, self.processes)]
        else:
            self._put(f"{name} {self.process}", {"value": value})
        self._exchanges += 1
        return list(self.from_main(values))

    def from_main(self, value: Any = None) -> Any:
        """Return what the main process gave here; `value` of the others counts for nothing."""
        if self.processes > 1:
            if self.is_main:
                self._put(f"main {self._told}", {"value": value})
            else:
                value = self._get(f"main {self._told}")
            self._told += 1
        return value

    def arrays_from_main(self, arrays: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the arrays that the main process gave here; the devices have been started."""
        if self.processes == 1:
            return arrays or {}
        import numpy as np  # not where a mistake in a config is answered

        buffer = io.BytesIO()
        np.savez(buffer, **(arrays or {}))
        size = self.from_main(buffer.tell())
        content = np.frombuffer(buffer.getvalue(), np.uint8) if self.is_main else np.zeros(size, np.uint8)
        content = self._multihost.broadcast_one_to_all(content)
        with np.load(io.BytesIO(content.tobytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    @contextmanager
    def agreeing_on_stops(self) -> Iterator[None]:
        """Let JAX take SIGTERM for as long as the block runs, in which every step asks `stop_after`."""
        if self.processes > 1:
            self._state.initialize_preemption_sync_manager()
        try:
            yield
        finally:
            with suppress(ValueError, TypeError):  # not the main thread, or nobody in Python had it before
                signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))

    def stop_after(self, step: int, wanted: Any) -> Any:
        """Return why all processes stop after this step, or None; `wanted` is why this one would like to.

        JAX finds a step that none has done yet as soon as one process gets a SIGTERM. Whoever wants to stop for another
        reason sends it to itself.
        """
        if self.processes == 1:
            return wanted
        if wanted is not None:
            os.kill(os.getpid(), signal.SIGTERM)  # the second and later ones are nothing new to JAX
        if not self._multihost.reached_preemption_sync_point(step):
            return None
        reasons = [reason for reason in self.exchange(wanted) if reason is not None]
        return reasons[0] if reasons else {"signal": int(signal.SIGTERM)}

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends, where they wait for what it would have said next."""
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        key = f"main {self._told}" if self.is_main else f"exchange {self._exchanges} of {self.process}"
        with suppress(RuntimeError):  # the coordinator may be what was lost
            self._put(key, {"failed": f"process {self.process}: {error}", "exit_code": code})
        atexit.register(self._end, code)  # before JAX's own, which waits for minutes for those that are lost

    def _put(self, key: str, message: dict[str, Any]) -> None:
        self._state.client.key_value_set(f"wisesr/{key}", json.dumps(message), allow_overwrite=True)

    def _get(self, key: str) -> Any:
        """Return a value that another process gives, sooner or later: JAX ends this one when that one is lost."""
        while True:
            try:
                message = json.loads(self._state.client.blocking_key_value_get(f"wisesr/{key}", LOOK_MILLISECONDS))
                break
            except RuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
        if "failed" in message:
            # Only the main process repeats why, as there may be a thousand others.
            why = visible(message["failed"]) if self.is_main else "another one says why"
            raise EndedElsewhere(f"process {self.process} ended with the others: {why}", int(message["exit_code"]))
        return message["value"]

    def _end(self, code: int) -> None:
        """End this process, together with those that end for the same reason: JAX ends whoever loses the main one."""
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(RuntimeError):
            self._state.client.wait_at_barrier("wisesr/end", END_MILLISECONDS)
        os._exit(code)


ALONE_CHANNEL = Channel()
