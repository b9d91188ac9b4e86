"""Runs the demo: a harbour where only position tells the classes apart, learned with GAP and Wise side by side.

It calls the same code as `train`, `evaluate`, `predict` and `explain`, on pictures that it draws: no data, no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wisesr_cli import api
from wisesr_cli.config.reader import Override, load_config
from wisesr_cli.demo import harbour
from wisesr_cli.errors import UsageError
from wisesr_cli.listening import TrainingListener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.files import make_folder, write_text
from wisesr_cli.results.evaluation import Evaluation, Metrics
from wisesr_cli.results.streams import Prediction
from wisesr_cli.run.folders import check_output_folder, free_folder, is_taken
from wisesr_cli.run.names import CONFIG as CONFIG_NAME
from wisesr_cli.run.written import Written, recording
from wisesr_cli.text import joined, typed
from wisesr_cli.training.train import TrainingOptions

HEADS = ("gap", "wise")
CONFIG = """\
# A harbour: every picture holds one boat with red sails, three with white ones and two buoys; the class is where the
# red sails are. All pictures hold the same things, so only position tells. The backbone is small and local on purpose:
# it sees 12 pixels at a time, so that the head alone can know where something is.
#
#   wisesr train {name} --head wise
#
# GAP stays near chance (1 of 9 classes is 11.1 %); heads that read position reach nearly 100 %.
schema_version: 1
data:
  dir: harbour
  validation_split: 0       # the test pictures are for evaluation
  image_size: [96, 96]
augment: none               # flips would change the class
model:
  backbone: compact_small
  head: {{name: wise}}
train:
  epochs: 8
  batch_size: 32
  optimizer: {{name: adamw, learning_rate: 5e-3}}
  schedule: {{name: exponential, decay_rate: 0.94, decay_epochs: 2}}
"""


@dataclass(frozen=True)
class DemoRow:
    """The result of one head."""

    head: str
    run_dir: str
    metrics: Metrics
    head_parameters: int
    parameters: int


@dataclass(frozen=True)
class DemoResult:
    """The result of the demo: a row per head, some predictions of the last head, and paths."""

    rows: tuple[DemoRow, ...]
    predictions: tuple[Prediction, ...]
    config_path: str
    contact_sheet: str
    explanation: str  # a picture of what each head looked at


def run_demo(output_dir: Path, *, seed: int, listener: TrainingListener) -> DemoResult:
    """Draw the harbour, train and evaluate both heads on it, label some pictures with the last one, and explain one.

    Replaces the output of an earlier demo in `output_dir`, identified by its record there; other runs stay. Raises
    `UsageError` if something else has the name of a picture or the config.
    """
    keras_start.check_installed()
    check_output_folder(output_dir)
    make_folder(output_dir)
    pictures, config_path = output_dir / "harbour", output_dir / "harbour.yaml"
    sheet, explained = output_dir / "contact_sheet.png", output_dir / "explanation.png"
    with recording(output_dir) as made:
        _refuse_foreign(made, pictures, (config_path, sheet, explained))
        made.begin()
        made.add_source(pictures, "demo")
        harbour.make_harbour(pictures, seed=seed, listener=listener)
        write_text(config_path, CONFIG.format(name=typed(config_path)))
        rows = tuple(_train_head(config_path, head, made, seed, listener) for head in HEADS)
        examples = [sorted((pictures / "test" / name).iterdir())[0] for name in harbour.CLASS_NAMES]
        predictions = tuple(api.predict(rows[-1].run_dir, examples))
        _draw_sheet(predictions, sheet)
        _draw_explanations(rows, str(examples[0]), explained)
    return DemoResult(rows, predictions, str(config_path), str(sheet), str(explained))


def _refuse_foreign(made: Written, pictures: Path, files: Sequence[Path]) -> None:
    foreign = [path for path in files if (path.exists() or path.is_symlink()) and not made.has(path)]
    if pictures.exists() and made.source_of(pictures) is None:
        foreign.append(pictures)
    if foreign:
        raise UsageError(
            f"{joined(foreign)}: was not made by this demo, or was changed since, and is not replaced; give another -o"
        )


def _train_head(config_path: Path, head: str, made: Written, seed: int, listener: TrainingListener) -> DemoRow:
    """Train and evaluate a head, in the run of an earlier demo or in a new one next to other runs."""
    runs, name = made.folder / "runs", f"harbour-{head}"
    if not made.has(runs / name / CONFIG_NAME):
        name = free_folder(runs, name).name
    values = {
        ("model", "head", "name"): head,
        ("seed",): seed,
        ("output_dir",): str(runs),
        ("name",): name,
    }
    loaded = load_config(config_path, [Override(path, value, "demo") for path, value in values.items()])
    options = TrainingOptions(overwrite=is_taken(runs / name))
    result = api.train(loaded, options=options, listener=listener)
    evaluation = api.evaluate(result.run_dir, split="test", listener=listener)
    assert isinstance(evaluation, Evaluation), "an image of the harbour has one label"
    return DemoRow(head, result.run_dir, evaluation.metrics, result.head_parameters, result.parameters)


def _draw_sheet(predictions: tuple[Prediction, ...], path: Path) -> None:
    """Draw the labelled pictures with captions, one row per row of the board."""
    from wisesr_cli.display.pictures import contact_sheet
    from wisesr_cli.images.decoding import decode_image

    tiles = [
        (
            decode_image(prediction.path, image_size=None),
            f"{prediction.label} {prediction.score:.0%}",
            prediction.label == Path(prediction.path).parent.name,
        )
        for prediction in predictions
    ]
    contact_sheet(tiles, columns=3, tile=192, path=path)


def _draw_explanations(rows: Sequence[DemoRow], picture: str, path: Path) -> None:
    """Draw the explanations of all heads next to the same picture."""
    from wisesr_cli.display.grid import percent
    from wisesr_cli.explanation.own_pictures import write_picture
    from wisesr_cli.explanation.panels import Panel, compose
    from wisesr_cli.explanation.pictures import decision_panel, shown_photo
    from wisesr_cli.run.located import locate

    photo = shown_photo(picture, locate(rows[0].run_dir).info)
    panels = [Panel(photo, ("a test picture", f"the red sails are {Path(picture).parent.name}", ""))]
    for row in rows:
        (explanation,) = api.explain(row.run_dir, [picture])
        panels.append(decision_panel(photo, explanation, title=f"{row.head}, score {percent(explanation.score)}"))
    sentences = (
        "What each position adds to the logit of the predicted class, minus that of the runner-up: exact on the "
        "feature map, not on pixels.",
        "GAP counts everything equally wherever it is; Wise has learned a weight for every position.",
    )
    write_picture(compose(panels, sentences), path)
