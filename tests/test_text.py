from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from odd_names import shows_itself

from wisesr_cli.display.grid import to_csv
from wisesr_cli.text import (
    LONGEST_REASON,
    counted,
    csv_cell,
    first_line,
    joined,
    nearest,
    on_one_line,
    parse_csv_cell,
    visible,
)

# Every code point, including lone surrogates, as in file names that are not UTF-8.
ANY_TEXT = st.text(
    st.characters() | st.characters(categories=["Cs", "Cc", "Cf"]) | st.sampled_from("\\'=+-@\t\r\n\"x0u,;")
)


@given(ANY_TEXT)
@example("\\x41")
@example("\\\\n")
@example("'=1")
@example("''")
@example("\\U0010ffff\U0010ffff")
@example("\ud83d\ude00")
@example("")
def test_a_csv_cell_round_trips_any_text(text: str) -> None:
    assert parse_csv_cell(csv_cell(text)) == text


@given(st.lists(ANY_TEXT, min_size=2, max_size=4))
def test_a_row_round_trips_through_a_csv_file_as_one_line(texts: list[str]) -> None:
    content = to_csv(["a"] * len(texts), [texts])
    assert len(content.splitlines()) == 2
    content.encode("utf-8")
    row = list(csv.reader(io.StringIO(content)))[1]
    assert [parse_csv_cell(cell) for cell in row] == texts


@given(ANY_TEXT)
def test_a_csv_cell_never_starts_a_formula_or_contains_control_characters(text: str) -> None:
    cell = csv_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert shows_itself(cell)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0", "'=1"])
def test_text_that_could_start_a_formula_is_prefixed_with_a_quote(text: str) -> None:
    assert csv_cell(text).startswith("'")
    assert parse_csv_cell(csv_cell(text)) == text


@given(ANY_TEXT)
@example("x;=1+1")
@example("x;'=1")
@example(";;-1;@x\\x3b;+")
def test_a_cell_split_at_its_semicolons_starts_no_formula(text: str) -> None:
    cell = csv_cell(text)
    assert parse_csv_cell(cell) == text
    assert not [part for part in cell.split(";") if part.lstrip("'\"").startswith(("=", "+", "-", "@"))][1:]


@given(ANY_TEXT)
def test_parsing_any_text_as_a_cell_never_fails(cell: str) -> None:
    assert isinstance(parse_csv_cell(cell), str)


@pytest.mark.parametrize(
    "cell", ["\\xzz", "\\x1", "\\u+123", "\\u12", "\\Uffffffff", "\\U00110000", "\\", "a\\", "\\q", "\\x1_"]
)
def test_invalid_escapes_are_left_unchanged(cell: str) -> None:
    assert parse_csv_cell(cell) == cell


@given(ANY_TEXT)
@example("\x1b[31m")
@example("\u202egnp.exe")
@example("\u2066x\u2069")
@example("\udcff")
@example("\u2028\u2029\x85\x7f\u200b\ufeff")
def test_visible_passes_no_control_bidi_or_surrogate_character(text: str) -> None:
    shown = visible(text)
    assert shows_itself(shown)
    shown.encode("utf-8")


@pytest.mark.parametrize("text", ["plain", "[/red]", ":cat:", "na\u00efve \u732b \U0001f408", "a\\b", "C:\\x"])
def test_visible_leaves_printable_text_unchanged(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\nb", "a\\nb"), ("\t\r", "\\t\\r"), ("\x1b[2J", "\\x1b[2J"), ("\udcff", "\\udcff"), ("\u202e", "\\u202e"),
     ("\U000e0001", "\\U000e0001"), (None, "None"), (7, "7")],
)  # fmt: skip
def test_visible_escapes_all_other_characters(text: object, expected: str) -> None:
    assert visible(text) == expected


@given(ANY_TEXT)
def test_visible_is_idempotent(text: str) -> None:
    assert visible(visible(text)) == visible(text)


def test_the_nearest_word_is_suggested_ignoring_case_and_only_if_close() -> None:
    assert nearest("MOBILENETV2", ["Xception", "MobileNetV2"]) == " Did you mean 'MobileNetV2'?"
    assert nearest("prepool", ["pooling", "pre_pool"]) == " Did you mean 'pre_pool'?"
    assert nearest("qqq", ["gap", "wise"]) == ""
    assert nearest("x", []) == ""


def test_words_are_joined_and_counted_for_display() -> None:
    assert joined(["a", "b\n", 3]) == "a, b\\n, 3"
    assert (counted(1, "image"), counted(0, "image"), counted(2000, "image")) == ("1 image", "0 images", "2,000 images")
    assert counted(2, "class", "classes") == "2 classes"


def test_an_error_becomes_one_line_and_is_truncated_by_default() -> None:
    assert on_one_line(ValueError("a\n  b\x1b[31m")) == "a b\\x1b[31m"
    assert on_one_line(KeyError()) == "KeyError"
    assert len(on_one_line(ValueError("x" * 9999))) == LONGEST_REASON
    assert on_one_line(ValueError("x" * 9999), whole=True) == "x" * 9999
    assert first_line(ValueError("\n a\nTraceback")) == "a"
    assert first_line(ValueError(" \n")) == "ValueError"
