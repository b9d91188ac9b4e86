"""YAML that is rejected, and the position and text of the error."""

from __future__ import annotations

LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 10)
)

WIDE_LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\nb: [" + "*a, " * 10_000 + "]"

REFUSED: dict[str, tuple[str, int, int, str]] = {
    "duplicate keys": ("a: 1\nb:\n  c: 2\n  c: 3\n", 4, 3, "'c' appears twice"),
    "duplicate keys, one quoted": ('1: x\n"1": y\n', 2, 1, "'1' appears twice"),
    "duplicate keys in braces": ("a: {b: 1, b: 2}", 1, 11, "'b' appears twice"),
    "a key that is a list": ("? [1, 2]\n: 3", 1, 3, "a key must be text"),
    "anchors that explode": (LAUGHS, 1, 5, "anchors expand"),
    "anchors that explode in width": (WIDE_LAUGHS, 1, 4, "anchors expand"),
    "an anchor in itself": ("a: &a [*a, *a]", 1, 4, "anchors expand"),
    "an anchor in itself as a mapping": ("a: &a {b: *a}", 1, 4, "anchors expand"),
    "an unknown anchor": ("a:\n  b: *c", 2, 6, "undefined alias"),
    "deep nesting in brackets": ("[" * 30_000, 1, 21, "nested deeper"),
    "deep nesting in lines": ("- " * 30_000, 1, 41, "nested deeper"),
    "deep nesting of keys": ("? " * 30_000, 1, 41, "nested deeper"),
    "not a number": ("a: 1\nb: .nan", 2, 4, "not a finite number"),
    "infinity": ("b: .inf", 1, 4, "not a finite number"),
    "minus infinity": ("b: [1, -.Inf]", 1, 8, "not a finite number"),
    "a number too large for a float": ("b: 1e999", 1, 4, "not a finite number"),
    "a tag": ("a: !!python/object:os.system x", 1, 4, "tags like"),
    "a tag of YAML": ("a: !!float 1", 1, 4, "tags like"),
    "a tag of a list": ("a:\n  - !set [x]", 2, 5, "tags like"),
    "a tag of a mapping": ("!x {a: 1}", 1, 1, "tags like"),
    "several documents": ("a: 1\n---\nb: 2", 2, 1, "several documents"),
    "an integer of 60,000 digits": ("a: " + "9" * 60_000, 1, 4, "a number of 60,000 characters"),
    "a float of many digits": ("a: 0." + "3" * 60_000, 1, 4, "a number of 60,002 characters"),
    "a version of many digits": ("%YAML 1." + "9" * 50_000 + "\n---\na: 1", 1, 9, "a number or an escape"),
    "an escape beyond Unicode": ('a: "\\UFFFFFFFF"', 1, 7, "a number or an escape"),
    "an escape just beyond Unicode": ('a: "\\U00110000"', 1, 7, "a number or an escape"),
    "too many values": ("- 1\n" * 16_000 + "- [" + "1," * 16_000 + "]", 16_001, 8_000, "values"),
    "a NUL": ("a: 1\nb: \0", 2, 4, "not allowed"),
    "an escape character": ("a: \x1b[31m", 1, 4, "not allowed"),
    "a lone surrogate": ("a: \udcff", 1, 4, "not allowed"),
    "a tab as indentation": ("a:\n\tb: 1", 2, 1, "cannot start any token"),
    "an open bracket": ("a: [1, 2", 1, 9, "expected ',' or ']'"),
    "an open quote": ('a: "b', 1, 6, "end of stream"),
    "an extra colon": ("a: b: c", 1, 5, "mapping values are not allowed"),
}
