"""Starts the backend on the devices of a training: those of this machine, or of all processes' machines."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.keras_start import Device, DeviceChoice
from wisesr_cli.processes.channel import Channel
from wisesr_cli.processes.launch import Cluster
from wisesr_cli.text import counted
from wisesr_cli.training.devices.distribution import Distribution

if TYPE_CHECKING:
    from wisesr_cli.config.training import DistributeConfig

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


def check_cluster(cluster: Cluster | None, options: DistributeConfig) -> None:
    """Raise a `UsageError` if there are several processes, but the backend or the settings allow only one."""
    if cluster is None:
        return
    if options.strategy == "none":
        raise UsageError(
            f"distribute.strategy is none, but there are {cluster.processes} processes; set it to auto, or train in "
            "one with --num-processes 1"
        )
    keras_start.check_several_processes()


def start_devices(
    options: DistributeConfig, choice: DeviceChoice, *, precision: str, channel: Channel
) -> tuple[Device, Distribution]:
    """Start Keras and return the kind of device, and the distribution over all of them.

    Raises a `MachineError` if there are fewer devices than requested, or processes have different numbers of them.
    """
    if keras_start.backend_name() == "tensorflow":
        device = keras_start.start(choice, precision=precision)
        return device, _mirrored(options, device)
    device = keras_start.start(choice, precision=precision, prepare=partial(_prepare_jax, options, channel))
    return device, _data_parallel(options, device, channel)


def _mirrored(options: DistributeConfig, device: Device) -> Distribution:
    if options.strategy == "none":
        return Distribution()
    from wisesr_cli.training.devices.mirrored import mirrored_strategy

    strategy = mirrored_strategy(options.devices, device.kind)
    return Distribution(local_devices=strategy.num_replicas_in_sync if strategy else 1, strategy=strategy)


def _prepare_jax(options: DistributeConfig, channel: Channel, jax: Any) -> None:
    """Configure JAX before it initializes devices: the number of virtual ones, and this process's GPUs."""
    if (options.devices or 1) > 1:
        with suppress(RuntimeError):  # already initialized: whether there are enough is checked later
            jax.config.update("jax_num_cpu_devices", options.devices)
    gpus = _gpus_of_this_process(options.devices, channel) if channel.processes > 1 else []
    if gpus and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, gpus)))


def _gpus_of_this_process(devices: int | None, channel: Channel) -> list[int]:
    """Return the indices of the GPUs that this process uses: all visible ones, or its share if processes share them."""
    visible_gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        count = len([name for name in visible_gpus.split(",") if name]) if visible_gpus is not None else None
        count = len(list(NVIDIA_GPUS.iterdir())) if count is None else count
    except OSError:
        return []
    rank, processes = channel.rank_on_host
    each = min(devices or count, count) if processes == 1 or count < processes else count // processes
    first = 0 if processes == 1 or count < processes else rank * each
    return list(range(first, first + min(each, devices or each)))


def _data_parallel(options: DistributeConfig, device: Device, channel: Channel) -> Distribution:
    """Return Keras' `DataParallel` over the devices of all processes, ordered by process."""
    found = keras_start.loaded_jax().devices()
    of_process = [[d for d in found if d.process_index == process] for process in range(channel.processes)]
    counts = [len(devices) for devices in of_process]
    if len(set(counts)) > 1:
        other = next(process for process, count in enumerate(counts) if count != counts[0])
        raise MachineError(
            f"process 0 has {counted(counts[0], 'device')}, process {other} has {counts[other]}: all need the same "
            f"number; set distribute.devices={min(counts)}"
        )
    local = _local_devices(options, device, counts[0])
    if local * channel.processes == 1:
        return Distribution(channel=channel)
    if channel.processes > 1:
        keras_start.connect_devices()
    import keras

    names = [f"{d.platform}:{d.id}" for devices in of_process for d in devices[:local]]
    strategy = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
    return Distribution(channel.processes, channel.process, local, strategy, channel)


def _local_devices(options: DistributeConfig, device: Device, local: int) -> int:
    if options.strategy == "none":
        return 1
    if options.devices is not None and options.devices > local:
        kind = "GPU" if device.kind == "gpu" else "device of the CPU"
        plural = "GPUs" if device.kind == "gpu" else "devices of the CPU"
        raise MachineError(
            f"distribute.devices is {options.devices}, but JAX sees {counted(local, kind, plural)}"
            + ("" if device.kind == "gpu" else " and cannot create more in this process; train in a separate one")
        )
    if options.devices is None and options.strategy == "auto" and device.kind == "cpu":
        return 1
    return options.devices or local
