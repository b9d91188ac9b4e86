from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_folders import Data, Heard, make_folder, make_image
from PIL import Image

from wisesr_cli.data.copies.duplicates import find_duplicates
from wisesr_cli.data.dataset import build_index, scan_folder_for_evaluation
from wisesr_cli.data.index import Changes, DatasetIndex, index_from_rows
from wisesr_cli.data.listing.layouts import find_splits
from wisesr_cli.data.verified import with_contents
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


def test_two_folders_for_one_split_are_rejected(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 2 for split in ("train", "val", "validation") for name in "ab"})
    assert "val/ and validation/ both hold the split 'validation'" in refused(tmp_path)


def test_missing_validation_is_split_from_train_by_fraction(tmp_path: Path) -> None:
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


def test_split_folders_can_be_named_individually(tmp_path: Path) -> None:
    make_folder(tmp_path, {"here/a": 3, "here/b": 3, "there/x/a": 2})
    data = Data(train_dir=tmp_path / "here", validation_dir=tmp_path / "there" / "x")
    index = build_index(data, seed=0, listener=Silent())
    assert index.root == str(tmp_path)
    assert index.splits["validation"].paths == ("there/x/a/000.png", "there/x/a/001.png")


def test_file_instead_of_a_folder_is_rejected_with_the_expected_layout(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    assert re.search(r"/data.*Expected one folder per class", refused(tmp_path / "data"))


def test_split_folders_without_training_are_rejected(tmp_path: Path) -> None:
    make_folder(tmp_path, {"val/a": 1, "val/b": 1, "test/a": 1})
    assert "no folder train/" in refused(tmp_path)


def test_ignored_files_are_counted_by_reason(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    for name in ("a/x.txt", "a/y.txt", "b/labels.csv", "README"):
        (tmp_path / name).write_bytes(b"x")
    make_image(tmp_path / "stray.png")
    heard = Heard()
    built(tmp_path, heard)
    assert "5 files ignored: 2 .txt" in heard.notes[0]
    assert "1 outside the class folders" in heard.notes[0]


def test_links_to_folders_and_files_elsewhere_are_followed(tmp_path: Path) -> None:
    pool = make_folder(tmp_path / "pool", {"x": 3, "y": 3})
    (pool / "x" / "circle").symlink_to(pool / "x")
    root = make_folder(tmp_path / "data", {"a": 1, "b": 1})
    (root / "a" / "more").symlink_to(pool / "x")
    (root / "b" / "one.png").symlink_to(pool / "y" / "000.png")
    assert built(root, validation_split=0.0).counts("train").tolist() == [4, 2]


def test_unreadable_images_are_named_with_reasons_and_a_remedy(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "zero.jpg").write_bytes(b"")
    (tmp_path / "b" / "text.jpg").write_bytes(b"hello")
    message = refused(tmp_path)
    assert "2 unreadable images" in message
    assert "a/zero.jpg: empty file" in message
    assert "b/text.jpg: not an image" in message
    assert "--set data.on_error=skip" in message


def test_class_whose_images_are_all_unreadable_is_rejected(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3, "c": 0})
    (tmp_path / "c" / "zero.jpg").write_bytes(b"")
    assert "without a readable image: c" in refused(tmp_path, on_error="skip")


def test_validation_class_that_training_lacks_is_rejected(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 2, "val/zebra": 2})
    assert "zebra" in refused(tmp_path)


