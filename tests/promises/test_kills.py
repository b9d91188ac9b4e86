"""A run killed with SIGKILL at any moment loads, resumes, and ends as if it had not been interrupted."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import environment, make_photos
from reliability import Seen
from run_states import check_whole, digest, leftovers
from yaml import safe_dump

SUPPORT = Path(__file__).parents[1] / "support"
KILLS_PER_CHAIN = 28
CHAINS = 2
EPOCHS = 120
SECONDS_FOR_A_PROCESS = 180
GOING_ON = re.compile(r"resuming after epoch (\d+) of (\d+)")

# Everything that draws random numbers or that a saved state must contain.
CONFIG = {
    "schema_version": 1,
    "seed": 7,
    "data": {"image_size": 32, "cache": "memory"},
    "augment": "paper",
    "model": {"backbone": "compact_small", "head": {"name": "wise", "dropout": 0.5}},
    "train": {
        "epochs": EPOCHS,
        "batch_size": 6,
        "optimizer": {"name": "adamw", "learning_rate": 3e-3},
        "early_stopping": {"monitor": "val_loss", "patience": EPOCHS - 10},
        "phases": [
            {"epochs": 4, "freeze": "backbone"},
            {"epochs": 6, "learning_rate": 1e-3},
            {"epochs": EPOCHS - 10, "learning_rate": 5e-4},
        ],
        "label_smoothing": 0.1,
    },
}


@dataclass
class Chain:
    """A run that is killed and resumed again and again, with counts of what happened."""

    run: Path
    config: Path
    photos: Path
    seed: int
    kills: int = 0
    inside_saves: int = 0
    torn: int = 0
    resumes: int = 0
    before_the_first_state: int = 0

    @property
    def command(self) -> list[str]:
        where = ["--data", str(self.photos), "-o", str(self.run.parent), "--name", self.run.name]
        return ["train", str(self.config), *where, "--resume"]


class Process:
    """A training in its own process, whose standard error is read as it arrives."""

    def __init__(self, chain: Chain, program: list[str]) -> None:
        folder = chain.run.parent
        command = [sys.executable, *program, *chain.command]
        self.popen = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(folder), cwd=folder, text=True
        )
        self.lines: list[str] = []
        self.changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
        with self.changed:
            self.lines.append("(ended)")
            self.changed.notify_all()

    @property
    def has_ended(self) -> bool:
        return self.lines[-1:] == ["(ended)"]

    def wait_for_epochs(self, count: int) -> None:
        """Wait until `count` epochs have finished in this process, or it has ended."""

        def is_time() -> bool:
            return self.has_ended or sum(line.startswith("epoch ") for line in self.lines) >= count

        with self.changed:
            assert self.changed.wait_for(is_time, SECONDS_FOR_A_PROCESS), self.lines

    def wait_for_start(self) -> None:
        """Wait until it has printed its run directory, or has ended."""

        def is_time() -> bool:
            return self.has_ended or any(line.startswith("run directory") for line in self.lines)

        with self.changed:
            assert self.changed.wait_for(is_time, SECONDS_FOR_A_PROCESS), self.lines

    def end(self) -> int:
        """Wait for the process to end and return its exit code."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.has_ended, SECONDS_FOR_A_PROCESS), self.lines
        return self.popen.wait()


def kill_at_random(chain: Chain, draw: random.Random) -> Process:
    """Start a training and kill it at a random moment: during startup, or some epochs later."""
    process = Process(chain, ["-m", "wisesr_cli"])
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 6))
    else:
        process.wait_for_start()
        process.wait_for_epochs(draw.choice((0, 1, 1, 2)))
        time.sleep(draw.uniform(0, 1.0))
    process.popen.kill()
    assert process.end() in {-signal.SIGKILL, 0}
    return process


def kill_in_a_save(chain: Chain, draw: random.Random) -> tuple[Process, bool]:
    """Start a training that kills itself at a random change to the disk; return whether that was left undone, too."""
    seconds = draw.choice((0, 0, draw.uniform(0.0002, 0.004)))
    change = draw.randint(1, 34)
    process = Process(chain, [str(SUPPORT / "killed_process.py"), str(chain.run), str(change), str(seconds)])
    assert process.end() in {-signal.SIGKILL, 0}
    return process, seconds == 0


def note_resume(chain: Chain, process: Process, epochs: int | None) -> None:
    """Check that a process resumed exactly from the state before it, and count that."""
    found = [GOING_ON.search(line) for line in process.lines]
    said = [int(match[1]) for match in found if match]
    assert not any("Traceback" in line for line in process.lines), process.lines
    if said:
        assert said == [epochs]
        chain.resumes += 1


def kill_and_resume(chain: Chain, kills: int) -> None:
    """Kill and resume a run at least `kills` times, checking it after every kill; then let it finish."""
    draw = random.Random(chain.seed)
    while chain.kills < kills or chain.resumes < kills:
        before = check_whole(chain.run) if chain.run.exists() else None
        in_save, at_change = draw.random() < 0.55, False
        if in_save:
            process, at_change = kill_in_a_save(chain, draw)
        else:
            process = kill_at_random(chain, draw)
        note_resume(chain, process, before.epoch if before else None)
        assert process.popen.returncode == -signal.SIGKILL, ("ended before it was killed", process.lines)
        chain.kills += 1
        after = check_whole(chain.run) if chain.run.exists() else None
        assert (after.epoch if after else 0) >= (before.epoch if before else 0)
        torn = chain.run.exists() and leftovers(chain.run) != []
        chain.torn += torn
        chain.inside_saves += at_change or torn
        chain.before_the_first_state += after is None
    before = check_whole(chain.run)
    process = Process(chain, ["-m", "wisesr_cli"])
    assert process.end() == 0, process.lines
    note_resume(chain, process, before.epoch if before else None)


@pytest.mark.slow
@pytest.mark.reliability(25, 26, 27, 33)
@pytest.mark.timeout(3600)
def test_fifty_kills_lose_nothing_and_change_nothing(tmp_path: Path, seen: Seen) -> None:
    photos = make_photos(tmp_path / "photos", 16)
    config = tmp_path / "config.yaml"
    config.write_text(safe_dump(CONFIG), encoding="utf-8")
    chains = [Chain(tmp_path / f"{number}" / "run", config, photos, seed=1000 + number) for number in range(CHAINS)]
    whole = Chain(tmp_path / "whole" / "run", config, photos, seed=0)
    print("seeds:", [chain.seed for chain in chains])
    for chain in (*chains, whole):
        chain.run.parent.mkdir()
    with ThreadPoolExecutor(CHAINS) as pool:
        working = [pool.submit(kill_and_resume, chain, KILLS_PER_CHAIN) for chain in chains]
        for future in working:
            future.result()
    kill_and_resume(whole, 0)
    expected = digest(whole.run)
    for chain in chains:
        assert digest(chain.run) == expected
        assert leftovers(chain.run) == []
        assert {path.name for path in chain.run.iterdir()} == {path.name for path in whole.run.iterdir()}
    kills, inside, resumes, torn, early = (
        sum(getattr(chain, name) for chain in chains)
        for name in ("kills", "inside_saves", "resumes", "torn", "before_the_first_state")
    )
    print(f"{kills=} {inside=} {resumes=} {torn=} {early=}")
    assert kills >= 50
    assert inside >= 20
    assert resumes >= 50
    seen(
        f"{kills} kills, {inside} of them inside a save ({torn} left torn files, {early} before the first state); "
        f"{resumes} successful resumes; weights, optimizer and history equal those of the uninterrupted run: "
        f"SHA-256 {expected[:12]}..."
    )
