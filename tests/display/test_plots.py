"""Plots are complete, readable PNG files for any number of classes and any name; a failure leaves nothing behind."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wisesr_cli.display import pictures, plots
from wisesr_cli.display.pictures import contact_sheet
from wisesr_cli.display.plots import plot_confusion_matrix, plot_learning_curves, plot_reliability
from wisesr_cli.errors import MachineError
from wisesr_cli.evaluation.metrics import answers_of, compute_metrics, reliability_bins
from wisesr_cli.results.evaluation import Metrics
from wisesr_cli.results.training import EpochResult

ODD_NAMES = (
    *("$x^2$", r"$\frac{1}{0$", "cost $5 and $", "esc\x1b[31mred", "two\nlines", "猫", "🐈", "\u202eevil", "\udcff"),
    *("_under^score", "%s {0} \\alpha", "", " ", "x" * 255),
)
GREEN, RED = (0, 0x9E, 0x73), (0xD5, 0x5E, 0)


def judged(names: tuple[str, ...] | int, *, examples: int | None = None) -> Metrics:
    names = tuple(f"class {number:03}" for number in range(names)) if isinstance(names, int) else names
    examples = 3 * len(names) if examples is None else examples
    draws = np.random.default_rng(0)
    labels = draws.integers(0, len(names), examples)
    logits = draws.normal(size=(examples, len(names)))
    logits[np.arange(examples), labels] += 2
    return compute_metrics(logits, labels, names)


def history(epochs: int, *, validation: bool = True, phases: int = 1) -> list[EpochResult]:
    return [
        EpochResult(
            epoch=epoch,
            phase=1 + (epoch - 1) * phases // epochs,
            learning_rate=1e-3,
            loss=1 / epoch,
            top1_accuracy=1 - 1 / epoch,
            val_loss=1.2 / epoch if validation else None,
            val_top1_accuracy=1 - 1 / epoch if validation else None,
            epoch_seconds=1.0,
        )
        for epoch in range(1, epochs + 1)
    ]


def read_whole(path: Path) -> np.ndarray:
    """Check that a PNG is complete, not blank, and alone in its folder, and return its pixels."""
    assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    assert list(path.parent.iterdir()) == [path]
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert max(pixels.shape[:2]) < 3_000
    assert len(np.unique(pixels @ (65536, 256, 1))) > 10  # colours
    return pixels


@pytest.fixture(autouse=True)
def _no_warning() -> object:
    """Turn warnings into errors, as they would break a progress bar on a terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(("classes", "examples"), [*((n, None) for n in (1, 2, 20, 80, 200)), (3, 0)])
def test_a_confusion_matrix_is_readable_for_any_number_of_classes_and_examples(
    tmp_path: Path, classes: int, examples: int | None
) -> None:
    plot_confusion_matrix(judged(classes, examples=examples), tmp_path / "matrix.png")
    pixels = read_whole(tmp_path / "matrix.png")
    assert 0.5 < pixels.shape[0] / pixels.shape[1] < 2


def test_a_confusion_matrix_grows_with_the_number_of_classes_up_to_a_limit(tmp_path: Path) -> None:
    sizes = []
    for classes in (2, 20, 200):
        plot_confusion_matrix(judged(classes), tmp_path / "matrix.png")
        sizes.append(read_whole(tmp_path / "matrix.png").size)
    assert sizes[0] < sizes[1] < sizes[2] < 40_000_000


def test_only_the_most_confused_of_many_classes_are_drawn_and_the_title_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles, save = [], plots.save_figure

    def save_and_note(figure: Any, path: Path) -> None:
        titles.append(figure.axes[0].get_title())
        save(figure, path)

    monkeypatch.setattr(plots, "save_figure", save_and_note)
    for classes in (200, 3_000):
        plot_confusion_matrix(judged(classes, examples=300), tmp_path / "matrix.png")
        read_whole(tmp_path / "matrix.png")
    assert titles == ["", "the 200 of 3,000 classes that are confused most"]


def test_the_diagonal_of_a_perfect_model_is_dark(tmp_path: Path) -> None:
    metrics = compute_metrics(20 * np.eye(4), range(4), tuple("abcd"))
    plot_confusion_matrix(metrics, tmp_path / "matrix.png")
    pixels = read_whole(tmp_path / "matrix.png").astype(int)
    dark = (np.abs(pixels - (8, 48, 107)).max(axis=-1) <= 2).mean(axis=0)  # the darkest colour, by column
    assert (dark > 0.1).mean() > 0.5


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_class_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    plot_confusion_matrix(judged((name, "plain")), tmp_path / "matrix.png")
    read_whole(tmp_path / "matrix.png")


@pytest.mark.parametrize(
    ("epochs", "validation", "phases"), [(1, True, 1), (1, False, 1), (2, True, 2), (30, False, 3)]
)
def test_learning_curves_can_be_drawn_after_any_epoch_with_or_without_validation(
    tmp_path: Path, epochs: int, validation: bool, phases: int
) -> None:
    plot_learning_curves(history(epochs, validation=validation, phases=phases), tmp_path / "curves.png")
    pixels = read_whole(tmp_path / "curves.png")
    assert pixels.shape[1] > pixels.shape[0]
    orange = (np.abs(pixels.astype(int) - (0xE6, 0x9F, 0)).max(axis=-1) < 30).any()
    assert orange == validation


