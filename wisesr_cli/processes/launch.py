"""Finds the processes that train together, from options or a scheduler that JAX knows, and connects them.

A batch script or a shell inside a SLURM allocation is not a task of a job step, and trains alone.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.processes.channel import ALONE_CHANNEL, Channel
from wisesr_cli.text import visible

_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # number of processes, set by srun and mpirun
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.%\w]+\]|[\w.-]{1,253}):\d{1,5}", re.ASCII)


@dataclass(frozen=True)
class Cluster:
    """The processes of one training: HOST:PORT of rank 0, the number of processes, and the rank of this one, from 0."""

    coordinator: str
    processes: int
    process: int


def find_cluster(
    coordinator: str | None, processes: int | None, process: int | None, *, environment: Mapping[str, str] = os.environ
) -> Cluster | None:
    """Return the processes to train with; None for a training of one process.

    Without arguments, tasks of SLURM or Open MPI are detected by JAX; `auto` allows any scheduler that JAX knows.
    Raises a `UsageError` for incomplete or invalid arguments.
    """
    if processes == 1:
        return None
    if coordinator == "auto":
        return _detected()
    if coordinator is None and processes is None and process is None:
        tasks = next((value for name in _TASKS if (value := environment.get(name))), "1")
        # In a terminal of `srun --pty`, the other tasks have ended, and waiting for them would never finish.
        return None if tasks == "1" or "SLURM_PTY_PORT" in environment else _detected()
    if process is None and (index := environment.get("JOB_COMPLETION_INDEX", "")).isdecimal():
        process = int(index)  # an indexed Job of Kubernetes; on its own it does not imply distributed training
    if coordinator is None or processes is None or process is None:
        raise UsageError("several processes need all of --coordinator, --num-processes and --process-id")
    if not 0 <= process < processes:
        raise UsageError(f"--process-id is {process}; with {processes} processes it is 0 to {processes - 1}")
    if not _ADDRESS.fullmatch(coordinator):
        raise UsageError(f"--coordinator is '{visible(coordinator)}'; expected HOST:PORT of process 0, or auto")
    return Cluster(coordinator, processes, process)


def _detected() -> Cluster | None:
    keras_start.check_several_processes()
    found = keras_start.detected_processes()
    if found is None:
        raise UsageError("JAX cannot tell which processes train together; give --coordinator, or --num-processes 1")
    return Cluster(*found) if found[1] > 1 else None


@contextmanager
def join(cluster: Cluster | None, *, join_timeout: float, lost_after: float, listener: Listener) -> Iterator[Channel]:
    """Yield the connection to the other processes once all have joined; an error in the block also ends them."""
    if cluster is None:
        yield ALONE_CHANNEL
        return
    place = (cluster.coordinator, cluster.processes, cluster.process)
    with listener.progress(f"waiting for {cluster.processes} processes", None):
        jax, multihost = keras_start.join_processes(*place, join_timeout=join_timeout, lost_after=lost_after)
    channel = Channel(cluster.processes, cluster.process, jax._src.distributed.global_state, multihost)
    try:
        channel.hosts = channel.exchange(socket.gethostname())
        yield channel
        channel.exchange("done")  # the main process may be busy longer than JAX waits
        jax.distributed.shutdown()
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # Outside of a compiled step, JAX raises errors of its transport, Gloo, as a ValueError.
        if not isinstance(error, jax.errors.JaxRuntimeError) and "Gloo" not in str(error):
            channel.fail(error)
            raise
        lost = MachineError(
            f"JAX cannot continue with the other processes, one of which may be lost: {visible(error)}; "
            "completed epochs are kept: repeat the same commands with --resume"
        )
        channel.fail(lost)
        raise lost from error
    except BaseException as error:
        channel.fail(error)
        raise
