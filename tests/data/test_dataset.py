from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_folders import Data, Heard, make_folder, make_image
from PIL import Image

from wisesr_cli.data.dataset import build_index, scan_folder_for_evaluation
from wisesr_cli.data.duplicates import find_duplicates
from wisesr_cli.data.folders import find_splits
from wisesr_cli.data.index import DatasetIndex, index_from_rows
from wisesr_cli.errors import DataError
from wisesr_cli.listening import Silent


def built(root: Path, heard: Silent | None = None, seed: int = 0, **options: object) -> DatasetIndex:
    return build_index(Data(dir=root, **options), seed=seed, listener=heard or Silent())


def refused(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        built(root, **options)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_class_folders_become_classes_sorted_by_code_point(tmp_path: Path) -> None:
    make_folder(tmp_path, {str(number): 2 for number in range(12)})
    index = built(tmp_path)
    assert index.class_names == ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")
    for path, name, _ in index.rows():
        assert path.split("/")[0] == name


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev", "VAL", "Validation"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "testing")])
def test_split_folders_are_recognised_under_all_their_names(
    validation: str, train: str, test: str, tmp_path: Path
) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 3 for split in (train, validation, test) for name in "ab"})
    index = built(tmp_path)
    assert {name: len(split) for name, split in index.splits.items()} == {"train": 6, "validation": 6, "test": 6}
    assert index.class_names == ("a", "b")
    assert all(Path(path).is_file() for name in index.splits for path in index.absolute(name))
    assert index.splits["test"].paths[0] == f"{test}/a/000.png"


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 2 for split in ("train", "val", "validation") for name in "ab"})
    assert "val/ and validation/ both hold the split 'validation'" in refused(tmp_path)


def test_train_alone_gives_validation_by_fraction(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 10, "train/b": 5, "test/a": 2})
    index = built(tmp_path)
    assert index.counts("validation").tolist() == [2, 1]
    assert index.counts("train").tolist() == [8, 4]
    assert index.counts("test").tolist() == [2, 0]


def test_no_validation_when_the_fraction_is_zero(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 1, "b": 1})
    assert list(built(tmp_path, validation_split=0.0).splits) == ["train"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": 3, "bus": 3, "tram": 3})
    assert built(tmp_path).class_names == ("bus", "train", "tram")


def test_splits_may_be_named_one_by_one(tmp_path: Path) -> None:
    make_folder(tmp_path, {"here/a": 3, "here/b": 3, "there/x/a": 2})
    data = Data(train_dir=tmp_path / "here", validation_dir=tmp_path / "there" / "x")
    index = build_index(data, seed=0, listener=Silent())
    assert index.root == str(tmp_path)
    assert index.splits["validation"].paths == ("there/x/a/000.png", "there/x/a/001.png")


@pytest.mark.parametrize("case", ["missing", "empty", "flat", "file", "one class", "hidden only"])
def test_unusable_folder_is_refused_with_the_layout_expected(case: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    if case == "file":
        root.write_bytes(b"")
    elif case != "missing":
        root.mkdir()
    if case == "flat":
        make_folder(root, {".": 3})
    if case == "one class":
        make_folder(root, {"only": 3})
    if case == "hidden only":
        make_folder(root, {".git": 2, "__MACOSX": 2})
    message = refused(root)
    assert str(root) in message
    assert "Expected one folder per class" in message


def test_split_folders_without_training_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {"val/a": 1, "val/b": 1, "test/a": 1})
    assert "no folder train/" in refused(tmp_path)


def test_hidden_and_system_files_are_ignored_and_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 4, "b": 4, "__MACOSX/a": 2, ".ipynb_checkpoints": 1, "a/.ipynb_checkpoints": 1})
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png"):
        (tmp_path / "a" / name).write_bytes(b"x")
    heard = Heard()
    index = built(tmp_path, heard)
    assert index.class_names == ("a", "b")
    assert sum(len(split) for split in index.splits.values()) == 8
    assert index.ignored == {"hidden or system": 7}
    assert heard.notes == ["7 files ignored: 7 hidden or system"]


