"""Builds wisesr-core: the repository's package under another name, without dependencies for training and plots.

This build backend (PEP 517) copies the sources, rewrites their pyproject.toml, and lets setuptools do the rest. The
source distribution that it makes is self-contained: it does not need this file.
"""

import json
import os
import re
import shutil
import tempfile
import tomllib
from contextlib import contextmanager
from pathlib import Path

from setuptools import build_meta

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("wisesr_cli", "sample_configs", "LICENSE", "setup.py")
# Dependencies that the small distribution omits; each extra for training has them.
LEFT_OUT = ("tensorflow", "keras", "matplotlib", "jinja2", "tensorboard")
OF_TESTS = ("test", "benchmark")
HAS_CPU_WHEEL = "sys_platform == 'linux' and platform_machine == 'x86_64'"
HAS_NONE = "sys_platform != 'linux' or platform_machine != 'x86_64'"
ABOUT = "wisesr without TensorFlow: checks, predicts, evaluates and embeds on LiteRT"


def core(project):
    """Return the [project] table of wisesr-core, derived from that of wisesr."""
    by_name = {re.match(r"[\w.-]+", line).group(): line for line in project["dependencies"]}
    missing = [name for name in LEFT_OUT if name not in by_name]
    if missing:
        raise ValueError(f"pyproject.toml has no dependency {missing[0]}, which wisesr-core leaves out")
    tensorflow, *others = (by_name.pop(name) for name in LEFT_OUT)
    release = tensorflow.removeprefix("tensorflow")
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name not in OF_TESTS}
    extras |= {
        "tensorflow": [tensorflow, *others],
        # On other platforms, the tensorflow package has no CUDA anyway.
        "cpu": [f"tensorflow-cpu{release}; {HAS_CPU_WHEEL}", f"tensorflow{release}; {HAS_NONE}", *others],
        "gpu": [*extras["gpu"], *others],
    }
    return {
        **project,
        "name": f"{project['name']}-core",
        "description": ABOUT,
        "dependencies": list(by_name.values()),
        "optional-dependencies": extras,
    }


def as_toml(table, *path):
    """Return a table of strings, numbers, lists and tables as TOML, where JSON strings and lists are valid."""
    values = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    tables = [as_toml(value, *path, key) for key, value in table.items() if isinstance(value, dict)]
    return "\n".join([f"[{'.'.join(map(json.dumps, path))}]" if path else "", *values, *tables])


@contextmanager
def sources():
    """Within the block, work in a copy of the sources with the pyproject.toml of wisesr-core."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name in SOURCES:
            source, target = ROOT / name, Path(folder, name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        written = {
            "build-system": settings["build-system"],
            "project": core(settings["project"]),
            "tool": {"setuptools": settings["tool"]["setuptools"]},
        }
        Path(folder, "pyproject.toml").write_text(as_toml(written), "utf-8")
        page = (ROOT / "README.md").read_text("utf-8")
        Path(folder, "README.md").write_text(f"{ABOUT}. This is the page of wisesr.\n\n{page}", "utf-8")
        Path(folder, "MANIFEST.in").write_text("graft sample_configs\n", "utf-8")
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Build the wheel (PEP 517)."""
    directory = os.path.abspath(wheel_directory)  # noqa: PTH100  (does not resolve links)
    with sources():
        return build_meta.build_wheel(directory, config_settings)


def build_sdist(sdist_directory, config_settings=None):
    """Build the source distribution (PEP 517)."""
    directory = os.path.abspath(sdist_directory)  # noqa: PTH100  (does not resolve links)
    with sources():
        return build_meta.build_sdist(directory, config_settings)
