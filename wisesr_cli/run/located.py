"""Resolves a path from the command line, once: to a run directory, a model file, or the source of a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wisesr_cli.data.listing.manifest_formats import is_manifest
from wisesr_cli.errors import DataError, MachineError, RunError, UsageError
from wisesr_cli.listening import Listener, Silent
from wisesr_cli.machine import keras_start
from wisesr_cli.model_files.info import BEST, ModelInfo
from wisesr_cli.run.listing import RUNS, resolved
from wisesr_cli.run.names import CLASSES, CONFIG, SPLITS
from wisesr_cli.run.records import refuse_link_outside
from wisesr_cli.run.run import Run
from wisesr_cli.text import typed, visible

if TYPE_CHECKING:
    from wisesr_cli.config.reader import LoadedConfig, Override
    from wisesr_cli.config.recipe import Recipe
    from wisesr_cli.config.schema import Config
    from wisesr_cli.data.settings import DataConfig
    from wisesr_cli.model_files.archive import CheckedModel


@dataclass(frozen=True)
class Located:
    """A model file and its run directory; see `locate`.

    `given`: the path as typed, for messages; `run`: the run directory, or the folder of a lone model file.
    """

    given: str
    run: Run
    model: Path

    @cached_property
    def is_complete(self) -> bool:
        """Whether the model file lies in a run directory."""
        return self.run.is_complete

    @cached_property
    def checked(self) -> CheckedModel:
        """The model file, with every byte read and checked; `RunError` when it is rejected."""
        from wisesr_cli.model_files.archive import check_model  # imports h5py, which LiteRT does not need

        return check_model(self.model)

    @cached_property
    def info(self) -> ModelInfo:
        """The model's record, read alone unless the file was checked; `RunError` when damaged or not from wisesr."""
        from wisesr_cli.model_files.archive import read_model_info

        if "checked" in vars(self):
            return self.checked.info
        return read_model_info(self.model)

    @cached_property
    def config(self) -> Config:
        """The resolved config of the run."""
        return self.run.load_config()

    @property
    def data(self) -> DataConfig:
        """The run's settings about images; the defaults for a lone model file."""
        from wisesr_cli.data.settings import DataConfig

        return self.config.data if self.is_complete else DataConfig()

    @property
    def name(self) -> str:
        """The run's name, however its path was given; for a lone model, its file name."""
        return self.model.parent.resolve().name if self.is_complete else self.model.name


def locate(path: str | Path, listener: Listener | None = None) -> Located:
    """Return the run at a path: a run directory with a model, a `.keras` file, or `latest`, see `listing.resolved`.

    Raises a `RunError` that says what is there and what to type if there is none, or if a model in a run directory is a
    link that leads out of it.
    """
    file = path = resolved(path, (listener or Silent()).note)
    if file.is_file():
        if file.suffix != ".keras":
            raise RunError(f"{visible(path)}: neither a run directory nor a .keras file")
        return Located(str(path), Run(file.parent), file)
    if not file.is_dir():
        in_runs = Path(RUNS, file)
        where = f"you may mean {visible(in_runs)}" if Run(in_runs).is_complete else "wisesr train creates one"
        raise RunError(f"{visible(path)}: no such run directory; {where}")
    run = Run(file)
    if not run.is_complete:
        raise RunError(
            f"{visible(path)}: not a run directory: it has no {CONFIG} and {CLASSES}; wisesr train creates one"
        )
    if not run.best.is_file():
        raise RunError(
            f"{visible(path)}: no {BEST} yet: no epoch has finished; continue with: wisesr train {typed(path)} --resume"
        )
    for model in (run.best, run.litert):
        refuse_link_outside(model)
    return Located(str(path), run, run.best)


def load_source(
    source: str | Path | None,
    overrides: Sequence[Override] = (),
    *,
    in_place: bool = False,
    resume: bool = False,
    recipe: Recipe | None = None,
) -> LoadedConfig:
    """Return the resolved config of a YAML file, an image folder, a manifest, a run directory or its best.keras.

    None gives the defaults, `latest` the newest run, named in a note. `overrides` come from the command line, weakest
    first. A folder or manifest gets the recipe for its images (`recipe`, if already known), or with `resume`, the
    config of the run to resume. `in_place`: the config of a run directory uses that same directory for output.

    Raises:
        ConfigError: every mistake found, one per line.
        DataError: the source is neither a file nor a folder.
        RunError: the config is damaged, of the source or of the run whose table of examples is the source.
    """
    from wisesr_cli.config.reader import Override, load_config, recipe_of

    notes: list[str] = []
    given = resolved(source, notes.append) if source is not None and str(source) else None
    overrides = with_roots(given, overrides)
    run = None if given is None else run_at(given)
    if given is None or run is None:
        has_images = given is not None and (given.is_dir() or is_manifest(given))
        resumed = _resumed(given, overrides) if resume and given is not None and has_images else None
        return resumed or load_config(source, overrides, recipe=recipe or recipe_of(source, overrides))
    run.load_config()  # a damaged config is an error of the run, not of the command line
    path, origin = run.path.absolute(), visible(given)
    place = [Override(("name",), path.name, origin), Override(("output_dir",), str(path.parent), origin)]
    found = load_config(run.config_path, [*(place if in_place else ()), *overrides], of_run=True)
    return replace(found, notes=(*notes, *found.notes))