def test_files_with_unlisted_suffixes_are_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    for name in ("a/x.txt", "a/y.txt", "b/labels.csv", "README"):
        (tmp_path / name).write_bytes(b"x")
    make_image(tmp_path / "stray.png")
    heard = Heard()
    built(tmp_path, heard)
    assert "5 files ignored: 2 .txt" in heard.notes[0]
    assert "1 outside of the class folders" in heard.notes[0]


@pytest.mark.parametrize("content", ["nothing", "text"])
def test_class_folder_without_images_is_refused_with_its_name_and_the_reason(content: str, tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3, "cars": 0})
    if content == "text":
        (tmp_path / "cars" / "x.txt").write_bytes(b"x")
    message = refused(tmp_path)
    assert "class 'cars'" in message
    assert ("an empty folder" if content == "nothing" else "no images (1 other file)") in message


def test_unreadable_class_folder_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "class 'b': permission denied" in refused(tmp_path)


def test_nested_folders_are_merged_into_their_class(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "a/one/two": 3, "b/x": 2})
    heard = Heard()
    index = built(tmp_path, heard, validation_split=0.0)
    assert index.counts("train").tolist() == [5, 2]
    assert "5 images in folders below a class folder: merged into the class" in heard.notes


def test_link_loops_end_and_each_real_file_counts_once(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a/deep": 3, "b": 2})
    (tmp_path / "a" / "deep" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "again.png").symlink_to(tmp_path / "a" / "deep" / "000.png")
    (tmp_path / "c").symlink_to(tmp_path / "a")
    index = built(tmp_path, validation_split=0.0)
    assert index.class_names == ("a", "b")
    assert sorted(index.splits["train"].paths) == [f"a/deep/00{i}.png" for i in range(3)] + ["b/000.png", "b/001.png"]
    assert index.ignored["linked twice"] == 4


def test_links_to_folders_and_files_elsewhere_are_followed(tmp_path: Path) -> None:
    pool = make_folder(tmp_path / "pool", {"x": 3, "y": 3})
    (pool / "x" / "circle").symlink_to(pool / "x")
    root = make_folder(tmp_path / "data", {"a": 1, "b": 1})
    (root / "a" / "more").symlink_to(pool / "x")
    (root / "b" / "one.png").symlink_to(pool / "y" / "000.png")
    assert built(root, validation_split=0.0).counts("train").tolist() == [4, 2]


def test_broken_link_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert "a/gone.png: a broken link" in refused(tmp_path)


def test_class_names_that_differ_only_in_case_or_normalisation_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "case", {"Cat": 2, "cat": 2, "dog": 2})
    make_folder(tmp_path / "form", {"caf\u00e9": 2, "cafe\u0301": 2, "dog": 2})
    assert "'Cat'" in refused(tmp_path / "case")
    assert "'cat'" in refused(tmp_path / "case")
    assert "caf\\xe9" in refused(tmp_path / "form")
    assert "cafe\\u0301" in refused(tmp_path / "form")


