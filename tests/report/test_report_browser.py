"""A report.html opened from disk works in a real browser: sorting, clicking, printing, and an empty console.

These tests require Chromium, its driver, and selenium; otherwise they are skipped.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odd_names import ODD_NAMES
from report_pages import ATTACKS, PATHS, make_content

from wisesr_cli.report.page import render
from wisesr_cli.report.records import ReportContent
from wisesr_cli.text import visible

NAMES = (ATTACKS[0], ODD_NAMES["not UTF-8"], "cat", "\u05d0\u05d1\u05d2")
MANY = tuple(f"class {number:02}" for number in range(70))
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-sync", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1200,900"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start one Chromium for all tests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from selenium.common import WebDriverException

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium or its chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for attempt in range(3):  # on a busy machine, it may not start in time
        try:
            browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
            break
        except WebDriverException:
            if attempt == 2:
                raise
    with browser:
        yield browser


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return make_content(NAMES, [*PATHS, *(f"{name}/x.png" for name in (*ATTACKS, *ODD_NAMES.values()))])


@pytest.fixture
def page(browser: Any, content: ReportContent, tmp_path: Path) -> Any:
    """Return the browser with a new page, opened from disk in a folder with an odd name."""
    return opened(browser, content, tmp_path / "a b # % \u00e9")


def opened(browser: Any, content: ReportContent, folder: Path) -> Any:
    folder.mkdir()
    path = folder / "report.html"
    path.write_text(render(content), encoding="utf-8")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(path.as_uri())
    return browser


def all_of(page: Any, selector: str) -> list[Any]:
    found: list[Any] = page.find_elements("css selector", selector)
    return found


def requests_of(page: Any) -> list[tuple[str, str]]:
    """Return the addresses that a page requested since it was opened, without data: URLs, and why any were blocked."""
    events = [json.loads(row["message"])["message"] for row in page.get_log("performance")]
    wanted, refused = {}, {}
    for event in events:
        if event["method"] == "Network.requestWillBeSent":
            if not event["params"]["documentURL"].startswith("chrome"):  # the browser's own start page
                wanted[event["params"]["requestId"]] = event["params"]["request"]["url"]
        elif event["method"] == "Network.loadingFailed":
            refused[event["params"]["requestId"]] = event["params"].get("blockedReason", "")
    return [(url, refused.get(key, "")) for key, url in wanted.items() if not url.startswith("data:")]


def click_cell(page: Any, truth: int, predicted: int) -> Any:
    """Scroll to a cell of the matrix, click it, and return its button."""
    (button,) = all_of(page, f'#matrix tr[data-truth="{truth}"] button[data-predicted="{predicted}"]')
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    return button


def confused(content: ReportContent) -> tuple[int, int]:
    """Return a cell off the diagonal with more than one image."""
    pair = content.evaluation.most_confused[0]
    assert pair.count > 1
    return NAMES.index(pair.truth), NAMES.index(pair.predicted)


@pytest.mark.reliability(40)
def test_the_page_requests_nothing_else_and_logs_nothing_to_the_console(page: Any, content: ReportContent) -> None:
    click_cell(page, *confused(content))
    page.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    assert [row for row in page.get_log("browser") if row["level"] != "INFO"] == []
    assert requests_of(page) == [(page.current_url, "")]
    pictures = "return [...document.images].map((image) => image.complete && image.naturalWidth > 0)"
    assert all(page.execute_script(pictures))


@pytest.mark.reliability(40)
def test_the_policy_blocks_injected_scripts_styles_and_pictures(page: Any) -> None:
    page.execute_script("""
        const add = (name, properties) => document.body.append(Object.assign(document.createElement(name), properties));
        add("script", {textContent: "document.title = 'taken over'"});
        add("img", {src: "http://127.0.0.1:9/a.png"});
        add("div", {innerHTML: "<b style='color: red' onclick='1'></b>"});
    """)
    assert page.title.endswith("wisesr report")
    refused = [row["message"] for row in page.get_log("browser") if row["level"] == "SEVERE"]
    assert len([message for message in refused if "Content Security Policy" in message]) >= 3
    assert requests_of(page) == [(page.current_url, ""), ("http://127.0.0.1:9/a.png", "csp")]


@pytest.mark.reliability(19, 40)
def test_odd_names_are_shown_as_text(page: Any, content: ReportContent) -> None:
    names = [visible(name) for name in NAMES]
    rows = all_of(page, "table.sortable tbody th bdi")
    assert [row.text for row in rows] == names
    headings = all_of(page, "#matrix thead bdi")
    assert [heading.get_property("textContent") for heading in headings] == names
    assert page.execute_script("return document.querySelectorAll('script').length") == 2
    assert all_of(page, "bdi *") == []


def test_every_column_sorts_both_ways(page: Any, content: ReportContent) -> None:
    figures = content.evaluation.metrics.per_class
    keys: list[list[Any]] = [
        [row.support for row in figures],
        [row.precision for row in figures],
        [row.recall for row in figures],
        [row.f1 for row in figures],
        list(content.data.counts[0]),
    ]
    headings = all_of(page, "table.sortable th[scope=col]")
    assert len(headings) == 1 + len(keys)
    for number, heading in enumerate(headings):
        for direction in ("ascending", "descending"):
            heading.find_element("css selector", "button").click()
            assert heading.get_attribute("aria-sort") == direction
            shown = [row.text for row in all_of(page, "table.sortable tbody th bdi")]
            if number == 0:
                order = page.execute_script("return arguments[0].sort((a, b) => a.localeCompare(b))", list(shown))
                assert shown == (order if direction == "ascending" else order[::-1])
                continue
            values = [keys[number - 1][[visible(name) for name in NAMES].index(name)] for name in shown]
            assert values == sorted(values, reverse=direction == "descending")
        assert len(all_of(page, "th[aria-sort]")) == 1


def test_rows_without_a_value_sort_last_both_ways(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, make_content(("a", "b", "c", "d"), ["0.png", "1.png", "2.png"]), tmp_path / "page")
    (recall,) = (row for row in all_of(page, "table.sortable th button") if row.text.startswith("recall"))
    for _ in range(2):
        recall.click()
        rows = [row.text for row in all_of(page, "table.sortable tbody tr")]
        assert rows[-1].startswith("d 0")


def test_a_click_on_a_cell_lists_exactly_its_images(page: Any, content: ReportContent) -> None:
    panel = page.find_element("id", "cell")
    assert not panel.is_displayed()
    cells = Counter((row.truth, row.predicted) for row in content.listed)
    for (truth, predicted), count in cells.most_common(5):
        button = click_cell(page, truth, predicted)
        assert button.text == str(count)
        assert button.get_attribute("aria-pressed") == "true"
        shown = [row.get_property("textContent") for row in all_of(page, "#cell .name")]
        expected = [row for row in content.listed if (row.truth, row.predicted) == (truth, predicted)]
        expected.sort(key=lambda row: (-row.score, row.path))
        assert shown == [visible(row.path) for row in expected]
        scores = [f"score {100 * row.score:.1f} %" for row in expected]
        assert [row.text.split(",")[0] for row in all_of(page, "#cell li .soft")] == scores
        with_card = {card.example.position for card in (*content.mistakes, *content.right)}
        has_picture = [row.position in with_card or row.position in content.thumbnails for row in expected]
        assert [
            bool(item.find_elements("css selector", "img[alt]")) for item in all_of(page, "#cell li")
        ] == has_picture
    assert panel.is_displayed()
    assert all_of(page, "#cell h3 bdi")


def test_a_large_cell_shows_more_on_request_and_counts_what_is_omitted(browser: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    content = make_content(("a", "b"), [f"{number:03}.png" for number in range(300)])
    listed = tuple(row for row in content.listed if row.position % 10)
    page = opened(browser, replace(content, listed=listed), tmp_path / "page")
    click_cell(page, 0, 0)
    with_card = {card.example.position for card in (*content.mistakes, *content.right)}
    expected = [row for row in listed if (row.truth, row.predicted) == (0, 0)]
    left = content.evaluation.metrics.confusion_matrix[0][0] - len(expected)
    assert len(all_of(page, "#cell li")) == 60
    more = page.find_element("css selector", "#cell .more")
    for _ in range(-(-len(expected) // 60) - 1):
        more.click()
    assert len(all_of(page, "#cell li")) == len(expected)
    assert not more.is_displayed()
    words = page.find_element("css selector", "#cell > p").text
    assert f"{left} more images: see predictions.csv" in words
    bare = [row for row in expected if row.position not in {*content.thumbnails, *with_card}]
    assert f"{len(bare)} images without a picture" in words


def test_the_matrix_works_from_the_keyboard(page: Any, content: ReportContent) -> None:
    from selenium.webdriver.common.keys import Keys

    confusion = np.array(content.evaluation.metrics.confusion_matrix)
    buttons = all_of(page, "#matrix button")
    assert [button.get_property("tabIndex") for button in buttons].count(0) == 1
    page.execute_script("arguments[0].focus()", buttons[0])
    row, column = np.argwhere(confusion)[0]
    for key, step in ((Keys.ARROW_RIGHT, (0, 1)), (Keys.ARROW_DOWN, (1, 0)), (Keys.ARROW_LEFT, (0, -1))):
        page.switch_to.active_element.send_keys(key)
        place = np.array([row, column]) + step
        while (place >= 0).all() and (place < len(NAMES)).all() and not confusion[tuple(place)]:
            place += step
        if (place >= 0).all() and (place < len(NAMES)).all():
            row, column = place
        focused = page.switch_to.active_element
        assert focused.find_element("xpath", "ancestor::tr").get_attribute("data-truth") == str(row)
        assert focused.get_attribute("data-predicted") == str(column)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert len(all_of(page, "#cell li")) == confusion[row, column]


def test_colours_follow_the_system_and_the_switch(page: Any) -> None:
    def background() -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    def emulate(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    emulate("light")
    light = background()
    emulate("dark")
    dark = background()
    assert light != dark
    switch = page.find_element("id", "theme")
    switch.click()
    assert (background(), switch.text) == (light, "Colours: light")
    emulate("light")
    switch.click()
    assert (background(), switch.text) == (dark, "Colours: dark")
    switch.click()
    assert background() == light


def test_printing_unfolds_everything_and_folds_it_again_afterwards(page: Any) -> None:
    assert not any(part.get_property("open") for part in all_of(page, "details"))
    page.execute_script("""
        addEventListener("beforeprint", () => (globalThis.unfolded = [...document.querySelectorAll("details")]
            .every((part) => part.open)))
    """)
    printed = page.execute_cdp_cmd(
        "Page.printToPDF", {"printBackground": True, "paperWidth": 8.27, "paperHeight": 11.69}
    )
    assert printed["data"].startswith("JVBERi0")  # %PDF-
    assert page.execute_script("return globalThis.unfolded")
    assert not any(part.get_property("open") for part in all_of(page, "details"))


@pytest.mark.parametrize(("width", "media"), [(360, "screen"), (1200, "screen"), (688, "print")])
def test_the_page_is_never_wider_than_its_window(browser: Any, tmp_path: Path, width: int, media: str) -> None:
    page = opened(browser, make_content(MANY, [f"{number}.png" for number in range(500)]), tmp_path / "page")
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_page_is_readable_without_scripts(browser: Any, content: ReportContent, tmp_path: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page = opened(browser, content, tmp_path / "page")
        assert len(all_of(page, "#matrix tbody tr")) == len(NAMES)
        assert len(all_of(page, ".card")) == len(content.mistakes) + len(content.right)
        assert not page.find_element("id", "theme").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
