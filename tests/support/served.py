"""Makes weights under the names of Keras' releases, and serves them from this machine."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wisesr_cli.models.released import RELEASES


def free_port() -> int:
    """Return a free port outside the range that the system assigns to connections."""
    for port in range(20_000 + 40 * (os.getpid() % 300), 32_001):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no port is free")


def randomize(model: Any, seed: int = 0) -> Any:
    """Set every tensor of a model to values that no initializer produces, and return the model."""
    draws = np.random.default_rng(seed)
    model.set_weights([draws.uniform(0.5, 1.5, weight.shape).astype(weight.dtype) for weight in model.weights])
    return model


def same_weights(backbone: Any, expected: Any) -> bool:
    """Return whether the backbone has the first tensors of `expected`, which may have more after them."""
    pairs = zip(backbone.get_weights(), expected.get_weights(), strict=False)
    return len(backbone.weights) <= len(expected.weights) and all(np.array_equal(a, b) for a, b in pairs)


def write_release(name: str, path: Path, seed: int = 0) -> Any:
    """Write random weights of a backbone in the format of Keras' releases, and return the model."""
    import keras

    model = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(32, 32, 3))
    randomize(model, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def release_as(patch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    """Override fields of the release of a backbone, such as the checksum or URL of weights that a test made."""
    patch.setitem(RELEASES, name, replace(RELEASES[name], **fields))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class Short(_Quiet):
    """Announces more bytes than it sends."""

    def send_header(self, keyword: str, value: str) -> None:
        super().send_header(keyword, str(int(value) + 5) if keyword == "Content-Length" else value)


@contextmanager
def served(folder: Path, handler: type[SimpleHTTPRequestHandler] = _Quiet) -> Iterator[str]:
    """Serve a folder on the loopback interface; yield its URL, which ends in a slash."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