NAMES = [
    "ünïcödé",
    "new\nline",
    "[red]",
    ":cat:",
    "esc\x1b[31m",
    "bidi\u202e",
    "x" * 250,
    os.fsdecode(b"bytes\xff\xfe"),
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_works_as_class_and_as_file(name: str, tmp_path: Path) -> None:
    make_folder(tmp_path, {name: 3, "plain": 3})
    make_image(tmp_path / "plain" / (name[:200] + ".png"), seed=99)
    for _ in range(2):  # with and without the scan's memory
        index = built(tmp_path, validation_split=0.0)
        assert name in index.class_names
        assert len(index.splits["train"]) == 7
        assert all(Path(path).is_file() for path in index.absolute("train"))
        assert index.record()
    (tmp_path / name / "bad\x1b\n.png").write_bytes(b"")
    assert "empty file" in refused(tmp_path)


def test_unreadable_images_are_named_with_reasons_and_the_way_out(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "zero.jpg").write_bytes(b"")
    (tmp_path / "b" / "text.jpg").write_bytes(b"hello")
    message = refused(tmp_path)
    assert "2 unreadable images" in message
    assert "a/zero.jpg: empty file" in message
    assert "b/text.jpg: not an image" in message
    assert "--set data.on_error=skip" in message


def test_skip_leaves_unreadable_images_out_and_lists_them(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "zero.jpg").write_bytes(b"")
    heard = Heard()
    index = built(tmp_path, heard, on_error="skip", validation_split=0.0)
    assert index.unreadable == (("a/zero.jpg", "empty file"),)
    assert index.counts("train").tolist() == [5, 5]
    assert heard.warnings == ["1 unreadable image left out: a/zero.jpg: empty file"]


def test_a_class_whose_images_are_all_unreadable_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3, "c": 0})
    (tmp_path / "c" / "zero.jpg").write_bytes(b"")
    assert "without a readable image: c" in refused(tmp_path, on_error="skip")


def test_validation_class_that_training_lacks_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 2, "val/zebra": 2})
    assert "zebra" in refused(tmp_path)


def test_animated_images_are_counted_in_one_warning(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    for number in range(2):
        frames = [Image.new("RGB", (8, 8), (value, number, 0)) for value in (10, 200)]
        frames[0].save(tmp_path / "a" / f"{number}.gif", save_all=True, append_images=frames[1:])
    heard = Heard()
    built(tmp_path, heard)
    assert len(heard.warnings) == 1
    assert "2 animated" in heard.warnings[0]


def test_files_of_another_format_than_their_suffix_are_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    Image.new("RGB", (8, 8), (3, 4, 5)).save(tmp_path / "a" / "webp.jpg", format="WEBP")
    heard = Heard()
    built(tmp_path, heard)
    assert any("1 file read by content, not by suffix: a/webp.jpg" in note for note in heard.notes)


def test_same_image_in_two_splits_or_under_two_labels_is_warned_of(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 3 for split in ("train", "val") for name in "ab"})
    shutil.copy(tmp_path / "train/a/000.png", tmp_path / "val/a/copy.png")
    shutil.copy(tmp_path / "train/a/001.png", tmp_path / "train/b/copy.png")
    shutil.copy(tmp_path / "train/a/002.png", tmp_path / "train/a/harmless.png")
    heard = Heard()
    index = built(tmp_path, heard)
    groups = [duplicate.paths for duplicate in find_duplicates(index, heard)]
    assert sorted(groups) == [("train/a/000.png", "val/a/copy.png"), ("train/a/001.png", "train/b/copy.png")]
    assert len(heard.warnings) == 1
    assert heard.warnings[0].startswith("2 images in two splits or under two labels: ")


