"""Gathers the content of report.html: evaluation results, thumbnails, contribution maps, and the run's own files.

Unavailable parts (maps of a head without them, run files for a lone model) are omitted, and the report says so.
Keras is started only for the maps, whatever engine the evaluation ran on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from wisesr_cli.errors import WisesrError
from wisesr_cli.evaluation.evaluate import Evaluated
from wisesr_cli.listening import Progress
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.files import write_text
from wisesr_cli.report.facts import cautions, data_table, describe, read_run_files, shorten_path, verdict_of
from wisesr_cli.report.page import render
from wisesr_cli.report.pictures import LARGE_SIDE, SMALL_SIDE, thumbnails, tinted_map
from wisesr_cli.report.records import Card, Example, ReportContent, Thumbnail
from wisesr_cli.report.selection import choose_listed, choose_mistakes, choose_right, examples_of
from wisesr_cli.results.streams import Explanation
from wisesr_cli.run.names import REPORT

PAGE_BYTES = 4_900_000  # of the whole file, so that it can be mailed
LIST_BYTES = 900_000  # of the images that cells list
CARDS_BYTES = 2_000_000  # of the pictures on cards: the maps of a large feature map take as much as a photo
THUMBNAIL_BYTES = 40  # of a thumbnail in addition to its picture


def write_report(evaluated: Evaluated, folder: Path) -> None:
    """Write the report of an evaluation into its folder; raises a `MachineError` if it cannot be written."""
    write_text(folder / REPORT, render(gather(evaluated)))


def gather(evaluated: Evaluated) -> ReportContent:
    """Return the content of an evaluation's report."""
    evaluation, listener = evaluated.evaluation, evaluated.request.listener
    examples = examples_of(evaluated.paths, evaluated.answers)
    mistakes, right = choose_mistakes(examples, evaluation.worst_mistakes), choose_right(examples)
    listed = choose_listed(examples, LIST_BYTES)
    files = read_run_files(evaluated)
    with listener.progress("looking at images for the report", 2 * (len(mistakes) + len(right))) as progress:
        cards, statement, reason = _explain(_photograph([*mistakes, *right], evaluated, progress), evaluated, progress)
    if reason:
        listener.warn(f"the report has no contribution maps: {reason}")
        files.left_out.append(f"Contribution maps: {reason}")
    shown = _within(cards, CARDS_BYTES)
    if len(shown) < len(cards):
        files.left_out.append(
            f"{len(cards) - len(shown):,} of {len(cards):,} images with maps: the file would be too large"
        )
    content = ReportContent(
        title=evaluated.run.name,
        evaluation=evaluation,
        facts=tuple(describe(evaluated)),
        verdict=verdict_of(evaluated),
        cautions=tuple(cautions(evaluation.metrics, evaluated.subject)),
        left_out=tuple(files.left_out),
        data=data_table(evaluated, files),
        mistakes=tuple(card for card in shown if not card.example.is_right),
        right=tuple(sorted((card for card in shown if card.example.is_right), key=_by_class)),
        statement=statement,
        listed=tuple(listed),
        thumbnails={},
        history=files.history,
        best_epoch=evaluated.info.epoch,
        config=files.config,
        environment=files.environment,
    )
    return _with_thumbnails(content, evaluated)


def _by_class(card: Card) -> tuple[int, float, str]:
    return card.example.truth, -card.example.score, card.example.path


def _photograph(examples: Sequence[Example], evaluated: Evaluated, progress: Progress) -> list[Card]:
    """Return a card for each example, without maps yet."""
    paths = [evaluated.path_of(row.path) for row in examples]
    cards = []
    pictures = thumbnails(paths, LARGE_SIDE, evaluated.info, pixel_limit=evaluated.pixel_limit)
    for example, picture in zip(examples, pictures, strict=True):
        cards.append(Card(example, picture))
        progress.advance()
    return cards


def _explain(cards: list[Card], evaluated: Evaluated, progress: Progress) -> tuple[list[Card], str, str]:
    """Return the cards with maps and a statement of what is exact about these, or unchanged cards with the reason."""
    from wisesr_cli.explanation.explainer import Explainer, explain_paths

    explained, batch_size = [], evaluated.request.batch_size
    try:
        keras_start.start(evaluated.request.device, precision="float32")
        explainer = Explainer(evaluated.run.checked, evaluated.info.image_size)
        for start in range(0, len(cards), batch_size):
            some = cards[start : start + batch_size]
            asked = sorted({card.example.truth for card in some if not card.example.is_right})
            paths = [evaluated.path_of(card.example.path) for card in some]
            explanations = explain_paths(
                explainer, paths, labels=asked, batch_size=batch_size, pixel_limit=evaluated.pixel_limit
            )
            for card, explanation in zip(some, explanations, strict=True):
                explained.append(_with_maps(card, explanation, explainer.info.class_names))
                progress.advance()
    except (WisesrError, MemoryError) as error:
        return cards, "", shorten_path(str(error), evaluated.run.run)
    return explained, explainer.statement, ""


def _with_maps(card: Card, explanation: Explanation, class_names: Sequence[str]) -> Card:
    """Return a card with its maps; unchanged if the image is gone, or float32 in Keras gives another answer."""
    predicted, other = explanation.predicted, explanation.runner_up
    if predicted is None or other is None or predicted.label != class_names[card.example.predicted]:
        return card
    if not card.example.is_right:
        other = next(row for row in explanation.asked if row.label == class_names[card.example.truth])
    return replace(card, predicted=tinted_map(predicted), difference=tinted_map(predicted.minus(other)))


def _within(cards: Sequence[Card], most_bytes: int) -> Sequence[Card]:
    """Return the first cards, as many as have pictures within `most_bytes` in total."""
    for number, card in enumerate(cards):
        pictures = [tinted.png for tinted in (card.predicted, card.difference) if tinted is not None]
        most_bytes -= sum(map(_encoded_bytes, [*pictures, *([card.thumbnail.content] if card.thumbnail else [])]))
        if most_bytes < 0:
            return cards[:number]
    return cards


def _encoded_bytes(content: bytes) -> int:
    """Return the number of bytes that a picture takes in base64."""
    return (len(content) + 2) // 3 * 4


def _with_thumbnails(content: ReportContent, evaluated: Evaluated) -> ReportContent:
    """Return the content with thumbnails of the listed images that have no card, as many of the first as fit."""
    room = PAGE_BYTES - len(render(content).encode())
    with_card = {card.example.position for card in (*content.mistakes, *content.right)}
    pending = [row for row in content.listed if row.position not in with_card]
    found: dict[int, Thumbnail] = {}
    paths = [evaluated.path_of(row.path) for row in pending]
    pictures = thumbnails(paths, SMALL_SIDE, evaluated.info, pixel_limit=evaluated.pixel_limit)
    with (
        evaluated.request.listener.progress("making thumbnails for the report", len(pending)) as progress,
        closing(pictures),
    ):
        for example, picture in zip(pending, pictures, strict=True):
            progress.advance()
            if picture is None:
                continue
            room -= _encoded_bytes(picture.content) + THUMBNAIL_BYTES
            if room < 0:
                break
            found[example.position] = picture
    return replace(content, thumbnails=found)
