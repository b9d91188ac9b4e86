"""Training whose phases differ in image size: what each phase trains, what is saved, and resuming midway."""

from __future__ import annotations

import json
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import CLASSES, CommandLine, make_photos, make_splits
from run_states import digest, read_history

from wisesr_cli.cli.main import run
from wisesr_cli.config.reader import Override, load_config
from wisesr_cli.errors import ConfigError, DataError, Interrupted
from wisesr_cli.listening import Silent
from wisesr_cli.machine import stopping as machine_stopping
from wisesr_cli.machine.stopping import StopRequest
from wisesr_cli.model_files.archive import check_model, read_model_info
from wisesr_cli.run.state import read_state
from wisesr_cli.training import examples
from wisesr_cli.training.checks import check_settings

PHASES = "[{epochs: 1, image_size: 24}, {epochs: 2, image_size: 16x24, learning_rate: 0.005}, {epochs: 1}]"
WISE = ("--head", "wise", "-s", "model.head.pre_pool=2")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_splits(tmp_path_factory.mktemp("photos"), train=8, validation=4)


def line(photos: Path, runs: Path, name: str = "run", *more: object, phases: str = PHASES) -> list[object]:
    settings = ("train.schedule.name=constant", f"train.phases={phases}", "augment={channel_shift: 20}")
    words = [word for text in settings for word in ("-s", text)]
    small = ("--backbone", "compact_small", "--image-size", "32", "-b", "8", "--lr", "0.01")
    return ["train", photos, *small, *words, "-o", runs, "--name", name, *more]


def load(**settings: Any) -> Any:
    values = {"model.backbone": "compact_small", **{key.replace("__", "."): value for key, value in settings.items()}}
    return load_config(None, [Override(tuple(key.split(".")), value, key) for key, value in values.items()]).config


# --- config ---


def test_model_takes_the_image_size_of_the_last_phase() -> None:
    small_first = [{"epochs": 1, "image_size": 32}, {"epochs": 1, "image_size": "64x96"}]
    assert load(train__phases=small_first).data.image_size == (64, 96)
    config = load(train__phases=[*small_first[:1], {"epochs": 2}], data__image_size=64)
    assert config.changes_image_size
    assert [config.image_size_of_epoch(epoch) for epoch in range(4)] == [(32, 32), (64, 64), (64, 64), (64, 64)]
    with pytest.raises(ConfigError, match=r"train.phases.1.image_size is 64x96, but data.image_size.* is 80x80; omit"):
        load(train__phases=small_first, data__image_size=80)
    assert not load(train__phases=[{"epochs": 1}, {"epochs": 1, "image_size": 224}]).changes_image_size


def test_setting_of_a_single_phase_is_rejected_rather_than_ignored() -> None:
    with pytest.raises(ConfigError, match=r"train.phases is a list; give all of it: --set 'train.phases=\[...\]'"):
        load(train__phases=[{"epochs": 1}], **{"train__phases__0__image_size": 32})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__head__name": "flatten"}, "train.phases.0.image_size is 32x32: .*each of 8x8 positions"),
        ({"model__head__name": "fc"}, "train.phases.0.image_size is 32x32: .*each of 8x8 positions"),
        ({"model__head__pre_pool": 1}, "32x32: .* at least 8x8; the smallest image size that works is 57x57"),
        ({"model__backbone": "Xception"}, "train.phases.0.image_size is 32x32, but Xception needs at least 71x71"),
    ],
)
def test_impossible_image_size_of_a_phase_is_rejected_before_reading_images(
    settings: dict[str, Any], message: str
) -> None:
    phases = [{"epochs": 1, "image_size": 32}, {"epochs": 1}]
    sizes = {"data__image_size": 96 if "model__backbone" in settings else 64}
    with pytest.raises(ConfigError, match=message):
        check_settings(load(train__phases=phases, **sizes, **settings))


def test_heads_that_fit_any_feature_map_are_accepted() -> None:
    phases = [{"epochs": 1, "image_size": 40}, {"epochs": 1, "image_size": 8}, {"epochs": 1}]
    for head in ({"name": "gap"}, {"name": "depthwise"}, {"name": "flatten", "pre_pool": 8}):
        check_settings(load(train__phases=phases, data__image_size=64, **{"model__head": head}))


# --- a whole training ---

HEAD = ("--head", "depthwise", "-s", "model.head.dropout=0.3")  # with one weight per position of the feature map