def test_files_that_differ_only_in_the_middle_are_not_duplicates(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2})
    pixels = np.zeros((100, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "x.bmp")
    pixels[50, 50] = 1
    Image.fromarray(pixels).save(tmp_path / "b" / "x.bmp")
    assert find_duplicates(built(tmp_path), Silent()) == ()


def test_second_scan_reads_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_damaged_scan_cache_is_ignored(damage: str, tmp_path: Path, caches_of_this_test: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    first = built(tmp_path)
    memories = list(caches_of_this_test.glob("scans/*.npz"))
    assert memories
    for memory in memories:
        content = bytearray(memory.read_bytes())
        content[len(content) // 3 : len(content) // 3 + 40] = b"\xa5" * 40
        memory.write_bytes({"cut": content[: len(content) // 2], "noise": content, "empty": b""}[damage])
    assert built(tmp_path).record() == first.record()


def test_unwritable_cache_folder_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "data", {"a": 5, "b": 5})
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("WISESR_CACHE_DIR", str(tmp_path / "file" / "inside"))
    assert len(built(tmp_path / "data").splits) == 2


def test_file_replaced_by_one_of_the_same_size_and_date_is_read_again(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    for name, color in (("a/x.bmp", 10), ("b/x.bmp", 200)):
        Image.new("RGB", (8, 8), (color,) * 3).save(tmp_path / name)
        os.utime(tmp_path / name, (10**9, 10**9))
    assert find_duplicates(built(tmp_path), Silent()) == ()
    shutil.copy2(tmp_path / "a" / "x.bmp", tmp_path / "b" / "x.bmp")  # keeps the inode
    assert len(find_duplicates(built(tmp_path), Silent())) == 1
    Image.new("RGB", (8, 8), (99,) * 3).save(tmp_path / "other.bmp")
    os.utime(tmp_path / "other.bmp", (10**9, 10**9))
    (tmp_path / "other.bmp").rename(tmp_path / "b" / "x.bmp")
    assert find_duplicates(built(tmp_path), Silent()) == ()


def known(folder: Path) -> DatasetIndex:
    index = built(folder, validation_split=0.0)
    return with_contents(index, index.splits, listener=Silent())


def test_record_detects_added_and_changed_files_and_new_classes(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 6, "b": 6})
    before = known(tmp_path)
    record = before.record()
    assert known(tmp_path).changes_since(record) == Changes((), False)
    make_image(tmp_path / "a" / "new.png", seed=77)
    make_image(tmp_path / "b" / "000.png", seed=78)
    after = known(tmp_path)
    assert after.record() != before.record()
    assert after.changes_since(record).lines == (
        "train, class 'a': 6 files before, 7 now",
        "train, class 'b': some of its 6 files have changed",
    )
    make_folder(tmp_path, {"c": 2}, first_seed=500)
    assert known(tmp_path).changes_since(record).lines[0] == "classes: 2 before, 3 now; new: c"


def test_record_is_compared_by_content_if_it_has_content_hashes(tmp_path: Path) -> None:
    make_folder(tmp_path / "before", {"a": 6, "b": 6})
    record = known(tmp_path / "before").record()
    dated = built(tmp_path / "before", validation_split=0.0).record()  # as written by earlier versions
    shutil.copytree(tmp_path / "before", tmp_path / "with dates")
    shutil.copytree(tmp_path / "before", tmp_path / "without", copy_function=shutil.copyfile)
    assert known(tmp_path / "with dates").changes_since(record) == Changes((), False)
    assert known(tmp_path / "without").changes_since(record) == Changes((), True)
    assert known(tmp_path / "with dates").changes_since(dated) == Changes((), False)
    assert len(known(tmp_path / "without").changes_since(dated).lines) == 2
    one, other = (tmp_path / "with dates" / "a" / f"00{number}.png" for number in range(2))
    swapped = tmp_path / "swapped"
    for source, target in ((one, swapped), (other, one), (swapped, other)):
        source.rename(target)
    assert known(tmp_path / "with dates").changes_since(record).lines == (
        "train, class 'a': some of its 6 files have changed",
    )


def test_index_is_restored_from_its_rows(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 3 for split in ("train", "test") for name in "ab"})
    index = built(tmp_path)
    again = index_from_rows(index.root, index.class_names, index.rows())
    assert list(again.rows()) == list(index.rows())
    assert again.absolute("test") == index.absolute("test")
    assert np.array_equal(again.splits["train"].labels, index.splits["train"].labels)


def test_evaluation_rejects_a_class_unknown_to_the_run(tmp_path: Path) -> None:
    make_folder(tmp_path, {"cat": 2, "dogs": 3})
    with pytest.raises(DataError, match=r"dogs.*Did you mean 'dog'"):
        scan_folder_for_evaluation(tmp_path, ["cat", "dog"], on_error="fail", listener=Silent())


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def test_class_names_match_across_splits_and_runs_despite_unicode_normalization(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"train/{COMPOSED}": 4, "train/dog": 4, f"test/{DECOMPOSED}": 2, "test/dog": 1})
    index = built(tmp_path)
    assert (index.class_names, index.counts("test").tolist()) == ((COMPOSED, "dog"), [2, 1])
    judged = scan_folder_for_evaluation(tmp_path / "test", [COMPOSED, "dog"], on_error="fail", listener=Silent())
    assert (judged.class_names, judged.counts("test").tolist()) == ((COMPOSED, "dog"), [2, 1])


def test_trailing_spaces_in_class_names_are_reported(tmp_path: Path) -> None:
    make_folder(tmp_path / "run", {"dog ": 1})
    with pytest.raises(DataError, match=r"does not know: 'dog '\. Did you mean 'dog'"):
        scan_folder_for_evaluation(tmp_path / "run", ["cat", "dog"], on_error="fail", listener=Silent())
    make_folder(tmp_path / "both", {"dog": 2, "dog ": 2})
    assert "differ only in case, in leading or trailing spaces or" in refused(tmp_path / "both")


def test_class_without_images_in_validation_or_test_is_noted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 2, "test/b": 2})
    (tmp_path / "val" / "b").mkdir()
    heard = Heard()
    assert built(tmp_path, heard).counts("validation").tolist() == [2, 0]
    assert heard.notes == ["validation: no image of b: a support of 0", "test: no image of a: a support of 0"]


@pytest.mark.parametrize(("splits", "expected"), [(("train", "val", "test"), "test"), (("train", "val"), "val")])
def test_evaluation_uses_the_test_split_or_else_the_validation_split(
    splits: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 2 for split in splits for name in "ab"})
    heard = Heard()
    index = scan_folder_for_evaluation(tmp_path, ["a", "b"], on_error="fail", listener=heard)
    assert index.root == str(tmp_path / expected)
    assert heard.notes == [f"{tmp_path} holds splits: evaluating on {expected}/"]


def test_find_splits_reports_ignored_folders(tmp_path: Path) -> None:
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
    assert index.counts("train").min() == 1  # both names refer to one file
