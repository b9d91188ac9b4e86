"""Makes text from outside (file names, class names, config values) safe to show.

A terminal gets no control characters, a spreadsheet no formulas. JSON needs neither: `json.dumps` escapes to ASCII by
default. Standard library only.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

LONGEST_FOLDER_NAME = 200  # bytes
LONGEST_REASON = 500  # characters; some packages print a whole model

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_ESCAPED = re.compile(r"\\(?:([\\tnr])|x([0-9a-f]{2})|u([0-9a-f]{4})|U(0010[0-9a-f]{4}|000[0-9a-f]{5}))")
_CELL_AFTER_SEMICOLON = re.compile(r";(?=[\"']*[=+@-])")
# Control characters, invisible formatting (bidi overrides among them), lone surrogates, private and unassigned code
# points, and the two line separators.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # hidden, too, but part of words, as in Persian, and of emoji


def visible(text: object) -> str:
    """Return `text` with every invisible character escaped, as `\\n` or `\\x1b`."""
    string = str(text)
    if string.isascii() and string.isprintable():
        return string
    return "".join(_escape(c) if unicodedata.category(c) in _HIDDEN_CATEGORIES else c for c in string)


def typed(word: object) -> str:
    """Return a word as it is typed on a command line: quoted if necessary, hidden characters escaped."""
    return visible(shlex.quote(str(word)))


def _escape(character: str) -> str:
    code = ord(character)
    simple = {9: "\\t", 10: "\\n", 13: "\\r"}.get(code)
    if simple is not None:
        return simple
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def csv_cell(text: str) -> str:
    """Return `text` as a CSV cell that no spreadsheet evaluates as a formula; `parse_csv_cell` is the inverse.

    Backslashes are doubled, hidden characters are escaped, and text that could start a formula is prefixed with a
    quote. A semicolon before such a start is escaped: in locales with a decimal comma it ends a cell.
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


def folder_name(text: str) -> str:
    """Return `text` if it is a safe and visible folder name, else a similar name that is.

    Slashes, backslashes, hidden characters and dots at the start become `_`; names are at most 200 bytes.
    """
    safe = "".join("_" if c in "/\\" or (c not in _JOINERS and visible(c) != c) else c for c in text)
    stripped = safe.lstrip(".")
    safe = "_" * (len(safe) - len(stripped)) + stripped
    return safe.encode()[:LONGEST_FOLDER_NAME].decode(errors="ignore") or "_"


def on_one_line(error: object, *, whole: bool = False) -> str:
    """Return the message of an error, made visible, on one line, shortened to `LONGEST_REASON` unless `whole`.

    An empty message becomes the name of the error's type.
    """
    reason = visible(" ".join(str(error).split()))
    return (reason if whole else reason[:LONGEST_REASON]) or type(error).__name__


def first_line(error: object) -> str:
    """Return the first line of an error's message; later lines, such as tracebacks, do not help a user."""
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


def quoted(names: Iterable[object]) -> str:
    """Return names as one quoted list, so that spaces at their ends are visible: `'a', 'b '`."""
    return ", ".join(f"'{visible(name)}'" for name in names)


def some_of(words: Sequence[object], most: int) -> str:
    """Return the first words as one readable list, with the number of the rest: `a, b, and 3 more`."""
    more = f", and {len(words) - most:,} more" if len(words) > most else ""
    return joined(words[:most]) + more


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Return `1 image` or `2 images`, with a comma between thousands."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def size_text(size: tuple[int, int]) -> str:
    """Return height and width as users type them: 224x320."""
    return f"{size[0]}x{size[1]}"
