"""Contributions as colours: orange for, blue against, each position a sharp block, nothing of the photo mistaken."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from wisesr_cli.explanation import overlays
from wisesr_cli.explanation.overlays import AGAINST, FOR, STRONGEST, overlay, scale_of, tint
from wisesr_cli.explanation.panels import Panel, compose
from wisesr_cli.results import Contribution


def contribution(values: list[list[float]] | np.ndarray) -> Contribution:
    rows = tuple(tuple(float(value) for value in row) for row in values)
    return Contribution("dress", 0.0, 0.0, rows, sum(map(sum, rows)))


def test_what_speaks_for_is_orange_what_speaks_against_is_blue_and_strength_is_opacity() -> None:
    colors = tint(contribution([[2.0, -1.0], [0.0, -0.5]]))
    assert colors.dtype == np.uint8
    assert colors.shape == (2, 2, 4)
    assert tuple(colors[0, 0]) == (*FOR, STRONGEST)
    assert tuple(colors[0, 1]) == (*AGAINST, STRONGEST // 2)
    assert colors[1, 0, 3] == 0
    assert tuple(colors[1, 1]) == (*AGAINST, STRONGEST // 4)


def test_a_common_scale_makes_maps_comparable_and_cuts_what_is_beyond() -> None:
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
        assert len(lines) < len(found) / 2  # one colour, and lines on its borders, lighter than it
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
def test_panels_stand_in_rows_where_they_are_read(panels: int) -> None:
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
