"""Pictures of explanations: the photo as the model sees it, and the contribution of every position to a logit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from wisesr_cli.display.grid import percent
from wisesr_cli.explanation.overlays import overlay, scale_of
from wisesr_cli.explanation.panels import Panel, compose
from wisesr_cli.explanation.receptive_field import Interval, ReceptiveField
from wisesr_cli.images.color import bands_text, shown
from wisesr_cli.images.decoding import PIXEL_LIMIT, decode_image, read_header
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.results.streams import Contribution, Explanation

if TYPE_CHECKING:  # pictures need no model
    from wisesr_cli.explanation.explainer import Explainer

DISPLAY_SIDE = 448  # pixels of the longer side of a panel
SMALLEST_BOX = 5  # pixels: a receptive field in a large image may be thinner than a line
SHARP_FROM = 2  # enlargement from which pixels are kept as squares


def shown_photo(
    path: str,
    info: ModelInfo,
    *,
    pixel_limit: int = PIXEL_LIMIT,
    side: int = DISPLAY_SIDE,
    bands: Sequence[int] = (),
) -> Image.Image:
    """Return an image as the model sees it, but larger, with a longer side of `side` pixels; small images stay sharp.

    `bands`, from 1, are shown in place of red, green and blue, or of grey; see `color.shown`. Raises an `ImageError`,
    whose message is the reason alone, if it cannot be read.
    """
    height, width = (max(1, round(length * side / max(info.image_size))) for length in info.image_size)
    header = read_header(path, pixel_limit=pixel_limit, preparation=info.preparation)
    down, across = height / header.height, width / header.width
    if (resize := info.preparation.resize) != "squash":
        down = across = max(down, across) if resize == "crop" else min(down, across)
    size = _own_pixels(height, down), _own_pixels(width, across)
    pixels = decode_image(path, image_size=size, preparation=info.preparation, pixel_limit=pixel_limit)
    return Image.fromarray(shown(pixels, bands)).resize((width, height), Image.Resampling.NEAREST)


def _own_pixels(length: int, factor: float) -> int:
    """Return the number of pixels to decode along a side: that of the file if it would be enlarged a lot."""
    return max(1, round(length / factor)) if factor >= SHARP_FROM else length


def explanation_picture(photo: Image.Image, explanation: Explanation, explainer: Explainer) -> Image.Image:
    """Return panels of the photo, the requested classes or else the predicted one, and predicted minus runner-up.

    The panels of classes share a colour scale; the difference, which is smaller, has its own. `photo` is the image from
    `shown_photo`.
    """
    classes = explanation.asked or ((explanation.predicted,) if explanation.predicted else ())
    scale = scale_of(classes)
    seen = "as the model sees it"
    if explainer.info.preparation.has_bands:
        seen = bands_text(explainer.bands, explainer.info.preparation.channels)
    panels = [_photo_panel(photo, explanation, explainer.receptive_field, seen)]
    panels += [Panel(overlay(photo, row, scale), _caption(row, explanation, scale)) for row in classes]
    if explanation.decision is not None:
        panels.append(decision_panel(photo, explanation))
    return compose(panels, [f"Contribution maps: {explainer.statement}."])


def _photo_panel(photo: Image.Image, explanation: Explanation, field: ReceptiveField | None, seen: str) -> Panel:
    """Return the photo, captioned with `seen`, and a box around what the strongest position sees, if not all of it."""
    predicted, decision = explanation.predicted, decision_of(explanation)
    lines = [Path(explanation.path).name, seen, ""]
    if explanation.scores is not None and predicted is not None:
        lines[1] += f"; best label: {predicted.label} {percent(explanation.score)}"
    elif predicted is not None:
        lines[1] += f"; predicted: {predicted.label} {percent(explanation.score)}"
    if decision is not None and field is not None and not field.covers_image:
        row, column, _ = strongest_position(decision)
        photo = with_box(photo, field, row, column)
        lines[2] = f"box: what position ({row}, {column}), which contributes most, sees"
    return Panel(photo, tuple(lines))


def decision_panel(photo: Image.Image, explanation: Explanation, *, title: str = "predicted minus runner-up") -> Panel:
    """Return a photo overlaid with predicted minus runner-up, in its own colour scale."""
    predicted, runner_up, decision = explanation.predicted, explanation.runner_up, explanation.decision
    if predicted is None or runner_up is None or decision is None:
        return Panel(photo, (title, explanation.error or "", ""))
    names = f"{predicted.label} minus {runner_up.label}"
    strength = f"{title}; full colour ±{scale_of([decision]):.2g}"
    return Panel(overlay(photo, decision), (names, strength, f"difference {_equation(decision)}"))


def with_box(photo: Image.Image, field: ReceptiveField, row: int, column: int) -> Image.Image:
    """Return a photo, of any size, with a box around the receptive field of a position."""
    photo = photo.copy()
    upper, lower = _box_side(field.rows[row], photo.height, field.image_size[0])
    left, right = _box_side(field.columns[column], photo.width, field.image_size[1])
    draw = ImageDraw.Draw(photo)
    draw.rectangle((left, upper, right, lower), outline="black", width=4)
    draw.rectangle((left + 1, upper + 1, right - 1, lower - 1), outline="white", width=2)
    return photo


def _box_side(seen: Interval, shown: int, pixels: int) -> tuple[int, int]:
    """Return the first and last pixel of a box along a side whose `pixels` are shown as `shown` pixels."""
    first, last = round(seen[0] * shown / pixels), round(seen[1] * shown / pixels) - 1
    first = max(0, first - max(0, SMALLEST_BOX - 1 - (last - first)) // 2)
    return first, max(last, first + SMALLEST_BOX - 1)


def strongest_position(contribution: Contribution) -> tuple[int, int, float]:
    """Return row, column and value of the position with the largest absolute contribution."""
    values = ((i, j, value) for i, row in enumerate(contribution.map) for j, value in enumerate(row))
    return max(values, key=lambda found: abs(found[2]))


def decision_of(explanation: Explanation) -> Contribution | None:
    """Return the contribution to predicted minus runner-up, or to the predicted class alone."""
    return explanation.decision or explanation.predicted


def _caption(row: Contribution, explanation: Explanation, scale: float) -> tuple[str, str, str]:
    kind = "requested"
    if explanation.scores is not None:
        kind = f"score {percent(explanation.scores[row.label])}"
    elif explanation.predicted is not None and row.label == explanation.predicted.label:
        kind = f"predicted, score {percent(explanation.score)}"
    elif explanation.runner_up is not None and row.label == explanation.runner_up.label:
        kind = "runner-up"
    return row.label, f"{kind}; full colour ±{scale:.2g}", f"logit {_equation(row)}"


def _equation(row: Contribution) -> str:
    return f"{row.logit:+.3f} = positions {row.sum:+.3f}, bias {row.bias:+.3f}"
