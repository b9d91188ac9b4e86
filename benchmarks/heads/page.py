"""Writes docs/heads.md from docs/heads.json: the results of `compare`, in tables and in words.

Text that depends on figures is generated here, between the marks of the page; the rest of the page is written by hand.
A difference counts if its 95 % interval excludes zero; otherwise there is no clear difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from benchmarks.heads.blocks import MAIN
from benchmarks.pages import DOCS, keep_figures, read_figures, write_between_marks
from wisesr_cli.comparison.conclusions import points
from wisesr_cli.comparison.tables import spread
from wisesr_cli.display.grid import Column, Grid, numbers, texts, to_markdown
from wisesr_cli.text import counted

DOCUMENT = DOCS / "heads.md"
FIGURES = DOCUMENT.with_suffix(".json")

Block = dict[str, Any]
Row = dict[str, Any]
VERDICTS = ("better", "worse", "no clear difference")
# The minimum for calling a variant clearly better than the default.
ENOUGH_SEEDS, ENOUGH_KINDS = 5, 2


def stored() -> dict[str, Block]:
    """Return the stored figures of all blocks, by name."""
    return read_figures(FIGURES)


def keep(name: str, block: Block, *, order: Sequence[str]) -> None:
    """Store the figures of a block in the file."""
    # The sentences are for the terminal; the page combines several blocks in its own.
    kept = {key: value for key, value in block.items() if key != "conclusions"}
    keep_figures(FIGURES, name, kept, order=order)


def write_document() -> None:
    """Replace the text between the marks of the page."""
    blocks = list(stored().values())
    contents = {mark: written(blocks) for mark, written in WRITERS.items()}
    write_between_marks(DOCUMENT, "benchmarks.heads.compare", contents)


def print_block(block: Block | None) -> None:
    """Print a block as the page has it, and the conclusions that its figures support."""
    if block is not None:
        print(section(block), *(f"- {line}" for line in block["conclusions"]), sep="\n")


def random_table(blocks: Sequence[Block]) -> str:
    """Return a row per block: the accuracy of every head, and Wise against GAP."""
    columns = (
        *texts("pictures, backbone", "a position sees"),
        *numbers("map", *(f"{head}, %" for head in MAIN), "wise - gap, points", "95 % interval"),
        *texts("wise is"),
    )
    return to_markdown(Grid("", columns, tuple(_random_cells(block, wise) for block, wise in _heads(blocks, "wise"))))


def _random_cells(block: Block, wise: Row) -> tuple[str, ...]:
    rows = {row["head"]: row for row in block["rows"]}
    found = [rows.get(head) for head in MAIN]
    return (
        f"{block['pictures']}, {block['backbone']}",
        sees(block),
        map_size(block),
        *("-" if row is None else spread(row["top1_accuracy_mean"], row["top1_accuracy_std"]) for row in found),
        points(wise["difference_to_first_mean"]),
        interval(wise),
        verdict_of(wise),
    )


def section(block: Block) -> str:
    """Return one block: pictures, backbone and recipe, a row per head, the command, the machine."""
    settings = block["settings"]
    backbone = settings["model.backbone"]
    if layer := settings.get("model.feature_layer"):
        backbone = f"{backbone} up to `{layer}`"
    optimizer = {"adamw": "AdamW", "sgd": "SGD"}[settings.get("train.optimizer.name", "adamw")]
    facts = (
        f"{block['title']}. {backbone} from random weights at {block['image_side']} px: a position sees {sees(block)}, "
        f"map {map_size(block)}x{block['feature_map'][2]}. {counted(settings['train.epochs'], 'epoch')}, "
        f"{optimizer} {settings['train.optimizer.learning_rate']:g}, augmentation {settings['augment']}; judged on "
        f"{counted(block['examples'], 'picture')} of {block['split']}."
    )
    where = f"{block['training_seconds'] / 60:.0f} minutes of training on {block['machine']}; {block['measured']}."
    return "\n".join(
        [
            f"### {block['pictures']}, {block['backbone']}\n",
            f"{facts}\n",
            to_markdown(_block_grid(block)),
            f"```bash\n{block['command']}\n```\n",
            f"{where}\n",
        ]
    )


def _block_grid(block: Block) -> Grid:
    columns = (
        Column("head"),
        Column("top-1 accuracy, %", True),
        Column("macro F1, %", True),
        Column("n", True),
        Column("to gap, points", True),
        Column("95 % interval", True),
        Column("head parameters", True),
        Column("s per epoch", True),
        Column("epochs to gap's best", True),
    )
    return Grid("", columns, tuple(_block_cells(row) for row in block["rows"]))


def _block_cells(row: Row) -> tuple[str, ...]:
    """Return the table cells of a head, with a dash if none of its trainings has a result."""

    def shown(name: str, form: str) -> str:
        return "-" if row[name] is None else format(row[name], form)

    return (
        row["head"],
        spread(row["top1_accuracy_mean"], row["top1_accuracy_std"]),
        spread(row["macro_f1_mean"], row["macro_f1_std"]),
        str(len(row["seeds"])),
        points(row["difference_to_first_mean"]) if row["difference_to_first_ci95"] else "-",
        interval(row),
        shown("head_parameters", ","),
        shown("seconds_per_epoch_mean", ".2f"),
        shown("epochs_to_first_best_mean", ".1f"),
    )


def variants(blocks: Sequence[Block]) -> str:
    """Return how often every variant and other head was better or worse than Wise with its defaults at the time."""
    columns = (*texts("head"), *numbers("settings", *VERDICTS, "differences, points"), *texts("that is"))
    rows = tuple(_variant_cells(blocks, head) for head in ("depthwise", "flatten", "gmp", *variant_names(blocks)))
    return to_markdown(Grid("", columns, rows))


def _variant_cells(blocks: Sequence[Block], head: str) -> tuple[str, ...]:
    found = [row for _, row in _heads(blocks, head, "rows_to_wise")]
    verdicts = [verdict_of(row) for row in found]
    means = [row["difference_to_first_mean"] for row in found]
    return (
        head,
        str(len(found)),
        *(str(verdicts.count(verdict)) for verdict in VERDICTS),
        f"{points(min(means))} to {points(max(means))}",
        clearly(blocks, head),
    )


def variant_names(blocks: Sequence[Block]) -> list[str]:
    """Return every head that is Wise with non-default options, once."""
    rows = (row for block in blocks for row in block["rows"])
    return list(dict.fromkeys(row["head"] for row in rows if row["head"].startswith("wise:")))


def clearly(blocks: Sequence[Block], head: str) -> str:
    """Return whether a variant is better, or worse, than the default on two kinds of pictures with enough seeds."""
    kinds: dict[str, dict[str, None]] = {"better": {}, "worse": {}}  # a dict keeps the order
    for block, row in _heads(blocks, head, "rows_to_wise"):
        if len(row["seeds"]) >= ENOUGH_SEEDS and verdict_of(row) in kinds:
            kinds[verdict_of(row)][data_set(block)] = None
    better, worse = kinds.values()
    if better and worse:
        return f"better than the default on {_listed(better)}, worse on {_listed(worse)}."
    for verdict, found in kinds.items():
        if len(found) >= ENOUGH_KINDS:
            return f"clearly {verdict} than the default, on {_listed(found)}."
        if found:
            return f"{verdict} than the default on {_listed(found)} only."
    return "no clear difference from the default anywhere."


def data_set(block: Block) -> str:
    """Return the data set of a block; few and many pictures of a harbour are one data set."""
    name: str = block["pictures"]
    return name.partition("_")[0]


def _listed(names: Iterable[str]) -> str:
    return " and ".join(names)


def _heads(blocks: Iterable[Block], head: str, table: str = "rows") -> Iterator[tuple[Block, Row]]:
    """Yield every block that has a difference for a head, with the head's row."""
    for block in blocks:
        for row in block[table]:
            if row["head"] == head and row["difference_to_first_ci95"]:
                yield block, row


def verdict_of(row: Row) -> str:
    """Return the verdict that the interval of a difference supports."""
    low, high = row["difference_to_first_ci95"]
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def interval(row: Row) -> str:
    """Return the interval of a difference, in points."""
    if not row["difference_to_first_ci95"]:
        return "-"
    low, high = row["difference_to_first_ci95"]
    return f"{points(low)} to {points(high)}"


def sees(block: Block) -> str:
    """Return how much of a picture a position of the feature map sees."""
    field, side = block["receptive_field"], block["image_side"]
    if field is None:
        return f"not known, of {side} px"
    if not field["covers_picture"] and field["pixels"] >= side:
        return f"most of {side} px (field {field['pixels']})"
    if not field["covers_picture"]:
        return f"{field['pixels']} of {side} px"
    return f"all {side} px" + (f" (field {field['pixels']})" if field["pixels"] else "")


def map_size(block: Block) -> str:
    """Return the height and width of the feature map."""
    return "x".join(map(str, block["feature_map"][:2]))


WRITERS: dict[str, Callable[[Sequence[Block]], str]] = {"random": random_table, "variants": variants}
