from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_names import shows_itself
from refused_yaml import REFUSED

from wisesr_cli.config.schema import dump_yaml
from wisesr_cli.config.yaml_reader import MAX_BYTES, read_yaml, read_yaml_file
from wisesr_cli.errors import ConfigError


def read(text: str) -> Any:
    return read_yaml(text, origin="config.yaml").value


def refusal(read_it: Callable[[], Any]) -> str | None:
    """Return the message of the `ConfigError` that reading raises, or None."""
    try:
        read_it()
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", REFUSED)
def test_rejected_yaml_is_reported_with_line_and_column(case: str) -> None:
    text, line, column, word = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith(f"config.yaml:{line}:{column}: ")
    assert word in message
    assert shows_itself(message)
    assert len(message) < 300


@pytest.mark.parametrize(
    "text",
    ["[" + "1," * 32_000 + "]", "- 1\n" * 16_000, "k: {a: 1}\n" * 6_000, "{" * 10 + "a: 1," * 12_000, "x " * 32_000],
)
def test_largest_files_are_read_or_rejected_with_a_location(text: str) -> None:
    assert len(text) <= MAX_BYTES
    complaint = refusal(lambda: read(text))
    assert complaint is None or re.match(r"config\.yaml:\d+:\d+: ", complaint)


AS_THEY_ARE = (
    *("1_000", "12:30:45", "2020-01-01", "no", "No", "yes", "on", "OFF", "y"),
    *("e3", "1e", "infinity", "nan", "="),
)
VALUES: dict[str, object] = {
    **{"1e-3": 0.001, "1E3": 1000.0, "-.5": -0.5, "5.": 5.0, "+7": 7, "010": 10, "0": 0},
    **{"true": True, "False": False, "TRUE": True},
    **{"'true'": "true", '"1e-3"': "1e-3", "'null'": "null", "|\n  7\n": "7\n"},
    **dict.fromkeys(("null", "~", "", "# nothing but a comment")),
    **{text: text for text in AS_THEY_ARE},
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = read(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "true", "null", "~", "1", "1e-3", "y", "N"])
def test_keys_are_always_text_so_a_class_can_be_named_no(word: str) -> None:
    assert read(f"train:\n  class_weights: {{{word}: 2}}") == {"train": {"class_weights": {word: 2}}}


def test_merge_key_is_an_ordinary_key() -> None:
    assert read("a: &a {b: 1}\nc: {<<: *a}") == {"a": {"b": 1}, "c": {"<<": {"b": 1}}}


def test_every_key_and_item_has_a_location() -> None:
    document = read_yaml("a: 1\nb:\n  c:\n    - x\n    - d: 2\n", origin="f")
    assert document.places[("a",)] == "f:1"
    assert document.places[("b", "c")] == "f:3"
    assert document.places[("b", "c", 0)] == "f:4"
    assert document.places[("b", "c", 1, "d")] == "f:5"


def test_escape_sequences_in_the_origin_are_escaped() -> None:
    with pytest.raises(ConfigError, match=r"^a\\x1b\[31m\\n\.yaml:1:4: ") as caught:
        read_yaml("a: .nan", origin="a\x1b[31m\n.yaml")
    assert shows_itself(str(caught.value))


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"a: 1\nb: caf\xe9\n", r":2:7: not UTF-8"),
        (b"\xff\xfea\x00:\x00", r":1:1: not UTF-8"),
        (b"a: \x00", r":1:4: a character not allowed"),
        (b"a: " + b"9" * 200_000, r":1:1: larger than 64 KB"),
        (b"#" * (MAX_BYTES + 1), r":1:1: larger than 64 KB"),
    ],
)
def test_invalid_text_or_an_oversized_file_is_rejected_with_its_location(
    tmp_path: Path, content: bytes, place: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path)) + place):
        read_yaml_file(path)


def test_a_file_of_exactly_64_kb_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"a: 1\n" + b"#" * (MAX_BYTES - 5))
    assert read_yaml_file(path).value == {"a": 1}


def test_byte_order_mark_and_windows_line_endings_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: [x, y]\r\n")
    document = read_yaml_file(path)
    assert document.value == {"a": 1, "b": ["x", "y"]}
    assert document.places[("b",)] == f"{path}:2"


@pytest.mark.parametrize("name", ["missing.yaml", "folder.yaml"])
def test_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=f"{name}: cannot be read"):
        read_yaml_file(tmp_path / name)


YAML_LIKE = st.text(
    st.sampled_from([*"ab01:-?,[]{}#&*!|>'\"%@` \n\t.~e=\\", "\r", "\0", "\x85", "\ufeff", "\u2028", "é", "\udcff"])
)


@given(st.text() | YAML_LIKE)
def test_any_text_is_read_or_rejected_with_a_location(text: str) -> None:
    complaint = refusal(lambda: read(text))
    assert complaint is None or (shows_itself(complaint) and re.match(r"config\.yaml:\d+:\d+: .", complaint))


@given(st.binary() | YAML_LIKE.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_rejected_with_a_location(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    complaint = refusal(lambda: read_yaml_file(path))
    assert complaint is None or re.match(r".*any\.yaml:\d+:\d+: .", complaint)


WORDS = st.sampled_from(
    ["no", "yes", "null", "~", "1e-3", "010", "0x1F", "1_000", ".inf", "=", "<<", "", " a", "a ", "a: b", "- a", "!x"]
)
TEXTS = st.text(max_size=200) | st.text(st.characters(codec="utf-8"), max_size=50) | WORDS | YAML_LIKE
NUMBERS = st.integers(-(10**28), 10**28) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


@given(TREES)
def test_dump_yaml_output_reads_back_unchanged(tree: Any) -> None:
    found = read(dump_yaml(tree))
    assert found == tree
    assert repr(found) == repr(tree)  # 1 is not 1.0 and not True, and -0.0 is not 0.0
