"""A Ray session: joins a cluster, or starts a local Ray that leaves no files behind.

Ray's messages are kept off both standard streams, and its errors become ours. Ray is imported inside functions.
"""

from __future__ import annotations

import io
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wisesr_cli.errors import MachineError, UsageError, WisesrError
from wisesr_cli.listening import Listener
from wisesr_cli.machine.installation import install_line
from wisesr_cli.machine.keras_start import quiet_stderr
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.machine.threads import worker_count
from wisesr_cli.text import first_line, visible

STORE_BYTES = 128 << 20  # of a local Ray's object store, in addition to the model
CONNECT_SECONDS = 10.0
SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # an empty SETTINGS frame, the first that either side of HTTP/2 sends
TEMPORARY = "wisesr-ray-"  # prefix of temporary folders
JUST_MADE_SECONDS = 60.0  # within which a process locks its new folder
LONGEST_TEMPORARY = 38  # characters; socket paths below it are limited to 107


@dataclass(frozen=True)
class RayOptions:
    """Where Ray runs, and the number of workers.

    `address`: HOST:PORT of a cluster, or `auto` for that of this machine; None is RAY_ADDRESS, or else a local Ray of
    this process. `workers`: None is one per CPU, or with GPUs one per GPU.
    """

    address: str | None = None
    workers: int | None = None

    @property
    def target(self) -> str:
        """The address for `ray.init`."""
        return self.address or os.environ.get("RAY_ADDRESS") or "local"


def check_installed() -> None:
    """Raise a `MachineError` unless Ray Data is installed."""
    for package in ("ray", "pyarrow", "pandas"):
        if find_spec(package) is None:
            raise MachineError(f"--engine ray needs Ray Data, and {package} is not installed: {install_line('ray')}")


@contextmanager
def session(options: RayOptions, store_bytes: int) -> Iterator[None]:
    """Connect to Ray within the block; a local Ray is started for it, and leaves no files behind.

    Raises a `MachineError` if the cluster does not exist or refuses this process.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of its C++ code; errors are also raised
    if options.target == "local" and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        # Keeps other users of the machine out; Ray itself would leave a token in the home directory.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    with warnings.catch_warnings(action="ignore"):
        import ray
        import ray.data
    if ray.is_initialized():  # by the user's program
        with _data_context(ray.data):
            yield
        return
    with ExitStack() as stack:
        restore = _signals_restored()
        stack.callback(restore)
        try:
            arguments = _init_arguments(options, store_bytes, stack)
            stack.callback(ray.shutdown, wait_for_processes=True)  # before a local Ray's folder is removed
            with warnings.catch_warnings(action="ignore"), quiet_stderr():
                ray.init(**arguments)
        except WisesrError:
            raise
        except Exception as error:  # Ray raises a dozen kinds
            if options.target == "auto" and isinstance(error, ConnectionError):
                raise MachineError("no Ray cluster on this machine; start one: ray start --head") from error
            raise MachineError(f"Ray cannot be used ({visible(options.target)}): {first_line(error)}") from error
        finally:
            restore()
        stack.enter_context(_data_context(ray.data))
        yield


def _signals_restored() -> Callable[[], None]:
    """Return a function that restores the current SIGTERM handler, which Ray replaces on starting and on ending."""
    terminate = signal.getsignal(signal.SIGTERM)

    def restore() -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)

    return restore


def _init_arguments(options: RayOptions, store_bytes: int, stack: ExitStack) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    if options.target != "local":
        _check_address(options)
        return {"address": options.target, **quiet}
    folder = stack.enter_context(_temporary_folder())
    return {
        "address": "local",
        "num_cpus": options.workers or worker_count(),
        "include_dashboard": False,
        "object_store_memory": store_bytes,
        "_temp_dir": f"{folder}/r",  # Ray opens it to everybody; the parent stays private
        **quiet,
    }


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """Yield a temporary folder for a local Ray, and remove those that killed processes left."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > LONGEST_TEMPORARY:
        parent = Path("/tmp")
    for leftover in sorted(parent.glob(f"{TEMPORARY}*")):
        with suppress(OSError, MachineError):  # another user's, or in use
            if time.time() - leftover.stat().st_mtime > JUST_MADE_SECONDS:
                with alone_in(leftover):
                    shutil.rmtree(leftover, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=TEMPORARY, dir=parent)
    try:
        with alone_in(Path(folder)):
            yield folder
    finally:
        for _ in range(50):  # Ray's last processes may still write into it
            shutil.rmtree(folder, ignore_errors=True)
            if not Path(folder).exists():
                break
            time.sleep(0.1)


def _check_address(options: RayOptions) -> None:
    """Raise an error unless a cluster listens at the address; Ray itself retries for minutes, with a worse message."""
    target, source = options.target, "--ray-address" if options.address else "RAY_ADDRESS"
    if target == "auto":
        return
    if "://" in target:
        raise UsageError(f"{source} {visible(target)}: give HOST:PORT of a cluster's head, or auto")
    host, colon, port = target.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"{source} {visible(target)}: expected HOST:PORT, for instance 10.0.0.1:6379, or auto")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as connection:
            _check_protocol(connection)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MachineError(
            f"no Ray cluster at {visible(target)}: {visible(reason)}; start one: ray start --head"
        ) from None


def _check_protocol(connection: socket.socket) -> None:
    """Raise an `OSError` unless the server speaks HTTP/2, as the head of a Ray cluster does (RFC 9113, 3.4)."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("0", "false"):
        return  # it answers only after a TLS handshake with certificates
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
    with connection.makefile("rb") as answers:
        answer = answers.read(len(SETTINGS))
    if answer[3:4] != SETTINGS[3:4]:
        raise OSError("something else listens there")


class _DiscardedOutput(io.TextIOBase):
    """Discards Ray's messages on standard output, but warns of the first lost worker."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._told = listener, False

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Discard a piece of text."""
        if not self._told and "died" in text:
            self._told = True
            self._listener.warn("Ray lost a worker: another one repeats what it had started")
        return len(text)


@contextmanager
def off_standard_output(listener: Listener) -> Iterator[None]:
    """Reserve standard output for records, which go to the original stream."""
    with redirect_stdout(_DiscardedOutput(listener)):
        yield


@contextmanager
def _data_context(data: Any) -> Iterator[None]:
    """Within the block, make Ray Data preserve the order of its blocks and show nothing."""
    context, logger = data.DataContext.get_current(), logging.getLogger("ray.data")
    names = ("enable_progress_bars", "print_on_execution_start")
    before = {name: getattr(context, name) for name in names}
    ordered = context.execution_options.preserve_order
    screens = [handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler)]
    for handler in screens:
        logger.removeHandler(handler)
    for name in names:
        setattr(context, name, False)
    context.execution_options.preserve_order = True
    try:
        yield
    finally:
        context.execution_options.preserve_order = ordered
        for name, value in before.items():
            setattr(context, name, value)
        for handler in screens:
            logger.addHandler(handler)
