from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisesr_cli.errors import UsageError
from wisesr_cli.prediction import ordering
from wisesr_cli.prediction.ordering import SORTS, check_order, in_order
from wisesr_cli.results.streams import Prediction, ScoredLabel


def records(count: int, seed: int = 0) -> list[Prediction]:
    """Create records with many equal keys, some without a label, some unreadable."""
    draw, made = random.Random(seed), []
    for number in range(count):
        score, path = draw.choice([0.5, 0.7, 0.9]), f"{draw.randrange(count):04}-{number:04}\udcff.jpg"
        if number % 9 == 4:
            made.append(Prediction(path, None, None, (), "truncated"))
        else:
            top = (ScoredLabel(draw.choice(["b", "a", "é"]), score), ScoredLabel("z", 1 - score))
            label = None if number % 7 == 3 else top[0].label
            made.append(
                Prediction(path, label, score, top, margin=draw.choice([0.0, 0.1]), entropy=draw.choice([1, 2]))
            )
    return made


def ordered(found: list[Prediction], sort: str | None, most: int | None = None) -> list[Prediction]:
    return list(in_order(iter(found), sort=sort, most=most, folder=None))


@pytest.fixture(params=["in memory", "in parts", "in merged parts"])
def _parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sort in memory, in many files, or in so many that they are merged along the way."""
    if request.param != "in memory":
        monkeypatch.setattr(ordering, "PART_BYTES", 1500)
        monkeypatch.setattr(ordering, "MERGED", 64 if request.param == "in parts" else 3)


@pytest.mark.usefixtures("_parts")
def test_every_order_sorts_by_its_key_and_is_stable() -> None:
    found = records(300)
    position = {record.path: number for number, record in enumerate(found)}
    for sort in SORTS:
        assert sorted(position[record.path] for record in ordered(found, sort)) == list(range(300))
    assert [record.path for record in ordered(found, "path")] == sorted(position)
    read = [record for record in found if record.score is not None]
    unreadable = [record for record in found if record.score is None]
    by_score = [record for score in (0.9, 0.7, 0.5) for record in read if record.score == score]
    assert ordered(found, "score") == by_score + unreadable
    by_label = [record for label in ("a", "b", "é", None) for record in by_score if record.label == label]
    assert ordered(found, "label") == by_label + unreadable
    nearest_first = [(0.0, 2), (0.0, 1), (0.1, 2), (0.1, 1)]
    uncertain = [record for key in nearest_first for record in read if (record.margin, record.entropy) == key]
    assert ordered(found, "uncertain") == uncertain + unreadable


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("held", [1000, 5])
def test_only_selects_the_most_uncertain_readable_images(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(ordering, "HELD", held)
    found = records(200)
    all_of_them = [record for record in ordered(found, "uncertain") if record.error is None]
    for most in (1, 20, 10**6):
        assert ordered(found, None, most) == ordered(found, "uncertain", most) == all_of_them[:most]
        assert [record.path for record in ordered(found, "path", most)] == sorted(r.path for r in all_of_them[:most])


@given(st.lists(st.floats(0, 1)), st.integers(1, 300))
def test_the_order_equals_a_plain_sort_for_any_scores(scores: list[float], part_bytes: int) -> None:
    found = [Prediction(str(number), "a", score, margin=score, entropy=1.0) for number, score in enumerate(scores)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "PART_BYTES", part_bytes)
        patch.setattr(ordering, "MERGED", 2)
        assert [record.score for record in ordered(found, "score")] == sorted(scores, reverse=True)
        assert [record.score for record in ordered(found, "uncertain")] == sorted(scores)


def test_an_unknown_order_is_rejected_with_the_allowed_values() -> None:
    with pytest.raises(UsageError, match=r"--sort size is not known; allowed: uncertain, path, label, score"):
        check_order("size", None)
    for only in ("uncertain", "uncertain=0", "uncertain=-1", "uncertain=1e3", "100", "certain=3", "uncertain=٣", ""):
        with pytest.raises(UsageError, match=r"--only takes uncertain=N, .*; received: '"):
            check_order(None, only)
    assert (check_order("path", None), check_order(None, "uncertain=0100")) == (None, 100)


# Records are created one at a time: all of them would take about 150 MB.
MANY = """
import random, resource, sys
from pathlib import Path
from wisesr_cli.prediction.ordering import in_order
from wisesr_cli.results.streams import Prediction, ScoredLabel

count, sort, most = 100_000, sys.argv[1], int(sys.argv[2]) or None
draw = random.Random(0)
margins = [draw.random() for _ in range(count)]

def made():
    for number, margin in enumerate(margins):
        top = tuple(ScoredLabel(f"class {label}", margin / (label + 1)) for label in range(5))
        yield Prediction(f"photos/{number:07}.jpg", top[0].label, margin, top, margin=margin, entropy=margin)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

expected = iter(sorted(margins, reverse=sort == "score")[:most])
before = peak()
assert all(record.margin == next(expected) for record in in_order(made(), sort=sort, most=most, folder=Path.cwd()))
assert next(expected, None) is None
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("sort", "most"), [("score", 0), ("uncertain", 100), ("uncertain", 50_000)])
def test_100_000_records_are_sorted_in_bounded_memory_and_leave_no_file(tmp_path: Path, sort: str, most: int) -> None:
    words = [sys.executable, "-c", MANY, sort, str(most)]
    megabytes = int(subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert megabytes < 50
    assert list(tmp_path.iterdir()) == []
