"""The installation: its distribution, and the command that adds a package to it."""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import unquote, urlsplit

FULL = "wisesr"
SMALL = "wisesr-core"  # the same package without TensorFlow: packaging/core
_FOLDER = Path(__file__).parents[2]  # a clone, if it has a pyproject.toml; otherwise site-packages


def installed(name: str) -> Distribution | None:
    """Return an installed distribution, ignoring build leftovers in a clone (`wisesr.egg-info`)."""
    return next((found for found in distributions(name=name) if found.read_text("WHEEL") is not None), None)


def is_small() -> bool:
    """Return whether this is the small installation, which has no TensorFlow of its own."""
    return installed(FULL) is None and installed(SMALL) is not None


def install_line(name: str) -> str:
    """Return the command that adds an extra of this distribution, or a package that it needs.

    The distribution itself may not be on any index. If it was installed from a folder or file that still exists, the
    command installs the extra from that path; otherwise it names the packages.
    """
    found = installed(FULL) or installed(SMALL)
    if found is None:  # a clone that was not installed
        is_clone = (_FOLDER / "pyproject.toml").is_file()
        return f"pip install -e {shlex.quote(f'{_FOLDER}[{name}]')}" if is_clone else f"pip install {name}"
    if name in (found.metadata.get_all("Provides-Extra") or ()):
        source = _source(found)
        if source is not None:
            path, is_editable = source
            return f"pip install {'-e ' if is_editable else ''}{shlex.quote(f'{path}[{name}]')}"
    return f"pip install {shlex.join(_requirements(found, name) or [name])}"


def _source(found: Distribution) -> tuple[Path, bool] | None:
    """Return the folder or file that a distribution was installed from, and whether in editable mode (PEP 610)."""
    try:
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        url = urlsplit(origin["url"])
        path, is_editable = Path(unquote(url.path)), bool(origin.get("dir_info", {}).get("editable"))
    except (KeyError, TypeError, ValueError):
        return None
    return (path, is_editable) if url.scheme == "file" and path.exists() else None


def _requirements(found: Distribution, name: str) -> list[str]:
    """Return the requirements of an extra; for any other name, the requirement for the package of that name."""
    extra = re.compile(rf"""(?:;| and) *extra == ['"]{re.escape(name)}['"]""")
    of_extra = [extra.sub("", row).strip() for row in found.requires or () if extra.search(row)]
    if of_extra:
        return of_extra
    package = re.compile(rf"{re.escape(name)}(?![\w.\[-])")
    rows = [row.partition(";")[0].strip() for row in found.requires or () if package.match(row)]
    return list(dict.fromkeys(rows))  # several extras may have it
