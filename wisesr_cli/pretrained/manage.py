"""Lists, fetches and adds ImageNet weights: the work of `wisesr weights`."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.download import DownloadError
from wisesr_cli.machine.files import make_folder, replacing
from wisesr_cli.machine.stopping import StopRequest, stop_on_signals
from wisesr_cli.model_files.hdf5 import Table, UnsafeFileError
from wisesr_cli.model_files.info import weights_file
from wisesr_cli.model_files.isolation import check_weights_apart
from wisesr_cli.models.at_hand import (
    check_at_hand,
    fetch_release,
    find_weights,
    is_release,
    keras_cache,
    missing_weights,
    own_folder,
    own_name,
    weights_folders,
)
from wisesr_cli.models.backbones import BACKBONES, canonical_name
from wisesr_cli.models.released import RELEASES, size_bytes
from wisesr_cli.pretrained.records import Origin, PretrainedWeights
from wisesr_cli.requests import AddWeightsRequest, FetchWeightsRequest
from wisesr_cli.text import visible


def released_name(name: str) -> str:
    """Return the name of a backbone that Keras has weights for, given in any case; raises a `UsageError`."""
    try:
        known = canonical_name(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if known not in RELEASES:
        raise UsageError(f"{known} has no ImageNet weights; wisesr weights list shows which backbones do")
    return known


def describe(name: str, path: Path | None) -> PretrainedWeights:
    """Return the record of a backbone's weights, after checking the file, if any."""
    release = RELEASES[name]
    return PretrainedWeights(
        backbone=name,
        file_name=release.file_name,
        megabytes=round(size_bytes(name) / 1e6, 1),
        licence=release.licence,
        checksum=release.checksum,
        path=None if path is None else str(path),
        origin=None if path is None else _origin(name, path),
    )


def _origin(name: str, path: Path) -> Origin:
    if path.name != RELEASES[name].file_name:
        return "not known"
    known = is_release(name, path)
    return "release by its name" if known is None else "release" if known else "damaged"


def list_weights() -> tuple[PretrainedWeights, ...]:
    """Return a record for every backbone that has weights; files on this machine are read in full for checksums."""
    return tuple(describe(name, find_weights(name)) for name in RELEASES)


def paths(backbone: str | None) -> tuple[Path, ...]:
    """Return the file of a backbone's weights or, for None, the folders that are searched.

    Raises:
        UsageError: the backbone has no weights.
        RunError: they are not on this machine.
    """
    if backbone is None:
        return weights_folders()
    name = released_name(backbone)
    path = find_weights(name)
    if path is None:
        raise RunError(str(missing_weights(name, None)).removeprefix("model.weights: "))
    return (path,)


def fetch(request: FetchWeightsRequest) -> tuple[PretrainedWeights, ...]:
    """Download Keras' releases, except those that are already there.

    Raises:
        UsageError: a backbone has no weights.
        MachineError: no network, a wrong checksum, or a folder that cannot be written.
        RunError: the folder has a different file of that name.
    """
    names = [released_name(name) for name in request.backbones]
    folder = keras_cache() if request.output_dir is None else Path(request.output_dir)
    with stop_on_signals(StopRequest("complete downloads are kept; repeat the command")):
        try:
            return tuple(_fetched(name, folder, request) for name in names)
        except DownloadError as error:
            raise DownloadError(
                f"{error}; on a machine with a network: wisesr weights fetch {shlex.join(names)} -o FOLDER, then copy "
                "FOLDER here: wisesr weights add BACKBONE FILE"
            ) from None


def _fetched(name: str, folder: Path, request: FetchWeightsRequest) -> PretrainedWeights:
    target = folder / RELEASES[name].file_name
    if target.is_file() and not request.overwrite:
        check_at_hand(name, target)
        request.listener.note(f"{visible(target)}: already there")
    else:
        fetch_release(name, folder, request.listener)
    return describe(name, target)


def add(request: AddWeightsRequest) -> PretrainedWeights:
    """Copy weights into the folder of weights, after checking that they are Keras' release or fit the backbone.

    Raises:
        UsageError: the backbone has no weights, or a file with other weights is there.
        RunError: the file is missing or refused, or does not fit.
        MachineError: the folder cannot be written.
    """
    name = released_name(request.backbone)
    source, release, folder = weights_file(str(request.file)), RELEASES[name], own_folder()
    known = is_release(name, source)
    if known or (known is None and source.name == release.file_name):
        if not known:
            _fitted(name, source)
        target = folder / release.file_name
        _put(target, lambda temporary: shutil.copyfile(source, temporary), overwrite=request.overwrite)
    else:
        target = folder / own_name(name)
        backbone = _fitted(name, source)
        _put(target, backbone.save_weights, overwrite=request.overwrite)
        scaling = BACKBONES[name].scaling
        inside = "by itself" if scaling == "none" else f"as '{scaling}'"
        request.listener.note(
            f"the origin of these weights is not known; {name} scales pixels {inside}, as for Keras' release"
        )
    return describe(name, target)


def _fitted(name: str, source: Path) -> Any:
    """Return the backbone with the weights of a file, checked tensor by tensor; raises a `RunError`."""
    keras_start.start("cpu")
    from wisesr_cli.models.weights import load_backbone

    side = BACKBONES[name].minimum_size  # the weights are the same for every size
    try:
        return load_backbone(name, (side, side), source)[0]
    except RunError as error:
        raise RunError(f"{str(error).removeprefix('model.weights: ')}; nothing was added") from None


def _put(target: Path, write: Callable[[Path], Any], *, overwrite: bool) -> None:
    """Write a file atomically; one with other weights is replaced only on request."""
    make_folder(target.parent)
    with replacing(target, end=f"-{target.name}") as temporary:  # Keras requires .weights.h5
        write(temporary)
        if target.exists() and not overwrite and _tables_of(target) != _tables_of(temporary):
            raise UsageError(f"{visible(target)}: exists, with other weights; replace it with --overwrite")


def _tables_of(path: Path) -> dict[str, Table] | None:
    try:
        with path.open("rb") as file:
            return check_weights_apart(file)
    except (UnsafeFileError, OSError):
        return None
