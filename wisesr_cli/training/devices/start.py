"""Starts the backend on the devices of a training: all of this machine, or of the machines of all processes."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.keras_start import Device, DeviceChoice
from wisesr_cli.processes.channel import Channel
from wisesr_cli.processes.forwarding import forward_to
from wisesr_cli.processes.launch import Address, Cluster
from wisesr_cli.processes.meeting import is_loopback
from wisesr_cli.text import counted
from wisesr_cli.training.devices.distribution import Distribution

if TYPE_CHECKING:
    from wisesr_cli.config.training import DistributeConfig

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


def check_cluster(cluster: Cluster | None, options: DistributeConfig) -> None:
    """Raise a `UsageError` when there are several processes, but backend or settings are for one only."""
    if cluster is None:
        return
    if options.strategy == "none":
        raise UsageError(
            f"distribute.strategy is none, but there are {cluster.processes} processes; set it to auto, or train in "
            "one with --num-processes 1"
        )
    if keras_start.backend_name() != "jax":
        raise UsageError(
            "several processes train together on the JAX backend only, as TensorFlow's own way does not work with "
            "Keras 3: pip install jax, then KERAS_BACKEND=jax wisesr train ... with the same options"
        )


def start_devices(
    options: DistributeConfig, choice: DeviceChoice, *, precision: str, channel: Channel
) -> tuple[Device, Distribution]:
    """Start Keras and return the kind of device, and how the work of a training is shared out over all of them.

    Raises:
        MachineError: there are fewer devices than asked for, or other numbers of them in other processes.
    """
    if keras_start.backend_name() == "tensorflow":
        device = keras_start.start(choice, precision=precision)
        return device, _mirrored(options, device)

    def prepare(jax: Any, keras: Any) -> None:
        _prepare_jax(options, channel, jax, keras)

    device = keras_start.start(choice, precision=precision, prepare=prepare)
    return device, _data_parallel(options, device, channel)


def _mirrored(options: DistributeConfig, device: Device) -> Distribution:
    if options.strategy == "none":
        return Distribution()
    from wisesr_cli.training.devices.mirrored import mirrored_strategy

    strategy = mirrored_strategy(options.devices, device.kind)
    return Distribution(local_devices=strategy.num_replicas_in_sync if strategy else 1, strategy=strategy)


def _prepare_jax(options: DistributeConfig, channel: Channel, jax: Any, keras: Any) -> None:
    """Say what JAX must know before it looks at the devices: how many virtual ones, and which other processes."""
    if (options.devices or 1) > 1:
        with suppress(RuntimeError):  # it has looked at them: whether there are enough is seen later
            jax.config.update("jax_num_cpu_devices", options.devices)
    if channel.cluster is not None:
        _join_jax(options, channel, channel.cluster, keras)


def _join_jax(options: DistributeConfig, channel: Channel, cluster: Cluster, keras: Any) -> None:
    """Let JAX know of the other processes, all of which have come by now."""
    host = cluster.coordinator.host
    port = int(channel.from_main("JAX's port", _free_port(host) if channel.is_main else None))
    address = Address(host, port) if channel.is_main else Address("127.0.0.1", forward_to(host, port))
    if is_loopback(host):
        os.environ.setdefault("JAX_COORDINATOR_BIND_ADDRESS", str(address))
    if (chosen := _gpus_of_this_process(options.devices, channel)) and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        # Else JAX takes one GPU per task of SLURM, even where a task has all of a machine.
        os.environ["JAX_LOCAL_DEVICE_IDS"] = ",".join(str(number) for number in chosen)
    keras_start.join_processes(keras, str(address), cluster.processes, cluster.process)


def part(channel: Channel) -> None:
    """Let JAX forget the other processes, once all are done: one that only left would look like a lost one."""
    if channel.processes > 1:
        channel.exchange("done", None)
        keras_start.loaded_jax().distributed.shutdown()


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _gpus_of_this_process(devices: int | None, channel: Channel) -> list[int]:
    """Return which of the GPUs that it sees a process takes: all, or its part where processes see the same ones."""
    visible_gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        count = len([name for name in visible_gpus.split(",") if name]) if visible_gpus is not None else None
        count = len(list(NVIDIA_GPUS.iterdir())) if count is None else count
    except OSError:
        return []
    place, processes = channel.place_on_host
    each = min(devices or count, count) if processes == 1 or count < processes else count // processes
    first = 0 if processes == 1 or count < processes else place * each
    return list(range(first, first + min(each, devices or each)))


def _data_parallel(options: DistributeConfig, device: Device, channel: Channel) -> Distribution:
    """Return Keras' `DataParallel` over the devices of all processes, in the order of the processes."""
    found = keras_start.loaded_jax().devices()
    of_process = [[d for d in found if d.process_index == process] for process in range(channel.processes)]
    here = _wanted_here(options, device, len(of_process[channel.process]), channel)
    counts = channel.exchange("devices", here)
    if len(set(counts)) > 1:
        other = next(process for process, count in enumerate(counts) if count != counts[0])
        raise MachineError(
            f"process 0 has {counted(counts[0], 'device')}, process {other} has {counts[other]}: all need as many; "
            f"set distribute.devices={min(counts)}"
        )
    if here * channel.processes == 1:
        return Distribution(channel=channel)
    import keras

    names = [f"{d.platform}:{d.id}" for devices in of_process for d in devices[:here]]
    strategy = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    return Distribution(channel.processes, channel.process, here, strategy, channel)


def _wanted_here(options: DistributeConfig, device: Device, local: int, channel: Channel) -> int:
    """Return how many of its devices this process uses."""
    if options.strategy == "none":
        return 1
    if options.devices is not None and options.devices > local:
        kind = "GPU" if device.kind == "gpu" else "device of the CPU"
        plural = "GPUs" if device.kind == "gpu" else "devices of the CPU"
        raise MachineError(
            f"distribute.devices is {options.devices}, but JAX sees {counted(local, kind, plural)}"
            + ("" if device.kind == "gpu" else " and can no longer make more in this process; train in one of its own")
        )
    if options.devices is None and options.strategy == "auto" and device.kind == "cpu":
        return 1
    return options.devices or local
