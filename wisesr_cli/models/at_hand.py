"""Finds the ImageNet weights on this machine, and resolves `model.weights: auto`. No Keras.

They are searched for in the folder `model.weights_dir`, in that of WISESR_WEIGHTS, and in Keras' cache, under the name
of Keras' release or that of `own_name`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from wisesr_cli.errors import MachineError, RunError
from wisesr_cli.listening import Listener
from wisesr_cli.machine.download import DownloadError, download, has_checksum, is_reachable
from wisesr_cli.models.released import RELEASES, size_bytes
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.text import typed, visible

WEIGHTS_FOLDER = "WISESR_WEIGHTS"  # the environment variable


@dataclass(frozen=True)
class Resolved:
    """A model whose `weights` are no longer `auto`, and a warning if random ones replace those of ImageNet."""

    model: ModelConfig
    warning: str | None = None


def keras_cache() -> Path:
    """Return the folder that Keras downloads weights into."""
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")  # noqa: PTH111, PTH118
    return Path(home) / "models"


def own_folder() -> Path:
    """Return the folder that weights are added to: that of WISESR_WEIGHTS if it is set, else Keras' cache."""
    named = os.environ.get(WEIGHTS_FOLDER)
    return Path(named) if named else keras_cache()


def weights_folders(weights_dir: Path | None = None) -> tuple[Path, ...]:
    """Return the folders to search for weights, in this order."""
    return tuple(dict.fromkeys(folder for folder in (weights_dir, own_folder(), keras_cache()) if folder is not None))


def own_name(name: str) -> str:
    """Return the file name of a backbone's weights that are not Keras' release."""
    return f"{name.lower()}_notop.weights.h5"


def find_weights(name: str, weights_dir: Path | None = None) -> Path | None:
    """Return the file of a backbone's ImageNet weights, or None."""
    if name not in RELEASES:
        return None
    names = (RELEASES[name].file_name, own_name(name))
    candidates = (folder / file_name for folder in weights_folders(weights_dir) for file_name in names)
    return next((path for path in candidates if path.is_file()), None)


def backbones_at_hand(weights_dir: Path | None = None) -> dict[str, Path]:
    """Return the backbones whose ImageNet weights are on this machine, and where."""
    found = {name: find_weights(name, weights_dir) for name in RELEASES}
    return {name: path for name, path in found.items() if path is not None}


def check_reachable(name: str) -> None:
    """Raise a `DownloadError`, within seconds, unless the server with Keras' release of a backbone can be reached."""
    url = RELEASES[name].url
    if not is_reachable(url):
        raise DownloadError(f"no network: {urlsplit(url).hostname} cannot be reached")


def is_release(name: str, path: Path) -> bool | None:
    """Return whether a file has the checksum of Keras' release; None where Keras has none for this backbone."""
    checksum = RELEASES[name].checksum
    return None if checksum is None else has_checksum(path, checksum)


def fetch_release(name: str, folder: Path, listener: Listener) -> Path:
    """Download Keras' release of a backbone's weights into a folder, and return its path.

    Raises:
        DownloadError: the server cannot be reached, or the download is not the release.
        MachineError: the file cannot be written.
    """
    release, target = RELEASES[name], folder / RELEASES[name].file_name
    check_reachable(name)
    label = f"downloading the ImageNet weights of {name}"
    download(release.url, target, checksum=release.checksum, label=label, listener=listener)
    return target


def missing_weights(name: str, weights_dir: Path | None, reason: object = None) -> MachineError:
    """Return the error for weights that are not on this machine: the file, where it may be, and what to type."""
    file_name = RELEASES[name].file_name
    looked = ", ".join(visible(folder) for folder in weights_folders(weights_dir))
    why = f" ({reason})" if reason is not None else ""
    return MachineError(
        f"model.weights: the ImageNet weights of {name} are not on this machine{why}: {file_name}, about "
        f"{max(1, round(size_bytes(name) / 1e6))} MB, looked for in {looked}; get it on a machine with a network: "
        f"wisesr weights fetch {name} -o FOLDER; bring it here: "
        f"wisesr weights add {name} {typed(f'FOLDER/{file_name}')}; or start from random weights: --weights none"
    )


def check_at_hand(name: str, path: Path) -> None:
    """Raise a `RunError` if a file has the name of Keras' release but is a different one, or only part of it."""
    if path.name == RELEASES[name].file_name and is_release(name, path) is False:
        raise RunError(
            f"model.weights: {visible(path)}: its checksum is not that of Keras' release of {name}; perhaps its "
            f"download was cut short: wisesr weights fetch {name} --overwrite"
        )


def resolve_weights(model: ModelConfig, listener: Listener, *, may_download: bool = True) -> Resolved:
    """Return a model with `weights: auto` resolved, and with ImageNet weights, if it uses them, on this machine.

    `auto` becomes `imagenet` if there are such weights, here or by download; else random ones. Without `may_download`,
    it only checks whether the server can be reached.

    Raises:
        MachineError: `imagenet` is requested, and is neither here nor downloadable.
        RunError: the file here is damaged.
    """
    name, is_auto = model.backbone, model.weights == "auto"
    if not is_auto and model.weights != "imagenet":
        return Resolved(model)
    if name not in RELEASES:  # without a release, `imagenet` is a mistake that `check_backbone` reports
        return Resolved(model.model_copy(update={"weights": None}) if is_auto else model)
    path = find_weights(name, model.weights_dir)
    if path is not None:
        check_at_hand(name, path)
    else:
        try:
            if may_download:
                fetch_release(name, keras_cache(), listener)
            else:
                check_reachable(name)
        except MachineError as error:
            missing = missing_weights(name, model.weights_dir, error)
            if not is_auto:
                raise missing from None
            warning = f"{name} starts from random weights, which takes far more images and epochs: {missing}"
            return Resolved(model.model_copy(update={"weights": None}), warning)
    return Resolved(model.model_copy(update={"weights": "imagenet"}))
