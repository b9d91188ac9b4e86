"""What the processes of a training tell one another beside the numbers of a step, and how one learns of another's end.

Process 0, the main one, is connected to all others. They exchange small values (who can read which image, what the
main process decided), the arrays of a state to resume from, and signs of life; nothing of it during a step.
"""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import INTERRUPTED, EndedElsewhere, WisesrError
from wisesr_cli.listening import Listener
from wisesr_cli.processes.agreement import StopAgreement
from wisesr_cli.processes.connection import Connection
from wisesr_cli.processes.launch import Cluster
from wisesr_cli.processes.meeting import meet
from wisesr_cli.processes.watchdog import Verdict, Watchdog
from wisesr_cli.text import visible

LOST_EXIT_CODE = 5
BUG_EXIT_CODE = 1
BEATS_PER_TIMEOUT = 8
NEWS_SECONDS = 3.0  # within which it is known that another process has ended
MOST_WAIT_SECONDS = 1.0  # between two looks at the verdict

Arrays = dict[str, NDArray[Any]]


class Channel:
    """The way to the other processes; of a training of one process, a way to nobody, which costs nothing."""

    def __init__(
        self,
        cluster: Cluster | None = None,
        hosts: Sequence[str] = (),
        connections: Mapping[int, Connection] | None = None,
    ) -> None:
        self.cluster = cluster
        self.processes = cluster.processes if cluster else 1
        self.process = cluster.process if cluster else 0
        self.hosts = tuple(hosts)
        self.watchdog = Watchdog("" if self.is_main else self.name)
        self._connections = dict(connections or {})
        self._agreement = StopAgreement(self.process, self._connections, self._tell_stop, self._wait)
        self._changed = threading.Condition()
        self._waiting: dict[int, deque[tuple[str, Any, bytes]]] = {peer: deque() for peer in self._connections}
        self._closing = threading.Event()

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and shows everything."""
        return self.process == 0

    @property
    def name(self) -> str:
        """How this process is called in messages."""
        return f"process {self.process} of {self.processes}"

    @property
    def place_on_host(self) -> tuple[int, int]:
        """The how manieth process of its machine this is, from 0, and how many run there."""
        if not self.hosts:
            return 0, 1
        same = [process for process, host in enumerate(self.hosts) if host == self.hosts[self.process]]
        return same.index(self.process), len(same)

    def exchange(self, about: str, value: Any) -> list[Any]:
        """Return what every process gave here, by process; `about` must be the same in all. Values are JSON's."""
        if not self._connections:
            return [value]
        if not self.is_main:
            self._send(0, {"data": about, "value": value})
            return list(self._take(0, about)[0])
        values = [value, *(self._take(peer, about)[0] for peer in sorted(self._connections))]
        for peer in self._connections:
            self._send(peer, {"data": about, "value": values})
        return values

    def from_main(self, about: str, value: Any = None) -> Any:
        """Return what the main process gave here; `value` of the others counts for nothing."""
        if not self._connections or not self.is_main:
            return value if self.is_main else self._take(0, about)[0]
        for peer in self._connections:
            self._send(peer, {"data": about, "value": value})
        return value

    def arrays_from_main(self, about: str, arrays: Arrays | None = None) -> Arrays:
        """Return the arrays that the main process gave here."""
        if not self.is_main:
            with np.load(io.BytesIO(self._take(0, about)[1]), allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        assert arrays is not None, "the main process has them"
        if self._connections:
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)  # type: ignore[arg-type]
            content = buffer.getvalue()
            for peer in self._connections:
                self._send(peer, {"data": about, "value": None}, content)
        return arrays

    def stop_after(self, step: int, wanted: Any) -> Any:
        """Return why all processes stop after this step, or None; `wanted` is why this one would like to."""
        return self._agreement.stop_after(step, wanted) if self._connections else wanted

    def explain(self, error: BaseException) -> None:
        """Raise what really happened, where an error of this process may come of the end of another one."""
        if isinstance(error, WisesrError):
            return
        # JAX raises a RuntimeError when a step waits for a process that no longer answers, but others as well.
        self.watchdog.spoken.wait(self._lost_after if isinstance(error, RuntimeError) else NEWS_SECONDS)
        if self.watchdog.verdict is not None:
            raise self.watchdog.error(self.watchdog.verdict) from error

    def start_watching(self, lost_after_seconds: float) -> None:
        """Begin to read what the others send, and to show them that this process lives."""
        self._lost_after = lost_after_seconds
        for peer in self._connections:
            threading.Thread(target=self._read, args=(peer,), name=f"wisesr-from-{peer}", daemon=True).start()
        if self._connections:
            self.watchdog.keep_stderr()
            threading.Thread(target=self._beat, name="wisesr-beat", daemon=True).start()

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends, unless they know better."""
        code = error.exit_code if isinstance(error, WisesrError) else BUG_EXIT_CODE
        code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else code
        reason = str(error) if isinstance(error, WisesrError) else f"{type(error).__name__}: {error}"
        self._closing.set()
        if isinstance(error, WisesrError) and not isinstance(error, EndedElsewhere) and not self.is_main:
            error.args = (f"{self.name}: {error}",)
        if not isinstance(error, EndedElsewhere):
            self._tell_all(_failure(reason, code, self.process, lost=False))
        for connection in self._connections.values():
            connection.finish()
        self.watchdog.end_with(code)
        self.watchdog.leave()

    def close(self) -> None:
        """End the connections, once every process is done."""
        self.exchange("end", None)
        self._closing.set()
        self._tell_all({"bye": True})
        self.watchdog.leave()

    def _tell_all(self, header: dict[str, Any], *, but: int | None = None) -> None:
        for peer, connection in self._connections.items():
            if peer != but:
                with suppress(OSError):  # it may be the one that is lost
                    connection.send(header)

    def _send(self, peer: int, header: dict[str, Any], payload: bytes = b"") -> None:
        self.watchdog.check()
        try:
            self._connections[peer].send(header, payload)
        except OSError as error:
            self._lose(peer, error)
            self.watchdog.check()

    def _tell_stop(self, peer: int, message: dict[str, Any]) -> None:
        with suppress(OSError):  # the thread that reads from it finds out as well
            self._connections[peer].send(message)

    def _wait(self, changed: threading.Condition) -> None:
        changed.wait(MOST_WAIT_SECONDS)
        self.watchdog.check()

    def _take(self, peer: int, about: str) -> tuple[Any, bytes]:
        with self._changed:
            while not self._waiting[peer]:
                self._wait(self._changed)
            found, value, payload = self._waiting[peer].popleft()
        if found != about:
            raise RuntimeError(f"process {peer} is at '{found}', this one at '{about}'")
        return value, payload

    def _read(self, peer: int) -> None:
        """Take what a process sends, in a thread, until it says goodbye or is lost."""
        connection = self._connections[peer]
        try:
            while "bye" not in (message := connection.receive())[0]:
                self._on_message(peer, *message)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._lose(peer, error)

    def _on_message(self, peer: int, header: dict[str, Any], payload: bytes) -> None:
        if "stop" in header:
            self._agreement.receive(peer, header)
        elif "failed" in header:
            self._on_failure(peer, header)
        elif "data" in header:
            with self._changed:
                self._waiting[peer].append((header["data"], header["value"], payload))
                self._changed.notify_all()

    def _on_failure(self, peer: int, header: dict[str, Any]) -> None:
        """End as another process did; only the main one repeats why, as there may be a thousand others."""
        who, reason = self._called(int(header["process"])), visible(header["failed"])
        if header["lost"]:
            message = f"{who} {reason}"
        else:
            message = f"{who}: {reason}" if self.is_main else f"ended, as {who} did, which says why"
        if self.is_main:
            self._tell_all(header, but=peer)
        self._end(Verdict(message, int(header["exit_code"])))

    def _called(self, process: int) -> str:
        return f"process {process} of {self.processes} ({visible(self.hosts[process])})"

    def _lose(self, peer: int, error: BaseException) -> None:
        if self._closing.is_set():
            return
        reason = str(error) if isinstance(error, ValueError | KeyError | TypeError) else "its connection was closed"
        reason = "it was silent for too long" if isinstance(error, TimeoutError) else reason
        lost = f"was lost: {reason}; {self.watchdog.standing}"
        if self.is_main:
            self._tell_all(_failure(lost, LOST_EXIT_CODE, peer, lost=True), but=peer)
        # A library may end this process at any moment, as it has lost the other one, too: speak at once.
        self._end(Verdict(f"{self._called(peer)} {lost}", LOST_EXIT_CODE), grace_seconds=0.0)

    def _end(self, verdict: Verdict, **grace: float) -> None:
        self.watchdog.pronounce(verdict, **grace)
        with self._changed:
            self._changed.notify_all()

    def _beat(self) -> None:
        """Show the others that this process lives, and notice who does not, in a thread, until the end."""
        pause = self._lost_after / BEATS_PER_TIMEOUT
        before = time.monotonic()
        while not self._closing.wait(pause) and self.watchdog.verdict is None:
            now = time.monotonic()
            was_held_up, before = now - before > 3 * pause, now  # then what the others sent has not been read yet
            for peer, connection in self._connections.items():
                try:
                    connection.send_if_idle({"beat": True})
                except OSError as error:
                    self._lose(peer, error)
                if not was_held_up and now - connection.heard > self._lost_after:
                    self._lose(peer, TimeoutError())


ALONE_CHANNEL = Channel()


def _failure(reason: str, exit_code: int, process: int, *, lost: bool) -> dict[str, Any]:
    return {"failed": reason, "exit_code": exit_code, "process": process, "lost": lost}


@contextmanager
def join(cluster: Cluster | None, *, join_timeout: float, lost_after: float, listener: Listener) -> Iterator[Channel]:
    """Give the way to the other processes once all have come; an error of the block ends them, too."""
    if cluster is None:
        yield Channel()
        return
    met = meet(cluster, join_timeout=join_timeout, send_timeout=lost_after, listener=listener)
    channel = Channel(cluster, met.hosts, met.connections)
    channel.start_watching(lost_after)
    try:
        try:
            yield channel
        except Exception as error:
            channel.explain(error)
            raise
        channel.close()
    except BaseException as error:
        channel.fail(error)
        raise
