"""Writes the model card of a run: what the model is, what it was trained on, how accurate it is, and its limits.

The card is Markdown with the front matter that the Hugging Face Hub reads
(https://huggingface.co/docs/hub/model-cards). Everything in it comes from the files of the run; the publisher adds the
rest, and an edited card is never overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from wisesr_cli.data.settings import parse_labels
from wisesr_cli.display.grid import Grid, decimal, markdown_text, numbers, percent, texts, to_markdown
from wisesr_cli.errors import WisesrError
from wisesr_cli.listening import Listener
from wisesr_cli.machine.files import write_text
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.run.names import CARD, METRICS
from wisesr_cli.run.records import read_json
from wisesr_cli.run.run import Run
from wisesr_cli.run.written import Written, recording
from wisesr_cli.text import counted, size_text, some_of, visible

MOST_CLASSES = 50  # rows of the table of images
# Metrics of a card: the name on the Hub, where it has one, and the title that is shown.
SHOWN = {
    "top1_accuracy": ("accuracy", "top-1 accuracy"),
    "mean_average_precision": ("mean_average_precision", "mean average precision"),
    "micro_f1": ("f1", "micro F1"),
    "macro_f1": ("f1", "macro F1"),
    "balanced_accuracy": ("balanced_accuracy", "balanced accuracy"),
    "log_loss": ("log_loss", "log loss"),
    "ece": ("expected_calibration_error", "expected calibration error"),
}


def update_card(run: Run, info: ModelInfo, listener: Listener) -> None:
    """Rewrite the card of a run; one that somebody else wrote or edited is left alone, with a note."""
    path, written = run.path / CARD, Written(run.path)
    if path.exists() and not written.has(path):
        if written.exists:
            listener.note(f"{visible(path)} was not written by wisesr, or was edited, and is left unchanged")
        return
    try:
        text = model_card(run, info)
    except WisesrError as error:
        listener.warn(f"no model card: {error}")
        return
    with recording(run.path):
        write_text(path, text)


def model_card(run: Run, info: ModelInfo) -> str:
    """Return the card of a run from the record of its best model; raises `RunError` if its files are damaged."""
    evaluations = evaluations_of(run)
    sections = [
        f"---\n{front_matter(run, info, evaluations)}---\n",
        f"# {markdown_text(run.path.resolve().name)}\n",
        _about(run, info),
        "## Evaluation\n",
        _evaluation(evaluations),
        "## Training data\n",
        _data(run, info),
        "## Intended use\n",
        "Images like those it was trained on, for the classes below. *Intended users, uses and out-of-scope uses are "
        "for its publisher to state.*\n",
        f"Classes: {markdown_text(some_of(info.class_names, MOST_CLASSES))}\n",
        "## Limits\n",
        "".join(f"- {line}\n" for line in _limits(run, info, evaluations)),
    ]
    return "\n".join(sections)


def evaluations_of(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return the metrics of a run by name: `validation`, and every evaluation in the run directory."""
    found: dict[str, Mapping[str, Any]] = {}
    if (run.path / METRICS).is_file():
        found["validation"] = read_json(run.path / METRICS)
    for folder in sorted(run.path.glob("evaluate-*")):
        if (folder / METRICS).is_file() and not folder.is_symlink():
            found[folder.name.removeprefix("evaluate-")] = read_json(folder / METRICS)
    return {name: values for name, values in found.items() if isinstance(values, dict)}


