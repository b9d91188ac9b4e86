"""docs/scale.md and the files beside it: stored and calculated figures, and jobs that a scheduler can start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import yaml
from command_line import REPOSITORY, CommandLine, environment, make_photos

from benchmarks.scale import communication, page
from wisesr_cli.models.costs_table import BACKBONE_SIZES
from wisesr_cli.models.heads import HEADS, head_parameters
from wisesr_cli.processes.launch import Cluster, find_cluster

DOCS = REPOSITORY / "docs"
BATCH_SCRIPT, JOB = DOCS / "slurm" / "train.sbatch", DOCS / "kubernetes" / "train-job.yaml"


def test_the_bytes_of_a_ring_all_reduce_match_a_step_by_step_count() -> None:
    """Every device passes on one part in each of N - 1 steps, and again to distribute the sums."""
    for devices in (2, 3, 8):
        parts = [1000 * devices // devices] * devices
        sent = sum(parts[step % devices] for step in range(2 * (devices - 1)))
        assert communication.sent_bytes(sum(parts), devices) == pytest.approx(sent)


def test_the_gradient_sizes_of_heads_match_the_page() -> None:
    """The page says: 20,480 more than GAP; with ResNet50, the 100,353,000 of Flatten are four fifths of the total."""
    gap, wise, flatten = (
        communication.step_of("ResNet50", head, communication.DEFAULTS) for head in communication.HEADS
    )
    assert wise.head_gradients - gap.head_gradients == 20_480
    assert flatten.head_gradients == 100_353_000
    assert 0.8 < flatten.head_gradients * 4 / flatten.gradient_bytes < 0.82
    gap, wise, flatten = (
        communication.step_of("MobileNetV2", head, communication.DEFAULTS) for head in communication.HEADS
    )
    assert round(flatten.gradient_bytes / wise.gradient_bytes) == 18


def test_efficiency_rises_with_work_per_device_and_falls_with_more_devices() -> None:
    step = communication.step_of("ResNet50", "wise", communication.DEFAULTS)
    parts = [communication.efficiency(step, devices, 100, communication.DEFAULTS) for devices in communication.DEVICES]
    assert parts == sorted(parts, reverse=True)
    batch = communication.batch_for(0.8, step, 1024, 100, communication.DEFAULTS)
    for images, enough in ((batch, True), (batch // 2, False)):
        larger = communication.scaled(step, images / communication.DEFAULTS.batch)
        assert (communication.efficiency(larger, 1024, 100, communication.DEFAULTS) >= 0.8) is enough
    nobody_waits = replace(communication.DEFAULTS, microseconds=0.0)
    assert communication.efficiency(replace(step, channels=0), 8, 1e9, nobody_waits) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(name, marks=[] if name in {"MobileNetV2", "ConvNeXtTiny"} else pytest.mark.slow)
        for name in communication.LAYERS
    ],
)
def test_batch_norm_counts_match_the_keras_models(backbone: str) -> None:
    from wisesr_cli.machine import keras_start

    keras_start.start("cpu")
    from wisesr_cli.model_files.loading import build_without_values
    from wisesr_cli.models.backbones import build_backbone
    from wisesr_cli.training.freezing import batch_norms

    layers = batch_norms(build_without_values(lambda: build_backbone(backbone, (96, 96))))
    assert len(layers) == communication.LAYERS[backbone]
    assert sum(layer.moving_mean.shape[0] for layer in layers) == communication.batch_norm_channels(backbone)


@pytest.mark.slow
def test_a_compiled_step_exchanges_the_calculated_number_of_bytes(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    photos, dump = make_photos(tmp_path / "photos", 8), tmp_path / "hlo"
    words = [
        "train",
        photos,
        "--backbone",
        "compact_small",
        "--image-size",
        32,
        "-b",
        8,
        "--dry-run",
        "--device",
        "cpu",
    ]
    words += ["-s", "augment=none", "-s", "distribute.strategy=data_parallel", "-s", "distribute.devices=2"]
    flags = f"--xla_dump_to={dump} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=.*train_step.*"
    variables = {**environment(tmp_path), "KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "wisesr_cli", *map(str, words)]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [compiled] = dump.glob("*after_optimizations.txt")
    exchanged = [_numbers(found) for found in re.findall(r" = (.*?) all-reduce\(", compiled.read_text())]
    step = communication.Step(
        backbone="compact_small",
        head="wise",
        backbone_gradients=BACKBONE_SIZES["compact_small"].trainable_parameters,
        head_gradients=head_parameters((4, 4, 64), 3, HEADS["wise"].options()),
        channels=communication.batch_norm_channels("compact_small"),
        layers=3,
        flops=0,
    )
    metrics = 2  # the sums of loss and accuracy
    assert communication.BYTES * (sum(exchanged) - metrics) == step.all_bytes
    assert len(exchanged) == communication.ROUNDS_PER_LAYER * step.layers + 1


def _numbers(shapes: str) -> int:
    """Return the number of elements in the shapes of an all-reduce: `(f32[24]{0}, f32[3,4]{1,0})` is 36."""
    found = re.findall(r"f32\[([\d,]*)\]", shapes)
    return sum(prod(int(side) for side in shape.split(",") if side) for shape in found)


def test_the_batch_script_is_valid_bash_with_the_required_options() -> None:
    done = subprocess.run(["bash", "-n", str(BATCH_SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    options = re.findall(r"^#SBATCH (--[\w-]+)", BATCH_SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"--nodes", "--ntasks-per-node", "--gpus-per-node", "--signal", "--requeue"} <= set(options)


@pytest.mark.parametrize(
    ("ended_with", "restarts", "expected"), [(0, 0, 0), (143, 0, 0), (134, 0, 0), (5, 3, 0), (5, 20, 5), (3, 0, 3)]
)
def test_the_batch_script_starts_tasks_and_requeues_after_recoverable_exits(
    ended_with: int, restarts: int, expected: int, tmp_path: Path
) -> None:
    for name, body in (("srun", f'echo "$KERAS_BACKEND $@"\nexit {ended_with}'), ("scontrol", 'echo "scontrol $@"')):
        program = tmp_path / name
        program.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        program.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(restarts)}
    done = subprocess.run(
        ["bash", str(BATCH_SCRIPT), "a config.yaml", "both", "--epochs", "5"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (expected, "")
    first, *rest = done.stdout.splitlines()
    assert first.startswith("jax ")
    assert "wisesr train a config.yaml --name both --resume" in first
    assert first.endswith("--epochs 5")
    queued = ended_with in {143, 134, 5} and restarts < 20
    assert ("scontrol requeue 77" in rest) is queued


def test_the_tasks_of_the_batch_script_find_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """They find each other by the variables that srun sets for the tasks of the script, one per node."""
    pytest.importorskip("jax")
    common = {"SLURM_JOB_ID": "77", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    found = []
    for task in range(2):
        for name, value in {**common, "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_PROCID": str(task)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        cluster = find_cluster(None, None, None)
        assert cluster is not None
        found.append(cluster)
    assert [(cluster.process, cluster.processes) for cluster in found] == [(0, 2), (1, 2)]
    assert found[0].coordinator == found[1].coordinator
    assert found[0].coordinator.startswith("gpu07:")


def test_the_pods_of_the_job_find_one_another() -> None:
    service, job = yaml.safe_load_all(JOB.read_text(encoding="utf-8"))
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    assert variables["KERAS_BACKEND"] == "jax"
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(variables["WISESR_NUM_PROCESSES"])
    # Pod 0 of an indexed Job is called JOB-0, and a headless Service gives it the name JOB-0.SERVICE.
    [port] = service["spec"]["ports"]
    host = f"{name}-0.{service['metadata']['name']}"
    for index in range(spec["completions"]):
        given = variables["WISESR_COORDINATOR"], int(variables["WISESR_NUM_PROCESSES"]), None
        found = find_cluster(*given, environment={"JOB_COMPLETION_INDEX": str(index)})
        assert found == Cluster(f"{host}:{port['port']}", spec["completions"], index)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    mounts, volumes = ({each["name"] for each in found} for found in (container["volumeMounts"], pod["volumes"]))
    assert mounts == volumes


def test_the_job_uses_valid_options_and_fails_on_exit_codes_a_retry_cannot_fix(
    wisesr: CommandLine, tmp_path: Path
) -> None:
    _, job = yaml.safe_load_all(JOB.read_text(encoding="utf-8"))
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[:3] == ["wisesr", "train", "/config/config.yaml"]
    (tmp_path / "config.yaml").write_text("train: {epochs: 2}\n", encoding="utf-8")
    words = [str(tmp_path / "config.yaml"), *command[3:]]
    answer = wisesr("train", *words)
    assert answer.code == 3  # every option is accepted; only the images are missing
    assert "no image folder is given" in answer.error
    [fails, _] = job["spec"]["podFailurePolicy"]["rules"]
    assert fails["onExitCodes"]["values"] == [1, 2, 3, 4]


def test_the_page_and_its_figures_contain_no_local_paths() -> None:
    text = page.FIGURES.read_text(encoding="utf-8") + page.DOCUMENT.read_text(encoding="utf-8")
    assert not [place for place in ("/work/", "/tmp/", "/home/", "/root/") if place in text]


def test_stored_figures_name_the_machine_and_what_was_trained() -> None:
    kept = json.loads(page.FIGURES.read_text(encoding="utf-8"))
    assert kept["machine"]
    assert all("images per process" in answer["note"] for answer in kept["figures"])
