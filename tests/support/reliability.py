"""The reliability table: lines of input and promise, and the results of the tests that cover them.

A test covers a line if it is marked with `@pytest.mark.reliability(number, ...)`; it reports what it observed through
the fixture `seen`. `pytest -m reliability` runs all of them, including the slow ones, and ends with a row per line.
SECURITY.md has the same lines.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

Seen = Callable[[str], None]  # the fixture `seen`, which records what a test of a line observed


@dataclass(frozen=True)
class Line:
    """A line of the table: the input, and what the user is promised."""

    input: str
    promised: str


@dataclass
class Row:
    """The results of the tests of a line."""

    seen: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # the reasons

    @property
    def verdict(self) -> str:
        """`as promised`, or what is missing."""
        if not self.outcomes:
            return "NO TEST RAN"
        if "failed" in self.outcomes:
            return "FAILED"
        return "skipped" if "passed" not in self.outcomes else "as promised"


def collect_rows(reports: Iterable[pytest.TestReport]) -> dict[int, Row]:
    """Return a row per line from the reports of all tests, ignoring tests without a line."""
    rows: dict[int, Row] = defaultdict(Row)
    for report in reports:
        numbers = [int(str(value)) for name, value in report.user_properties if name == "line"]
        for number in numbers:
            rows[number].outcomes.append(report.outcome)
            if report.skipped and isinstance(report.longrepr, tuple):
                rows[number].skipped.append(str(report.longrepr[2]).removeprefix("Skipped: "))
            for name, value in report.user_properties:
                if name == "seen" and str(value) not in rows[number].seen:
                    rows[number].seen.append(str(value))
    return rows


def print_rows(rows: dict[int, Row]) -> None:
    """Print the table: a row per line, with what was promised and what was seen."""
    width = max(150, shutil.get_terminal_size().columns)
    table = Table(title="What must survive", show_lines=True, expand=True)
    table.add_column("", justify="right", width=2)
    table.add_column("input", ratio=3)
    table.add_column("promised", ratio=4)
    table.add_column("seen", ratio=5)
    table.add_column("", width=11)
    for number, line in LINES.items():
        row = rows.get(number, Row())
        left_out = [f"{len(row.skipped)} skipped: {', '.join(sorted({*row.skipped}))}"] if row.skipped else []
        seen = "\n".join([*row.seen, f"{row.outcomes.count('passed')} tests passed", *left_out])
        table.add_row(str(number), Text(line.input), Text(line.promised), Text(seen), row.verdict)
    Console(width=width, soft_wrap=False).print(table)


def all_as_promised(rows: dict[int, Row]) -> bool:
    """Return whether the tests of every line passed."""
    return all(rows.get(number, Row()).verdict == "as promised" for number in LINES)


LINES: dict[int, Line] = {
    1: Line(
        "A training file of zero bytes", "named before epoch 1, exit 3; with data.on_error: skip reported and skipped"
    ),
    2: Line("Text named .jpg", '"not an image", exit 3'),
    3: Line("JPEG, PNG, WebP cut at 50 % and at 99 %", '"truncated", exit 3; never silently filled'),
    4: Line(
        "A PNG of 14000x14000 pixels in 186 KB",
        '"over the pixel limit", exit 3; memory grows by less than 500 MB; the limit is an option',
    ),
    5: Line("EXIF orientation 1 to 8", "the same prediction as the upright image, in every command"),
    6: Line(
        "CMYK, grey, palette, grey+alpha, RGBA, 16-bit grey PNG and TIFF, palette BMP, bitfield BMP",
        "the documented RGB; a 16-bit ramp keeps its 256 levels",
    ),
    7: Line("Animated GIF, PNG, WebP", "the first frame, one counted warning"),
    8: Line(
        "WebP named .jpg; files with suffixes that are not listed",
        'decoded by content, counted; "N files ignored: ..."',
    ),
    9: Line(
        "Formats beyond JPEG, PNG, GIF, BMP, TIFF, WebP, PPM; any exception while decoding",
        '"not a supported format"; no program is ever started; always an error of the file, never an abort',
    ),
    10: Line("A file deleted or damaged after the scan", "named, exit 3, the checkpoint intact"),
    11: Line("A thousand odd images through predict", "one record each, in order, exit 6"),
    12: Line(
        "Hidden and system files and folders (.DS_Store, Thumbs.db, ._x.jpg, __MACOSX, .ipynb_checkpoints)",
        "ignored, counted",
    ),
    13: Line(
        "A class folder that is empty, without images, or unreadable",
        "exit 3 with class and reason; in validation and test, one without images has a support of 0 (reported)",
    ),
    14: Line("One class; a flat folder; an empty or missing folder", "exit 3 with the layout that is expected"),
    15: Line(
        "A folder that contains train/ and val/ (training_set, valid, dev, eval, seg_test, testing, and so on)",
        "recognised as splits",
    ),
    16: Line("Nested folders below a class", "merged into the class, their count reported"),
    17: Line("A loop of symbolic links; a broken link", "ends, each real file once; the broken link is named"),
    18: Line("An image without read permission", "named, exit 3 (predict: 6)"),
    19: Line(
        "File and class names with Unicode, newline, [/red], :cat:, ESC, bidi controls, 255 bytes, not UTF-8",
        "every command finishes; terminals show visible escapes and no raw ESC; JSON, CSV and HTML stay valid",
    ),
    20: Line("Classes that differ only in case or in Unicode normalisation", "exit 3, both listed"),
    21: Line(
        "Classes 0..11; a test folder that lacks a class, has an unknown one, or is in another order",
        "one order everywhere; classes are matched by name: support 0, exit 3, identical metrics",
    ),
    22: Line("The same image in two splits, or under two labels", "a warning with count and pairs (check: FAIL)"),
    23: Line(
        "A class too small to split; 3,000 classes",
        "exit 3 with counts; runs, tables shortened, time and disk by images plus classes, not by pairs of classes",
    ),
    24: Line(
        "SIGINT, SIGTERM; a second signal",
        "checkpoint complete, how to resume is shown, exit 130 / 143; ends at once without damage",
    ),
    25: Line(
        "SIGKILL at 50 random moments, 20 of them inside a save",
        "the run always loads and resumes; leftovers are cleaned up",
    ),
    26: Line(
        "Uninterrupted against killed and resumed, with shuffling, augmentation, dropout, early stopping",
        "identical weights, optimizer state and history, bit for bit (same machine, versions, threads)",
    ),
    27: Line(
        "Resume with changed data, config, classes or library versions",
        "exit 4 with the differences; train.epochs may grow, outputs may change, the same images may have other "
        "dates or another place (reported); other threads or device warn; an interrupted epoch is repeated from its "
        "start; state is written before epoch 1",
    ),
    28: Line(
        "Disk full at any write; a read-only or missing parent folder",
        "exit 5, the older checkpoint intact; exit 5 before training",
    ),
    29: Line(
        "An output directory that holds another run",
        "exit 2 unless --overwrite or --resume; files of others are never deleted",
    ),
    30: Line("A second process on a live run; a stale lock", "exit 5 with the pid; does not block"),
    31: Line("A damaged checkpoint or file in it; a weight that was not loaded", "exit 4, the file named; an error"),
    32: Line(
        "The loss becomes NaN or infinite", "stops, says at which step and what to try, exit 3, best checkpoint kept"
    ),
    33: Line(
        "An epoch that did not finish; a crash while a log is written", "never in history.csv; earlier lines intact"
    ),
    34: Line(
        "A model file with Lambda, TFSMLayer, TorchModuleWrapper, StringLookup or any layer wisesr does not build with",
        "exit 4 before Keras loads it; nothing in it runs; no pickle, no option to allow it",
    ),
    35: Line(
        "keras_cv.py, keras_hub.py or json.py in the current folder",
        "not executed, under wisesr and under python -m wisesr_cli",
    ),
    36: Line(
        "Archives with ../ members, duplicates, extras, links, absurd sizes or ratios; HDF5 with external parts or "
        "impossible shapes",
        "exit 4, memory bounded",
    ),
    37: Line("~/.keras/keras.json of the user", "does not change results"),
    38: Line(
        "YAML: 1e-3, no as a class, duplicate keys, exploding anchors, deep nesting, NaN, tags, several documents, "
        "huge numbers, more than 64 KB",
        "a number; text; else exit 2 within a second, with line and column",
    ),
    39: Line("Run names and patterns with ../ or absolute paths", "exit 2"),
    40: Line(
        "CSV cells that start with = + - @ or tab; JSONL; HTML",
        "neutralised; exact; everything escaped and nothing loaded from outside",
    ),
    41: Line(
        "One unreadable image of N; all unreadable; no input", "N records, exit 6 (--strict: 3 at the end); exit 3"
    ),
    42: Line(
        "SIGKILL of predict, then --resume; an output that exists",
        "byte for byte the output of an uninterrupted run, its name there only when it is complete; exit 2 unless "
        "--overwrite or --resume",
    ),
    43: Line(
        "100,000 images against 10,000; output piped to head -1; /dev/full",
        "memory within 10 %; silent, exit 141; exit 5",
    ),
    44: Line(
        "Other batch sizes and neighbours; precision",
        "no score changes by more than 1e-5; float32 with TF32 off unless --precision is given",
    ),
    45: Line(
        "Files of the user in folders of a run or of the demo, with names that wisesr uses; results that were edited",
        "nothing removes or replaces them: --overwrite names what stays, evaluate takes another name, explain, export "
        "and demo exit 2",
    ),
    46: Line(
        "--resume in a run without its state, or in another folder; --overwrite with several runs of the name",
        "exit 4 with the two ways out; exit 2; nothing changed",
    ),
    47: Line(
        "A run directory moved while it trains; a live export while its run is resumed; SIGKILL before the metrics",
        "exit 5, nothing written in the old place; left alone; no metrics of an earlier best model",
    ),
    48: Line(
        "A folder that other users write to: links, guessed names, a cache where HOME is unset",
        "no link of another user is followed, temporary files are created under names that cannot be guessed, caches "
        "are in a private folder of the user",
    ),
    49: Line(
        "A run from a stranger: links out of it, a record of foreign paths; extends: of a file that is not a config",
        "exit 4, exit 2; nothing of the file is shown or removed",
    ),
    50: Line(
        "Memory limits of control groups, also of a scheduler; a training step that does not fit",
        "read for the groups of the process; exit 5 with what to lower, earlier epochs kept",
    ),
    51: Line(
        "Splits, folds or one more folder where class folders are expected",
        "exit 3 with the layout that was seen, the one expected, and how to name the folders",
    ),
    52: Line(
        "A setting that has no effect on these images; groups split up by given splits",
        "reported by check and train; exit 3 with the groups",
    ),
    53: Line(
        "Text, profiles and metadata in an image file that are damaged, or unpack to megabytes",
        "the image is read as if they were not there",
    ),
    54: Line(
        "One file at every image size, and in every order of commands",
        "one answer: read, or refused",
    ),
    55: Line(
        "An intact file of an unsupported kind (TIFF of 5 bands, of 16-bit planes, JPEG of 12 bits, and so on)",
        "reported as unsupported, with the kind; only damaged files are reported as damaged",
    ),
    56: Line(
        "Images of 10 or 12 bits in 16, floats of any range, signed and 32-bit numbers, in grey and colour",
        "one measured or given range, recorded and used by every command; lost levels and clipping give a warning",
    ),
    57: Line(
        "Colours with an ICC profile: of phones, of cameras, grey, CMYK, damaged",
        "converted to sRGB as LittleCMS does; a damaged profile is ignored",
    ),
    58: Line(
        "JPEG files that decode with a warning from the library: data that ends early, bytes replaced",
        "check and train warn with their paths, predict's record has a note; used",
    ),
    59: Line(
        "Re-encoded, resized or mirrored copies in two splits or under two labels; pictures without edges",
        "check --near-duplicates warns with the pairs and a sheet of them, which replaces no file; counted, not paired",
    ),
    60: Line(
        "Labels in a file: images that are missing, listed twice, under two labels or in two splits; columns that are "
        "missing or ambiguous; fields, splits and weights that cannot be read; a path that leads out",
        "exit 3 with the first lines and the count, in time that grows with the lines; missing images can be skipped "
        "like damaged ones; the rest as with folders",
    ),
    61: Line(
        "TIFF files of bands: cut, damaged, unpacking to more than they declare, with another number of bands, of "
        "other kinds",
        "one reason for each, with both numbers of channels; memory within the pixel limit; nothing filled in",
    ),
}
