"""The suggested install command works whether wisesr came from a clone, a file, or an index."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from command_line import REPOSITORY

from wisesr_cli.exporting.export import FORMATS
from wisesr_cli.machine import installation
from wisesr_cli.machine.installation import FULL, SMALL, install_line, is_small
from wisesr_cli.training.trackers.table import TRACKERS

SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = Path(installation.__file__).parents[1]
METADATA = """Metadata-Version: 2.4
Name: NAME
Version: 0.1
Requires-Dist: keras<3.16,>=3.15.1
Requires-Dist: cykooz-resizer>=4.0.1; sys_platform != "linux" or platform_machine == "x86_64"
Requires-Dist: matplotlib>=3.9; extra == "gpu"
Requires-Dist: matplotlib>=3.9; extra == "cpu"
Provides-Extra: onnx
Requires-Dist: onnx>=1.20; extra == "onnx"
Requires-Dist: onnxruntime>=1.27; extra == "onnx"
Provides-Extra: cpu
Requires-Dist: tensorflow-cpu>=2.21; (sys_platform == "linux" and platform_machine == "x86_64") and extra == "cpu"
Requires-Dist: tensorflow>=2.21; (sys_platform != "linux" or platform_machine != "x86_64") and extra == "cpu"
"""


@pytest.fixture
def installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that adds a distribution, in place of those that are installed."""
    found: list[PathDistribution] = []
    monkeypatch.setattr(
        installation, "distributions", lambda name: [each for each in found if each.metadata["Name"] == name]
    )

    def install(name: str, origin: dict[str, object] | None = None, *, built_only: bool = False) -> None:
        folder = tmp_path / f"{name}-{len(found)}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(METADATA.replace("NAME", name), encoding="utf-8")
        if not built_only:
            (folder / "WHEEL").write_text("Wheel-Version: 1.0\n", encoding="utf-8")
        if origin is not None:
            (folder / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
        found.append(PathDistribution(folder))

    return install


def test_a_clone_suggests_its_own_extra(installs, tmp_path: Path) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    installs(FULL, {"url": clone.as_uri(), "dir_info": {"editable": True}})
    assert install_line("onnx") == f"pip install -e '{clone}[onnx]'"


def test_a_folder_without_editable_mode_suggests_its_own_extra(installs, tmp_path: Path) -> None:
    installs(SMALL, {"url": tmp_path.as_uri(), "dir_info": {}})
    assert install_line("cpu") == f"pip install '{tmp_path}[cpu]'"
    assert is_small()


def test_a_wheel_suggests_its_own_extra(installs, tmp_path: Path) -> None:
    wheel = tmp_path / "wisesr-0.1-py3-none-any.whl"
    wheel.touch()
    installs(FULL, {"url": wheel.as_uri(), "archive_info": {}})
    assert install_line("onnx") == f"pip install '{wheel}[onnx]'"


@pytest.mark.parametrize(
    "origin",
    [None, {"url": "file:///gone/for/ever", "dir_info": {}}, {"url": "https://host/a.whl"}, {"dir_info": 1}, [1]],
)
def test_any_other_origin_suggests_the_packages(installs, origin: dict[str, object] | None) -> None:
    installs(FULL, origin)
    assert install_line("onnx") == "pip install 'onnx>=1.20' 'onnxruntime>=1.27'"


def test_environment_markers_stay_in_the_command(installs) -> None:
    installs(SMALL)
    assert install_line("cpu") == (
        "pip install 'matplotlib>=3.9' "
        """'tensorflow-cpu>=2.21; (sys_platform == "linux" and platform_machine == "x86_64")' """
        """'tensorflow>=2.21; (sys_platform != "linux" or platform_machine != "x86_64")'"""
    )


def test_a_package_that_is_not_an_extra_keeps_its_version_bounds(installs, tmp_path: Path) -> None:
    installs(FULL, {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    assert install_line("keras") == "pip install 'keras<3.16,>=3.15.1'"
    assert install_line("matplotlib") == "pip install 'matplotlib>=3.9'"
    assert install_line("cykooz-resizer") == "pip install 'cykooz-resizer>=4.0.1'"
    assert install_line("nothing-known") == "pip install nothing-known"


def test_metadata_left_by_a_build_is_not_an_installation(installs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_FOLDER", REPOSITORY)
    installs(FULL, built_only=True)
    assert install_line("onnx") == f"pip install -e {shlex.quote(f'{REPOSITORY}[onnx]')}"
    installs(SMALL)
    assert is_small()
    monkeypatch.setattr(installation, "_FOLDER", REPOSITORY / "docs")
    assert install_line("onnx").startswith("pip install 'onnx>=1.20'")


def test_the_package_is_suggested_if_there_is_no_metadata(
    installs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "_FOLDER", tmp_path)
    assert install_line("onnx") == "pip install onnx"
    assert not is_small()


def test_the_full_distribution_takes_precedence_over_the_small_one(installs) -> None:
    installs(SMALL)
    installs(FULL)
    assert not is_small()


def test_every_name_in_an_install_line_is_an_extra_or_a_dependency() -> None:
    known = {*SETTINGS["project"]["optional-dependencies"]}
    known |= {re.split(r"[^\w.-]", line)[0] for line in SETTINGS["project"]["dependencies"]}
    used = {name for row in FORMATS.values() for name in row.packages.values()} | set(TRACKERS)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "install_line":
                used |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    assert used >= {"onnx", "ray", "heic", "bands", "parquet", "gpu"}
    assert not used - known


def test_no_message_installs_wisesr_from_an_index() -> None:
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert not [path for path, text in sources.items() if re.search(r"pip install '?wisesr", text)]
