"""Measurements and verdicts of the benchmarks, and that every benchmark script runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import REPOSITORY, make_splits

from benchmarks import measuring
from benchmarks.speed import performance


def scripts() -> list[str]:
    """Return every benchmark module that can be run as a script."""
    files = sorted(path for path in (REPOSITORY / "benchmarks").glob("*/*.py") if "__main__" in path.read_text("utf-8"))
    return [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in files]


def test_the_ratio_compares_medians_and_the_spread_compares_pairs() -> None:
    question = measuring.Question("a", "b", "seconds", 0.5, 0.25)
    answer = measuring.Answer(question, [1.0, 3.0, 2.0], [4.0, 4.0, 10.0])
    assert answer.ratio == 0.5
    assert answer.spread == (0.2, 0.75)
    assert measuring.Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer


@pytest.mark.parametrize(
    ("unit", "ours", "verdict"),
    [
        ("seconds", 6.0, "missed"),
        ("seconds", 4.0, "reached"),
        ("seconds", 2.0, "aim"),
        ("MiB", 6.0, "missed"),
        ("images/s", 1.0, "missed"),
        ("images/s", 6.0, "reached"),
        ("images/s", 12.0, "aim"),
    ],
)
def test_lower_time_and_memory_and_higher_throughput_are_better(unit: str, ours: float, verdict: str) -> None:
    reach, aim = (0.5, 1.0) if unit == "images/s" else (0.5, 0.25)
    answer = measuring.Answer(measuring.Question("a", "b", unit, reach, aim), [ours], [10.0])
    assert answer.verdict == verdict


def test_without_an_aim_the_best_verdict_is_reached() -> None:
    assert measuring.Answer(measuring.Question("a", "b", "seconds", 0.5), [1.0], [10.0]).verdict == "reached"


def test_both_sides_are_measured_alternately() -> None:
    order: list[str] = []

    def side(name: str, value: float) -> float:
        order.append(name)
        return value

    figures = measuring.alternate(lambda: side("ours", 1.0), lambda: side("theirs", 2.0), repetitions=3)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert figures == ([1.0] * 3, [2.0] * 3)


def test_the_cost_of_a_process_covers_time_and_peak_memory() -> None:
    cost = measuring.run_process([sys.executable, "-c", "x = b'1' * 300_000_000; print(len(x))"])
    assert cost.stdout == "300000000\n"
    assert cost.seconds > 0
    assert cost.peak_mebibytes > 300_000_000 / 2**20


def test_a_failing_process_aborts_the_benchmark_with_its_error_output() -> None:
    with pytest.raises(SystemExit, match="no such thing"):
        measuring.run_process([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_a_process_is_killed_after_its_timeout() -> None:
    with pytest.raises(SystemExit, match="-9"):
        measuring.run_process([sys.executable, "-c", "import time; time.sleep(100)"], timeout=0.2)


def test_every_benchmark_in_the_document_is_a_script() -> None:
    names = {f"benchmarks.speed.{name}" for name in performance.SCRIPTS} | set(performance.TABLES.values())
    assert names <= set(scripts())


@pytest.mark.slow
@pytest.mark.benchmark
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", scripts())
def test_every_benchmark_runs(name: str, tmp_path: Path) -> None:
    more = {
        "benchmarks.heads.harbour": ["--seeds", "1"],
        "benchmarks.peers.__main__": ["photos", "--quick"],
        "benchmarks.speed.performance": ["--write-only"],
        "benchmarks.recipe.tour": [],
        "benchmarks.heads.pictures": ["sets", "--photos", "photos"],
        "benchmarks.exports.clients": ["--quick", "--data", "photos"],
        "benchmarks.recipe.aids": ["photos", "--quick"],
        "benchmarks.recipe.photos": [
            "photos",
            "--weights-dir",
            ".",
            "--only",
            "random",
            "--seeds",
            "2",
            "-s",
            "train.epochs=1",
        ],
    }
    make_splits(tmp_path / "photos", train=6, validation=2, test=2)
    done = subprocess.run(
        [sys.executable, "-m", name, *more.get(name, ["--quick"])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert name in {"benchmarks.speed.performance", "benchmarks.recipe.tour"} or "|" in done.stdout
