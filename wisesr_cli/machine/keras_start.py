"""Starts Keras: selects backend, device and numeric precision, and silences the frameworks.

Only this module imports TensorFlow. The user's own Keras settings are ignored.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import IO, Any, Literal

from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.machine.installation import FULL, SMALL, install_line, installed, is_small
from wisesr_cli.machine.threads import worker_count
from wisesr_cli.text import on_one_line

DeviceChoice = Literal["auto", "cpu", "gpu"]

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
DETECTION_SECONDS = 300  # until process 0 has a name, in Kubernetes
TENSORFLOW_CPU = "tensorflow-cpu"  # the same without CUDA; smaller
VERSIONED_PACKAGES = (FULL, SMALL, "keras", "tensorflow", TENSORFLOW_CPU, "jax", "numpy", "pillow")


@dataclass(frozen=True)
class Device:
    """The device, and why it was chosen; as text, one line for the user."""

    kind: Literal["cpu", "gpu"]
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind.upper()}: {self.name} ({self.reason})"


BACKEND_TITLES = {"tensorflow": "TensorFlow", "jax": "JAX"}


def backend_name() -> str:
    """Return the Keras backend, by default TensorFlow; raises a `MachineError` if KERAS_BACKEND is unknown."""
    name = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if name not in {"tensorflow", "jax"}:
        raise MachineError(f"KERAS_BACKEND is {name!r}; allowed: tensorflow, jax")
    return name


def start(
    device: DeviceChoice = "auto", *, precision: str = "float32", prepare: Callable[[Any], object] | None = None
) -> Device:
    """Import Keras with its backend and set device and precision (Keras' dtype policy) for this process.

    `auto` takes a GPU when the backend sees one. `prepare` is called with the backend before devices are listed. Raises
    `MachineError` when `gpu` is requested without a GPU, or the backend is not installed.
    """
    backend, framework = backend_name(), load_backend()
    if device == "cpu" and backend == "jax":
        framework.config.update("jax_platforms", "cpu")
    keras = _load("keras")
    # Settings from ~/.keras/keras.json and environment variables are reset, so that runs are reproducible.
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    if prepare is not None:
        with _quiet_start():
            prepare(framework)
    found = _tensorflow_device(framework, device) if backend == "tensorflow" else _jax_device(framework, device)
    keras.config.set_dtype_policy(precision)
    if precision == "float32":
        full_float32()
    return found


def load_backend() -> Any:
    """Import the backend without initializing devices; raises `MachineError` when it cannot be loaded."""
    backend = backend_name()
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return _load(backend)


def check_installed() -> None:
    """Raise a `MachineError` if the backend or Keras is not installed; nothing is imported."""
    if reason := lacking():
        raise MachineError(reason)


def lacking() -> str:
    """Return a message on what to do if the backend or Keras is not installed; empty if both are."""
    missing = [package for package in (backend_name(), "keras") if importlib.util.find_spec(package) is None]
    return _about_missing(missing[0]) if missing else ""


def _about_missing(package: str) -> str:
    """Return what to do about a missing package, which the small installation lacks by design."""
    if not is_small():
        return f"{package} is not installed; install it with: {install_line(package)}"
    return (
        f"{SMALL} comes without {package}: it checks, predicts, evaluates and embeds on LiteRT, from a run's "
        f"best.tflite; for everything else: {install_line(package)}"
    )


def load_tensorflow() -> Any:
    """Import TensorFlow to convert models and run converted ones; on the CPU only if Keras runs on JAX.

    Raises `MachineError` when it cannot be loaded.
    """
    tensorflow = _load("tensorflow")
    if backend_name() != "tensorflow":
        tensorflow.get_logger().setLevel("ERROR")
        _hide_gpus(tensorflow)
    return tensorflow


def loaded_tensorflow() -> Any:
    """Return TensorFlow, already loaded by `start` as the backend; from any thread."""
    return sys.modules["tensorflow"]


def detected_processes() -> tuple[str, int, int] | None:
    """Return the coordinator's address, the number of processes and this one's rank, if JAX finds a scheduler."""
    environment = load_backend()._src.clusters.ClusterEnv
    try:
        found = environment.auto_detect_unset_distributed_params(None, None, None, [], None, DETECTION_SECONDS)
    except (RuntimeError, ValueError, LookupError) as error:
        reason = on_one_line(error, whole=True)
        raise MachineError(f"JAX cannot tell which processes train together: {reason}") from error
    return None if None in found[:3] else found[:3]


def check_several_processes() -> None:
    """Raise `UsageError` unless the backend is JAX."""
    if backend_name() != "jax":
        raise UsageError(
            "several processes train together on the JAX backend only, as TensorFlow's own way does not work with "
            f"Keras 3: {install_line('jax')}, then KERAS_BACKEND=jax wisesr train ... with the same options"
        )


def join_processes(
    address: str, processes: int, rank: int, *, join_timeout: float, lost_after: float
) -> tuple[Any, Any]:
    """Let JAX start its coordinator in process 0 and connect to it; return JAX and its `multihost_utils`.

    Raises `MachineError` when JAX cannot connect; after `join_timeout` seconds, JAX ends this process.
    """
    jax, (host, _, port) = load_backend(), address.rpartition(":")
    jax.config.update("jax_enable_preemption_service", False)  # it would handle SIGTERM too early
    before = None
    with suppress(ValueError):  # not the main thread
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would handle it only after the wait
    try:
        jax.distributed.initialize(
            address,
            processes,
            rank,
            cluster_detection_method="deactivate",
            initialization_timeout=int(join_timeout),
            heartbeat_timeout_seconds=int(lost_after),
            coordinator_bind_address=address if host in _LOOPBACK else f"[::]:{port}",
        )
    except RuntimeError as error:
        reason = on_one_line(error, whole=True)
        raise MachineError(f"JAX cannot reach the other processes at {address}: {reason}") from error
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    jax.config.update("jax_enable_preemption_service", True)
    return jax, _multihost_utils()


def _multihost_utils() -> Any:
    return importlib.import_module("jax.experimental.multihost_utils")


def connect_devices() -> None:
    """Connect the devices of all processes; CPU devices report this on standard output, which is silenced."""
    with _quiet_stdout():
        _multihost_utils().sync_global_devices("wisesr")


def loaded_jax() -> Any:
    """Return JAX, already loaded by `start` as the backend."""
    return sys.modules["jax"]


def _load(package: str) -> Any:
    """Import a package; raises `MachineError` when it cannot be loaded, or rejects the settings of Keras."""
    try:
        with _quiet_start(), _without_collection(frozen=package not in sys.modules):
            return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise MachineError(_about_missing(error.name or package)) from None
    except ImportError as error:
        reason = on_one_line(error, whole=True)
        raise MachineError(f"{package} cannot be loaded: {reason}; reinstall it") from error
    except (ValueError, TypeError, AttributeError, AssertionError) as error:
        if not _is_about_settings(error):
            raise
        reason = on_one_line(error, whole=True) if str(error) else "an unknown setting"
        where = "~/.keras/keras.json, or the variables that begin with KERAS_"
        raise MachineError(f"Keras cannot start: {reason}; fix or remove its settings: {where}") from error


def _is_about_settings(error: BaseException) -> bool:
    """Return whether an import error was raised in Keras, which reads its settings on import.

    TensorFlow contains a Keras that reads the same settings; an error elsewhere in TensorFlow is a bug.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and "keras" in str(frames[-1].f_globals.get("__name__")).split(".")


@contextmanager
def _without_collection(*, frozen: bool) -> Iterator[None]:
    """Pause Python's garbage collection; with `frozen`, exclude all current objects from it afterwards.

    A framework creates a million permanent objects: scanning them repeatedly, during the import and while the first
    step is traced, took a tenth of the time to that step.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if frozen:
            gc.freeze()
        if collected:
            gc.enable()


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Hide the output of the frameworks' C++ code while they start, unless starting fails."""
    output = b""
    try:
        with quiet_stderr() as log:
            try:
                yield
            except (ImportError, OSError, RuntimeError):
                log.seek(0)
                output = log.read()
                raise
    finally:
        sys.stderr.write(output.decode(errors="replace"))


@contextmanager
def quiet_stderr() -> Iterator[IO[bytes]]:
    """Redirect standard error, including that of C++ code, to the yielded file. For the main thread only."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield log
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Discard the output of C++ code to standard output, which is for results. For the main thread only."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def _tensorflow_device(tensorflow: Any, choice: DeviceChoice) -> Device:
    tensorflow.get_logger().setLevel("ERROR")  # silences hints about tracing, which are for authors of models
    with _quiet_start():
        gpus = tensorflow.config.list_physical_devices("GPU")
        if choice == "cpu":
            _hide_gpus(tensorflow)
    if choice == "cpu":
        return Device("cpu", processor(), "requested")
    if not gpus:
        return _cpu_or_error(choice, _why_no_gpu(built_for_it=tensorflow.test.is_built_with_cuda()))
    for gpu in gpus:
        tensorflow.config.experimental.set_memory_growth(gpu, True)
    name = tensorflow.config.experimental.get_device_details(gpus[0]).get("device_name", gpus[0].name)
    return Device("gpu", name, "requested" if choice == "gpu" else "TensorFlow sees it")


def _why_no_gpu(*, built_for_it: bool) -> str:
    if built_for_it:
        return f"TensorFlow sees no GPU; for NVIDIA: {install_line('gpu')}"
    if installed(TENSORFLOW_CPU) is None:
        return "this TensorFlow has no GPU support"
    return (
        f"{TENSORFLOW_CPU} has no GPU support; for NVIDIA: pip uninstall {TENSORFLOW_CPU}, then {install_line('gpu')}"
    )


def _hide_gpus(tensorflow: Any) -> None:
    try:
        tensorflow.config.set_visible_devices([], "GPU")
    except RuntimeError:
        raise MachineError("this process computes on a GPU already; choose the CPU before the first model") from None


def _jax_device(jax: Any, choice: DeviceChoice) -> Device:
    with _quiet_start():
        devices = jax.devices()
    if devices[0].platform == "cpu":
        reason = "requested" if choice == "cpu" else "JAX sees no GPU; for NVIDIA: pip install 'jax[cuda13]'"
        return _cpu_or_error(choice, reason)
    return Device("gpu", devices[0].device_kind, "requested" if choice == "gpu" else "JAX sees it")


def _cpu_or_error(choice: DeviceChoice, reason: str) -> Device:
    if choice == "gpu":
        raise MachineError(f"no GPU: {reason}")
    return Device("cpu", processor(), reason)


def full_float32() -> None:
    """Disable TF32, which rounds float32 products to 10 bits; the backend must be imported."""
    backend = backend_name()
    framework = importlib.import_module(backend)
    if backend == "tensorflow":
        framework.config.experimental.enable_tensor_float_32_execution(False)
    else:
        framework.config.update("jax_default_matmul_precision", "highest")


def processor() -> str:
    """Return the processor's name and the number of threads of this process."""
    return f"{platform.processor() or platform.machine()}, {worker_count()} threads"


def has_nvidia_driver() -> bool:
    """Return whether the driver of an NVIDIA GPU is loaded, without importing a framework."""
    return os.path.exists("/proc/driver/nvidia/version")  # noqa: PTH110  (pathlib would be the only use of it here)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a step ran out of memory; each framework has an exception of its own."""
    return type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error)


def seed_everything(seed: int) -> None:
    """Set the random seed of Python, NumPy and the backend."""
    import keras

    with _quiet_start():  # Keras imports TensorFlow here, on JAX too
        keras.utils.set_random_seed(seed)


def forget_models() -> None:
    """Clear Keras' state of earlier models, including the counters of their names.

    The next training then equals one in a fresh process, and memory does not grow.
    """
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.clear_session(free_memory=True)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect numeric results."""
    versions = {"python": platform.python_version()}
    for package in VERSIONED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def uses_xla(jit_compile: bool | Literal["auto"]) -> bool:
    """Return whether XLA compiles the training step. JAX always does.

    `auto` is off on TensorFlow: on a CPU, XLA takes long to compile and is slow at depthwise convolutions.
    """
    return jit_compile if isinstance(jit_compile, bool) else backend_name() == "jax"
