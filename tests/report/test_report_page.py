"""A report.html is a single file that shows all results, escapes everything, and cannot load anything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from itertools import product

import numpy as np
import pytest
from odd_names import ODD_NAMES, assert_nothing_raw
from report_pages import (
    ATTACKS,
    NAMES,
    PATHS,
    Page,
    make_answers,
    make_content,
    make_evaluation,
    make_history,
    make_thumbnail,
)

from wisesr_cli.evaluation.metrics import wilson_interval
from wisesr_cli.evaluation.probabilities import softmax
from wisesr_cli.report import tables
from wisesr_cli.report.charts import HEIGHT, WIDTH, learning_curves, reliability_charts
from wisesr_cli.report.page import render, short, signed
from wisesr_cli.report.records import ReportContent
from wisesr_cli.results.evaluation import ReliabilityBin
from wisesr_cli.results.training import EpochResult


@pytest.fixture(scope="module")
def page() -> str:
    return render(make_content(NAMES, PATHS))


def test_tags_are_closed_and_ids_are_unique_and_links_have_targets(page: str) -> None:
    found = Page(page)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in found.tags if tag in {"a", "use"}]
    assert {str(link).removeprefix("#") for link in links} <= set(ids)
    labelled = [attributes["aria-labelledby"] for tag, attributes in found.tags if tag == "section"]
    assert set(labelled) <= set(ids)


@pytest.mark.reliability(40)
def test_the_policy_allows_only_the_style_and_the_script_of_the_page(page: str) -> None:
    policies = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert len(policies) == 1
    directives = dict(part.split(" ", 1) for part in policies[0].replace("&#39;", "'").split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert directives[f"{tag}-src"] == f"'sha256-{digest}'"
    assert page.index("Content-Security-Policy") < page.index("<style>")


@pytest.mark.reliability(40)
def test_nothing_in_the_page_points_outside(page: str, seen: object) -> None:
    found = Page(page)
    for tag, attributes in found.tags:
        assert tag not in {"iframe", "object", "embed", "base", "form", "video", "audio"}
        assert not {name for name in attributes if name.startswith("on") or name in {"style", "srcset", "action"}}
        for name in ("href", "src"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert not re.findall(r"(?:https?:)?//[a-z]", found.texts["style"][0] + found.texts["script"][1])
    assert "url(" not in found.texts["style"][0]
    assert "@import" not in found.texts["style"][0]
    seen(f"report.html: {len(found.tags)} tags, only # and data: as addresses")  # type: ignore[operator]


@pytest.mark.reliability(19, 40)
def test_names_with_html_or_unprintable_characters_appear_as_text(seen: object) -> None:
    names = (*ATTACKS, *ODD_NAMES.values())
    paths = tuple(f"{first}/{second}.png" for first, second in product(names, names))[: 4 * len(names)]
    plain = Page(render(make_content([f"class {number}" for number in range(len(names))], paths, title="tiny")))
    for title in (ATTACKS[0], ATTACKS[1], ODD_NAMES["escape"], ODD_NAMES["not UTF-8"]):
        text = render(make_content(names, paths, title=title))
        text.encode()  # no lone surrogates
        found = Page(text)
        assert_nothing_raw(text)
        assert {tag for tag, _ in found.tags} == {tag for tag, _ in plain.tags}
        assert [tag for tag, _ in found.tags].count("script") == 2
        assert len(re.findall("<script", text, re.IGNORECASE)) == 2
        listed = json.loads(found.texts["script"][0])
        assert listed["classes"][: len(ATTACKS)] == list(ATTACKS)
        assert listed["classes"][len(ATTACKS) :][4] == ":cat:"
        assert "49{" not in text
        shown = found.texts["bdi"]
        assert {*ATTACKS, ODD_NAMES["quotes"], ODD_NAMES["Unicode"], "two\\nlines"} <= set(shown)
    seen(f"report.html: {len(names)} names shown as text, nothing raw, no injected tags")  # type: ignore[operator]


def test_every_image_is_listed_once_with_its_answer(page: str) -> None:
    content = make_content(NAMES, PATHS)
    data = json.loads(Page(page).texts["script"][0])
    _, logits = make_answers(3, len(PATHS))
    probabilities = softmax(logits)
    assert sorted(row[0] for row in data["examples"]) == sorted(PATHS)
    for path, truth, predicted, score, truth_score, position in data["examples"]:
        assert PATHS[position] == path
        assert position % 3 == truth
        assert probabilities[position].argmax() == predicted
        assert score == round(1000 * probabilities[position, predicted])
        assert truth_score == round(1000 * probabilities[position, truth])
    matrix = np.zeros((3, 3), int)
    for _, truth, predicted, *_ in data["examples"]:
        matrix[truth, predicted] += 1
    assert matrix.tolist() == [list(row) for row in content.evaluation.metrics.confusion_matrix]


def test_a_map_has_a_pixel_per_position_and_lines_between_them(page: str) -> None:
    tints = [attributes for tag, attributes in Page(page).tags if attributes.get("class") == "tint"]
    content = make_content(NAMES, PATHS)
    assert len(tints) == 2 * (len(content.mistakes) + len(content.right))
    png = base64.b64decode(str(tints[0]["href"]).partition(",")[2])
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (3, 4)  # width, height
    grids = [attributes["d"] for tag, attributes in Page(page).tags if attributes.get("class") == "grid"]
    assert str(grids[0]).count("M") == 2 + 3
    assert str(grids[0]).startswith("M36.0 0V144")


def test_sections_without_content_are_left_out() -> None:
    from dataclasses import replace

    content = make_content(NAMES, PATHS)
    bare = replace(content, history=(), config="", environment="", mistakes=(), right=(), statement="", thumbnails={})
    found = Page(render(bare))
    ids = {attributes["id"] for tag, attributes in found.tags if tag == "section"}
    assert ids == {"summary", "classes", "data", "confusion", "reliability"}
    without_maps = replace(content, statement="", mistakes=tuple(replace(c, predicted=None) for c in content.mistakes))
    assert "Without contribution maps" in render(without_maps)


@pytest.mark.parametrize(("classes", "most"), [(2, 100), (30, 100), (30, 12)])
def test_the_matrix_holds_every_count_of_its_classes(classes: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_IN_MATRIX", most)
    names = [f"class {number}" for number in range(classes)]
    content = make_content(names, [f"{number}.png" for number in range(8 * classes)])
    text = render(content)
    cells = set()
    for truth, row in re.findall(r'<tr data-truth="(\d+)"><th scope="row">(.*?)</tr>', text, re.DOTALL):
        cells |= {(int(truth), int(predicted)) for predicted in re.findall(r'data-predicted="(\d+)"', row)}
    confusion = np.array(content.evaluation.metrics.confusion_matrix)
    everything = set(map(tuple, np.argwhere(confusion).tolist()))
    assert ("square root of the share" in text) == (min(classes, most) > tables.LARGE_CELLS)
    if classes <= most:
        assert cells == everything
        return
    shown = {truth for truth, _ in cells}
    assert cells == {cell for cell in everything if set(cell) <= shown}
    assert len(shown) == most
    wrong = [confusion[k].sum() + confusion[:, k].sum() - 2 * confusion[k, k] for k in range(classes)]
    assert min(wrong[k] for k in shown) >= max(wrong[k] for k in range(classes) if k not in shown)
    assert "full matrix of 30 classes is in confusion_matrix.csv" in text


def test_only_the_classes_with_the_lowest_f1_are_shown_if_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_CLASSES", 20)
    content = make_content([f"class {number:02}" for number in range(30)], [f"{number}.png" for number in range(90)])
    text = render(content)
    assert "The 20 classes with the lowest F1; 10 more are in per_class.csv." in Page(text).texts["p"]
    table = text[text.index('class="sortable"') : text.index('id="data"')]
    shown = re.findall(r"<bdi>(class \d\d)</bdi>", table)
    assert len(shown) == 20
    assert shown == sorted(shown)
    f1 = {row.label: row.f1 or 0.0 for row in content.evaluation.metrics.per_class}
    assert max(f1[name] for name in shown) <= min(value for name, value in f1.items() if name not in shown)


@pytest.mark.parametrize(("correct", "examples"), [(0, 5), (5, 5), (38, 179), (1, 1), (9_000, 10_000)])
def test_the_bounds_of_wilsons_interval_satisfy_their_equation(correct: int, examples: int) -> None:
    found = wilson_interval(correct, examples)
    assert found is not None
    for end in found:
        assert abs(end - correct / examples) == pytest.approx(1.959964 * (end * (1 - end) / examples) ** 0.5, abs=1e-6)
    assert 0 <= found[0] < found[1] <= 1


def test_without_examples_there_is_no_interval() -> None:
    assert wilson_interval(0, 0) is None


@pytest.mark.parametrize(
    ("value", "text", "with_sign"),
    [
        (1.234, "1.23", "+ 1.23"),
        (-1.5, "\u22121.50", "\u2212 1.50"),
        (-0.001, "0.00", "+ 0.00"),
        (0.0, "0.00", "+ 0.00"),
    ],
)
def test_numbers_have_a_typographic_minus_and_zero_is_never_negative(value: float, text: str, with_sign: str) -> None:
    assert signed(value) == text
    assert signed(value, always=True) == with_sign


def test_a_reliability_bar_is_as_high_as_the_accuracy_of_its_bin() -> None:
    answers, logits = make_answers(3, len(PATHS))
    evaluation = make_evaluation(PATHS, answers, logits, NAMES)
    upper, lower = reliability_charts(evaluation.reliability, evaluation.metrics.ece)
    filled = [row for row in evaluation.reliability if row.count]
    for row, bar, held in zip(filled, upper.bars, lower.bars, strict=True):
        assert bar.x / WIDTH == pytest.approx(row.low)
        assert bar.height / HEIGHT == pytest.approx(row.accuracy)
        assert bar.y + bar.height == pytest.approx(HEIGHT)
        assert held.height == pytest.approx(lower.height * row.count / max(row.count for row in filled))


def test_a_chart_of_one_empty_bin_has_no_bars() -> None:
    upper, lower = reliability_charts((ReliabilityBin(0.0, 1.0, 0, None, None),), None)
    assert upper.bars == lower.bars == ()


def test_learning_curves_mark_phases_and_the_best_epoch_and_skip_missing_values() -> None:
    history = [*make_history(4), EpochResult(5, 3, 1e-3, float("nan"), 0.5, None, None, 1.0)]
    loss, accuracy = learning_curves(history, 3)
    assert [curve.kind for curve in loss.curves] == ["training", "validation"]
    assert [len(curve.points) for curve in loss.curves] == [4, 4]
    assert [len(curve.points) for curve in accuracy.curves] == [5, 4]
    assert [line.label for line in loss.lines] == ["phase 2", "phase 3", "best"]
    places = [x for x, _, _ in loss.curves[0].points]
    assert loss.lines[2].at == places[2]
    assert places[1] < loss.lines[0].at < places[2]
    assert [tick.label for tick in loss.x_ticks] == ["1", "2", "3", "4", "5"]
    for x, y, _ in (*loss.curves[0].points, *accuracy.curves[0].points):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT


def test_a_curve_of_one_epoch_of_zeros_can_be_drawn() -> None:
    for chart in learning_curves([EpochResult(1, 1, 1e-3, 0.0, 0.0, None, None, 1.0)], None):
        assert len(chart.curves) == 1
        assert chart.curves[0].points[0][1] == HEIGHT


def test_thumbnails_of_cards_are_embedded_only_once(page: str) -> None:
    content: ReportContent = make_content(NAMES, PATHS)
    assert content.mistakes[0].thumbnail == make_thumbnail(content.mistakes[0].example.position)
    pictures = [attributes for tag, attributes in Page(page).tags if tag == "image" and "id" in attributes]
    assert len(pictures) == len(content.mistakes) + len(content.right)
    listed = json.loads(Page(page).texts["script"][0])["thumbnails"]
    assert not {str(attributes["id"])[1:] for attributes in pictures} & set(listed)


@pytest.mark.parametrize(("count", "text"), [(9_999, "9999"), (10_000, "10k"), (999_499, "999k"), (1_234_567, "1.2M")])
def test_a_count_is_shortened_to_fit_into_a_cell_of_the_matrix(count: int, text: str) -> None:
    assert short(count) == text