class Watch:
    """Records the images opened, in order, and checks that those of one size are closed before another is opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.opened: list[tuple[tuple[int, int], Any]] = []
        self.open_pixels = examples.open_pixels
        patch.setattr(examples, "open_pixels", self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        size = options["image_size"]
        assert all(pixels._pool._shutdown for other, pixels in self.opened if other != size)
        self.opened.append((size, self.open_pixels(*arguments, **options)))
        return self.opened[-1][1]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Return the image sizes in order; each is opened once for training and once for validation."""
        sizes = [size for size, _ in self.opened]
        assert sizes[::2] == sizes[1::2]
        return sizes[::2]


@dataclass(frozen=True)
class Whole:
    """An uninterrupted training, what it printed, and the sizes at which it opened images."""

    run: Path
    said: str
    sizes: list[tuple[int, int]]


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as said:
        patch.setenv("WISESR_CACHE_DIR", str(runs / "caches"))
        watch = Watch(patch)
        assert run([str(word) for word in line(photos, runs, "whole", *HEAD)]) == 0, said.getvalue()
    return Whole(runs / "whole", said.getvalue(), watch.sizes)


def test_every_phase_sees_images_of_its_size_and_the_last_one_yields_the_model(
    whole: Whole, wisesr: CommandLine
) -> None:
    assert whole.sizes == [(24, 24), (16, 24), (32, 32)]
    assert "phase 2 of 3: images of 16x24; the best epoch will be one at 32x32" in whole.said
    assert "phase 3 of 3: images of 32x32\n" in whole.said
    rows = read_history(whole.run)
    assert [row["phase"] for row in rows] == ["1", "2", "2", "3"]
    numbers = ["learning_rate", "loss", "top1_accuracy", "val_loss", "val_top1_accuracy"]
    assert list(rows[0]) == ["epoch", "phase", *numbers]
    info = read_model_info(whole.run / "best.keras")
    assert (info.image_size, info.epoch) == ((32, 32), 4)
    metrics = json.loads((whole.run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["top1_accuracy"] == pytest.approx(float(rows[3]["val_top1_accuracy"]))
    assert metrics["log_loss"] == pytest.approx(float(rows[3]["val_loss"]), abs=1e-4)
    assert wisesr("evaluate", whole.run, "--format", "json").worked().data["examples"] == 4 * len(CLASSES)


def test_training_interrupted_in_a_phase_resumes_bit_for_bit(
    whole: Whole, wisesr: CommandLine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three steps per epoch, it stops in the first step of the second phase."""
    wisesr(*line(photos, tmp_path, "cut", *HEAD, "--max-steps", 4)).worked()
    assert kernel_of(tmp_path / "cut").shape == (3, 3, 64)  # the state is that of the previous phase
    watch = Watch(monkeypatch)
    wisesr(*line(photos, tmp_path, "cut", *HEAD, "--resume")).worked()
    assert watch.sizes == [(16, 24), (32, 32)]  # no image is read at the size already completed
    assert_equal_runs(tmp_path / "cut", whole.run)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [
        (*HEAD, "-s", "data.cache=disk", "-s", "train.class_weights=balanced"),
        (*WISE, "--precision", "mixed_bfloat16", "-s", "augment=paper"),
        (*WISE, "-s", "model.head.pooling=valid", "-s", "seed=3"),
    ],
)
def test_training_interrupted_in_every_phase_resumes_bit_for_bit(
    wisesr: CommandLine, photos: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """With three steps per epoch, it stops in the first step of the second phase and of that phase's last epoch."""
    wisesr(*line(photos, tmp_path, "whole", *settings)).worked()
    shapes = []
    for steps in (4, 4, 6):
        wisesr(*line(photos, tmp_path, "cut", *settings, "--resume", "--max-steps", steps)).worked()
        shapes.append(kernel_of(tmp_path / "cut").shape)
    if "depthwise" in settings:
        assert shapes == [(3, 3, 64), (2, 3, 64), (4, 4, 64)]
    assert_equal_runs(tmp_path / "cut", tmp_path / "whole")


def assert_equal_runs(one: Path, other: Path) -> None:
    """Check that state, history and best model of two runs are bit-identical."""
    assert digest(one) == digest(other)
    tables = [check_model(path / "best.keras").weights for path in (one, other)]
    assert tables[0] == tables[1]


def kernel_of(run: Path) -> Any:
    """Return the position weights in the state of a run."""
    arrays = read_state(run / "state").group("model")
    return next(array for name, array in arrays.items() if name.endswith(("depthwise/kernel", "wise/kernel")))


@pytest.mark.slow
def test_epochs_at_another_size_do_not_count_for_early_stopping(
    wisesr: CommandLine, photos: Path, tmp_path: Path
) -> None:
    phases = "[{epochs: 3, image_size: 16}, {epochs: 9}]"
    stopping = ("-s", "train.early_stopping={monitor: val_loss, patience: 1, min_delta: 100}")
    answer = wisesr(*line(photos, tmp_path, "run", *WISE, *stopping, phases=phases)).worked()
    assert len(read_history(tmp_path / "run")) == 5  # the first at full size is the best, the second no better
    assert "early stopping" in answer.out + answer.err
    assert read_model_info(tmp_path / "run" / "best.keras").epoch >= 4


@pytest.mark.slow
def test_dry_run_trains_one_step_at_every_size(
    wisesr: CommandLine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wisesr_cli.training.trainer import Trainer

    sizes: list[tuple[int, int]] = []
    step = Trainer.train_one_step

    def watched(trainer: Trainer) -> float:
        sizes.append(trainer.image_size)
        return step(trainer)

    monkeypatch.setattr(Trainer, "train_one_step", watched)
    answer = wisesr(*line(photos, tmp_path, "run", *WISE, "--dry-run", "--precision", "mixed_bfloat16")).worked()
    assert sizes == [(24, 24), (16, 24), (32, 32)]
    assert "saved and reloaded" in answer.err
    assert not (tmp_path / "run").exists()


def test_image_missing_at_a_phase_start_is_an_error_despite_on_error_skip(
    tmp_path: Path,
) -> None:
    """Labels and order depend on what was readable when the run started."""
    own = make_photos(tmp_path / "own", 4)
    phases = [{"epochs": 1, "image_size": 16}, {"epochs": 1}]
    config = load(data__dir=str(own), data__image_size=32, data__on_error="skip", train__phases=phases)
    opened = examples.open_examples(config, Silent())
    assert opened.image_size == (16, 16)
    for photo in own.glob("*/03.png"):
        photo.unlink()
    with pytest.raises(DataError, match=r"03\.png"):
        opened.open_at((32, 32), Silent())


@pytest.mark.slow
def test_image_missing_at_a_phase_start_is_named_and_the_run_resumes_once_restored(
    wisesr: CommandLine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_photos(tmp_path / "own", 8)
    lost = own / "red" / "03.png"
    opened = 0
    open_pixels = examples.open_pixels

    def losing(*arguments: Any, **options: Any) -> Any:
        nonlocal opened
        opened += 1
        if opened == 3:  # the second phase
            lost.rename(tmp_path / "aside.png")
        return open_pixels(*arguments, **options)

    monkeypatch.setattr(examples, "open_pixels", losing)
    phases = "[{epochs: 1, image_size: 16}, {epochs: 1}]"
    command = line(own, tmp_path, "run", "--head", "gap", "-s", "data.on_error=skip", phases=phases)
    wisesr(*command).failed(3, "03.png")
    assert len(read_history(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "best.keras").exists()  # no epoch has run at full size yet
    assert wisesr("evaluate", tmp_path / "run").code == 4
    (tmp_path / "aside.png").rename(lost)
    wisesr(*command, "--resume").worked()
    assert len(read_history(tmp_path / "run")) == 2
    assert read_model_info(tmp_path / "run" / "best.keras").image_size == (32, 32)


def test_signal_stops_work_between_phases_at_once() -> None:
    request = StopRequest()
    with request.deferred():
        with pytest.raises(machine_stopping._StopNow), request.at_once():
            request.receive(15, None)
        assert request.deferring
        with pytest.raises(Interrupted), request.at_once():
            pytest.fail("a request that came before the block is seen at its beginning")
        request.signal_number = None


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the runs above are on this backend already")
@pytest.mark.slow
def test_progressive_sample_config_trains(wisesr: CommandLine, photos: Path, tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "sample_configs" / "progressive.yaml"
    small = ("--backbone", "compact_small", "--image-size", "32", "-b", "8")
    plain = ("-s", "model.weights=none", "-s", "model.head.pre_pool=2")
    phases = "[{epochs: 1, image_size: 16}, {epochs: 1}]"
    command = (
        "train",
        sample,
        "--data",
        photos,
        *small,
        *plain,
        "-s",
        f"train.phases={phases}",
        "-s",
        "train.epochs=2",
    )
    wisesr(*command, "-o", tmp_path).worked()
    assert np.isfinite(float(read_history(next(tmp_path.iterdir()))[-1]["val_loss"]))