def load_training(
    source: str | Path, overrides: Sequence[Override] = (), *, resume: bool = False, overwrite: bool = False
) -> LoadedConfig:
    """Return the resolved config that a training starts from; raises as `load_source` does.

    Also raises a `UsageError` for a run that is neither to be resumed nor overwritten, as the user may want to continue
    or to repeat it, and a `MachineError` if Keras is not installed.
    """
    notes: list[str] = []
    given = resolved(source, notes.append) if str(source) else source
    run = run_at(Path(given))
    if run is not None and not resume and not overwrite:
        raise UsageError(
            f"{visible(source)} is a run: to continue it, wisesr train {typed(run.path)} --resume; to repeat it as a "
            f"new one, wisesr train {typed(run.config_path)}"
        )
    keras_start.check_installed()
    loaded = load_source(given, overrides, in_place=resume or overwrite, resume=resume)
    return replace(loaded, notes=(*notes, *loaded.notes))


def run_at(path: Path) -> Run | None:
    """Return the run of a run directory or its best.keras; None for anything else."""
    is_model = path.suffix == ".keras" and path.is_file()
    run = Run(path.parent if is_model else path)
    return run if run.is_complete else None


def images_root(manifest: Path) -> Path:
    """Return the folder that the paths of a manifest are relative to.

    For the table of examples of a run, this is the run's image folder. For any other manifest, it is the manifest's own
    folder, or the folder that holds all images if their paths are absolute. Raises a `RunError` if the run's config is
    damaged or names no images.
    """
    from wisesr_cli.data.listing.manifest import read_manifest
    from wisesr_cli.data.survey import find_layout

    run = Run(manifest.absolute().parent)
    if manifest.name == SPLITS and run.is_complete:
        data = run.load_config().data
        if data.source is None:
            raise RunError(f"{visible(manifest)}: the config of its run names no images")
        return data.dir or Path(find_layout(data).root)
    try:
        return Path(read_manifest(manifest).root)
    except (DataError, MachineError):  # reported when the labels are read
        return manifest.absolute().parent


def with_roots(source: str | Path | None, overrides: Sequence[Override]) -> list[Override]:
    """Return the overrides of a source; for a manifest, preceded by the folder that its paths are relative to.

    An override of `data.dir` may also name a manifest; it becomes two overrides. Raises as `images_root` does.
    """
    from wisesr_cli.config.reader import Override

    found = []
    if source is not None and is_manifest(source):
        found.append(Override(("data", "dir"), str(images_root(Path(source))), visible(source)))
    for override in overrides:
        place = Path(str(override.value))
        if override.path == ("data", "dir") and is_manifest(place):
            found.append(Override(("data", "manifest"), str(place.absolute()), override.origin))
            override = Override(override.path, str(images_root(place)), override.origin)
        found.append(override)
    return found


def _resumed(source: Path, overrides: Sequence[Override]) -> LoadedConfig | None:
    """Return the config of the run that training on a folder or manifest resumes, or None if there is none."""
    from wisesr_cli.config.reader import Override, load_config
    from wisesr_cli.run.folders import newest_folder

    plain = load_config(source, overrides)
    parent, name = Path(plain.config.output_dir).expanduser(), plain.config.name
    path = newest_folder(parent, plain.default_name, CONFIG) if name is None else parent / name
    if path is None or not Run(path).is_complete:
        return None
    Run(path).load_config()
    key = "manifest" if is_manifest(source) else "dir"
    values = {("name",): path.name, ("output_dir",): str(parent), ("data", key): str(source.absolute())}
    given = [Override(key, value, visible(source)) for key, value in values.items()]
    return replace(
        load_config(Run(path).config_path, [*given, *overrides], of_run=True), default_name=plain.default_name
    )
