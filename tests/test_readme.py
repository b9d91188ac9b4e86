"""Runs what the README tells users to type."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from image_folders import make_image

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```bash\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block '{name}'"
    return found.group(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tour can be walked: photos of two classes."""
    root = tmp_path_factory.mktemp("tour")
    for first_seed, label in enumerate(("cat", "dog")):
        for number in range(10):
            make_image(root / "photos" / label / f"{number}.jpg", 10 * first_seed + number, size=(120, 100))
    return root


def _run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["WISESR_CACHE_DIR"] = str(folder / "cache")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_every_command_of_the_tour_ends_well(folder: Path) -> None:
    commands = [line for line in _block("tour").splitlines() if line and not line.startswith("#")]
    assert len(commands) >= 10
    for command in commands:
        done = _run(command, folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_the_python_example_runs(folder: Path) -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    done = _run(f"{shlex.quote(sys.executable)} -c {shlex.quote(found.group(1))}", folder)
    assert done.returncode == 0, done.stderr
    assert "photos/cat/0.jpg" in done.stdout


def test_the_two_commands_install_this_project_and_its_tests() -> None:
    assert _block("first command").strip().endswith("pip install . && wisesr demo")
    assert _block("second command").strip() == "pip install -e '.[test]' && pytest"


def test_the_table_of_heads_holds_what_summarize_says() -> None:
    from wisesr_cli import api

    summary = api.summarize(backbones=["Xception"], classes=70)
    for row in summary.rows:
        assert re.search(rf"^\| `{row.head}` \|.*\| {row.head_parameters:,} \|$", README, re.MULTILINE), row


def test_every_file_that_the_readme_links_to_exists() -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
