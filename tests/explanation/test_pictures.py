"""Contributions as colours, in panels and on a terminal: sharp blocks, aligned with the photo."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Trained, make_photo
from PIL import Image
from rich.console import Console

import wisesr_cli
from wisesr_cli.display.terminal import TerminalListener
from wisesr_cli.explanation import overlays
from wisesr_cli.explanation.explain import show_decision
from wisesr_cli.explanation.overlays import AGAINST, FOR, STRONGEST, overlay, scale_of, tint
from wisesr_cli.explanation.own_pictures import picture_name
from wisesr_cli.explanation.panels import Panel, compose
from wisesr_cli.explanation.pictures import shown_photo, with_box
from wisesr_cli.explanation.receptive_field import ReceptiveField
from wisesr_cli.explanation.screen import Screen
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.images.preparation import Preparation, Resize
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.prediction import pictures as prediction_pictures
from wisesr_cli.results.streams import Contribution, Prediction

pytestmark = pytest.mark.usefixtures("empty_folder")


def contribution(values: list[list[float]] | np.ndarray) -> Contribution:
    rows = tuple(tuple(float(value) for value in row) for row in values)
    return Contribution("dress", 0.0, 0.0, rows, sum(map(sum, rows)))


def test_evidence_for_is_orange_against_is_blue_and_strength_is_opacity() -> None:
    colors = tint(contribution([[2.0, -1.0], [0.0, -0.5]]))
    assert colors.dtype == np.uint8
    assert colors.shape == (2, 2, 4)
    assert tuple(colors[0, 0]) == (*FOR, STRONGEST)
    assert tuple(colors[0, 1]) == (*AGAINST, STRONGEST // 2)
    assert colors[1, 0, 3] == 0
    assert tuple(colors[1, 1]) == (*AGAINST, STRONGEST // 4)


def test_a_common_scale_makes_maps_comparable_and_clips_larger_values() -> None:
    assert tint(contribution([[1.0, -8.0]]), 4.0)[0, :, 3].tolist() == [STRONGEST // 4, STRONGEST]
    assert scale_of([contribution([[1.0]]), contribution([[-3.0, 2.0]])]) == 3.0


def test_a_map_of_zeros_hides_nothing() -> None:
    assert scale_of([contribution([[0.0, 0.0]])]) == 1.0
    assert not tint(contribution([[0.0, 0.0]]))[..., 3].any()


@pytest.mark.parametrize(("map_size", "size"), [((7, 7), (100, 64)), ((3, 5), (91, 131)), ((2, 1), (40, 40))])
def test_every_position_is_a_sharp_block_with_an_outline(map_size: tuple[int, int], size: tuple[int, int]) -> None:
    steps = np.random.default_rng(0).permutation(np.linspace(-1, 1, map_size[0] * map_size[1]))
    values = steps.reshape(map_size)
    laid = np.asarray(overlay(Image.new("RGB", size, (90, 90, 90)), contribution(values)))
    assert laid.shape == (size[1], size[0], 3)
    colors = {}
    for y in range(size[1]):
        for x in range(size[0]):
            place = int((y + 0.5) * map_size[0] / size[1]), int((x + 0.5) * map_size[1] / size[0])
            colors.setdefault(place, []).append(tuple(laid[y, x].tolist()))
    inside = {place: max(set(found), key=found.count) for place, found in colors.items()}
    for place, found in colors.items():
        lines = [color for color in found if color != inside[place]]
        assert len(lines) < len(found) / 2  # one colour, with lighter lines on its borders
        assert all(sum(color) > sum(inside[place]) for color in lines)
    assert len(set(inside.values())) == len(inside)


def test_the_photo_is_grey_below_the_tint_and_never_black() -> None:
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 20, 3), dtype=np.uint8))
    laid = np.asarray(overlay(photo, contribution([[0.0]])))
    assert (laid == laid[..., :1]).all()
    assert np.asarray(overlay(Image.new("RGB", (8, 8)), contribution([[0.0]]))).min() == overlays.DARKEST


def test_small_positions_have_no_lines_and_a_photo_smaller_than_the_map_is_enlarged() -> None:
    checked = (np.indices((40, 30)).sum(axis=0) % 2) * 2.0 - 1.0
    laid = np.asarray(overlay(Image.new("RGB", (10, 80), "white"), contribution(checked)))
    assert laid.shape == (80, 30, 3)
    assert len(np.unique(laid.reshape(-1, 3), axis=0)) == 2


@pytest.mark.parametrize("panels", [1, 4, 9])
def test_panels_are_arranged_in_rows_in_reading_order(panels: int) -> None:
    images = [
        Panel(Image.new("RGB", (50, 40), (number, 0, 200)), ("a\x1bb", "line " * 100)) for number in range(panels)
    ]
    picture = np.asarray(compose(images, ("word " * 200, "")))
    for number in range(panels):
        there = np.argwhere((picture == (number, 0, 200)).all(axis=2))
        height, width = there.max(axis=0) - there.min(axis=0) + 1
        assert (height, width) == (40, 50)
    tops = [np.argwhere((picture == (number, 0, 200)).all(axis=2)).min(axis=0)[0] for number in range(panels)]
    assert tops == sorted(tops)
    assert len(set(tops)) == -(-panels // 4)


def screen(width: int = 120, *, colors: bool = True) -> tuple[Screen, io.StringIO]:
    """Return a screen and the stream it writes to."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    listener = TerminalListener()
    listener.console = Console(
        file=stream, force_terminal=True, width=width, color_system="truecolor" if colors else None, markup=False
    )
    return Screen(listener), stream


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()


