"""Documentation pages: the commands they show are valid, links resolve, and references are complete."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import REPOSITORY, CommandLine

from website import reference, screenshots
from wisesr_cli.cli.main import COMMANDS, GROUPS
from wisesr_cli.cli.topics import FOLDER, TOPICS
from wisesr_cli.config.reader import load_config, parse_set
from wisesr_cli.config.schema import Config
from wisesr_cli.confusion import Confusion
from wisesr_cli.results.evaluation import CoverageMetrics, Metrics
from wisesr_cli.results.images import CheckResult, Finding
from wisesr_cli.results.models import Exports, Summary
from wisesr_cli.results.streams import Prediction
from wisesr_cli.run import names

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), *FOLDER.glob("*.md")])
TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every `wisesr` command that a page shows, in code blocks and inline."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").split("\n")]
    for line in (*lines, *re.findall(r"(?<!\\)`(wisesr [^`]+)(?<!\\)`", text)):
        for part in re.split(r"\s(?:\||&&|\|\|)\s", line):
            found = re.search(r"(?:^|[A-Z_]+=\S+ )(wisesr .*)", part.strip())
            if found:
                yield shlex.split(found[1], comments=True)


@pytest.mark.parametrize("page", TEXTS)
def test_commands_in_a_page_use_existing_options_and_valid_settings(
    wisesr: CommandLine, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for words in commands(TEXTS[page]):
        if len(words) < 2 or not words[1].islower() or words[1] in ("help", "version"):
            assert words[1:2] != ["help"] or not words[2:] or words[2] in {*COMMANDS, *TOPICS, "TOPIC"}, words
            continue
        assert words[1] in COMMANDS, words
        is_group = words[1] in GROUPS and len(words) > 2 and words[2].isalpha() and words[2].islower()
        path = words[1:3] if is_group else words[1:2]
        known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", wisesr(*path, "--help").worked().out))
        for word in words[len(path) + 1 :]:
            option = word.partition("=")[0]
            assert not option.startswith("-") or option == "-" or option in known, words
        for option, value in pairwise(words):
            if option in ("-s", "--set") and re.fullmatch(r"[a-z_.]+=[^A-Z]+", value):
                load_config(None, [parse_set(value)])


@pytest.mark.parametrize("page", TEXTS)
def test_relative_links_in_a_page_point_to_existing_files(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert ((REPOSITORY / page).parent / target).exists(), target


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    text = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    placed = set(re.findall(r"(\S+\.md)$", text, re.MULTILINE))
    expected = {path.name for path in (REPOSITORY / "docs").glob("*.md")} | {f"topics/{name}.md" for name in TOPICS}
    assert placed == expected | set(reference.PAGES) | {"index.md", "changelog.md", "contributing.md", "security.md"}
    theme = yaml.safe_load(text)["theme"]
    assert theme["font"] is False  # otherwise browsers would fetch fonts from another server


def test_the_command_reference_lists_every_command_with_options(wisesr: CommandLine) -> None:
    page = reference.commands()
    for name in COMMANDS:
        assert f"\n## wisesr {name}\n" in f"\n{page}"
    for option in ("--near-duplicates", "--sort-into-by", "--coverage", "-y, --yes"):
        assert option in page


def test_the_config_reference_has_a_row_for_every_key_of_every_mapping() -> None:
    page, schema = reference.config(), Config.model_json_schema()
    for record in (schema, *schema["$defs"].values()):
        for key in record["properties"]:
            assert f"| `{key}` | " in page, key
    rows = [line for line in page.split("\n") if line.startswith("| `")]
    assert len(rows) == sum(len(record["properties"]) for record in (schema, *schema["$defs"].values()))
    assert all(row.count(" | ") == 4 for row in (re.sub(r"`[^`]*`|\\\|", "", row) for row in rows))


def test_the_json_reference_lists_every_record_field_and_only_real_commands() -> None:
    page = reference.json_fields()
    assert set(reference.JSON_OF) <= set(COMMANDS)
    few = Confusion(2, ((0, 0, 1), (1, 0, 1)))
    numbers = dict.fromkeys(("top1_accuracy", "top5_accuracy", "balanced_accuracy", "macro_precision", "macro_recall"))
    numbers |= dict.fromkeys(("macro_f1", "macro_auc", "log_loss", "ece", "ece_uncalibrated"))
    coverage = CoverageMetrics(0.9, 2, 0.1, *[None] * 7)
    shared = {"examples": 2, "classes": ("a", "b"), "per_class": (), "coverage": coverage, **numbers}
    many = Metrics(confusion=replace(few, classes=201), **shared).to_json()
    assert many.keys() > Metrics(confusion=few, **shared).to_json().keys()
    prediction = Prediction("a", "b", 1.0, labels=("b",), note="c", probabilities={"b": 1.0})
    for record, found in (
        ("Metrics", many),
        ("Prediction", prediction.to_json()),
        ("CheckResult", CheckResult(()).to_json()),
        ("Finding", Finding("pass", "a", "b", pairs=()).to_json()),
        ("Summary", Summary(()).to_json()),
        ("Exports", Exports("a", ()).to_json()),
    ):
        section = page.partition(f"### {record}\n")[2].partition("\n### ")[0]
        assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == set(found), record


def test_types_are_described_in_json_terms() -> None:
    for annotation, words in (
        ("tuple[tuple[str, int], ...] | None", "list of list of 2: text, whole number or null"),
        ("Literal['here', 'download']", "`here`, `download`"),
        ("dict[str, float]", "mapping to number"),
        ("list[list[bool]]", "list of list of true or false"),
    ):
        assert reference.json_type(ast.parse(annotation, mode="eval").body) == words


def test_the_files_topic_names_everything_in_a_run_directory() -> None:
    for name in (
        *(
            names.CONFIG,
            names.CLASSES,
            names.SPLITS,
            names.ENVIRONMENT,
            names.HISTORY,
            names.METRICS,
            names.BEST,
            names.CARD,
        ),
        *(names.LITERT, names.CALIBRATION, names.TRACKED, names.STATE, names.PLOTS, names.TENSORBOARD, names.EXPORT),
        *(*names.EVALUATION_FILES, *names.EXPLANATION_FILES, *names.COMPARISON_FILES, *names.FOLDS_FILES),
    ):
        assert name in TEXTS["wisesr_cli/topics/files.md"], name


@pytest.mark.parametrize("name", [name for name, shot in screenshots.SHOTS.items() if shot.is_quick])
def test_a_terminal_screenshot_matches_the_current_output_of_its_command(name: str, tmp_path: Path) -> None:
    shot = screenshots.SHOTS[name]
    kept = (screenshots.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    drawn = screenshots.draw(shot, screenshots.run(shot, tmp_path), name)
    assert kept == f"{drawn}\n", f"draw it anew: python -m website.screenshots {name}"


def test_terminal_screenshots_load_nothing_and_contain_no_local_paths() -> None:
    assert {path.stem for path in screenshots.FOLDER.glob("*.svg")} == set(screenshots.SHOTS)
    for path in screenshots.FOLDER.glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"url\(\"?http|href=\"http|/tmp/|/home/|/root/", text), path


def test_the_screen_keeps_only_text_that_was_not_erased() -> None:
    written = "a\r\nbar 10 %\r\x1b[2Kbar 20 %\r\n\x1b[1A\x1b[2K\x1b[32mdone\x1b[0m\r\n"
    assert list(screenshots.screen(written)) == ["a", "\x1b[32mdone\x1b[0m", ""]


@pytest.fixture
def hooks() -> Any:
    pytest.importorskip("mkdocs")
    return importlib.import_module("website.hooks")


@pytest.mark.parametrize(
    ("html", "is_foreign"),
    [
        ('<script src="https://e.org/x.js"></script>', True),
        ('<link rel="stylesheet" href="//e.org/x.css">', True),
        ('<img alt="x" src="http://e.org/x.png">', True),
        ('<a href="https://e.org">x</a><script src="assets/x.js"></script><link href="../site.css">', False),
    ],
)
def test_resources_from_other_servers_are_detected(hooks: Any, html: str, is_foreign: bool) -> None:
    assert bool(hooks.FOREIGN.search(html)) is is_foreign


def test_links_are_rewritten_to_pages_of_the_site(hooks: Any) -> None:
    pages = {"heads.md", "topics/offline.md", "security.md", "index.md", "heads.png"}
    text = "[a](docs/heads.md#x) [b](wisesr_cli/topics/offline.md) [c](SECURITY.md) [d](https://e.org)"
    text += " ![e](docs/heads.png)"
    assert hooks.relinked(text, "index.md", pages) == (
        "[a](heads.md#x) [b](topics/offline.md) [c](security.md) [d](https://e.org) ![e](heads.png)"
    )
    assert hooks.relinked("[a](../../README.md) [f](medical.md)", "topics/offline.md", pages) == "[a](../index.md) f"
    assert hooks.relinked("```\n[a](b.md)\n```\n", "index.md", pages) == "```\n[a](b.md)\n```\n"
    with pytest.raises(hooks.PluginError, match="not there"):
        hooks.relinked("[a](nowhere.md)", "index.md", pages)
