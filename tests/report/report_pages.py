"""Makes report content without a model: random logits, single-colour pictures, and maps that add up."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from wisesr_cli.evaluation.metrics import (
    Answers,
    answers_of,
    compute_metrics,
    reliability_bins,
)
from wisesr_cli.evaluation.mistakes import most_confused, worst_mistakes
from wisesr_cli.report.pictures import tinted_map
from wisesr_cli.report.records import Card, DataTable, Example, ReportContent, Thumbnail
from wisesr_cli.report.selection import choose_listed, choose_mistakes, choose_right, examples_of
from wisesr_cli.results.evaluation import Evaluation, Verdict
from wisesr_cli.results.streams import Contribution
from wisesr_cli.results.training import EpochResult


def make_answers(classes: int, examples: int, seed: int = 0) -> tuple[Answers, np.ndarray]:
    """Return answers of which about two thirds are right, with the labels in rotation, and their logits."""
    random = np.random.default_rng(seed)
    labels = np.arange(examples) % classes
    logits = random.normal(size=(examples, classes)).astype(np.float32)
    logits[np.arange(examples), labels] += 1.2
    return answers_of(logits, labels), logits


def make_evaluation(
    paths: Sequence[str], answers: Answers, logits: np.ndarray, class_names: Sequence[str]
) -> Evaluation:
    metrics = compute_metrics(logits, answers.labels, class_names)
    return Evaluation(
        split="test",
        metrics=metrics,
        most_confused=most_confused(metrics),
        worst_mistakes=worst_mistakes(paths, answers, class_names),
        reliability=reliability_bins(answers),
        output_dir="evaluate-test",
    )


def make_thumbnail(number: int) -> Thumbnail:
    file = io.BytesIO()
    Image.new("RGB", (24, 32), (number * 40 % 256, 90, 160)).save(file, "WEBP")
    return Thumbnail("image/webp", file.getvalue(), 108, 144)


def make_contribution(label: str, seed: int, size: tuple[int, int] = (4, 3)) -> Contribution:
    values = np.random.default_rng(seed).normal(size=size)
    total = float(values.sum())
    return Contribution(label, total + 0.25, 0.25, tuple(map(tuple, values.tolist())), total)


def make_history(epochs: int) -> tuple[EpochResult, ...]:
    return tuple(
        EpochResult(epoch, 1 + (epoch > 2), 1e-3, 2.0 / epoch, 1 - 0.6 / epoch, 2.1 / epoch, 1 - 0.7 / epoch, 1.5)
        for epoch in range(1, epochs + 1)
    )


def make_content(class_names: Sequence[str], paths: Sequence[str], *, title: str = "tiny") -> ReportContent:
    """Return content with all its sections; every third listed image has neither a card nor a thumbnail."""
    answers, logits = make_answers(len(class_names), len(paths))
    evaluation = make_evaluation(paths, answers, logits, class_names)
    examples = examples_of(paths, answers)

    def card(row: Example) -> Card:
        predicted = make_contribution(class_names[row.predicted], row.position)
        other = make_contribution(class_names[row.truth], row.position + 1000)
        return Card(row, make_thumbnail(row.position), tinted_map(predicted), tinted_map(predicted.minus(other)))

    mistakes = [card(row) for row in choose_mistakes(examples, evaluation.worst_mistakes[:2])]
    right = [card(row) for row in choose_right(examples)]
    without = {card.example.position for card in (*mistakes, *right)} | set(range(0, len(paths), 3))
    counts = tuple(row.support for row in evaluation.metrics.per_class)
    return ReportContent(
        title=title,
        evaluation=evaluation,
        facts=(("Model", f"compact, head wise, {class_names[0]}"),),
        verdict=(Verdict("accuracy", "warn", f"{class_names[0]} may be no better", f"wisesr check {title}"),),
        cautions=(f"Always answering {class_names[0]} would be right for 33 %.",),
        left_out=(f"Something of {title}",),
        data=DataTable(("train", "test"), (tuple(3 * count for count in counts), counts), "test"),
        mistakes=tuple(mistakes),
        right=tuple(right),
        statement="exact on the feature map",
        listed=tuple(choose_listed(examples, 1_000_000)),
        thumbnails={row.position: make_thumbnail(row.position) for row in examples if row.position not in without},
        history=make_history(4),
        best_epoch=3,
        config=f"data:\n  dir: {title}",
        environment=f'{{\n "command_line": ["{title}"]\n}}',
    )


NAMES = ("cat", "dog", "owl")

PATHS = tuple(f"test/{NAMES[number % 3]}/{number:02}.png" for number in range(24))

ATTACKS = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "]]>\"'><img src=x onerror=alert(3)>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&#60;",
    "javascript:alert(4)",
    "https://example.org/a.png",
)


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text of each element by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br"}:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data