def test_files_that_differ_only_in_the_middle_are_no_duplicates(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    pixels = np.zeros((100, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "x.bmp")
    pixels[50, 50] = 1
    Image.fromarray(pixels).save(tmp_path / "b" / "x.bmp")
    assert find_duplicates(built(tmp_path), Silent()) == ()


def test_the_second_scan_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    first = built(tmp_path)
    monkeypatch.setattr("wisesr_cli.images.decoding.read_header", lambda *_: pytest.fail("a header was read"))
    assert built(tmp_path).record() == first.record()


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    built(tmp_path)
    (tmp_path / "a" / "000.png").write_bytes(b"now it is text")
    assert "a/000.png: not an image" in refused(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_a_damaged_memory_of_the_scan_is_ignored(damage: str, tmp_path: Path, caches_of_this_test: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    first = built(tmp_path)
    memories = list(caches_of_this_test.glob("scans/*.npz"))
    assert memories
    for memory in memories:
        content = bytearray(memory.read_bytes())
        content[len(content) // 3 : len(content) // 3 + 40] = b"\xa5" * 40
        memory.write_bytes({"cut": content[: len(content) // 2], "noise": content, "empty": b""}[damage])
    assert built(tmp_path).record() == first.record()


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "data", {"a": 5, "b": 5})
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("WISESR_CACHE_DIR", str(tmp_path / "file" / "inside"))
    assert len(built(tmp_path / "data").splits) == 2


def test_fingerprint_and_differences_notice_added_removed_and_changed_files(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 6, "b": 6})
    before = built(tmp_path, validation_split=0.0)
    record = before.record()
    assert built(tmp_path, validation_split=0.0).differences(record) == ()
    make_image(tmp_path / "a" / "new.png", seed=77)
    make_image(tmp_path / "b" / "000.png", seed=78)
    after = built(tmp_path, validation_split=0.0)
    assert after.record() != before.record()
    assert after.differences(record) == (
        "train, class 'a': 6 files before, 7 now",
        "train, class 'b': of 6 files some were changed",
    )
    make_folder(tmp_path, {"c": 2}, first_seed=500)
    assert built(tmp_path, validation_split=0.0).differences(record)[0] == "classes: 2 before, 3 now; new: c"


def test_rows_give_the_index_back(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 3 for split in ("train", "test") for name in "ab"})
    index = built(tmp_path)
    again = index_from_rows(index.root, index.class_names, index.rows())
    assert list(again.rows()) == list(index.rows())
    assert again.absolute("test") == index.absolute("test")
    assert np.array_equal(again.splits["train"].labels, index.splits["train"].labels)


def test_evaluation_matches_classes_by_name(tmp_path: Path) -> None:
    make_folder(tmp_path, {"b": 2, "c": 3})
    index = scan_folder_for_evaluation(tmp_path, ["c", "a", "b"], on_error="fail", listener=Silent())
    assert index.class_names == ("c", "a", "b")
    assert index.counts("test").tolist() == [3, 0, 2]


def test_evaluation_refuses_a_class_that_the_run_does_not_know(tmp_path: Path) -> None:
    make_folder(tmp_path, {"cat": 2, "dogs": 3})
    with pytest.raises(DataError, match=r"dogs.*Did you mean 'dog'"):
        scan_folder_for_evaluation(tmp_path, ["cat", "dog"], on_error="fail", listener=Silent())


@pytest.mark.parametrize(("splits", "expected"), [(("train", "val", "test"), "test"), (("train", "val"), "val")])
def test_evaluation_takes_the_test_split_of_a_folder_with_splits(
    splits: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 2 for split in splits for name in "ab"})
    heard = Heard()
    index = scan_folder_for_evaluation(tmp_path, ["a", "b"], on_error="fail", listener=heard)
    assert index.root == str(tmp_path / expected)
    assert heard.notes == [f"{tmp_path} holds splits: evaluating on {expected}/"]


def test_evaluation_names_or_skips_unreadable_images(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "zero.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"a/zero\.jpg: empty file"):
        scan_folder_for_evaluation(tmp_path, ["a", "b"], on_error="fail", listener=Silent())
    heard = Heard()
    assert len(scan_folder_for_evaluation(tmp_path, ["a", "b"], on_error="skip", listener=heard).splits["test"]) == 4
    assert heard.warnings


def test_find_splits_says_what_it_left_out(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 1, "val/a": 1, "extra/x": 1})
    layout = find_splits(tmp_path)
    assert set(layout.folders) == {"train", "validation"}
    assert "extra" in layout.notes[0]


def test_three_thousand_classes_are_indexed(tmp_path: Path) -> None:
    source = make_image(tmp_path / "one.png")
    for number in range(3000):
        folder = tmp_path / "data" / f"class{number}"
        folder.mkdir(parents=True)
        for name in ("0.png", "1.png"):
            os.link(source, folder / f"{number}-{name}")
    index = built(tmp_path / "data", on_error="skip", validation_split=0.0)
    assert len(index.class_names) == 3000
    assert index.counts("train").min() == 1  # both names of one real file
