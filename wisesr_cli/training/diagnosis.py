"""Checks this machine: versions, devices, folders, and one real training step.

To add a check: a function that returns level and message, and a row in `CHECKS`.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from wisesr_cli.engines.litert import PACKAGE
from wisesr_cli.errors import MachineError
from wisesr_cli.images.resizing import resizer_name
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.caches import cache_dir
from wisesr_cli.machine.installation import FULL, SMALL, install_line, installed, is_small
from wisesr_cli.machine.keras_start import DeviceChoice
from wisesr_cli.machine.locks import can_lock
from wisesr_cli.machine.memory import available_memory_bytes
from wisesr_cli.machine.threads import has_shared_locks
from wisesr_cli.results.images import CheckResult, Finding
from wisesr_cli.text import on_one_line, visible

GIGABYTE = 1e9
LITTLE_DISK_BYTES = 2e9
LITTLE_MEMORY_BYTES = 2e9


def diagnose(output_dir: str, device: DeviceChoice, listener: Listener) -> CheckResult:
    """Return a finding per check; raises nothing and leaves no files."""
    findings: list[Finding] = []
    with listener.progress("looking at this machine", len(CHECKS)) as progress:
        for code, check in CHECKS.items():
            if code == "device" and is_small() and (lacking := keras_start.lacking()):
                findings.append(Finding("warn", code, lacking))
                break  # the remaining checks are about training
            try:
                level, message = check(output_dir, device)
                findings.append(Finding(level, code, message))  # type: ignore[arg-type]
            except Exception as error:
                findings.append(Finding("fail", code, on_one_line(error)))
            progress.advance()
    return CheckResult(tuple(findings))


def _installation(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    """Warn about two distributions that overwrite each other's files; otherwise report which one is installed."""
    for pair in ((FULL, SMALL), ("tensorflow", keras_start.TENSORFLOW_CPU)):
        if all(map(installed, pair)):
            names = " ".join(pair)
            return "warn", f"{' and '.join(pair)} share files: pip uninstall {names}, then install one of them"
    resizer = f"images are resized by {resizer_name()}"
    if not is_small():
        return "pass", resizer
    on_litert = "which checks, predicts, evaluates and embeds on LiteRT"
    kind = on_litert if keras_start.lacking() else "with Keras, so it does everything"
    return "pass", f"{SMALL}, {kind}; {resizer}"


def _versions(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    versions = ", ".join(f"{name} {version}" for name, version in keras_start.package_versions().items())
    return "pass", f"{versions}; {platform.platform()}"


def _memory(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    free = available_memory_bytes()
    return "pass" if free >= LITTLE_MEMORY_BYTES else "warn", f"{free / GIGABYTE:.1f} GB of memory free"


def _writable(folder: Path) -> tuple[str, str]:
    """Try to write in a folder, or in its nearest existing parent."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        raise MachineError(f"{visible(existing)}: cannot be written: {error.strerror}") from None
    free = shutil.disk_usage(existing).free
    level = "pass" if free >= LITTLE_DISK_BYTES else "warn"
    return level, f"{visible(folder)}: writable, {free / GIGABYTE:.1f} GB free"


def _bytecode(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        return "warn", "PYTHONDONTWRITEBYTECODE is set: TensorFlow starts much more slowly; unset it"
    return "pass", "compiled Python files are kept"


def _litert(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    """Load LiteRT, which predicts without TensorFlow; it is optional."""
    try:
        importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        return "warn", f"{PACKAGE} cannot be loaded ({error}): prediction starts TensorFlow; {install_line(PACKAGE)}"
    return "pass", f"{PACKAGE} {version(PACKAGE)} predicts without TensorFlow"


def _device(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    started = time.monotonic()
    found = keras_start.start(device)
    return "pass", f"{found}; {keras_start.backend_name()} backend, started in {time.monotonic() - started:.1f} s"


def _distribution(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    """Report the devices that `distribute: auto` would use in one process."""
    from wisesr_cli.config.training import DistributeConfig
    from wisesr_cli.processes.channel import ALONE_CHANNEL
    from wisesr_cli.training.devices.start import start_devices

    _, distribution = start_devices(DistributeConfig(), device, precision="float32", channel=ALONE_CHANNEL)
    one_process = "one device" if not distribution.is_shared else str(distribution)
    several = "several processes train together on JAX only" if keras_start.backend_name() != "jax" else ""
    several = several or "several processes: --coordinator HOST:PORT --num-processes N --process-id I"
    return "pass", f"training uses {one_process}; {several}"


def _training_step(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    """Train a small network with the Wise head for one step."""
    keras_start.start(device)
    import keras
    import numpy as np

    from wisesr_cli.models.build import build_classifier
    from wisesr_cli.models.settings import ModelConfig

    model = build_classifier(ModelConfig(backbone="compact_small"), image_size=(32, 32), classes=2).model
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    started = time.monotonic()
    loss = float(model.train_on_batch(np.zeros((4, 32, 32, 3), "float32"), np.array([0, 1, 0, 1])))
    if not math.isfinite(loss):
        raise MachineError(f"the loss of a training step is {loss}")
    return "pass", f"one step with the head 'wise' took {time.monotonic() - started:.1f} s, including its start"


def _shared_memory(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    if has_shared_locks():
        return "pass", "/dev/shm can be used"
    return "warn", "/dev/shm is missing, full or read-only: training reads images in one thread, which is slower"


def _locks(output_dir: str, device: DeviceChoice) -> tuple[str, str]:
    folder = next(path for path in (Path(output_dir).absolute(), *Path(output_dir).absolute().parents) if path.is_dir())
    if can_lock(folder):
        return "pass", f"{visible(folder)}: files are locked by the file system"
    return "warn", f"{visible(folder)}: the file system has no locks: a file with host and pid replaces them"


CHECKS: dict[str, Callable[[str, DeviceChoice], tuple[str, str]]] = {
    "installation": _installation,
    "versions": _versions,
    "memory": _memory,
    "output-folder": lambda output_dir, device: _writable(Path(output_dir).absolute()),
    "locks": _locks,
    "cache-folder": lambda output_dir, device: _writable(cache_dir()),
    "bytecode": _bytecode,
    "shared-memory": _shared_memory,
    "litert": _litert,
    "device": _device,
    "distribution": _distribution,
    "training-step": _training_step,
}