def front_matter(run: Run, info: ModelInfo, evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the YAML at the head of the card."""
    name = run.path.resolve().name
    results = [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": visible(split), "type": "imagefolder"},
            "metrics": [
                {"type": kind, "name": title, "value": round(float(values[key]), 6)}
                for key, (kind, title) in SHOWN.items()
                if isinstance(values.get(key), int | float)
            ],
        }
        for split, values in evaluations.items()
    ]
    content = {
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "wisesr", "wise-srnet", info.backbone.lower()],
        "metrics": ["accuracy", "f1"],
        **({"model-index": [{"name": visible(name), "results": results}]} if results else {}),
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _about(run: Run, info: ModelInfo) -> str:
    config = run.load_config()
    kind = "any number of labels per image" if info.is_multilabel else "one label per image"
    start = "random weights" if config.model.is_random else "pretrained weights"
    age = "upgraded from a Keras model, and not trained since" if info.is_upgraded else f"epoch {info.epoch}"
    versions = {name: markdown_text(info.versions.get(name, "?")) for name in ("wisesr", "keras")}
    return (
        f"An image classifier ({counted(len(info.class_names), 'class', 'classes')}, {kind}) with the backbone "
        f"{markdown_text(info.backbone)}, started from {start}, and the head {markdown_text(info.head)} of wisesr "
        "([Wise-SrNet](https://arxiv.org/abs/2104.12294) and what it is compared with), at "
        f"{size_text(info.image_size)} pixels; {age}. Made with wisesr {versions['wisesr']} and Keras "
        f"{versions['keras']}; `config.yaml` next to it repeats the training.\n"
    )


def _evaluation(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    if not evaluations:
        return "Not evaluated: there were no images other than those it was trained on.\n"
    keys = [key for key in SHOWN if any(values.get(key) is not None for values in evaluations.values())]
    rows = tuple(
        (name, f"{values.get('examples', 0):,}", *(_shown(key, values.get(key)) for key in keys))
        for name, values in evaluations.items()
    )
    table = to_markdown(Grid("", (*texts("images"), *numbers("n", *(SHOWN[key][1] for key in keys))), rows))
    intervals = [
        f"95 % interval of the top-1 accuracy on {markdown_text(name)}: {percent(values['interval'][0])} to "
        f"{percent(values['interval'][1])}."
        for name, values in evaluations.items()
        if values.get("interval")
    ]
    chosen = (
        ["The epoch was chosen on validation: figures on it are optimistic."] if "validation" in evaluations else []
    )
    return "\n".join((table, *(f"{line}\n" for line in (*intervals, *chosen))))


def _shown(key: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return "-"
    return decimal(value) if key == "log_loss" else percent(value)


def _data(run: Run, info: ModelInfo) -> str:
    counts = counts_of(run, info)
    if not counts:
        return "Not known to wisesr.\n"
    splits = list(counts)
    rows = tuple(
        (name, *(f"{counts[split].get(name, 0):,}" for split in splits)) for name in info.class_names[:MOST_CLASSES]
    )
    left = len(info.class_names) - len(rows)
    more = f"\nand {left:,} more classes\n" if left > 0 else ""
    return to_markdown(Grid("", (*texts("class"), *numbers(*splits)), rows)) + more


def counts_of(run: Run, info: ModelInfo) -> dict[str, dict[str, int]]:
    """Return the number of images of each class in each split of a run; empty if its table of splits cannot be read."""
    try:
        rows, separator = run.read_splits(), run.load_config().data.label_separator
    except WisesrError:
        return {}
    counts: dict[str, dict[str, int]] = {}
    for _, label, split in rows:
        for name in (label,) if separator is None else parse_labels(label, separator):
            of_split = counts.setdefault(split, {})
            of_split[name] = of_split.get(name, 0) + 1
    return counts


def _limits(run: Run, info: ModelInfo, evaluations: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    if info.is_multilabel:
        yield "A label is given at or above its own threshold; things without a label go unnoticed."
    else:
        yield "Every image gets one of its classes, even if it shows none of them."
    yield "Scores are calibrated on images like its own; on others they may be overconfident, and accuracy lower."
    if info.head not in ("gap", "gmp"):
        yield "The head weights positions: where things are in the picture matters, as do framing and mirroring."
    if "test" not in evaluations:
        yield "It was not evaluated on a test split of its own."
    counts = counts_of(run, info).get("train", {})
    if few := [name for name in info.class_names if counts and counts.get(name, 0) < 50]:
        yield f"Few training images (below 50): {markdown_text(some_of(few, 10))}."
    for row in evaluations.get("test", evaluations.get("validation", {})).get("verdict", ()):
        if isinstance(row, dict) and row.get("level") in ("warn", "fail"):
            yield markdown_text(str(row.get("message", "")))


def card_beside(model: Path) -> str | None:
    """Return the front matter of the card next to a model file, including its fences; None if there is none."""
    path = model.parent / CARD
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    head, fence, _ = text.removeprefix("---\n").partition("\n---\n")
    return f"---\n{head}{fence}" if text.startswith("---\n") and fence else None
