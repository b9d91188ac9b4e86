"""Writes the tables of heads on frozen ImageNet features from docs/transfer.json into docs/heads.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from benchmarks.heads.cells import COMMANDS, EVEN, GLOROT, MAIN, PAPER
from benchmarks.heads.page import DOCUMENT, sees
from benchmarks.pages import DOCS, read_figures, write_between_marks
from wisesr_cli.comparison.conclusions import points
from wisesr_cli.comparison.tables import spread
from wisesr_cli.display.grid import Grid, numbers, texts, to_markdown

FIGURES = DOCS / "transfer.json"
OTHERS = ("gmp", "depthwise:initializer=even", "flatten", "flatten:pre_pool=3")
LEAST_CELLS = 3  # of a candidate

Cells = Mapping[str, dict[str, Any]]


def write_document() -> None:
    """Replace the text between the marks of the page."""
    found = read_figures(FIGURES)
    cells = {name: cell for name, cell in found.items() if name not in COMMANDS}
    commands = {name: figures for name, figures in found.items() if name in COMMANDS}
    contents = {mark: written(cells) for mark, written in WRITERS.items()}
    contents["commands"] = commands_table(commands)
    write_between_marks(DOCUMENT, "benchmarks.heads.transfer", contents)


def cells_table(cells: Cells) -> str:
    """Return a row per cell: GAP with both classifier initializers, Wise as published, Wise, and Wise - GAP."""
    columns = (
        *texts("pictures, backbone, pixels", "a position sees"),
        *numbers("map", "train / test", "gap, %", "gap, Glorot", "published", "wise"),
        *numbers("wise - gap, points", "95 % interval"),
        *texts("wise is"),
    )
    return to_markdown(Grid("", columns, tuple(_cells_of(cell) for cell in cells.values())))


def _cells_of(cell: dict[str, Any]) -> tuple[str, ...]:
    heads = cell["heads"]
    shown = [accuracy(heads[head]) if head in heads else "-" for head in ("gap", GLOROT, "wise:paper", "wise")]
    height, width, _ = cell["feature_map"]
    difference = heads["wise"]["to_gap"]
    return (title(cell), sees(cell), f"{height}x{width}", sizes(cell), *shown, *shown_difference(difference))


def title(cell: dict[str, Any]) -> str:
    """Return the title of a cell: `photos, MobileNet, 224`, with what is special about it."""
    layer = f" to {cell['layer']}" if cell["layer"] else ""
    few = f", {cell['per_class']} a class" if cell["per_class"] else ""
    folds = f", {cell['folds']} folds" if cell["folds"] else ""
    return f"{cell['pictures']}, {cell['backbone']}{layer}, {cell['image_size']}{few}{folds}"


def sizes(cell: dict[str, Any]) -> str:
    """Return the numbers of images that a head is trained and evaluated on."""
    images = cell["images"]
    if cell["folds"]:
        total = sum(images.values())
        return f"{total * (cell['folds'] - 2) // cell['folds']} / {total}"
    return f"{images['train']} / {images['test']}"


def accuracy(head: dict[str, Any]) -> str:
    """Return the mean and standard deviation over seeds."""
    values = head["accuracies"]
    return spread(mean(values), stdev(values))


def shown_difference(difference: Sequence[float] | None) -> tuple[str, str, str]:
    """Return a difference in points, its interval, and the verdict."""
    if difference is None:
        return "-", "-", "-"
    middle, low, high = difference
    return points(middle), f"{points(low)} to {points(high)}", verdict(difference)


def verdict(difference: Sequence[float]) -> str:
    """Return the verdict: `better` or `worse` if the interval excludes zero."""
    _, low, high = difference
    return "better" if low > 0 else "worse" if high < 0 else "no clear difference"


def others_table(cells: Cells) -> str:
    """Return the heads other than GAP and Wise: accuracy, and the difference from Wise."""
    columns = (*texts("pictures, backbone, pixels"), *numbers(*(f"{head}, % (to wise)" for head in OTHERS)))
    rows = []
    for cell in cells.values():
        found = [cell["heads"].get(head) for head in OTHERS]
        if any(found[1:]):
            rows.append((title(cell), *(_beside_wise(head) if head else "-" for head in found)))
    return to_markdown(Grid("", columns, tuple(rows)))


def _beside_wise(head: dict[str, Any]) -> str:
    middle, low, high = head["to_wise"]
    mark = {"better": " +", "worse": " -", "no clear difference": ""}[verdict((middle, low, high))]
    return f"{100 * mean(head['accuracies']):.1f} ({points(middle)}{mark})"


def default_table(cells: Cells) -> str:
    """Return every head and candidate over the cells that have it: against Wise, and against GAP."""
    columns = (
        *texts("head"),
        *numbers("cells", "mean to wise, points", "better", "worse", "mean to gap, points", "largest loss to gap"),
    )
    names = dict.fromkeys(head for cell in cells.values() for head in cell["heads"])
    names = dict.fromkeys((*MAIN, *names))
    rows = [row for name in names if (row := _default_cells(name, cells)) is not None]
    return to_markdown(Grid("", columns, tuple(rows)))


def _default_cells(name: str, cells: Cells) -> tuple[str, ...] | None:
    found = [cell["heads"][name] for cell in cells.values() if name in cell["heads"]]
    if len(found) < LEAST_CELLS:
        return None
    to_wise = [head["to_wise"] for head in found if head["to_wise"]]
    to_gap = [head["to_gap"] for head in found if head["to_gap"]]
    verdicts = [verdict(each) for each in to_wise]
    return (
        name,
        str(len(found)),
        _mean_points(to_wise),
        str(verdicts.count("better")) if to_wise else "-",
        str(verdicts.count("worse")) if to_wise else "-",
        _mean_points(to_gap),
        _loss(to_gap),
    )


def _mean_points(differences: Iterable[Sequence[float]]) -> str:
    means = [difference[0] for difference in differences]
    return points(mean(means)) if means else "-"


def _loss(differences: Sequence[Sequence[float]]) -> str:
    """Return the lowest mean, with the lowest bound of any interval."""
    if not differences:
        return "-"
    lowest = min(each[0] for each in differences)
    return f"{points(lowest)} (interval from {points(min(each[1] for each in differences))})"


def paper_table(cells: Cells) -> str:
    """Return the options that the paper discusses, against GAP and against Wise."""
    columns = (*texts("head", "pictures, backbone, pixels"), *numbers("top-1, %", "to gap, points", "to wise, points"))
    rows = [
        (head, title(cell), accuracy(found), *(_with_interval(found[f"to_{other}"]) for other in ("gap", "wise")))
        for head in PAPER
        for cell in cells.values()
        if (found := cell["heads"].get(head)) is not None
    ]
    return to_markdown(Grid("", columns, tuple(rows)))


def _with_interval(difference: Sequence[float]) -> str:
    middle, low, high = difference
    return f"{points(middle)} ({points(low)} to {points(high)})"


def rates_table(cells: Cells) -> str:
    """Return the test accuracy with the `even` initializer minus that with `uniform`, at every learning rate."""
    found = {name: cell["heads"][EVEN].get("to_wise_by_rate") for name, cell in cells.items()}
    rates = list(dict.fromkeys(rate for differences in found.values() for rate in differences or ()))
    columns = (*texts("pictures, backbone, pixels"), *numbers(*(f"at {rate}" for rate in rates)))
    rows = [
        (title(cells[name]), *(_with_interval(differences[rate]) for rate in rates))
        for name, differences in found.items()
        if differences
    ]
    return to_markdown(Grid("", columns, tuple(rows)))


def commands_table(commands: Cells) -> str:
    """Return the results of `wisesr compare` itself: every head, and its difference from GAP; then the commands."""
    columns = (*texts("comparison", "head"), *numbers("top-1, %", "to gap, points", "95 % interval"), *texts("is"))
    rows = [
        (name, head, accuracy(figures), *shown_difference(figures["to_gap"]))
        for name, command in commands.items()
        for head, figures in command["heads"].items()
    ]
    typed = "\n".join(f"{command['command']}  # {name}" for name, command in commands.items())
    return f"{to_markdown(Grid('', columns, tuple(rows)))}\n```bash\n{typed}\n```\n"


WRITERS: dict[str, Callable[[Cells], str]] = {
    "frozen": cells_table,
    "others": others_table,
    "default": default_table,
    "rates": rates_table,
    "paper": paper_table,
}