@pytest.mark.parametrize(("width", "across"), [(120, 98), (60, 48), (20, 19)])
def test_a_terminal_shows_photo_and_map_in_half_blocks(width: int, across: int) -> None:
    shown, stream = screen(width)
    photo = Image.new("RGB", (64, 64), (10, 20, 30))
    shown.show(photo, "name\x1b[2J.png: red", Contribution("red", 0.0, 0.0, ((1.0, -1.0), (0.0, 0.5)), 0.5))
    lines = written(stream).splitlines()
    assert "name\\x1b[2J.png: red" in lines[-1]
    assert len(lines) - 1 == min(24, round(across / 2) if across < 48 else 24)
    blocks = lines[0].count("▄")
    assert blocks == (across - 2 if across == 98 else across)
    if across == 98:
        assert "48;2;10;20;30" in lines[0]


def test_a_terminal_shows_the_whole_map_even_with_more_positions_than_pixels() -> None:
    shown, stream = screen(60)
    row = (-1.0,) * 75 + (1.0,) * 25
    shown.show(Image.new("RGB", (64, 64), "white"), "", Contribution("red", 0.0, 0.0, (row,) * 100, 0.0))
    line = written(stream).splitlines()[0]
    assert line.count("▄") == 48
    reds = [int(red) for red in re.findall(r"48;2;(\d+);", line)]
    assert reds[0] < 64 < 128 < reds[-1]  # blue at the left end, orange at the right


def test_a_terminal_shows_the_captions_of_predict_and_explain(trained: Trained) -> None:
    shown, stream = screen()
    make_photo(Path("photos/b.png"), 0, 7)
    record = Prediction("photos/b.png", "blue", 0.9)
    prediction_pictures.to_screen(shown, read_model_info(trained.run / "best.keras"), 10**6)(1, record)
    (explanation,) = wisesr_cli.explain(trained.run, ["photos/b.png"])
    show_decision(shown, Image.new("RGB", (32, 32)), explanation)
    captions = [line for line in written(stream).splitlines() if "photos/b.png" in line]
    assert captions[0] == "photos/b.png: blue 90.0 %"
    assert captions[1].startswith("photos/b.png: blue ")
    assert f", not {explanation.runner_up.label}" in captions[1]


def test_a_terminal_without_colours_shows_nothing() -> None:
    shown, stream = screen(colors=False)
    shown.show(Image.new("RGB", (8, 8)), "caption")
    assert "caption" not in written(stream)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(700, 500), (300, 900), (30, 50)])
def test_the_shown_photo_is_aligned_with_the_model_input(
    trained: Trained, resize: Resize, size: tuple[int, int]
) -> None:
    preparation = Preparation(resize)
    info = replace(read_model_info(trained.run / "best.keras"), preparation=preparation, image_size=(48, 64))
    coarse = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.NEAREST).save("photo.png")
    shown = shown_photo("photo.png", info)
    assert shown.size == (448, 336)
    seen = decode_image("photo.png", image_size=(48, 64), preparation=info.preparation)
    small = np.asarray(shown.resize((64, 48), Image.Resampling.BOX)).astype(float)
    difference = np.abs(small - seen).mean()
    shifted = [np.abs(np.roll(small, pixels, axis) - seen).mean() for pixels in (-3, 3) for axis in (0, 1)]
    assert 2 * difference < min(shifted)


@pytest.mark.parametrize("side", [16, 300, 4000])
def test_the_box_covers_all_that_a_position_sees_even_if_tiny(side: int) -> None:
    seen = tuple((max(0, 4 * place - 4), min(side, 4 * place + 8)) for place in range(side // 4))
    field = ReceptiveField((side, side), seen, seen, (12, 12), (4, 4))
    photo = Image.new("RGB", (96, 96), "grey")
    for place in (0, side // 8, side // 4 - 1):
        drawn = np.argwhere((np.asarray(with_box(photo, field, place, place)) == 0).all(axis=2))
        first, end = seen[place][0] * 96 / side, seen[place][1] * 96 / side
        assert (drawn.min(axis=0) <= np.ceil(first)).all()
        assert (drawn.max(axis=0) >= np.floor(end) - 1).all()
        assert (np.ptp(drawn, axis=0) <= max(4, end - first)).all()


def test_a_small_image_is_shown_with_sharp_pixels(trained: Trained) -> None:
    info = read_model_info(trained.run / "best.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("small.png")
    shown = np.asarray(shown_photo("small.png", info))
    np.testing.assert_array_equal(shown, np.repeat(np.repeat(pixels, 14, axis=0), 14, axis=1))


@pytest.mark.parametrize("path", ["/", ".", "..", "../..", "x/../y.png", "a" * 300, "\0", "", "a\\b.png", "con.png"])
def test_a_picture_name_is_a_single_file_in_its_folder(path: str) -> None:
    name = picture_name(3, path)
    assert name.startswith("image-00003-")
    assert Path(name).name == name
    assert len(os.fsencode(name)) < 120
    assert "\0" not in name
