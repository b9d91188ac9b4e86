"""The harbour of the demo: only the position of the red sails tells the class, and a seed reproduces the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import snapshot
from image_folders import Heard
from PIL import Image

from wisesr_cli.demo import harbour
from wisesr_cli.demo.harbour import CLASS_NAMES, draw_harbour, make_harbour

SAIL_COLORS = ((214, 38, 44), (166, 22, 38))  # lit and shaded
CELL_CENTRES = (24, 48, 72)  # of 96 pixels


def picture(position: int, *seed: int, size: int = 96) -> np.ndarray:
    return np.asarray(draw_harbour(position, np.random.default_rng([*seed, position]), size=size))


def red_sails(pixels: np.ndarray) -> np.ndarray:
    """Return where the red sails are, bool (height, width); the red of the buoys is a different one."""
    distances = [np.abs(pixels.astype(int) - color).max(axis=-1) for color in SAIL_COLORS]
    return np.min(distances, axis=0) <= 3


@pytest.mark.parametrize("position", range(9))
def test_the_red_sails_are_in_the_cell_of_the_class(position: int) -> None:
    row, column = divmod(position, 3)
    for seed in range(12):
        ys, xs = np.nonzero(red_sails(picture(position, seed)))
        assert 50 < len(ys) < 200
        assert abs(ys.mean() - CELL_CENTRES[row]) < 9
        assert abs(xs.mean() - CELL_CENTRES[column]) < 9


@pytest.mark.parametrize("position", range(9))
def test_only_one_boat_has_red_sails(position: int) -> None:
    for seed in range(12):
        ys, xs = np.nonzero(red_sails(picture(position, seed)))
        assert np.hypot(ys - ys.mean(), xs - xs.mean()).max() < 14  # all red pixels lie within one boat


def test_the_class_names_are_the_cells_row_by_row() -> None:
    assert CLASS_NAMES == ("nw", "n", "ne", "w", "centre", "e", "sw", "s", "se")


def test_the_colours_of_a_picture_do_not_tell_its_class() -> None:
    def histogram(pixels: np.ndarray) -> np.ndarray:
        return np.concatenate([np.histogram(pixels[..., channel], 16, (0, 256))[0] for channel in range(3)])

    pictures = np.array([[histogram(picture(position, seed)) for seed in range(40)] for position in range(9)])
    known, asked = pictures[:, :20], pictures[:, 20:]  # (positions, seeds, numbers)
    scale = known.reshape(-1, known.shape[-1]).std(axis=0) + 1e-6
    distances = (((asked[:, :, None] - known.mean(axis=1)) / scale) ** 2).sum(axis=-1)
    right = (distances.argmin(axis=-1) == np.arange(9)[:, None]).mean()
    assert right < 0.20  # chance is 0.11; the standard deviation over 180 answers is 0.024
    standard_error = pictures.std(axis=1).mean(axis=0) / np.sqrt(pictures.shape[1])
    assert (pictures.mean(axis=1).std(axis=0) < 3 * standard_error + 1e-9).all()


@pytest.mark.parametrize("size", [32, 96, 160])
def test_picture_is_rgb_of_the_requested_size(size: int) -> None:
    drawn = draw_harbour(0, np.random.default_rng(0), size=size)
    assert (drawn.mode, drawn.size) == ("RGB", (size, size))


@pytest.mark.parametrize("position", [-1, 9])
def test_position_outside_the_grid_is_rejected(position: int) -> None:
    with pytest.raises(ValueError, match=f"position={position}"):
        draw_harbour(position, np.random.default_rng(0))


def test_every_class_has_a_folder_with_the_requested_number_of_pictures(tmp_path: Path) -> None:
    heard = Heard()
    make_harbour(tmp_path, train_per_class=3, test_per_class=2, listener=heard)
    expected = {f"train/{name}/{number:03}.png" for name in CLASS_NAMES for number in range(3)}
    expected |= {f"test/{name}/{number:03}.png" for name in CLASS_NAMES for number in range(2)}
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == expected
    assert heard.steps == {"drawing harbours": 45}
    for path in found:
        with Image.open(tmp_path / path) as image:
            image.load()
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (96, 96))


def test_all_pictures_are_different(tmp_path: Path) -> None:
    make_harbour(tmp_path, train_per_class=3, test_per_class=3)
    digests = snapshot(tmp_path)
    assert len(set(digests.values())) == len(digests) == 54


def test_pictures_show_the_class_of_their_folder(tmp_path: Path) -> None:
    make_harbour(tmp_path, train_per_class=1, test_per_class=1, seed=5)
    for position, name in enumerate(CLASS_NAMES):
        for split in ("train", "test"):
            pixels = np.asarray(Image.open(tmp_path / split / name / "000.png"))
            row, column = np.rint((np.argwhere(red_sails(pixels)).mean(axis=0) - 24) / 24)
            assert row * 3 + column == position


def test_same_seed_reproduces_the_files_and_another_seed_does_not(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_harbour(tmp_path / folder, train_per_class=2, test_per_class=1, seed=seed)
    first, again, other = (snapshot(tmp_path / folder) for folder in "abc")
    assert first == again
    assert not set(first.values()) & set(other.values())


def test_more_pictures_per_class_leave_the_others_unchanged(tmp_path: Path) -> None:
    make_harbour(tmp_path / "few", train_per_class=1, test_per_class=1)
    make_harbour(tmp_path / "many", train_per_class=3, test_per_class=2)
    assert snapshot(tmp_path / "few").items() <= snapshot(tmp_path / "many").items()


def test_interrupted_call_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_harbour(tmp_path / "whole", train_per_class=2, test_per_class=1)
    drawn = 0

    def stopping(position: int, rng: np.random.Generator) -> Image.Image:
        nonlocal drawn
        drawn += 1
        if drawn == 8:
            raise KeyboardInterrupt
        return draw_harbour(position, rng)

    monkeypatch.setattr(harbour, "draw_harbour", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_harbour(tmp_path / "broken", train_per_class=2, test_per_class=1)
    monkeypatch.undo()
    half = snapshot(tmp_path / "broken")
    assert len(half) == 7
    assert half.items() <= snapshot(tmp_path / "whole").items()
    make_harbour(tmp_path / "broken", train_per_class=2, test_per_class=1)
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")


def test_incomplete_picture_is_never_left_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Image.Image, path: Path, format: str) -> None:
        Path(path).write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        make_harbour(tmp_path, train_per_class=1, test_per_class=1)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.png"))
    make_harbour(tmp_path, train_per_class=1, test_per_class=1)
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
