"""What is built from the repository: wheels, source distributions, the small installation and the container."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import REPOSITORY, Trained, environment
from packaging.markers import default_environment
from packaging.requirements import Requirement

from wisesr_cli.machine.installation import FULL, SMALL

SETUP = runpy.run_path(str(REPOSITORY / "setup.py"))
BACKEND = runpy.run_path(str(REPOSITORY / "distributions" / "core" / "backend.py"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = BACKEND["core"](PROJECT)
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
PLACE = ("https://forge.example/own/wisesr", "v1.2")
MOST_MEGABYTES = 300  # of the small installation, including pip
KINDS = {"LINUX_PC": ("linux", "x86_64"), "LINUX_ARM": ("linux", "aarch64"), "MAC": ("darwin", "arm64")}


def steps(variant: str) -> list[str]:
    """Return the commands that the Dockerfile runs, in order."""
    lines = re.sub(r"\\\n", " ", DOCKERFILE)
    return [f"VARIANT={variant}; {line}" for line in re.findall(r"^RUN (.*)$", lines, re.MULTILINE)]


def names(lines: list[str], kind: str, extra: str = "") -> set[str]:
    """Return the packages that the requirements install on a kind of machine."""
    platform, machine = KINDS[kind]
    place: dict[str, Any] = {**default_environment(), "sys_platform": platform, "platform_machine": machine}
    rows = map(Requirement, lines)
    return {row.name for row in rows if row.marker is None or row.marker.evaluate({**place, "extra": extra})}


# Metadata


def test_cykooz_resizer_is_required_only_where_it_has_a_wheel() -> None:
    assert "cykooz-resizer" in names(PROJECT["dependencies"], "LINUX_PC")
    assert "cykooz-resizer" in names(PROJECT["dependencies"], "MAC")
    assert "cykooz-resizer" not in names(PROJECT["dependencies"], "LINUX_ARM")


@pytest.mark.parametrize("kind", KINDS)
def test_small_distribution_lacks_only_the_packages_for_training_and_plots(kind: str) -> None:
    whole, small = names(PROJECT["dependencies"], kind), names(CORE["dependencies"], kind)
    assert whole - small == {"tensorflow", "keras", "matplotlib", "jinja2", "tensorboard"}
    assert not small - whole
    assert (PROJECT["name"], CORE["name"]) == (FULL, SMALL)
    for extra in ("tensorflow", "gpu"):
        assert small | names(CORE["optional-dependencies"][extra], kind) == whole


def test_cpu_extra_uses_tensorflow_cpu_where_it_has_wheels() -> None:
    cpu = CORE["optional-dependencies"]["cpu"]
    found = {kind: names(cpu, kind) & {"tensorflow", "tensorflow-cpu"} for kind in KINDS}
    assert found == {"LINUX_PC": {"tensorflow-cpu"}, "LINUX_ARM": {"tensorflow"}, "MAC": {"tensorflow"}}
    assert names(cpu, "MAC") | names(CORE["dependencies"], "MAC") == names(PROJECT["dependencies"], "MAC")


def test_version_bounds_and_other_extras_match_the_full_distribution() -> None:
    assert {*CORE["dependencies"]} <= {*PROJECT["dependencies"]}
    for extra in ("jax", "onnx", "ray", "heic", "bands", "parquet", "mlflow", "wandb"):
        assert CORE["optional-dependencies"][extra] == PROJECT["optional-dependencies"][extra]
    versions = {str(Requirement(line).specifier) for line in CORE["optional-dependencies"]["cpu"][:2]}
    assert versions == {str(Requirement(PROJECT["dependencies"][0]).specifier)}


def test_omitting_a_package_that_is_no_longer_a_dependency_fails_the_build() -> None:
    fewer = {**PROJECT, "dependencies": [line for line in PROJECT["dependencies"] if not line.startswith("jinja2")]}
    with pytest.raises(ValueError, match="no dependency jinja2"):
        BACKEND["core"](fewer)


def test_toml_written_for_the_small_distribution_round_trips() -> None:
    table = {"a": {"b c": "ü\n'\"", "list": ["x", "y; z"], "deeper": {"flag": True}}, "other": {"n": 1}}
    assert tomllib.loads(BACKEND["as_toml"](table)) == table


# The page on a package index


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", text)


def test_readme_links_point_to_the_repository_if_it_is_known() -> None:
    found = links(SETUP["readme"](*PLACE))
    files = [link for link in links((REPOSITORY / "README.md").read_text(encoding="utf-8")) if "://" not in link]
    assert len(files) > 10
    assert not [link for link in found if not link.startswith("https://")]
    ours = [link.removeprefix(f"{PLACE[0]}/").split("/", 2) for link in found if link.startswith(PLACE[0])]
    assert [path for _, _, path in ours] == [link for link in files if not link.startswith("#")]
    assert {(kind, tag) for kind, tag, path in ours if path.endswith(".png")} == {("raw", "v1.2")}
    assert {(kind, tag) for kind, tag, path in ours if path.endswith(".md")} == {("blob", "v1.2")}


def test_readme_without_a_repository_has_no_broken_links() -> None:
    page = SETUP["readme"]("", "main")
    assert not [link for link in links(page) if not link.startswith("https://")]
    assert "docs/heads.md shows where Wise wins" in page  # the link text stays


def test_project_urls_are_absolute_and_point_to_existing_files() -> None:
    assert {*SETUP["urls"]("", "main").values()} == {"https://arxiv.org/abs/2104.12294"}
    found = SETUP["urls"](*PLACE)
    assert found["Source"] == PLACE[0]
    for name in ("Documentation", "Changelog", "Security"):
        kind, tag, path = found[name].removeprefix(f"{PLACE[0]}/").split("/", 2)
        assert (tag, kind == "tree") == ("v1.2", (REPOSITORY / path).is_dir())
        assert (REPOSITORY / path).exists()


# Publishing


def test_only_the_publish_job_gets_an_id_token_and_no_secret_is_used() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert "secrets." not in text
    assert workflow["permissions"] == {"contents": "read"}
    rights = {name: job.get("permissions") for name, job in workflow["jobs"].items()}
    assert rights == {"test": None, "build": None, "publish": {"id-token": "write"}}
    assert [workflow["jobs"][name].get("needs") for name in ("test", "build", "publish")] == [None, "test", "build"]
    commands = [step["run"] for step in workflow["jobs"]["build"]["steps"] if "run" in step]
    assert ".ci/build dist" in commands
    assert workflow["jobs"]["build"]["env"].keys() == {"WISESR_REPOSITORY", "WISESR_TAG"}


# The container


def test_container_runs_as_non_root_and_keeps_its_caches_in_one_folder() -> None:
    (user,) = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)
    assert int(user) > 0
    last = DOCKERFILE[DOCKERFILE.rindex("FROM ") :]
    assert "COPY . " not in last  # the wheels only, no sources
    caches = re.search(r"^ENV (WISESR_CACHE_DIR=.*)$", last, re.MULTILINE)
    assert caches
    assert all(word.partition("=")[2].startswith("/caches/") for word in caches.group(1).split())


@pytest.mark.parametrize("variant", ["cpu", "gpu", "small"])
def test_every_variant_installs_a_wheel_with_an_existing_extra(variant: str) -> None:
    row = re.search(
        rf"^ +{variant}\) wheel=\"\$\(echo /wheels/(\w+)-\*\.whl\)(?:\[(\w+)\])?\"", DOCKERFILE, re.MULTILINE
    )
    assert row
    project = {"wisesr": PROJECT, "wisesr_core": CORE}[row.group(1)]
    assert (row.group(2) or "gpu") in project["optional-dependencies"]
    assert f"VARIANT={variant}" in DOCKERFILE


def test_dockerignore_keeps_everything_that_a_build_needs() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    assert kept >= {*BACKEND["SOURCES"], "README.md", "pyproject.toml", "distributions"}
    assert not [name for name in kept if not (REPOSITORY / name).exists()]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_container_steps_produce_a_working_small_installation(trained: Trained, tmp_path: Path) -> None:
    """Runs all steps but the last, which creates the user, in a virtual environment instead of a container."""
    sources, wheels, venv = tmp_path / "source", tmp_path / "wheels", tmp_path / "venv"
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in (line[1:] for line in lines if line.startswith("!")):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        sources.mkdir(exist_ok=True)
        copy(REPOSITORY / name, sources / name)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    variables = {**environment(tmp_path), "PATH": f"{venv}/bin:/usr/bin:/bin"}

    def run(line: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", line], cwd=sources, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    *installing, making_the_user = steps("small")
    assert "useradd" in making_the_user
    for line in installing:
        run(line.replace("/wheels", str(wheels)))
    _check_wheels(wheels)
    megabytes = sum(path.lstat().st_size for path in venv.rglob("*") if path.is_file()) / 1e6
    assert megabytes < MOST_MEGABYTES
    photos, model = trained.photos / "test", trained.copy_to(tmp_path / "run")
    assert json.loads(run(f"wisesr predict {model} {photos} -q --format json"))
    assert json.loads(run(f"wisesr evaluate {model} -q --format json"))["top1_accuracy"] > 0
    assert "embedded" in run(f"wisesr embed {model} {photos} -o vectors.npz")
    assert "next: wisesr train" in run(f"wisesr check {trained.photos}")
    assert "written: config.yaml" in run(f"wisesr init {trained.photos} --sample quick_start")
    assert "comes without tensorflow" in run("wisesr doctor")
    said = run(f"wisesr train {trained.photos} || test $? = 5")
    (line,) = re.findall(r"pip install .*", said)
    assert run(f"{line} --dry-run --quiet --report report.json") is not None
    report = json.loads((sources / "report.json").read_text(encoding="utf-8"))
    assert {"tensorflow", "keras"} <= {row["metadata"]["name"] for row in report["install"]}


def _check_wheels(wheels: Path) -> None:
    """Check that both wheels have the samples and the templates, and differ only in their names."""
    found = {}
    for path in wheels.glob("*.whl"):
        with zipfile.ZipFile(path) as file:
            found[path.name.split("-")[0]] = {name for name in file.namelist() if "dist-info" not in name}
    assert found["wisesr"] == found["wisesr_core"]
    samples = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "sample_configs").rglob("*.yaml")}
    package = REPOSITORY / "wisesr_cli"
    templates = {path.relative_to(REPOSITORY).as_posix() for path in (package / "report" / "templates").iterdir()}
    assert found["wisesr"] >= {f"wisesr_cli/{name}" for name in samples} | templates | {"wisesr_cli/py.typed"}
