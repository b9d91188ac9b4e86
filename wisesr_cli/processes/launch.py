"""Which processes train together: from the command line, or from what a scheduler says in the environment.

A launch counts as one of several processes only where somebody says so for this very process: a batch script or a shell
inside an allocation of SLURM is not a task of a step, and trains alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wisesr_cli.errors import UsageError
from wisesr_cli.text import joined, visible

MOST_PROCESSES = 100_000
SLURM_PORTS = range(61_440, 65_536)  # above those that Linux gives to outgoing connections

_OPTIONS = ("--coordinator", "--num-processes", "--process-id")
_OWN = ("WISESR_COORDINATOR", "WISESR_NUM_PROCESSES", "WISESR_PROCESS_ID")
_KERAS = ("KERAS_DISTRIBUTION_JOB_ADDRESSES", "KERAS_DISTRIBUTION_NUM_PROCESSES", "KERAS_DISTRIBUTION_PROCESS_ID")
_KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"


@dataclass(frozen=True)
class Address:
    """A host and a port, where the processes meet."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Cluster:
    """The processes of one training: where the first of them listens, how many there are, and which this is, from 0."""

    coordinator: Address
    processes: int
    process: int


def find_cluster(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> Cluster | None:
    """Return the processes to train with; None for a training of one process.

    Options come before WISESR_* variables, these before KERAS_DISTRIBUTION_*, and these before SLURM's. Of the
    options, `--num-processes 1` needs no other one beside it.

    Raises:
        UsageError: something is missing beside what is given, or is no address or number.
    """
    if num_processes == 1 and coordinator is None and process_id is None:
        return None
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given):
        return _complete(_OPTIONS, given)
    own = tuple(environment.get(name) or None for name in _OWN)
    if own[0] is not None or own[1] is not None:
        index = own[2] or environment.get(_KUBERNETES_INDEX) or None
        return _complete((*_OWN[:2], f"{_OWN[2]} (or {_KUBERNETES_INDEX})"), (*own[:2], index))
    if own[2] is not None:
        return _complete(_OWN, own)
    keras = tuple(environment.get(name) or None for name in _KERAS)
    if any(value is not None for value in keras):
        first = keras[0].split(",")[0] if keras[0] else None
        return _complete(_KERAS, (first, *keras[1:]))
    return _slurm(environment)


def _complete(names: tuple[str, ...], values: tuple[str | int | None, ...]) -> Cluster | None:
    """Return the cluster that three values say; what is missing or wrong is named as it was given."""
    missing = [name for name, value in zip(names, values, strict=True) if value is None]
    if missing:
        there = [name for name, value in zip(names, values, strict=True) if value is not None]
        raise UsageError(f"{joined(missing)} missing beside {joined(there)}: training with several processes needs all")
    processes = _number(names[1], values[1], 1, MOST_PROCESSES)
    process = _number(names[2], values[2], 0, MOST_PROCESSES)
    if process >= processes:
        raise UsageError(f"{names[2]} is {process}; of {processes} processes it is 0 to {processes - 1}")
    address = _address(names[0], str(values[0]))
    return Cluster(address, processes, process) if processes > 1 else None


def _number(name: str, value: Any, least: int, most: int) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
        raise UsageError(f"{name} is '{visible(value)}'; it takes a number from {least} to {most}")
    return int(text)


def _address(name: str, text: str) -> Address:
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([\w.-]{1,253})):(\d{1,5})", text.strip(), re.ASCII)
    if found is None or not 1 <= int(found[3]) <= 65_535:
        raise UsageError(f"{name} is '{visible(text)}'; it takes HOST:PORT of process 0, for instance 10.0.0.1:1234")
    return Address(found[1] or found[2], int(found[3]))


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    """Return the tasks of a step of SLURM, which `srun` started; None for anything else.

    With `srun --pty` the first task has the terminal and the others end: what is typed there would wait for nobody.
    """
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "")
    if not tasks.isdecimal() or int(tasks) < 2 or "SLURM_PTY_PORT" in environment:
        return None
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    if not (host := first_host(hosts)):
        raise UsageError("SLURM_JOB_NODELIST is empty in a step of several tasks; give --coordinator HOST:PORT")
    process = _number("SLURM_PROCID", environment.get("SLURM_PROCID", ""), 0, int(tasks) - 1)
    numbers = [environment.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    chosen = sum(int(number) for number in numbers if number.isdecimal()) % len(SLURM_PORTS)
    return Cluster(Address(host, SLURM_PORTS[chosen]), int(tasks), process)


def first_host(hosts: str) -> str:
    """Return the first host of a list as SLURM writes it: `node[07-09,12],login` is node07."""
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])*", hosts.strip())
    assert first is not None, "the pattern matches nothing, too"
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])
