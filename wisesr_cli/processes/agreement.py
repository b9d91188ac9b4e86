"""How the processes of a training agree on the step after which they stop, without a message per step.

A process that wants to stop tells the main one, which proposes a step that nobody has finished yet. All note it and
answer at once, from a thread of its own; a process that is already beyond it says so, and another step is proposed.
Who comes to a proposed step waits until it is settled. So all stop behind the same step, however far each was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

Send = Callable[[int, dict[str, Any]], object]  # to which process, what
MARGIN_STEPS = 2


class StopAgreement:
    """One process's part in agreeing on a step to stop at.

    Args:
        process: which this is; 0 proposes.
        others: the processes that 0 asks.
        send: hands a message to another process, whose `receive` gets it; returns at once.
        wait: waits a little for a message, and raises when there is none to wait for any more.
    """

    def __init__(self, process: int, others: Iterable[int], send: Send, wait: Callable[[threading.Condition], None]):
        self._process, self._others, self._send, self._wait = process, tuple(others), send, wait
        self._changed = threading.Condition()
        self._step = 0
        self._wanted_told = False
        self._proposed: int | None = None
        self._settled = False
        self._reason: Any = None
        self._answers: dict[int, int | None] = {}  # of 0: process -> None, or the step that it has finished

    def stop_after(self, step: int, wanted: Any) -> Any:
        """Return why all stop after this step, which is done here, or None to go on; `wanted` is why this one would."""
        with self._changed:
            self._step = step
            tell = wanted is not None and not self._wanted_told
            self._wanted_told = self._wanted_told or tell
        if tell:
            self._deliver(0, {"stop": "wanted", "reason": wanted})
        with self._changed:
            while self._proposed is not None and self._proposed <= step and not self._settled:
                self._wait(self._changed)
            return self._reason if self._settled and self._proposed is not None and self._proposed <= step else None

    def receive(self, sender: int, message: dict[str, Any]) -> None:
        """Take a message of another process; called from the thread that reads them."""
        with self._changed:
            replies = getattr(self, f"_on_{message['stop']}")(sender, message)
            self._changed.notify_all()
        for process, reply in replies:
            self._deliver(process, reply)

    def _deliver(self, process: int, message: dict[str, Any]) -> None:
        if process == self._process:
            self.receive(process, message)
        else:
            self._send(process, message)

    def _on_wanted(self, sender: int, message: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
        if self._proposed is not None:
            return []
        self._reason = message["reason"]
        return self._propose(self._step + MARGIN_STEPS)

    def _propose(self, step: int) -> list[tuple[int, dict[str, Any]]]:
        self._proposed, self._answers = step, {}
        asked = [(other, {"stop": "proposed", "step": step, "reason": self._reason}) for other in self._others]
        return asked or self._settle()

    def _on_proposed(self, sender: int, message: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
        fits = self._step < message["step"]
        self._proposed = message["step"] if fits else None
        self._reason = message["reason"]
        return [(0, {"stop": "answered", "step": message["step"], "beyond": None if fits else self._step})]

    def _on_answered(self, sender: int, message: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
        if message["step"] != self._proposed:
            return []
        self._answers[sender] = message["beyond"]
        if len(self._answers) < len(self._others):
            return []
        beyond = [step for step in self._answers.values() if step is not None]
        return self._propose(max(beyond) + MARGIN_STEPS) if beyond else self._settle()

    def _settle(self) -> list[tuple[int, dict[str, Any]]]:
        self._settled = True
        return [(other, {"stop": "settled", "step": self._proposed}) for other in self._others]

    def _on_settled(self, sender: int, message: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
        self._settled = True
        return []
