"""Renders report.html from what `content` gathered: one file that loads nothing from a network.

The templates are in `templates/`. The environment passes all text through `text.visible` and escapes it, so that no
template can forget to. A content security policy allows the page's style sheet and script, by their hashes, and
embedded pictures; a browser refuses everything else.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wisesr_cli.display.grid import decimal, percent
from wisesr_cli.report.charts import WIDTH, learning_curves, reliability_charts
from wisesr_cli.report.pictures import SMALL_SIDE
from wisesr_cli.report.records import ReportContent, Thumbnail, TintedMap
from wisesr_cli.report.tables import class_rows, confused_pairs, matrix_of, split_rows
from wisesr_cli.results.evaluation import Metrics
from wisesr_cli.text import visible
from wisesr_cli.version import __version__

SMALLEST_SQUARE = 4  # pixels; lines between smaller positions would hide the picture, so none are drawn
MINUS = "\u2212"

_MEANINGS = {
    "top1_accuracy": ("Top-1 accuracy", "how often the best class is the true one"),
    "top5_accuracy": ("Top-5 accuracy", "how often the true class is among the five best"),
    "balanced_accuracy": ("Balanced accuracy", "mean recall of the classes: small ones count as much as large ones"),
    "macro_precision": (
        "Macro precision",
        "mean over classes: of the images predicted as a class, how many are",
    ),
    "macro_f1": ("Macro F1", "mean over classes of the harmonic mean of precision and recall"),
    "macro_auc": ("Macro AUC", "how well the scores of a class rank its images before all others"),
    "log_loss": ("Log loss", "mean negative log-probability of the true class; lower is better"),
    "ece": ("ECE", "mean gap between score and accuracy; lower is better"),
}
_DECIMALS = {"log_loss"}


@dataclass(frozen=True)
class Figure:
    """A number with its name and meaning."""

    name: str
    value: str
    note: str


def render(content: ReportContent) -> str:
    """Return the page."""
    environment = _environment()
    assert environment.loader is not None
    style, script = (environment.loader.get_source(environment, name)[0] for name in ("report.css", "report.js"))
    metrics, names = content.evaluation.metrics, content.evaluation.metrics.classes
    rows = class_rows(metrics, content.data)
    return environment.get_template("report.html").render(
        content=content,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        version=__version__,
        sections=_sections(content),
        tiles=_tiles(content),
        metrics=[_figure(metrics, field) for field in _MEANINGS],
        classes=rows,
        classes_left_out=len(names) - len(rows),
        splits=split_rows(content.data),
        names=names,
        matrix=matrix_of(metrics),
        pairs=confused_pairs(content.evaluation),
        reliability=reliability_charts(content.evaluation.reliability, metrics.ece),
        curves=learning_curves(content.history, content.best_epoch) if content.history else (),
        width=WIDTH,
        data=_data(content),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("wisesr_cli.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "decimal": decimal, "signed": signed}
    environment.filters |= {"data_uri": data_uri, "grid": grid_lines, "short": short}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment


def _shown(value: Any) -> Any:
    """Return text with its invisible characters escaped; HTML and numbers unchanged."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _policy(style: str, script: str) -> str:
    """Return the content security policy that allows only this style sheet, this script and embedded pictures."""
    hashes = {
        kind: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in (("style", style), ("script", script))
    }
    allowed = [f"{kind}-src 'sha256-{digest}'" for kind, digest in hashes.items()]
    return "; ".join(["default-src 'none'", "img-src data:", *allowed, "base-uri 'none'", "form-action 'none'"])


def signed(value: float, *, always: bool = False) -> str:
    """Return a number with two decimals and a minus sign if negative; `always`: with a sign and a space in any case."""
    text = f"{abs(value):.2f}"
    is_negative = value < 0 and float(text) > 0
    sign = MINUS if is_negative else "+" if always else ""
    return f"{sign} {text}" if always else sign + text


def short(count: int) -> str:
    """Return a count short enough for a cell: exact below 10,000, else in thousands or millions."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.1f}M"


def data_uri(content: bytes, media_type: str) -> str:
    """Return a file as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def grid_lines(tinted: TintedMap, thumbnail: Thumbnail) -> str:
    """Return the SVG path of the lines between positions; empty if they would hide the picture."""
    rows, columns = len(tinted.contribution.map), len(tinted.contribution.map[0])
    across, down = thumbnail.width / columns, thumbnail.height / rows
    if min(across, down) < SMALLEST_SQUARE:
        return ""
    upright = (f"M{across * column:.1f} 0V{thumbnail.height}" for column in range(1, columns))
    level = (f"M0 {down * row:.1f}H{thumbnail.width}" for row in range(1, rows))
    return "".join((*upright, *level))


def _sections(content: ReportContent) -> list[tuple[str, str]]:
    sections = [
        ("summary", "Summary"),
        ("classes", "Classes"),
        ("data", "Data"),
        ("confusion", "Confusion matrix"),
        ("reliability", "Reliability"),
    ]
    if content.mistakes or content.right:
        sections.append(("images", "What decided"))
    if content.history:
        sections.append(("learning", "Learning curves"))
    if content.config or content.environment:
        sections.append(("settings", "Config and environment"))
    return sections


def _figure(metrics: Metrics, field: str) -> Figure:
    name, meaning = _MEANINGS[field]
    value = getattr(metrics, field)
    return Figure(name, decimal(value) if field in _DECIMALS else percent(value), meaning)


def _tiles(content: ReportContent) -> list[Figure]:
    metrics = content.evaluation.metrics
    low, high = map(percent, content.evaluation.metrics.interval or (None, None))
    return [
        Figure("Top-1 accuracy", percent(metrics.top1_accuracy), f"95 % interval {low} to {high}"),
        Figure("Macro F1", percent(metrics.macro_f1), "mean over classes"),
        Figure("Calibration error", percent(metrics.ece), "ECE, lower is better"),
        Figure("Images", f"{metrics.examples:,}", f"{metrics.confusion.mistakes:,} wrong"),
    ]


def _data(content: ReportContent) -> dict[str, Any]:
    """Return the data for the script that lists images in cells: scores in thousandths, pictures by position."""
    metrics = content.evaluation.metrics
    fitted = {}
    for position, found in content.thumbnails.items():
        scale = SMALL_SIDE / max(found.width, found.height)
        sides = round(found.width * scale), round(found.height * scale)
        fitted[str(position)] = [base64.b64encode(found.content).decode(), *sides]
    return {
        "classes": [visible(name) for name in metrics.classes],
        "support": [row.support for row in metrics.per_class],
        "examples": [
            [
                visible(row.path),
                row.truth,
                row.predicted,
                round(1000 * row.score),
                round(1000 * row.truth_score),
                row.position,
            ]
            for row in sorted(content.listed, key=lambda row: (-row.score, row.path))
        ],
        "thumbnails": fitted,
        "side": SMALL_SIDE,
    }
