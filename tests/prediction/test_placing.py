"""Placing images in a folder per label (`--sort-into`): file names, resuming after kills, never overwriting."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from permissions import permissions_hold

from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.listening import Silent
from wisesr_cli.prediction import placing
from wisesr_cli.prediction.placing import NAMES, PLAN, Placing, folder_names, placing_folder
from wisesr_cli.requests import PlacingMode, PredictRequest
from wisesr_cli.results.streams import Prediction, ScoredLabel
from wisesr_cli.text import folder_name

MODES: tuple[PlacingMode, ...] = ("copy", "link", "move")
CLASSES = ("cat", "dog", "a/b", "..", "unsure", "\x1b[31m")


class Killed(BaseException):
    pass


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)

    warn = note


def never() -> None:
    pass


def made(folder: Path) -> list[Prediction]:
    """Create eight files, several of the same name, and return nine records; one is unreadable, one has no label."""
    names = ["1/x.jpg", "2/x.jpg", "3/x.jpg", "1/x-2.jpg", "1/odd\udcff\n.jpg", "1/.hidden.jpg", "2/no", "1/y.jpg"]
    labels = ["cat", "cat", "cat", "cat", "a/b", "..", None, "dog"]
    records = []
    for number, (name, label) in enumerate(zip(names, labels, strict=True)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image %d" % number)
        os.utime(path, (number, number))
        records.append(Prediction(str(path), label, 0.5, (ScoredLabel("cat", 0.5),), margin=0.1, entropy=0.1))
    return [*records, Prediction(str(folder / "bad.jpg"), None, None, (), "truncated")]


def placed(into: Path, records: list[Prediction], mode: PlacingMode = "copy") -> list[str]:
    work, heard = Placing(into, mode, CLASSES), Heard()
    into.mkdir(exist_ok=True)
    assert list(work.planned(records)) == records
    work.carry_out(heard, never)
    return heard.said


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


EXPECTED = {
    "cat/x.jpg": b"image 0",
    "cat/x-2.jpg": b"image 1",
    "cat/x-3.jpg": b"image 2",
    "cat/x-2-2.jpg": b"image 3",
    "a_b/odd\udcff\n.jpg": b"image 4",
    "__/.hidden.jpg": b"image 5",
    "unsure/no": b"image 6",
    "dog/y.jpg": b"image 7",
}


@pytest.mark.parametrize("mode", MODES)
def test_every_image_is_placed_in_the_folder_of_its_label_under_a_unique_name(
    tmp_path: Path, mode: PlacingMode
) -> None:
    records, into = made(tmp_path / "photos"), tmp_path / "sorted"
    (said,) = placed(into, records, mode)
    assert content(into) == EXPECTED
    done = {"copy": "copied", "link": "linked", "move": "moved"}[mode]
    assert said == f"8 images {done} into {into}, 1 unsure; 1 unreadable skipped"
    assert [path.is_symlink() for path in into.rglob("*.jpg")] == [mode == "link"] * 7
    assert all(Path(record.path).exists() is (mode != "move") for record in records[:8])
    assert (into / "dog" / "y.jpg").stat().st_mtime == 7


@pytest.mark.parametrize("mode", MODES)
def test_existing_files_are_never_overwritten(tmp_path: Path, mode: PlacingMode) -> None:
    into = tmp_path / "sorted"
    (into / "cat" / "x-2.jpg").mkdir(parents=True)
    (into / "cat" / "x.jpg").write_bytes(b"mine")
    (into / "dog").mkdir()
    (into / "dog" / "y.jpg").symlink_to("nowhere")
    placed(into, made(tmp_path / "photos"), mode)
    found = content(into)
    assert {name: found[f"cat/{name}"] for name in ("x.jpg", "x-3.jpg", "x-4.jpg", "x-5.jpg", "x-2-2.jpg")} == {
        **{"x.jpg": b"mine", "x-3.jpg": b"image 0", "x-4.jpg": b"image 1", "x-5.jpg": b"image 2"},
        "x-2-2.jpg": b"image 3",
    }  # fmt: skip
    assert (into / "dog" / "y.jpg").readlink() == Path("nowhere")
    assert found["dog/y-2.jpg"] == b"image 7"


def die_at_change(monkeypatch: pytest.MonkeyPatch, moment: int, die: Callable[[], None]) -> None:
    """Die just before or just after a change on disk; `moment` counts both for every change."""
    changes = 0

    def dying(work: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **named: object) -> object:
            nonlocal changes
            for behind in (False, True):
                result = work(*args, **named) if behind else None
                if changes == moment:
                    changes += 1
                    die()
                changes += 1
            return result

        return call

    for owner, name in (
        (Path, "symlink_to"), (Path, "touch"), (Path, "replace"), (Path, "unlink"), (placing.shutil, "copyfileobj"),
        (placing.shutil, "copystat"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))


@pytest.mark.parametrize("mode", MODES)
def test_placing_killed_at_any_moment_resumes_with_the_same_names(tmp_path: Path, mode: PlacingMode) -> None:
    def die() -> None:
        raise Killed

    expected = {name: EXPECTED[name] for name in ("cat/x.jpg", "cat/x-2.jpg", "a_b/odd\udcff\n.jpg", "unsure/no")}
    moment = kills = 0
    while kills == moment:
        into = tmp_path / f"sorted{moment}"
        into.mkdir()
        records = [record for number, record in enumerate(made(tmp_path / f"photos{moment}")) if number in (0, 1, 4, 6)]
        list(Placing(into, mode, CLASSES).planned(records))
        with pytest.MonkeyPatch.context() as patch:
            die_at_change(patch, moment, die)
            try:
                Placing(into, mode, CLASSES).carry_out(Silent(), never)
            except Killed:
                kills += 1
        again = Placing(into, mode, CLASSES)
        if again.is_planned:
            again.carry_out(Silent(), never)
        if again.is_done:
            again.clear()
        assert content(into) == expected, moment
        moment += 1
    assert kills > 10


def test_an_incomplete_last_line_of_the_names_file_is_ignored(tmp_path: Path) -> None:
    into, records = tmp_path / "sorted", made(tmp_path / "photos")
    into.mkdir()
    list(Placing(into, "copy", CLASSES).planned(records))
    checks: Iterator[int] = iter(range(100))

    def stop_at_third() -> None:
        if next(checks) == 3:
            raise Killed

    with pytest.raises(Killed):
        Placing(into, "copy", CLASSES).carry_out(Silent(), stop_at_third)
    with (into / NAMES).open("ab") as names:
        names.write(b'[3, "cat/x-2')
    heard = Heard()
    Placing(into, "copy", CLASSES).carry_out(heard, never)
    assert content(into) == EXPECTED
    assert heard.said[0].endswith("continuing after 2 images")


def test_a_missing_image_is_reported_and_leaves_no_empty_file(tmp_path: Path) -> None:
    records, into = made(tmp_path / "photos"), tmp_path / "sorted"
    into.mkdir()
    work, heard = Placing(into, "copy", CLASSES), Heard()
    list(work.planned(records))
    Path(records[7].path).unlink()
    work.carry_out(heard, never)
    assert heard.said[1] == f"1 image could no longer be read: {records[7].path}"
    assert heard.said[0].startswith("7 images copied")
    assert sorted(content(into)) == sorted(set(EXPECTED) - {"dog/y.jpg"})


def test_a_moved_link_still_points_to_its_image(tmp_path: Path) -> None:
    (tmp_path / "real.jpg").write_bytes(b"real")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "x.jpg"
    link.symlink_to("../real.jpg")
    placed(tmp_path / "sorted", [Prediction(str(link), "cat", 0.5)], "move")
    assert (tmp_path / "sorted" / "cat" / "x.jpg").read_bytes() == b"real"
    assert not link.is_symlink()


def test_an_image_on_another_disk_is_moved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = tmp_path / "x.jpg"
    photo.write_bytes(b"image")
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if self == photo:
            raise OSError(placing.errno.EXDEV, "another disk")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    placed(tmp_path / "sorted", [Prediction(str(photo), "cat", 0.5)], "move")
    assert content(tmp_path / "sorted") == {"cat/x.jpg": b"image"}
    assert not photo.exists()


def test_names_of_maximum_length_are_numbered_too(tmp_path: Path) -> None:
    name = "ü" * 125 + ".jpg"
    records = []
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(folder.encode())
        records.append(Prediction(str(tmp_path / folder / name), "cat", 0.5))
    placed(tmp_path / "sorted", records)
    second = os.fsdecode(os.fsencode("ü" * 125)[:249] + b"-2.jpg")
    assert content(tmp_path / "sorted") == {f"cat/{name}": b"1", f"cat/{second}": b"2"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"), ("T-shirt, rot", "T-shirt, rot"), ("می‌شود", "می‌شود"), ("..", "__"), (".git", "_git"),
        ("a/b\\c", "a_b_c"), ("\x1b[31m\n", "_[31m_"), ("\u202ecod", "_cod"), ("\udcff", "_"), ("", "_"), ("/", "_"),
        ("é" * 150, "é" * 100), ("a" + "é" * 150, "a" + "é" * 99),
    ],
)  # fmt: skip
def test_a_folder_is_named_after_its_class_or_a_safe_variant(name: str, expected: str) -> None:
    assert folder_name(name) == expected
    assert folder_name(expected) == expected


def test_no_two_classes_share_a_folder_and_none_uses_the_unsure_folder() -> None:
    names = ("a/b", "a_b", "a\\b", "unsure", "unsure-2", "..", "__")
    found = folder_names(names)
    assert len({*found.values(), "unsure"}) == len(names) + 1
    assert {name: found[name] for name in ("a_b", "unsure-2", "__")} == {
        "a_b": "a_b",
        "unsure-2": "unsure-2",
        "__": "__",
    }
    assert (found["a/b"], found["a\\b"], found["unsure"], found[".."]) == ("a_b-2", "a_b-3", "unsure-3", "__-2")


class Info:
    class_names = CLASSES


def asked(folder: Path | str, **options: object) -> PredictRequest:
    return PredictRequest("run", sort_into=str(folder), **options)  # type: ignore[arg-type]


def test_a_folder_is_created_locked_and_removed_if_it_stays_empty(tmp_path: Path) -> None:
    into = tmp_path / "sorted"
    with placing_folder(asked(into), Info()) as work:  # type: ignore[arg-type]
        assert into.is_dir()
        with pytest.raises(MachineError, match="in use"), placing_folder(asked(into), Info()):  # type: ignore[arg-type]
            pass
        list(work.outside([str(tmp_path / "x.jpg"), "no\0name/x"]))
        for path in (into / "x.jpg", into / "cat" / ".." / "cat" / "y.jpg"):
            with pytest.raises(UsageError, match="is in the folder of --sort-into"):
                list(work.outside([str(path)]))
    assert not into.exists()


def test_unfinished_work_is_discarded_only_with_overwrite(tmp_path: Path) -> None:
    records = made(tmp_path / "photos")
    list(Placing(tmp_path, "copy", CLASSES).planned(records))
    with pytest.raises(UsageError, match="continue with --resume"), placing_folder(asked(tmp_path), Info()):  # type: ignore[arg-type]
        pass
    with placing_folder(asked(tmp_path, resume=True), Info()) as work:  # type: ignore[arg-type]
        assert (work.is_planned, work.is_begun) == (True, False)
    with pytest.raises(UsageError, match="was started with --sort-into-by copy; give that again"):
        Placing(tmp_path, "move", CLASSES).carry_out(Silent(), never)
    with placing_folder(asked(tmp_path, overwrite=True), Info()) as work:  # type: ignore[arg-type]
        list(work.planned(records[:1]))
    assert (tmp_path / PLAN).read_bytes().count(b"\n") == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("name", [PLAN, NAMES, "cat", "."])
def test_plans_and_links_of_another_user_are_not_followed(tmp_path: Path, name: str) -> None:
    """A forged plan could copy or move files to where other users can read them."""
    records, into, theirs = made(tmp_path / "photos"), tmp_path / "sorted", tmp_path / "theirs"
    theirs.mkdir()
    into.mkdir()
    if name == ".":
        into = tmp_path / "link"
    trap = into / name if name != "." else into
    if name in (PLAN, NAMES):
        trap.write_text('{"mode": "copy"}\n["/etc/passwd", "cat"]\n', encoding="utf-8")
    else:
        trap.symlink_to(theirs)
    os.chown(trap, 65534, 65534, follow_symlinks=False)

    def place() -> None:
        with placing_folder(asked(into, resume=True), Info()) as work:  # type: ignore[arg-type]
            assert not work.is_done
            list(work.planned(records))
            work.carry_out(Silent(), never)

    with pytest.raises(UsageError, match=r"in the way|another user"):
        place()
    assert list(theirs.iterdir()) == []


def test_a_link_in_place_of_the_names_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine", encoding="utf-8")
    into = tmp_path / "sorted"
    into.mkdir()
    work = Placing(into, "copy", CLASSES)
    list(work.planned(made(tmp_path / "photos")))
    (into / NAMES).symlink_to(tmp_path / "victim")
    with pytest.raises(MachineError):
        work.carry_out(Silent(), never)
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("folder", ["", "file"])
def test_a_path_that_is_not_a_folder_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UsageError), placing_folder(asked(folder), Info()):  # type: ignore[arg-type]
        pass


def test_an_unwritable_folder_is_a_machine_error_before_anything_is_labelled(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refused = pytest.raises(MachineError, match="permission denied")
    with permissions_hold(), refused, placing_folder(asked(tmp_path), Info()):  # type: ignore[arg-type]
        pass
    tmp_path.chmod(0o700)
