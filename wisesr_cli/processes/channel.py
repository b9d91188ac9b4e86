"""Communication between the processes of a training outside its steps, through JAX's coordinator.

Values are JSON in the coordinator's store, which exists before any device is started; arrays are broadcast by the
devices. JAX monitors all processes, and ends the others with its own message when one is lost.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from wisesr_cli.errors import INTERRUPTED, EndedElsewhere
from wisesr_cli.text import visible

POLL_MILLISECONDS = 1000  # interval at which a process that waits for a value handles signals
END_MILLISECONDS = 15000  # how long an ending process waits for others that end, allowing for a machine under load
LAST_SECONDS = 5  # how long the main process outlives them


class Channel:
    """The connection to the other processes; trivial for a training of one process.

    Every process must call `exchange`, `from_main`, `arrays_from_main` and `stop_after` in the same order. `state` is
    JAX's `distributed.global_state`, `multihost` its `multihost_utils`, as this module is also imported without JAX.
    """

    def __init__(self, processes: int = 1, process: int = 0, state: Any = None, multihost: Any = None) -> None:
        self.processes, self.process = processes, process
        self.hosts: list[str] = []
        self._state, self._multihost = state, multihost
        self._exchanges, self._broadcasts = 0, 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process (rank 0) that writes and shows everything."""
        return self.process == 0

    @property
    def rank_on_host(self) -> tuple[int, int]:
        """The rank of this process on its machine, from 0, and the number of processes there."""
        same = [number for number, host in enumerate(self.hosts) if host == self.hosts[self.process]] or [0]
        return same.index(self.process), len(same)

    def exchange(self, value: Any) -> list[Any]:
        """Return the JSON values of all processes, by rank."""
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
        """Return the main process's value; the `value` of the others is ignored."""
        if self.processes > 1:
            if self.is_main:
                self._put(f"main {self._broadcasts}", {"value": value})
            else:
                value = self._get(f"main {self._broadcasts}")
            self._broadcasts += 1
        return value

    def arrays_from_main(self, arrays: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the main process's arrays; the devices must have been started."""
        if self.processes == 1:
            return arrays or {}
        import numpy as np  # not needed for reporting a mistake in a config

        buffer = io.BytesIO()
        np.savez(buffer, **(arrays or {}))
        size = self.from_main(buffer.tell())
        content = np.frombuffer(buffer.getvalue(), np.uint8) if self.is_main else np.zeros(size, np.uint8)
        content = self._multihost.broadcast_one_to_all(content)
        with np.load(io.BytesIO(content.tobytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    @contextmanager
    def synchronized_stops(self) -> Iterator[None]:
        """Let JAX handle SIGTERM within the block, in which every step must call `stop_after`.

        JAX sets its handler without Python, which still names the one before: whoever restored that would remove it. So
        Python's is to ignore the signal.
        """
        before = None
        try:
            if self.processes > 1:
                with suppress(ValueError):  # not the main thread
                    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
                self._state.initialize_preemption_sync_manager()
            yield
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)

    def stop_after(self, step: int, wanted: Any) -> Any:
        """Return the reason why all processes stop after this step, or None; `wanted` is this process's own reason.

        When one process gets a SIGTERM, JAX agrees on a step that none has reached yet. A process that wants to stop
        for another reason sends itself a SIGTERM.
        """
        if self.processes == 1:
            return wanted
        if wanted is not None:
            os.kill(os.getpid(), signal.SIGTERM)  # JAX ignores repeated ones
        if not self._multihost.reached_preemption_sync_point(step):
            return None
        reasons = [reason for reason in self.exchange(wanted) if reason is not None]
        return reasons[0] if reasons else {"signal": int(signal.SIGTERM)}

    def fail(self, error: BaseException) -> None:
        """Send the others the reason why this process ends, instead of the value that they wait for."""
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        key = f"main {self._broadcasts}" if self.is_main else f"exchange {self._exchanges} of {self.process}"
        with suppress(RuntimeError):  # the coordinator itself may be lost
            self._put(key, {"failed": f"process {self.process}: {error}", "exit_code": code})
        atexit.register(self._end, code)  # runs before JAX's handler, which waits minutes for lost processes

    def _put(self, key: str, message: dict[str, Any]) -> None:
        self._state.client.key_value_set(f"wisesr/{key}", json.dumps(message), allow_overwrite=True)

    def _get(self, key: str) -> Any:
        """Wait for a value from another process; JAX ends this process if the other is lost."""
        while True:
            try:
                message = json.loads(self._state.client.blocking_key_value_get(f"wisesr/{key}", POLL_MILLISECONDS))
                break
            except RuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
        if "failed" in message:
            # Only the main process repeats the reason, as there may be a thousand other processes.
            why = visible(message["failed"]) if self.is_main else "another process says why"
            raise EndedElsewhere(f"process {self.process} ended with the others: {why}", int(message["exit_code"]))
        return message["value"]

    def _end(self, code: int) -> None:
        """End this process together with the other failing ones, as JAX would kill those that lose the main process."""
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(RuntimeError):
            self._state.client.wait_at_barrier("wisesr/end", END_MILLISECONDS)
        if self.is_main:
            time.sleep(LAST_SECONDS)  # JAX aborts processes that learn of the barrier after its coordinator is gone
        os._exit(code)


ALONE_CHANNEL = Channel()
