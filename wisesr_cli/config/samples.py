"""Lists the sample configs, and makes first configs from them.

They are the files of `sample_configs/`, which is next to this package in a clone, and inside it once installed.
"""

from __future__ import annotations

import re
from pathlib import Path

from wisesr_cli.config.mistakes import validate
from wisesr_cli.config.reader import Override, load_config
from wisesr_cli.config.schema import dump_yaml
from wisesr_cli.config.starter import scalar
from wisesr_cli.config.yaml_reader import read_yaml
from wisesr_cli.errors import DataError, MachineError, UsageError
from wisesr_cli.results.images import Starter
from wisesr_cli.text import nearest, typed, visible

NAME = "sample_configs"
_PACKAGE = Path(__file__).parents[1]
_PLACES = (("data", "dir"), ("data", "train_dir"), ("data", "validation_dir"))


def list_samples() -> dict[str, str]:
    """Return the name of every sample with the first sentence of its file."""
    folder = _folder()
    files = [path for path in folder.rglob("*.yaml") if not path.name.startswith("base_")]  # extended by others
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
    return {name: _first_sentence(found[name]) for name in sorted(found, key=lambda name: (name.count("/"), name))}


def start_from_sample(name: str, folder: str | Path | None, written_as: str) -> Starter:
    """Return a sample as a first config, see `sample_text`; raises `DataError` if the folder does not exist."""
    path = None if folder is None else Path(folder).absolute()
    if path is not None and not path.is_dir():
        raise DataError(f"{visible(path)}: no such folder; a sample is for a folder of images")
    return Starter(sample_text(name, folder=path, written_as=written_as), (f"the sample {name}",))


def sample_text(name: str, *, folder: Path | None, written_as: str) -> str:
    """Return a sample as a standalone config for the images in `folder`, or (None) for those given by --data.

    Keeps comments, except those of a sample that this one extends. `written_as`: its path, for the command in its
    comments. Raises `UsageError` for an unknown name.
    """
    name, names = name.removesuffix(".yaml"), list_samples()
    if name not in names:
        raise UsageError(f"no sample is called '{visible(name)}'.{nearest(name, names)} wisesr init --list shows all")
    path = _folder() / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    comments = re.match(r"(?:#.*\n)*", text)
    if comments and re.search(r"^extends:", text, re.MULTILINE):
        text = re.sub(r"# Without --data .*\n", "", comments.group()) + _resolved(path)
    if folder is not None:
        text = re.sub(
            r"^data:\n", lambda found: f"{found.group()}  dir: {scalar(str(folder))}\n", text, flags=re.MULTILINE
        )
    text = text.replace(f"{NAME}/{name}.yaml", typed(written_as))
    validate(read_yaml(text, origin=f"{name}.yaml"))
    return text


def _resolved(path: Path) -> str:
    """Return the resolved values of a sample as YAML, without its image folders."""
    config = load_config(path, [Override(place, None, ".".join(place)) for place in _PLACES]).config.to_dict()
    for place in _PLACES:
        del config["data"][place[1]]
    return dump_yaml(config)


def _first_sentence(path: Path) -> str:
    comment = re.match(r"(?:# .*\n)+", path.read_text(encoding="utf-8"))
    words = " ".join(line.removeprefix("# ") for line in comment.group().splitlines()) if comment else ""
    return re.split(r"(?<=\.) ", words)[0]


def _folder() -> Path:
    """Return the folder of the samples; raises `MachineError` if it is missing."""
    for place in (_PACKAGE / NAME, _PACKAGE.parent / NAME):
        if (place / "photos.yaml").is_file():
            return place
    raise MachineError(f"{visible(_PACKAGE / NAME)}: the sample configs are missing; reinstall wisesr")
