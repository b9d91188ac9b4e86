"""How the comparison with other tools measures time, memory and size."""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.metadata import distribution
from pathlib import Path

import pytest
from command_line import make_splits

from benchmarks.measuring import Question
from benchmarks.peers import __main__ as peers
from benchmarks.peers.sizes import installed_mebibytes
from benchmarks.peers.tools import PEERS, WISESR, Training
from benchmarks.peers.trees import TreeCost, run_tree


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def bench(tmp_path: Path) -> peers.Bench:
    make_splits(tmp_path / "photos", train=6, validation=2, test=2)
    options = argparse.Namespace(quick=True, repetitions=3, photos=tmp_path / "photos")
    return peers.Bench(options, tmp_path / "work")


def test_a_command_runs_on_the_given_cores_and_its_output_lines_are_timed() -> None:
    before = os.sched_getaffinity(0)
    cost = run_tree(python("import os, time; print(os.sched_getaffinity(0)); time.sleep(0.3); print('later')"), cores=1)
    assert cost.lines[0][1] == f"{{{min(before)}}}\n"
    assert os.sched_getaffinity(0) == before
    assert cost.seconds >= cost.seconds_until("later") >= 0.3
    assert cost.seconds_until("later") > cost.seconds_until("{")
    with pytest.raises(SystemExit, match=r"no line with sooner:(?s:.*)later"):
        cost.seconds_until("sooner")


def test_peak_memory_is_summed_over_all_processes() -> None:
    child = "import time; x = b'1' * 200_000_000; time.sleep(5)"
    code = f"import subprocess, sys; x = b'1' * 200_000_000; subprocess.run([sys.executable, '-c', {child!r}])"
    cost = run_tree(python(code), cores=1, sample_seconds=0.1)
    assert 400e6 / 2**20 < cost.peak_mebibytes < 800e6 / 2**20
    assert run_tree(python("pass"), cores=1).peak_mebibytes == 0


def test_a_failing_command_aborts_the_benchmark_with_its_last_lines() -> None:
    with pytest.raises(SystemExit, match=r"ended with 1:(?s:.*)no such thing"):
        run_tree(python("raise SystemExit('no such thing')"), cores=1)


def test_a_command_is_killed_after_its_timeout_with_all_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    started = time.monotonic()
    with pytest.raises(SystemExit, match="-9"):
        run_tree(python(code), cores=1, timeout=1)
    assert time.monotonic() - started < 30


def test_epoch_time_is_measured_between_the_ends_of_consecutive_epochs() -> None:
    ours = ["epoch 1/2: 1 of 12, about 9 s left", "epoch 1/2  loss 2.1", "epoch 2/2: 9 of 12", "epoch 2/2  loss 2.0"]
    lines = [(float(number**2), f"{line}\n") for number, line in enumerate(ours)]
    assert peers.epoch_seconds(TreeCost(9, 0, lines)) == [8.0]
    others = [(1.0, "epoch 1\n"), (1.5, "other\n"), (3.0, "epoch 2\n"), (8.0, "epoch 3\n")]
    assert peers.epoch_seconds(TreeCost(9, 0, others)) == [2.0]
    with pytest.raises(SystemExit, match="1 of 2 epochs"):
        peers.epoch_seconds(TreeCost(9, 0, others[:2]))


def test_tools_are_measured_equally_often_and_each_goes_first_once(bench: peers.Bench) -> None:
    order: list[str] = []

    def measure(tool: object) -> tuple[float, float]:
        order.append(tool.name)  # type: ignore[attr-defined]
        return float(len(order)), -1.0

    tools = [WISESR, *PEERS[:2]]
    first, second = bench.in_turns(tools, measure)
    names = [tool.name for tool in tools]
    assert order == [*names, *names[1:], names[0], names[2], *names[:2]]
    assert second == {name: [-1.0] * 3 for name in names}
    answers = list(peers.against_wisesr(Question("epoch", "", "seconds", 1), first))
    assert [answer.question.baseline for answer in answers] == names[1:]
    assert all(answer.ours == first["wisesr"] for answer in answers)


def test_tools_get_a_balanced_sample_of_photos(bench: peers.Bench) -> None:
    training = bench.training("ResNet50", 96, 3)
    counts = [len(list(folder.iterdir())) for folder in sorted((training.data / "train").iterdir())]
    assert sum(counts) == 20
    assert max(counts) - min(counts) <= 1
    assert len(list(peers.photos_in(bench, 7).iterdir())) == 7


@pytest.mark.parametrize("tool", [WISESR, *PEERS], ids=lambda tool: tool.name)
def test_the_programs_of_a_tool_exist(tool: peers.Tool) -> None:
    training = Training(Path("data"), "ResNet50", 96, 3, Path("model"))
    commands = [tool.train(training), *([tool.predict(training, Path("photos"))] if tool.predict else [])]
    assert all(Path(part).exists() for command in commands for part in command if part.endswith((".py", "wisesr")))


def test_the_installed_size_counts_each_requirement_once() -> None:
    whole, without = installed_mebibytes("jinja2")
    own = sum(
        Path(str(found.locate_file(file))).stat().st_size
        for found in (distribution("jinja2"), distribution("markupsafe"))
        for file in found.files or ()
        if Path(str(found.locate_file(file))).is_file()
    )
    assert whole == without == pytest.approx(own / 2**20)
