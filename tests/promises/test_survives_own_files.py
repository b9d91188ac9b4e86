"""No command removes or replaces files of others, or takes over a folder that is not a run (promises 45 to 47)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import QUICK, CommandLine, Trained, environment, make_photos, make_splits, snapshot
from quick_trainings import line
from reliability import Seen

from wisesr_cli.demo import demo as demo_module
from wisesr_cli.demo import harbour
from wisesr_cli.machine.locks import alone_in

# 45: user files with names that wisesr uses

MINE = (
    "export/README.md", "explain/image-00001-holiday.png", "evaluate-mine/metrics.json", "plots/reliability-mine.png",
    "tensorboard/train/events.out.tfevents.1.other", "evaluate-test/notes.txt", "state/epoch-000001-mine/model.npz",
)  # fmt: skip


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    return trained.copy_to(tmp_path / "runs" / "tiny")


def add_user_files(run: Path, names: tuple[str, ...] = MINE) -> dict[str, bytes]:
    for name in names:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(f"mine: {name}", encoding="utf-8")
    return {name: (run / name).read_bytes() for name in names}


@pytest.mark.reliability(45)
def test_overwrite_removes_only_files_of_the_run_and_names_those_it_keeps(
    wisesr: CommandLine, trained: Trained, run: Path, seen: Seen
) -> None:
    wisesr("evaluate", run, "--split", "validation").worked()
    wisesr("explain", run, trained.photos / "test").worked()
    edited = run / "evaluate-validation" / "per_class.csv"
    edited.write_text(edited.read_text(encoding="utf-8") + "my remarks", encoding="utf-8")
    mine = {**add_user_files(run), "evaluate-validation/per_class.csv": edited.read_bytes()}
    ours = set(snapshot(run)) - set(mine)
    answer = wisesr(*line(trained.photos, run.parent), "--name", "tiny", "--epochs", "1", "--overwrite").worked()
    after = snapshot(run)
    assert {name: after.get(name) for name in mine} == mine
    left = {name for name in ours & set(after) if name.startswith(("evaluate-", "explain/"))}
    assert left == set()
    kept = "files that this run did not write, or that changed since, stay: evaluate-mine/metrics.json"
    assert len(answer.said(kept)) == 1
    seen(f"{len(mine)} user files kept and named, {len(ours - set(after))} of the earlier run removed")


@pytest.mark.reliability(45)
def test_evaluate_picks_another_name_beside_user_files_and_other_results(
    wisesr: CommandLine, trained: Trained, run: Path, tmp_path: Path, seen: Seen
) -> None:
    mine = add_user_files(run, ("evaluate-test/metrics.json", "plots/reliability-validation.png"))
    for split in ("test", "validation"):
        assert f"writing to evaluate-{split}-2" in " ".join(
            wisesr("evaluate", run, "--split", split).worked().err.split()
        )
        assert (run / f"evaluate-{split}-2" / "metrics.json").is_file()
    for number, folder in enumerate(("a", "b")):
        shutil.copytree(trained.photos / ("test", "validation")[number], tmp_path / folder / "photos")
    supports = []
    for folder in ("a", "b", "a", "b"):
        answer = wisesr("evaluate", run, "--data", tmp_path / folder / "photos").worked()
        assert ("evaluate-photos holds results of other images" in " ".join(answer.err.split())) == (folder == "b")
        supports.append(sorted(path.name for path in run.glob("evaluate-photos*")))
    assert supports[1:] == [["evaluate-photos", "evaluate-photos-2"]] * 3
    assert {name: (run / name).read_bytes() for name in mine} == mine
    seen(f"another name beside {len(mine)} user files; a/photos and b/photos kept apart")


@pytest.mark.reliability(45)
@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("export", "{run}", "--to", "keras", "--overwrite"), "export/README.md"),
        (("export", "{run}", "--to", "keras", "--overwrite"), "export/labels.txt"),
        (("explain", "{run}", "{photos}"), "explain/explanations.json"),
        (("explain", "{run}", "--weights"), "explain/weights.npz"),
        (("explain", "{run}", "--weights"), "explain/weights.png"),
    ],
)
def test_an_edited_result_is_not_overwritten(
    wisesr: CommandLine, trained: Trained, run: Path, seen: Seen, command: tuple[str, ...], name: str
) -> None:
    words = [word.format(run=run, photos=trained.photos / "test") for word in command]
    wisesr(*words).worked()
    wisesr(*words).worked()  # an unedited result is replaced
    (run / name).write_bytes((run / name).read_bytes() + b" and my remarks")
    before = snapshot(run)
    answer = wisesr(*words)
    assert answer.code == 2
    assert f"holds {Path(name).name}, not written by an" in answer.error
    assert "give another folder with -o" in answer.error
    assert snapshot(run) == before
    seen(f"{command[0]}: exit 2 instead of overwriting an edited {name}")


@pytest.mark.slow
@pytest.mark.reliability(45)
def test_a_second_demo_replaces_only_files_of_the_first(
    wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    monkeypatch.chdir(tmp_path)
    make = harbour.make_harbour
    monkeypatch.setattr(
        harbour, "make_harbour", lambda folder, **options: make(folder, train_per_class=4, test_per_class=2, **options)
    )
    monkeypatch.setattr(demo_module, "CONFIG", demo_module.CONFIG.replace("epochs: 8", "epochs: 1"))
    wisesr("demo").worked()
    wisesr("train", "demo/harbour.yaml", "--head", "wise", "-o", "demo/runs").worked()
    own = snapshot(Path("demo/runs/harbour-wise-2"))
    wisesr("demo", "--seed", "3").worked()
    assert snapshot(Path("demo/runs/harbour-wise-2")) == own
    assert sorted(path.name for path in Path("demo/runs").iterdir()) == [
        "harbour-gap",
        "harbour-wise",
        "harbour-wise-2",
    ]
    Path("demo/harbour.yaml").write_text("schema_version: 1\n# mine\n", encoding="utf-8")
    before = snapshot(Path("demo"))
    answer = wisesr("demo")
    assert answer.code == 2
    assert "demo/harbour.yaml: was not made by this demo, or was changed since, and is not replaced" in answer.error
    assert snapshot(Path("demo")) == before
    Path("other").mkdir()
    make_photos(Path("other/harbour"), 2)
    assert "other/harbour: was not made by this demo" in wisesr("demo", "-o", "other").error
    seen("the user's run and config unchanged; the demo's own runs replaced")


# 46: folders that are not runs, or have no state


@pytest.mark.reliability(46)
@pytest.mark.parametrize(
    "missing", [("state", "best.keras"), ("state",), ("state", "best.keras", "history.csv", "metrics.json")]
)
def test_resume_without_a_state_changes_nothing_and_names_both_ways_out(
    wisesr: CommandLine, trained: Trained, run: Path, seen: Seen, missing: tuple[str, ...]
) -> None:
    wisesr("evaluate", run, "--split", "validation").worked()
    for name in missing:
        (shutil.rmtree if (run / name).is_dir() else os.unlink)(run / name)
    before = snapshot(run)
    answer = wisesr(*line(trained.photos, run.parent), "--name", "tiny", "--epochs", "1", "--resume")
    assert answer.code == 4
    assert "no state to resume from" in answer.error
    assert "restore the state, or start over with --overwrite" in answer.error
    assert {name: content for name, content in snapshot(run).items() if name != ".lock"} == {
        name: content for name, content in before.items() if name != ".lock"
    }
    seen(f"without {' and '.join(missing)}: exit 4, nothing changed")


@pytest.mark.reliability(46)
def test_resume_and_overwrite_reject_folders_that_are_not_runs_and_ambiguous_names(
    wisesr: CommandLine, trained: Trained, run: Path, seen: Seen
) -> None:
    for name in ("state", "export"):
        (run.parent / "foo" / name).mkdir(parents=True)
        (run.parent / "foo" / name / "notes.txt").write_text("mine", encoding="utf-8")
    start = ("train", trained.photos, *QUICK, "-o", run.parent)
    before = snapshot(run.parent)
    for option in ("--resume", "--overwrite"):
        answer = wisesr(*start, "--name", "foo", "--epochs", "1", option)
        assert (answer.code, "holds something other than a run" in answer.error) == (2, True)
    for name in ("photos-wise", "photos-wise-2"):
        shutil.copytree(run, run.parent / name)
    answer = wisesr(*start, "--epochs", "1", "--overwrite")
    assert (answer.code, "has several runs of this name: photos-wise, photos-wise-2" in answer.error) == (2, True)
    assert {name: content for name, content in snapshot(run.parent).items() if name in before} == before
    seen("exit 2; nothing changed")


# 47: other commands and moves while a run trains


@pytest.mark.reliability(47)
def test_a_run_that_is_moved_while_it_trains_is_not_recreated_at_its_old_path(
    many_steps: list[object], tmp_path: Path, seen: Seen
) -> None:
    run, moved = tmp_path / "runs" / "long", tmp_path / "runs" / "moved"
    process = subprocess.Popen(
        [sys.executable, "-m", "wisesr_cli", *map(str, many_steps), "-o", str(run.parent), "--name", "long", "-q"],
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
        cwd=tmp_path,
        text=True,
    )
    try:
        wait_for_file(run / "history.csv", process)
        run.rename(moved)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 5, err
    assert "runs/long: was moved or removed meanwhile" in err
    assert not run.exists(), err
    assert {"config.yaml", "classes.json", "best.keras", "history.csv"} <= {path.name for path in moved.iterdir()}
    seen("exit 5, nothing at the old path, the moved run complete")


@pytest.mark.reliability(47)
def test_resume_leaves_a_live_export_alone(wisesr: CommandLine, trained: Trained, run: Path, seen: Seen) -> None:
    live = run / "export" / ".wisesr-live" / "model.onnx"
    live.parent.mkdir(parents=True)
    live.write_text("half a model", encoding="utf-8")
    with alone_in(run / "export"):
        wisesr(*line(trained.photos, run.parent), "--name", "tiny", "--epochs", "3", "--resume").worked()
    assert live.exists()
    wisesr(*line(trained.photos, run.parent), "--name", "tiny", "--epochs", "4", "--resume").worked()
    assert not live.exists()
    seen("left alone while its lock is held, removed afterwards")


@pytest.mark.slow
@pytest.mark.reliability(47)
def test_metrics_of_an_earlier_best_model_are_gone_after_a_kill(
    many_steps: list[object], tmp_path: Path, seen: Seen
) -> None:
    run = tmp_path / "runs" / "long"
    words = [sys.executable, "-m", "wisesr_cli", *map(str, many_steps), "-o", str(run.parent), "--name", "long", "-q"]
    options = {"env": environment(tmp_path), "cwd": tmp_path}
    assert subprocess.run([*words, "--max-steps", "1"], check=False, timeout=120, **options).returncode == 0
    (run / "metrics.json").write_text("{}", encoding="utf-8")  # of the best model so far
    process = subprocess.Popen([*words, "--resume"], **options)
    try:
        wait_for_file(run / "best.keras", process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (run / "metrics.json").exists()
    seen("no outdated metrics after SIGKILL")


@pytest.fixture
def many_steps(tmp_path: Path) -> list[object]:
    photos = make_splits(tmp_path / "photos", train=12, validation=5, test=5)
    return ["train", photos, "--backbone", "compact_small", "--image-size", "32", "-b", "4", "--epochs", "500"]


def wait_for_file(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 500
    while not path.exists():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.02)
