"""Odd names of files and classes that a file system allows, and characters that no terminal or page may receive."""

from __future__ import annotations

import os
import re
import unicodedata

ODD_NAMES = {
    "Unicode": "\u732b \u00fc\u00e9 \U0001f63a",
    "newline": "two\nlines",
    "markup": "[red]x[/red]",
    "closing markup": "[\\red]x[bold",
    "emoji": ":cat:",
    "escape": "esc\x1b[31m\x1b]0;title\x07",
    "C1": "c1\x9b31m",
    "bidi": "\u202egnp\u2066x\u200f",
    "formula": "=1+1",
    "dash": "-o",
    "spaces": " a  b ",
    "quotes": 'it\'s "x"',
    "dollar": "$x^2_{y}$ \\frac{1}{2} %d {x}",
    "separators": "a,b;c|d\te",
    "not UTF-8": os.fsdecode(b"\xff\xfe bytes \xc3"),
    "255 bytes": "x" * 255,
    "255 bytes of Unicode": "\u732b" * 85,
}

RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")


def shows_itself(text: str) -> bool:
    """Return whether a text has no characters that a terminal would act on, line ends included."""
    return not any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for character in text)


def assert_nothing_raw(text: str) -> None:
    found = RAW.search(text)
    assert not found, ascii(text[max(0, found.start() - 60) : found.end() + 60]) if found else ""
