"""init, check, config, doctor and demo write correct output and leave nothing else behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import Answer, CommandLine, Trained, make_photo, make_photos
from PIL import Image

import wisesr_cli
from wisesr_cli import api
from wisesr_cli.config.reader import load_config
from wisesr_cli.config.recipe import WEIGHTED_IMBALANCE
from wisesr_cli.demo import demo as demo_module
from wisesr_cli.demo import harbour


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def large_photos(folder: Path, counts: dict[str, int], size: tuple[int, int] = (120, 160)) -> Path:
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            make_photo(folder / name / f"{number}.png", label % 3, 50 * label + number, size=size)
    return folder


# init


def test_init_writes_a_config_that_loads_checks_and_trains(wisesr: CommandLine, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "my photos", 8)
    answer = wisesr("init", photos)
    assert (answer.code, answer.out) == (0, "")
    assert "written: config.yaml" in answer.err
    config = load_config("config.yaml").config
    assert config.data.dir == photos
    assert config.model.backbone == "compact"
    assert config.model.weights is None
    assert config.data.image_size == (32, 32)
    assert wisesr("check", "config.yaml").code == 0
    assert wisesr("train", "config.yaml", "--dry-run").code == 0
    assert sorted(path.name for path in Path().iterdir()) == ["config.yaml", "runs", "wisesr.schema.json"]


def test_init_writes_a_schema_for_editors_beside_the_config_and_references_it(
    wisesr: CommandLine, trained: Trained
) -> None:
    Path("configs").mkdir()
    wisesr("init", trained.photos, "-o", "configs/mine.yaml").worked().said("for editors: wisesr.schema.json")
    first, *_ = Path("configs/mine.yaml").read_text(encoding="utf-8").split("\n")
    assert first == "# yaml-language-server: $schema=wisesr.schema.json"
    schema = Path("configs/wisesr.schema.json")
    assert json.loads(schema.read_text(encoding="utf-8")) == api.config_schema()
    schema.write_text('{"title": "wisesr config"}', encoding="utf-8")  # as written by another version
    wisesr("init", trained.photos, "-o", "configs/other.yaml").worked()
    assert json.loads(schema.read_text(encoding="utf-8")) == api.config_schema()


@pytest.mark.parametrize("content", ["mine", "[1]", '{"title": "mine"}', "[" * 100_000])
def test_init_does_not_overwrite_an_unrelated_file_named_like_the_schema(
    wisesr: CommandLine, trained: Trained, content: str
) -> None:
    Path("wisesr.schema.json").write_text(content, encoding="utf-8")
    wisesr("init", trained.photos).failed(2, "wisesr.schema.json exists, and is not a schema written by wisesr")
    assert Path("wisesr.schema.json").read_text(encoding="utf-8") == content
    assert not Path("config.yaml").exists()


def test_init_chooses_imagenet_weights_for_photos_and_says_so(
    wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wisesr_cli.config.recipe.check_reachable", lambda name: None)
    photos = large_photos(tmp_path / "photos", {"a": 4, "b": 4})
    answer = wisesr("init", photos, "-o", "p.yaml").worked()
    config = load_config("p.yaml").config
    assert (config.model.backbone, config.model.weights) == ("MobileNetV2", "imagenet")
    assert config.data.image_size == (224, 224)
    assert config.train.phases is not None
    assert config.train.phases[0].freeze == "backbone"
    assert "ImageNet" in answer.err
    assert "#" in Path("p.yaml").read_text(encoding="utf-8")


def test_the_phases_of_a_config_for_photos_can_be_trained(wisesr: CommandLine, tmp_path: Path) -> None:
    photos = large_photos(tmp_path / "photos", {"a": 4, "b": 4})
    assert wisesr("init", photos).code == 0
    line = ("-s", "model.weights=none", "--backbone", "compact_small", "--image-size", "64", "--dry-run")
    assert wisesr("train", "config.yaml", *line).code == 0


def test_init_balances_classes_of_very_different_sizes(wisesr: CommandLine, tmp_path: Path) -> None:
    counts = {"many": int(4 * WEIGHTED_IMBALANCE), "few": 4}
    answer = wisesr("init", large_photos(tmp_path / "photos", counts, size=(40, 40))).worked()
    assert load_config("config.yaml").config.train.class_weights == "balanced"
    assert "3.0 times" in answer.err
    assert wisesr("init", large_photos(tmp_path / "even", {"a": 4, "b": 4}, size=(40, 40)), "-o", "e.yaml").code == 0
    assert load_config("e.yaml").config.train.class_weights == "none"


def test_init_pads_images_that_are_far_from_square(wisesr: CommandLine, tmp_path: Path) -> None:
    assert wisesr("init", large_photos(tmp_path / "wide", {"a": 3, "b": 3}, size=(30, 90))).code == 0
    assert load_config("config.yaml").config.data.resize == "pad"


def test_init_uses_split_folders_as_they_are(wisesr: CommandLine, trained: Trained) -> None:
    assert wisesr("init", trained.photos).code == 0
    assert "train, validation, test" in Path("config.yaml").read_text(encoding="utf-8")
    wisesr("check", "config.yaml", "--format", "json").worked()


def test_init_overwrites_a_file_only_on_request(wisesr: CommandLine, trained: Trained) -> None:
    Path("config.yaml").write_text("mine", encoding="utf-8")
    wisesr("init", trained.photos).failed(2, "--overwrite")
    assert Path("config.yaml").read_text(encoding="utf-8") == "mine"
    assert wisesr("init", trained.photos, "--overwrite").code == 0
    assert load_config("config.yaml").config.data.dir == trained.photos


@pytest.mark.parametrize(
    "name", ["a: b", "no", "100", "#x", "it's", "esc\x1b[31m", "two\nlines", "猫", "{x}", "'q'", "\U0001f63a", "\u202e"]
)
def test_any_folder_and_class_name_written_by_init_reads_back(wisesr: CommandLine, tmp_path: Path, name: str) -> None:
    photos = make_photos(tmp_path / name, 3, classes=(name, "other"))
    assert wisesr("init", photos).code == 0
    assert load_config("config.yaml").config.data.dir == photos
    text = Path("config.yaml").read_text(encoding="utf-8")
    assert all(character.isprintable() or character == "\n" for character in text)


def test_the_commands_suggested_by_init_can_be_pasted_into_a_shell(wisesr: CommandLine, trained: Trained) -> None:
    answer = wisesr("init", trained.photos, "-o", "my config.yaml")
    assert "wisesr check 'my config.yaml'" in answer.err
    assert "wisesr train 'my config.yaml'" in answer.err


# check


def test_check_fails_on_a_size_below_the_backbones_minimum(wisesr: CommandLine, trained: Trained) -> None:
    answer = wisesr(
        "check", trained.photos, "--image-size", "16", "-s", "model.backbone=MobileNetV2", "--format", "json"
    )
    assert answer.code == 3
    assert "backbone" in {row["code"] for row in answer.data["findings"] if row["level"] == "fail"}


def test_check_warns_about_a_frozen_backbone_with_random_weights(wisesr: CommandLine, trained: Trained) -> None:
    phases = "train.phases=[{epochs: 2, freeze: backbone}, {epochs: 3}]"
    answer = wisesr("check", trained.photos, "-s", phases, "--format", "json").worked()
    assert "frozen-random-backbone" in {row["code"] for row in answer.data["findings"] if row["level"] == "warn"}


def test_check_leaves_nothing_behind_in_the_folder(wisesr: CommandLine, trained: Trained) -> None:
    before = sorted(trained.photos.rglob("*"))
    assert wisesr("check", trained.photos).code == 0
    assert sorted(trained.photos.rglob("*")) == before
    assert not list(Path().iterdir())


# config


def test_config_show_prints_every_setting_and_reads_back_unchanged(wisesr: CommandLine, trained: Trained) -> None:
    settings = (
        "--epochs",
        "6",
        "-s",
        "train.epochs=3",
        "--head",
        "flatten",
        "-s",
        "model.head.pre_pool=2",
        "--lr",
        "1e-4",
    )
    line = ("config", "show", trained.photos, *settings)
    shown = wisesr(*line)
    assert (shown.code, shown.err) == (0, "")
    Path("again.yaml").write_text(shown.out, encoding="utf-8")
    again = wisesr("config", "show", "again.yaml")
    assert yaml.safe_load(again.out) == yaml.safe_load(shown.out)
    first, second = load_config("again.yaml").config, json.loads(wisesr(*line, "--format", "json").out)
    assert first.to_dict() == second
    assert first.train.epochs == 6  # a named option wins regardless of its position
    assert first.model.head.name == "flatten"
    assert first.train.optimizer.learning_rate == 1e-4


def test_training_on_a_runs_config_creates_a_new_run_with_the_same_config(
    wisesr: CommandLine, trained: Trained
) -> None:
    config = trained.run / "config.yaml"
    wisesr("train", config, "-o", "again", "--max-steps", "1").worked()
    (run,) = Path("again").iterdir()
    old, new = (load_config(path).config.to_dict() for path in (config, run / "config.yaml"))
    assert Path(old.pop("output_dir")).is_absolute()
    assert Path(new.pop("output_dir")) == Path("again").absolute()
    assert old == new
    assert old["name"] is None


def test_config_show_of_a_run_prints_its_config(wisesr: CommandLine, trained: Trained) -> None:
    shown = yaml.safe_load(wisesr("config", "show", trained.run).out)
    assert shown == yaml.safe_load((trained.run / "config.yaml").read_text(encoding="utf-8"))


def test_config_schema_is_a_json_schema_that_names_every_key(wisesr: CommandLine) -> None:
    answer = wisesr("config", "schema")
    assert (answer.code, answer.err) == (0, "")
    assert answer.data["type"] == "object"
    shown = yaml.safe_load(wisesr("config", "show").out)
    assert set(answer.data["properties"]) >= set(shown)
    assert answer.data["additionalProperties"] is False
    definitions = answer.data["$defs"]
    for reference in _references(answer.data):
        assert reference.removeprefix("#/$defs/") in definitions


def _references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for part in value.values() for found in _references(part)]
    return [found for part in value for found in _references(part)] if isinstance(value, list) else []


# doctor


def test_doctor_passes_and_leaves_nothing_behind(wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    answer = wisesr("doctor", "--format", "json", "--device", "cpu")
    assert answer.code == 0, answer.out
    levels = {row["code"]: row["level"] for row in answer.data["findings"]}
    assert levels["training-step"] == levels["device"] == levels["versions"] == "pass"
    assert "fail" not in levels.values()
    assert not list(Path().iterdir())
    assert "wisesr" in wisesr("doctor", "--device", "cpu").out


def test_doctor_warns_if_bytecode_is_not_cached(wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    findings = {row["code"]: row for row in wisesr("doctor", "--format", "json").data["findings"]}
    assert findings["bytecode"]["level"] == "warn"


def test_doctor_shows_every_row_and_exits_with_5_if_one_fails(
    wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wisesr_cli.training import diagnosis

    def broken(output_dir: str, device: str) -> tuple[str, str]:
        raise RuntimeError("something\nodd \x1b[31m")

    monkeypatch.setitem(diagnosis.CHECKS, "device", broken)
    answer = wisesr("doctor", "--format", "json")
    assert answer.code == 5
    assert [row["code"] for row in answer.data["findings"]] == list(diagnosis.CHECKS)
    failed = next(row for row in answer.data["findings"] if row["code"] == "device")
    assert failed["level"] == "fail"
    assert "\n" not in failed["message"]
    assert "\x1b" not in wisesr("doctor").out


# demo


def check_demo(wisesr: CommandLine, answer: Answer, per_class: int) -> dict[str, float]:
    """Check the output and the files of the demo; return the accuracy of each head."""
    lines = {line.split()[0]: line for line in answer.worked().out.splitlines() if line.split()}
    assert "harbour-gap" in lines["gap"]
    assert "harbour-wise" in lines["wise"]
    assert "does not show what accuracy to expect on photos" in answer.err
    folder, accuracy = Path("demo"), {}
    assert "wisesr explain demo/runs/harbour-wise" in answer.err
    for picture in ("contact_sheet.png", "explanation.png"):
        with Image.open(folder / picture) as image:
            image.load()
    for head in ("gap", "wise"):
        run = folder / "runs" / f"harbour-{head}"
        assert (run / "best.keras").is_file()
        metrics = json.loads((run / "evaluate-test" / "metrics.json").read_text(encoding="utf-8"))
        assert metrics["examples"] == 9 * per_class
        assert sorted(metrics["classes"]) == sorted(harbour.CLASS_NAMES)
        accuracy[head] = metrics["top1_accuracy"]
    assert wisesr("check", folder / "harbour.yaml").code == 0
    return accuracy


def stop_here() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_demo_can_be_repeated_after_it_was_stopped(wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    make = harbour.make_harbour
    monkeypatch.setattr(
        harbour, "make_harbour", lambda folder, **options: make(folder, train_per_class=4, test_per_class=2, **options)
    )
    monkeypatch.setattr(demo_module, "CONFIG", demo_module.CONFIG.replace("epochs: 8", "epochs: 1"))
    with monkeypatch.context() as patch:
        patch.setattr(demo_module.api, "evaluate", lambda *_, **__: stop_here())
        assert wisesr("demo").code == 130
    check_demo(wisesr, wisesr("demo", "--seed", "3"), per_class=2)
    assert sorted(path.name for path in Path("demo/runs").iterdir()) == ["harbour-gap", "harbour-wise"]


@pytest.mark.slow
def test_the_demo_shows_that_wise_uses_positions_and_gap_does_not(wisesr: CommandLine) -> None:
    accuracy = check_demo(wisesr, wisesr("demo"), per_class=60)
    assert accuracy["gap"] < 0.35
    assert accuracy["wise"] > 0.9
    # Wise looks at the red sails: most of the decision comes from their part of the picture.
    explanations = list(wisesr_cli.explain("demo/runs/harbour-wise", ["demo/harbour/test/nw"]))
    corners = [np.array(row.decision.map)[:5, :5].sum() / row.decision.sum for row in explanations if row.decision]
    assert np.median(corners) > 0.6


# long tables


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_long_table_is_shortened_with_a_command_that_shows_all_rows(
    wisesr: CommandLine, trained: Trained, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("wisesr_cli.display.terminal.LONG_TABLE", 4)
    line = [command, str(trained.run), str(trained.photos), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["wisesr", *line])
    photos = sum(path.is_file() for path in trained.photos.rglob("*.png"))
    assert photos > 4
    short, whole = wisesr(*line).worked(), wisesr(*line, "-v").worked()
    assert (short.out.count(".png"), whole.out.count(".png")) == (4, photos)
    assert f"... {photos - 4} more ..." in short.out
    short.said(f"{photos - 4} rows are not shown; to see all: wisesr {' '.join(line)} -v")
    assert "not shown" not in whole.err
    assert "not shown" not in wisesr(*line, "--format", "csv").worked().err
