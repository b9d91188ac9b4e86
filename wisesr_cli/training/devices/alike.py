"""Checks that all processes of a training have equal settings, images and versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wisesr_cli.config.schema import Config
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.errors import DataError, MachineError, UsageError
from wisesr_cli.machine import keras_start
from wisesr_cli.processes.channel import Channel
from wisesr_cli.run.progress import PLACES, config_for_comparison
from wisesr_cli.text import visible

_PACKAGES = ("python", "wisesr", "keras", "jax", "numpy", "pillow")  # those that affect results on JAX

# By what is compared: the error if it differs, and the advice.
_PARTS: dict[str, tuple[type[UsageError | DataError | MachineError], str]] = {
    "settings": (UsageError, "start all with the same config and options"),
    "images": (DataError, "all machines need the same files"),
    "versions": (MachineError, "install the same versions on all machines"),
}


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings that affect results, by key."""
    return {key: value for key, value in config_for_comparison(config).items() if key not in PLACES}


def images_of(index: DatasetIndex) -> dict[str, Any]:
    """Return the class names, and per split the number of images and a hash of names, labels, sizes and weights."""
    found: dict[str, Any] = {"classes": list(index.class_names)}
    for name in sorted(index.splits.keys() - {"test"}):
        split = index.splits[name]
        digest = hashlib.blake2b("\0".join(split.paths).encode("utf-8", "surrogateescape"), digest_size=16)
        digest.update(split.labels.tobytes())
        if split.facts is not None:
            digest.update(split.facts["size"].tobytes())
        if split.weights is not None:
            digest.update(split.weights.tobytes())
        found[f"{name} images"] = len(split)
        found[f"names and sizes of the {name} images"] = digest.hexdigest()
    return found


def versions() -> dict[str, Any]:
    """Return the versions of the packages that affect results."""
    found = keras_start.package_versions()
    return {name: found.get(name) for name in _PACKAGES}


def check_alike(channel: Channel, what: str, mine: Mapping[str, Any]) -> None:
    """Compare `settings`, `images` or `versions` of all processes.

    If they differ, the main process raises a `UsageError`, `DataError` or `MachineError`, which also ends the others.
    """
    if channel.processes == 1:
        return
    text = json.dumps(mine, sort_keys=True)
    digests = channel.exchange(hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest())
    if len(set(digests)) == 1:
        return
    everything = channel.exchange(json.loads(text))  # only if they differ, as it may be long
    if channel.is_main:
        kind, advice = _PARTS[what]
        raise kind(f"{_difference(channel, what, everything)}; {advice}")
    channel.from_main()  # raises the main process's error


def _difference(channel: Channel, what: str, everything: list[dict[str, Any]]) -> str:
    first = everything[0]
    other = next(process for process, values in enumerate(everything) if values != first)
    values = everything[other]
    keys = [key for key in sorted(first.keys() | values.keys()) if first.get(key) != values.get(key)]
    shown = "; ".join(f"{visible(key)}: {_short(first.get(key))} -> {_short(values.get(key))}" for key in keys[:5])
    who = f"process {other} of {channel.processes} ({visible(channel.hosts[other])})"
    return f"{who} has different {what} from process 0: {shown}"


def _short(value: Any) -> str:
    text = visible(json.dumps(value))
    return text if len(text) <= 100 else f"{text[:97]}..."
