"""The table of promises is complete and matches the page it comes from."""

from __future__ import annotations

import re

import pytest
from command_line import REPOSITORY
from reliability import LINES, Row, all_as_promised

PAGE = REPOSITORY.parent / "shared" / "reliability.md"


def test_the_lines_are_in_order() -> None:
    assert list(LINES) == list(range(1, 62))


def test_a_line_without_a_passing_test_is_not_as_promised() -> None:
    good = {number: Row(outcomes=["passed"]) for number in LINES}
    assert all_as_promised(good)
    for outcomes in ([], ["failed"], ["passed", "failed"], ["skipped"]):
        assert not all_as_promised({**good, 7: Row(outcomes=outcomes)})


@pytest.mark.skipif(not PAGE.is_file(), reason="the page is not on this machine")
def test_every_line_of_the_page_is_in_the_table() -> None:
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)]
    assert numbers == list(LINES)[: len(numbers)]


def test_security_md_and_the_count_in_the_readme_match_the_table() -> None:
    text = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if re.match(r"\| \d+ \|", row)]
    assert f"lists {len(LINES)} promises" in (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert rows == [f"| {number} | {line.input} | {line.promised} |" for number, line in LINES.items()]
