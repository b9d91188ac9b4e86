"""Model files with randomly changed bytes load or are rejected in one line; they never crash or hang."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from command_line import Trained
from hostile_archives import CONFIG, WEIGHTS, Members, members_of, pack
from reliability import Seen
from run_states import load_engine

from wisesr_cli.errors import RunError

VALUES = (None, True, -1, 0, 3, 1 << 40, 1e308, float("nan"), "", "relu", "Lambda", "../x", [], [[]], {}, [None, 7, 7])


def changed(content: bytes, draws: random.Random, positions: range | list[int] | None = None) -> bytes:
    """Change a few bytes: flip a bit, set a value, write a wrong offset, or copy bytes from elsewhere."""
    result = bytearray(content)
    places = positions or range(len(content))
    for _ in range(draws.choice((1, 1, 1, 2, 4, 8))):
        place = draws.choice(places)
        kind = draws.randrange(4)
        if kind == 0:
            result[place] ^= 1 << draws.randrange(8)
        elif kind == 1:
            result[place] = draws.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            result[place : place + 8] = draws.choice((1 << 40, draws.randrange(len(content)))).to_bytes(8, "little")
        else:
            other = draws.choice(places)
            result[place : place + 16] = content[other : other + 16]
    return bytes(result[: len(content)])


def positions_outside_datasets(weights: bytes) -> list[int]:
    """Return the positions of all bytes except those of the numbers themselves."""
    outside = bytearray(b"\1") * len(weights)

    def mark(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.id.get_offset():
            start, size = item.id.get_offset(), item.id.get_storage_size()
            outside[start : start + size] = bytes(size)

    with h5py.File(io.BytesIO(weights)) as root:
        root.visititems(mark)
    return [position for position, kept in enumerate(outside) if kept]


def with_values(config: Any, draws: random.Random) -> Any:
    """Replace random values in a model's config with others, or with other parts of it."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(config)
    for _ in range(draws.choice((1, 1, 2, 3))):
        holder, key = draws.choice(places)
        other, other_key = draws.choice(places)
        try:
            holder[key] = draws.choice((*VALUES, json.loads(json.dumps(other[other_key]))))
        except (KeyError, IndexError, ValueError, RecursionError):
            continue  # an earlier change removed this place
    return config


def outcome_of(path: Path) -> str:
    """Load a model and return `loaded` or `refused`; any other outcome fails the test."""
    refusal = ""
    try:
        load_engine(path)
    except RunError as error:
        refusal = str(error)
    assert refusal.isprintable()
    return "refused" if refusal else "loaded"


def fuzz_bytes(folder: Path, members: Members, draws: random.Random) -> Path:
    path = pack(folder / "x.keras", members)
    path.write_bytes(changed(path.read_bytes(), draws))
    return path


def fuzz_config(folder: Path, members: Members, draws: random.Random) -> Path:
    config = with_values(json.loads(members[CONFIG]), draws)
    return pack(folder / "x.keras", {**members, CONFIG: json.dumps(config).encode()})


def fuzz_weights(folder: Path, members: Members, draws: random.Random) -> Path:
    weights = changed(members[WEIGHTS], draws, positions_outside_datasets(members[WEIGHTS]))
    return pack(folder / "x.keras", {**members, WEIGHTS: weights})


def fuzz_record(folder: Path, members: Members, draws: random.Random) -> Path:
    record = with_values(json.loads(members["wisesr.json"]), draws)
    return pack(folder / "x.keras", {**members, "wisesr.json": json.dumps(record).encode()})


FUZZERS = (fuzz_bytes, fuzz_config, fuzz_weights, fuzz_record)


def fuzz(fuzzer: Callable[..., Path], folder: Path, members: Members, *, seed: int, times: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for number in range(times):
        outcomes[outcome_of(fuzzer(folder, members, random.Random(f"{seed} {number}")))] += 1
    return outcomes


@pytest.mark.parametrize("fuzzer", FUZZERS, ids=lambda fuzzer: fuzzer.__name__)
def test_a_changed_model_file_is_loaded_or_refused(
    fuzzer: Callable[..., Path], tmp_path: Path, trained: Trained
) -> None:
    outcomes = fuzz(fuzzer, tmp_path, members_of(trained.run / "best.keras"), seed=0, times=10)
    assert outcomes["refused"] > 0  # anything but these two outcomes is an exception, and fails the test


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.reliability(36)
@pytest.mark.parametrize("fuzzer", FUZZERS, ids=lambda fuzzer: fuzzer.__name__)
def test_many_changed_model_files_are_loaded_or_refused(
    fuzzer: Callable[..., Path], tmp_path: Path, trained: Trained, seen: Seen
) -> None:
    outcomes = fuzz(fuzzer, tmp_path, members_of(trained.run / "best.keras"), seed=1, times=300)
    assert outcomes["refused"] > 0
    seen(f"{fuzzer.__name__}: 300 changed files, {outcomes['refused']} refused, {outcomes['loaded']} loaded")
