"""`wisesr help TOPIC` shows the pages shipped with the package as plain text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import CommandLine

from wisesr_cli.cli import topics
from wisesr_cli.cli.main import COMMANDS

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(topics.FOLDER.glob("*.md"))}


def test_every_page_is_a_topic_and_no_topic_has_the_name_of_a_command() -> None:
    assert set(PAGES) == set(topics.TOPICS)
    assert not set(topics.TOPICS) & set(COMMANDS)


def test_help_lists_the_topics(wisesr: CommandLine) -> None:
    said = wisesr("help").worked().out
    assert all(re.search(rf"^  {name} +\w", said, re.MULTILINE) for name in topics.TOPICS)


@pytest.mark.parametrize("name", PAGES)
def test_help_shows_a_topic_without_markup_and_omits_no_word(wisesr: CommandLine, name: str) -> None:
    said = wisesr("help", name).worked().out
    assert said.startswith(PAGES[name].split("\n")[0].removeprefix("# ").upper())
    assert not re.search(r"^(#|\|)|\]\(|\*\*|```", said, re.MULTILINE)
    plain = re.sub(r"\]\([^)]*\)|[^\w\s]", " ", PAGES[name].casefold())
    assert not set(plain.split()) - set(re.sub(r"[^\w\s]", " ", said.casefold()).split()) - titles_of_tables(name)


def titles_of_tables(name: str) -> set[str]:
    """Return words that may be omitted: column titles of a page's tables, and the languages of its code blocks."""
    found = re.findall(r"^(\|.*)\n\| ---", PAGES[name], re.MULTILINE)
    languages = set(re.findall(r"^```(\w+)", PAGES[name], re.MULTILINE))
    return languages | {word for line in found for word in re.findall(r"\w+", line.casefold())}


def test_paragraphs_are_wrapped_and_code_is_unchanged() -> None:
    page = "# A title\n\nOne two\nthree **four** [five](x.md).\n\n- one two three four\n  five\n- six\n\n"
    page += "```bash\n# a  b\n```\n\n| a | b | c |\n| --- | --- | --- |\n| `x` | y \\| z | w |\n"
    assert topics.plain(page, 16) == (
        "A TITLE\n\nOne two three\nfour five.\n\n- one two three\n  four five\n- six\n\n    # a  b\n\n"
        "`x`\n    y | z\n    c: w\n"
    )
    assert topics.plain("See [there](https://example.org/x).\n", 80) == "See there (https://example.org/x).\n"


def test_an_unknown_topic_exits_with_2_and_suggests_the_nearest_or_the_list(wisesr: CommandLine) -> None:
    wisesr("help", "imbalanse").refused(2, "no command or topic is called 'imbalanse'. Did you mean 'imbalance'?")
    wisesr("help", "qqqqqq").refused(2, "`wisesr help` lists both")


def test_a_topic_is_shown_from_an_empty_folder(
    wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "exit codes" in wisesr("help", "exit-codes").worked().out.casefold()