@pytest.mark.parametrize("examples", [0, 1, 50])
def test_a_reliability_diagram_is_drawn_with_empty_bins(tmp_path: Path, examples: int) -> None:
    draws = np.random.default_rng(1)
    logits, labels = 3 * draws.normal(size=(examples, 4)), draws.integers(0, 4, examples)
    ece = 0.05 if examples else None
    plot_reliability(reliability_bins(answers_of(logits, labels)), ece, tmp_path / "reliability.png")
    read_whole(tmp_path / "reliability.png")


def test_a_plot_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    path.write_bytes(b"old")
    plot_learning_curves(history(3), path)
    read_whole(path)


def test_a_failure_leaves_the_old_plot_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    def fail(self: Figure, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = tmp_path / "curves.png"
    plot_learning_curves(history(3), path)
    before = path.read_bytes()
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(MachineError, match="the disk is full"):
        plot_learning_curves(history(4), path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_failure_while_saving_a_sheet_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image, path: Path, format: str, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(MachineError, match="the disk is full"):
        contact_sheet([(np.zeros((8, 8, 3), np.uint8), "x", None)], columns=1, tile=8, path=tmp_path / "sheet.png")
    assert not list(tmp_path.iterdir())


def test_a_sheet_has_green_and_red_borders_at_the_right_tiles(tmp_path: Path) -> None:
    grey = np.full((16, 16, 3), 128, np.uint8)
    verdicts = (True, False, None, False, True)
    path = tmp_path / "sheet.png"
    contact_sheet(
        [(grey, f"tile {number}", right) for number, right in enumerate(verdicts)], columns=2, tile=64, path=path
    )
    sheet = np.asarray(Image.open(path).convert("RGB"))
    width, height = 64 + 2 * pictures.BORDER + 8, 64 + 2 * pictures.BORDER + pictures.CAPTION_HEIGHT + 8
    assert sheet.shape == (3 * height + 8, 2 * width + 8, 3)
    for number, right in enumerate(verdicts):
        left, top = 8 + number % 2 * width, 8 + number // 2 * height
        expected = {True: GREEN, False: RED, None: (255, 255, 255)}[right]
        side = 64 + 2 * pictures.BORDER
        for x, y in ((0, 0), (side - 1, 0), (0, side - 1), (side - 1, side - 1), (2, side // 2), (side // 2, 2)):
            assert tuple(sheet[top + y, left + x]) == expected, (number, x, y)
        assert tuple(sheet[top + side // 2, left + side // 2]) == (128, 128, 128)
        caption = sheet[top + side : top + side + pictures.CAPTION_HEIGHT, left : left + side]
        assert (caption < 128).any()


@pytest.mark.parametrize("shape", [(10, 40), (40, 10), (1, 300)])
def test_a_picture_on_a_sheet_keeps_its_aspect_ratio_on_white(tmp_path: Path, shape: tuple[int, int]) -> None:
    contact_sheet([(np.zeros((*shape, 3), np.uint8), "", None)], columns=1, tile=120, path=tmp_path / "sheet.png")
    dark = np.asarray(Image.open(tmp_path / "sheet.png").convert("L")) < 128
    height, width = dark.any(axis=1).sum(), dark.any(axis=0).sum()
    longer = max(shape)
    assert (height, width) == (max(1, round(120 * shape[0] / longer)), max(1, round(120 * shape[1] / longer)))


@pytest.mark.parametrize("caption", ODD_NAMES)
def test_any_caption_can_be_drawn(tmp_path: Path, caption: str) -> None:
    contact_sheet([(Image.new("L", (9, 9)), caption, True)], columns=3, tile=40, path=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        image.load()


def test_a_long_caption_ends_before_the_next_tile(tmp_path: Path) -> None:
    tiles = [(np.zeros((9, 9, 3), np.uint8), "m" * 300, None), (np.zeros((9, 9, 3), np.uint8), "", None)]
    contact_sheet(tiles, columns=2, tile=60, path=tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    captions, second = sheet[-pictures.CAPTION_HEIGHT - 8 :], 8 + 60 + 2 * pictures.BORDER + 8
    assert (captions[:, :second] < 128).any()
    assert (captions[:, second:] == 255).all()


@pytest.mark.parametrize("epochs", [1, 2, 3, 30])
def test_the_epochs_on_the_axis_are_whole_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plot_learning_curves(history(epochs), tmp_path / "curves.png")
    for axes in figures[0].axes:
        ticks = [tick for tick in axes.get_xticks() if 0.5 <= tick <= epochs + 0.5]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)


def test_a_confusion_of_a_few_percent_is_visible_among_many_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plot_confusion_matrix(judged(40), tmp_path / "matrix.png")
    picture = figures[0].axes[0].images[0]
    shade, paper = (np.array(picture.cmap(picture.norm(fraction))[:3]) * 255 for fraction in (0.03, 0.0))
    assert np.abs(shade - paper).max() > 25
