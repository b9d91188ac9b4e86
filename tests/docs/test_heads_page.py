"""docs/heads.md reports the figures in docs/heads.json and claims no more than their intervals allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.heads import compare, page, plots
from benchmarks.heads.blocks import BLOCKS, PICTURES, command_line, recipe
from wisesr_cli.comparison.plan import plan_of
from wisesr_cli.config.reader import Override
from wisesr_cli.requests import CompareRequest


def row(low: float, high: float, *, head: str = "wise:constraint=none", seeds: int = 5) -> dict[str, Any]:
    return {"head": head, "seeds": list(range(seeds)), "difference_to_first_ci95": [low, high]}


def block(pictures: str, *rows: dict[str, Any]) -> dict[str, Any]:
    return {"pictures": pictures, "rows_to_wise": list(rows)}


def test_stored_figures_come_from_the_recipes_in_the_script() -> None:
    known = {block.name: block for block in BLOCKS}
    for name, kept in page.stored().items():
        pictures = PICTURES[known[name].pictures]
        assert kept["settings"] == recipe(known[name], pictures), name
        assert tuple(row["head"] for row in kept["rows"]) == known[name].heads, name
        assert kept["command"] == command_line(kept["settings"], pictures, known[name]), name


def test_the_page_and_its_figures_contain_no_local_paths() -> None:
    text = page.FIGURES.read_text(encoding="utf-8") + page.DOCUMENT.read_text(encoding="utf-8")
    assert not [place for place in ("/work/", "/tmp/", "/home/", "/root/") if place in text]


def test_every_block_is_a_valid_comparison_of_at_least_five_seeds(tmp_path: Path) -> None:
    for block in BLOCKS:
        settings = recipe(block, PICTURES[block.pictures])
        overrides = [Override(tuple(key.split(".")), value, key) for key, value in settings.items()]
        plan = plan_of(CompareRequest(tmp_path, overrides, heads=block.heads, seeds=range(block.seeds)))
        assert len(plan.seeds) >= 5
        assert block.heads[:2] == ("gap", "wise")


def test_blocks_are_selected_by_the_names_of_pictures_and_backbones() -> None:
    assert compare.chosen_blocks([], None) == list(BLOCKS)
    chosen = compare.chosen_blocks(["harbour", "compact_small"], 7)
    assert [(block.name, block.seeds) for block in chosen] == [("harbour-compact_small", 7)]


def test_own_images_get_one_block_per_backbone(tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    own = compare.own_blocks(folder, BLOCKS)
    assert [block.backbone for block, _ in own] == ["compact_small", "mobilenet_3", "mobilenet_5", "mobilenet_11"]
    assert own[0][0].name == "data-two-words-compact_small"
    assert own[0][1].make(tmp_path) == folder


def test_only_an_interval_that_excludes_zero_counts_as_a_difference() -> None:
    assert [page.verdict_of(row(*ends)) for ends in ((0.01, 0.2), (-0.2, -0.01), (-0.01, 0.2), (0.0, 0.2))] == [
        "better",
        "worse",
        "no clear difference",
        "no clear difference",
    ]


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([block("a", row(0.1, 0.2)), block("b", row(0.1, 0.2))], "clearly better than the default, on a and b."),
        ([block("a", row(0.1, 0.2)), block("b", row(0.1, 0.2, seeds=4))], "better than the default on a only."),
        ([block("a", row(0.1, 0.2)), block("a_few", row(0.1, 0.2))], "better than the default on a only."),
        ([block("a", row(-0.2, -0.1)), block("b", row(-0.2, -0.1))], "clearly worse than the default, on a and b."),
        ([block("a", row(0.1, 0.2)), block("b", row(-0.2, -0.1))], "better than the default on a, worse on b."),
        ([block("a", row(-0.1, 0.2)), block("b", row(-0.1, 0.2))], "no clear difference from the default anywhere."),
    ],
)
def test_clearly_better_requires_two_kinds_of_pictures_and_five_seeds(blocks: list[dict[str, Any]], said: str) -> None:
    assert page.clearly(blocks, "wise:constraint=none") == said


def test_storing_one_block_keeps_the_figures_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "FIGURES", tmp_path / "heads.json")
    for name in ("second", "first"):
        page.keep(name, {"is": name}, order=["first", "second", "third"])
    assert list(json.loads((tmp_path / "heads.json").read_text(encoding="utf-8"))) == ["first", "second"]
    page.keep("second", {"is": "new"}, order=["first", "second", "third"])
    assert page.stored() == {"first": {"is": "first"}, "second": {"is": "new"}}


@pytest.mark.slow
@pytest.mark.benchmark
def test_the_picture_of_the_page_can_be_redrawn_and_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DOCUMENT", tmp_path / "heads.md")
    plots.draw_pictures()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {"heads.png"}
    assert max(sizes.values()) < 150_000
