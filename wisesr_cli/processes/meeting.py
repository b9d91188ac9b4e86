"""How the processes of a training find one another: process 0 listens, the others call until it answers."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from wisesr_cli.errors import EndedElsewhere, MachineError, UsageError
from wisesr_cli.listening import Listener
from wisesr_cli.processes.connection import Connection
from wisesr_cli.processes.launch import Address, Cluster
from wisesr_cli.text import counted, joined, visible
from wisesr_cli.version import __version__

HELLO_SECONDS = 10.0
PAUSE_SECONDS = 0.3
Connections = dict[int, Connection]


@dataclass(frozen=True)
class Meeting:
    """Connections to the other processes (those of process 0 to all, of the others to 0), and the host of each one."""

    connections: Connections
    hosts: tuple[str, ...]


def meet(cluster: Cluster, *, join_timeout: float, send_timeout: float, listener: Listener) -> Meeting:
    """Return once all processes of a training have come.

    Raises:
        MachineError: some did not come in time, or nobody can listen at the address.
        UsageError: two processes have the same number, or think that there are different numbers of them.
    """
    deadline = time.monotonic() + join_timeout
    if cluster.process == 0:
        with closing(_listen(cluster.coordinator)) as listening, listener.progress("waiting for processes", None):
            return _gather(listening, cluster, join_timeout, deadline, send_timeout)
    return _call(cluster, join_timeout, deadline, send_timeout)


def _hello(cluster: Cluster) -> dict[str, Any]:
    return {
        "hello": __version__,
        "process": cluster.process,
        "processes": cluster.processes,
        "host": socket.gethostname(),
    }


def _listen(address: Address) -> socket.socket:
    try:
        if is_loopback(address.host):
            family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
            return socket.create_server((address.host, address.port), family=family, backlog=1024)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", address.port), backlog=1024)
    except OSError as error:
        raise MachineError(
            f"process 0 cannot listen at {address}: {visible(error.strerror)}; choose another port"
        ) from None


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine alone."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _gather(
    listening: socket.socket, cluster: Cluster, join_timeout: float, deadline: float, send_timeout: float
) -> Meeting:
    """Take the calls of the others until all have come, then tell each that the meeting is complete."""
    hosts = {0: socket.gethostname()}
    connections: Connections = {}
    try:
        while len(hosts) < cluster.processes:
            connection = _next_call(listening, deadline, send_timeout)
            if connection is None:
                missing = sorted(set(range(cluster.processes)) - hosts.keys())
                raise MachineError(
                    f"{len(missing)} of {counted(cluster.processes, 'process', 'processes')} did not come within "
                    f"{join_timeout:g} seconds: {_some(missing)}; start them with the same --coordinator, or wait "
                    "longer with --set distribute.join_timeout_seconds=600"
                )
            with suppress(OSError, ValueError):  # somebody else, or a process that has just ended
                hello = connection.receive_within(HELLO_SECONDS)
                _forget_gone((hello.get("process"),), connections, hosts)
                _check_hello(hello, cluster, hosts)
                hosts[hello["process"]], connections[hello["process"]] = str(hello["host"]), connection
            if len(hosts) == cluster.processes:  # or so it seems
                _forget_gone(tuple(connections), connections, hosts)
        names = [hosts[process] for process in range(cluster.processes)]
        for connection in connections.values():
            connection.send({"welcome": names})
    except OSError as error:
        raise MachineError(f"a process was lost before the training began: {visible(error)}") from None
    except (MachineError, UsageError) as error:
        for connection in connections.values():
            with suppress(OSError):
                connection.send({"refused": str(error), "exit_code": error.exit_code})
        raise
    return Meeting(connections, tuple(names))


def _forget_gone(processes: Iterable[Any], connections: Connections, hosts: dict[int, str]) -> None:
    """Make room for those that are started anew: a scheduler does so when a machine is taken away."""
    for process in processes:
        earlier = connections.get(process) if isinstance(process, int) else None
        if earlier is not None and not earlier.is_open():
            earlier.close()
            del connections[process], hosts[process]


def _next_call(listening: socket.socket, deadline: float, send_timeout: float) -> Connection | None:
    """Return the next connection, or None once it is too late."""
    while (left := deadline - time.monotonic()) > 0:
        listening.settimeout(min(left, 1.0))
        with suppress(TimeoutError):
            return Connection(listening.accept()[0], send_timeout)
    return None


def _check_hello(hello: dict[str, Any], cluster: Cluster, hosts: dict[int, str]) -> None:
    process, processes = hello.get("process"), hello.get("processes")
    if not isinstance(process, int) or not isinstance(processes, int) or "host" not in hello:
        raise ValueError("no greeting of a wisesr")
    host = visible(hello["host"])
    if processes != cluster.processes:
        raise UsageError(
            f"process {process} ({host}) was told of {processes} processes, process 0 of {cluster.processes}"
        )
    if process in hosts:
        raise UsageError(
            f"two processes are number {process}, on {visible(hosts[process])} and {host}; each has its own"
        )
    if hello["hello"] != __version__:
        raise MachineError(
            f"process {process} ({host}) is wisesr {visible(hello['hello'])}, process 0 is {__version__}"
        )


def _some(numbers: list[int]) -> str:
    return joined(numbers[:10]) + (", ..." if len(numbers) > 10 else "")


def _call(cluster: Cluster, join_timeout: float, deadline: float, send_timeout: float) -> Meeting:
    """Call process 0 until it answers, and wait until everybody has come."""
    address, reason = cluster.coordinator, "it does not answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            connected = socket.create_connection((address.host, address.port), timeout=min(left, HELLO_SECONDS))
        except OSError as error:  # it is not there yet, or its name is not known yet
            reason = error.strerror or str(error)
            time.sleep(PAUSE_SECONDS)
            continue
        connection = Connection(connected, send_timeout)
        try:
            connection.send(_hello(cluster))
            return _welcomed(cluster, connection, connection.receive_within(left + HELLO_SECONDS))
        except (OSError, ValueError) as error:
            connection.close()
            reason = str(error)
            time.sleep(PAUSE_SECONDS)
    raise MachineError(
        f"process {cluster.process} of {cluster.processes}: process 0 did not answer at {address} within "
        f"{join_timeout:g} seconds: {visible(reason)}; start it, or check --coordinator"
    )


def _welcomed(cluster: Cluster, connection: Connection, answer: dict[str, Any]) -> Meeting:
    if "refused" in answer:
        message = f"process {cluster.process} of {cluster.processes}: {visible(answer['refused'])}"
        raise EndedElsewhere(message, int(answer.get("exit_code", 5)))
    return Meeting({0: connection}, tuple(str(host) for host in answer["welcome"]))
