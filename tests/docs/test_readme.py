"""Runs what the README tells users to type."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from image_folders import make_image

from benchmarks.recipe import tour

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```bash\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block '{name}'"
    return found.group(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of two classes."""
    root = tmp_path_factory.mktemp("folder")
    for first_seed, label in enumerate(("cat", "dog")):
        for number in range(10):
            make_image(root / "photos" / label / f"{number}.jpg", 10 * first_seed + number, size=(120, 100))
    return root


def _run(command: str, folder: Path, *, timeout_seconds: float = 300) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment["WISESR_CACHE_DIR"] = str(folder / "cache")
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_every_command_of_the_tour_prints_the_output_shown_beside_it(tmp_path: Path) -> None:
    block = tour.block(tour.PAGE.read_text(encoding="utf-8"))
    lines = iter(block.splitlines())
    expected = {line: next(lines) for line in lines if line in tour.commands(block)}
    assert len(expected) >= 15
    for step in tour.walk(tmp_path, block):
        assert step.returncode == 0, f"{step.command}\n{step.output}"
        if step.command in expected:
            assert _words(step.shown) == _words(expected[step.command]), step.output


def _words(line: str) -> list[str]:
    """Return the first words of a line of the tour, without figures, which differ between machines."""
    return re.findall(r"[^\W\d]+", line)[:8]


def test_the_python_example_runs(folder: Path) -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    done = _run(f"{shlex.quote(sys.executable)} -c {shlex.quote(found.group(1))}", folder)
    assert done.returncode == 0, done.stderr
    assert "photos/cat/0.jpg" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_first_command_as_written_installs_and_runs_the_demo(tmp_path: Path) -> None:
    copy = tmp_path / "wisesr"
    made = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__")
    made_at_the_top = {"demo", "runs", "build"}
    shutil.copytree(
        ROOT, copy, ignore=lambda at, names: {*made(at, names), *(made_at_the_top if at == str(ROOT) else ())}
    )
    done = _run(_block("first command"), copy, timeout_seconds=1400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "where are the red sails?" in done.stdout
    assert (copy / "demo" / "contact_sheet.png").is_file()


def test_the_second_command_is_the_test_command_that_ci_runs() -> None:
    # .ci/run runs it as written; a test cannot run its own suite.
    assert _block("second command").strip() == "pip install -e '.[test]' && pytest -n auto"
    assert "second command" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_table_of_heads_matches_summarize() -> None:
    from wisesr_cli import api

    summary = api.summarize(backbones=["Xception"], classes=70)
    for row in summary.rows:
        assert re.search(rf"^\| `{row.head}` \|.*\| {row.head_parameters:,} \|$", README, re.MULTILINE), row


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_every_file_that_the_readme_links_to_exists() -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
