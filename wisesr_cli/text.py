"""The one gate for text that comes from outside (file names, class names, config values) on its way to a reader.

A terminal gets no control characters, a spreadsheet no formulas. JSON needs nothing of this: `json.dumps` with its
default of ASCII escapes is exact and safe. Standard library only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_REASON = 500  # characters; some packages write down a whole model

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_ESCAPED = re.compile(r"\\(?:([\\tnr])|x([0-9a-f]{2})|u([0-9a-f]{4})|U(0010[0-9a-f]{4}|000[0-9a-f]{5}))")
_CELL_AFTER_SEMICOLON = re.compile(r";(?=[\"']*[=+@-])")
# Control characters, invisible formatting (bidi overrides among them), lone surrogates, private and unassigned code
# points, and the two line separators.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: object) -> str:
    """Return `text` with every character that does not show itself written as an escape, `\\n` or `\\x1b`."""
    string = str(text)
    if string.isascii() and string.isprintable():
        return string
    return "".join(_escape(c) if unicodedata.category(c) in _HIDDEN_CATEGORIES else c for c in string)


def _escape(character: str) -> str:
    code = ord(character)
    simple = {9: "\\t", 10: "\\n", 13: "\\r"}.get(code)
    if simple is not None:
        return simple
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def csv_cell(text: str) -> str:
    """Return `text` as a CSV cell that no spreadsheet takes for a formula; `parse_csv_cell` gives it back.

    Backslashes are doubled, hidden characters are escaped, and a quote is put before what could start a formula. A
    semicolon before such a start is escaped: where the comma is the decimal sign, spreadsheets end a cell at it.
    """
    escaped = "".join("\\\\" if c == "\\" else visible(c) for c in text)
    escaped = _CELL_AFTER_SEMICOLON.sub(r"\\x3b", escaped)
    if text.startswith((*_FORMULA_STARTS, "'")):
        return "'" + escaped
    return escaped


def parse_csv_cell(cell: str) -> str:
    """Return the text that `csv_cell` was given."""
    return _ESCAPED.sub(_unescape, cell.removeprefix("'"))


def _unescape(match: re.Match[str]) -> str:
    simple, *codes = match.groups()
    if simple is not None:
        return {"t": "\t", "n": "\n", "r": "\r"}.get(simple, simple)
    return chr(int(next(code for code in codes if code is not None), 16))


def on_one_line(error: object, *, whole: bool = False) -> str:
    """Return what an error says, made visible, on one line of at most `LONGEST_REASON` characters, or whole.

    One that says nothing gives the name of its kind.
    """
    reason = visible(" ".join(str(error).split()))
    return (reason if whole else reason[:LONGEST_REASON]) or type(error).__name__


def first_line(error: object) -> str:
    """Return the first line of what an error says; what follows is of no use to a user: tracebacks, for instance."""
    lines = str(error).strip().splitlines()
    return on_one_line(lines[0]) if lines else type(error).__name__


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the choice nearest in spelling, or an empty string."""
    lowered = {choice.lower(): choice for choice in choices}
    matches = get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean '{lowered[matches[0]]}'?" if matches else ""


def joined(words: Iterable[object]) -> str:
    """Return words as one readable list: `a, b, c`."""
    return ", ".join(visible(word) for word in words)


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return `1 image` or `2 images`, with a comma between thousands."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def size_text(size: tuple[int, int]) -> str:
    """Return height and width as they are typed: 224x320."""
    return f"{size[0]}x{size[1]}"
