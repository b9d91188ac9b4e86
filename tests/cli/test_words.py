"""All forms of help, hints for options of other tools, and the named options of a training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import CommandLine

from wisesr_cli.cli import options
from wisesr_cli.cli.main import COMMANDS
from wisesr_cli.cli.words import OPTIONS
from wisesr_cli.config.reader import load_config


@pytest.mark.parametrize("words", [("train",), ("config", "show")])
def test_help_has_three_forms(wisesr: CommandLine, words: tuple[str, ...]) -> None:
    expected = wisesr(*words, "--help").worked().out
    assert expected.startswith(f"Usage: wisesr {' '.join(words)} ")
    assert wisesr(*words, "-h").worked().out == wisesr("help", *words).worked().out == expected


def test_help_and_version_are_commands_too(wisesr: CommandLine) -> None:
    assert wisesr("help").worked().out == wisesr("--help").worked().out
    assert wisesr("version").worked().out == wisesr("--version").worked().out
    wisesr("help", "trian").failed(2, "Did you mean 'train'?")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (("--imgsz", "64"), "Type --image-size SIZE."),
        (("--batch", "8"), "Type --batch-size N."),
        (("--lr0", "0.1"), "Type --learning-rate RATE."),
        (("--model", "x"), "Type --backbone NAME"),
        (("--patience", "3"), "Type -s train.early_stopping.patience=EPOCHS."),
        (("epochs=2",), "Type --epochs 2."),
        (("epochs=2", "imgsz=64"), "Type --epochs 2 --image-size 64."),
        (("--learning-rat", "2"), "(Possible options: --learning-rate)"),
        (("more",), "unexpected extra argument"),
    ],
)
def test_options_of_other_tools_are_answered_with_a_hint(
    wisesr: CommandLine, typed: tuple[str, ...], hint: str
) -> None:
    wisesr("train", "photos", *typed).failed(2, hint)


def test_hints_are_for_unknown_options_and_suggest_existing_ones(wisesr: CommandLine) -> None:
    known = {word.strip(",") for command in COMMANDS for word in wisesr(command, "--help").out.split()}
    assert not known & {name for name in OPTIONS if name not in ("--output",)}
    assert {meant.split()[0] for meant in OPTIONS.values() if meant.startswith("--")} <= known


def test_named_options_set_their_config_keys() -> None:
    given = {"dropout": 0.3, "augment": "none", "optimizer": "sgd", "schedule": "constant"}
    config = load_config(None, options.overrides(None, **given)).config
    assert (config.model.head.dropout, config.augment) == (0.3, "none")
    assert (config.train.optimizer.name, config.train.schedule.name) == ("sgd", "constant")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"freeze": "backbone"}, (20, "backbone", 1e-2)),
        ({"freeze": "backbone", "epochs": 7}, (7, "backbone", 1e-2)),
        ({"freeze": "backbone", "learning_rate": 0.1}, (20, "backbone", None)),
        ({"freeze": "none", "epochs": 7}, (7, "none", None)),
    ],
)
def test_freeze_makes_one_phase(given: dict[str, object], expected: tuple[object, ...]) -> None:
    (phase,) = load_config(None, options.overrides(None, **given)).config.phases
    assert (phase.epochs, phase.freeze, phase.learning_rate) == expected


def test_freeze_does_not_raise_the_learning_rate_with_hidden_layers() -> None:
    (phase,) = load_config(None, options.overrides(["model.head.hidden=8"], freeze="backbone")).config.phases
    assert phase.learning_rate is None


@pytest.mark.parametrize(("option", "value"), [("head", "wise"), ("backbone", "MobileNetV2"), ("schedule", "cosine")])
def test_option_values_are_completed(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wisesr_cli.cli.main import run

    line = f"wisesr train photos --{option} {value[:2]}"
    monkeypatch.setenv("_WISESR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", "4")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    with pytest.raises(SystemExit):
        run([])
    assert value in capsys.readouterr().out.split()


def test_the_command_suggested_by_check_keeps_its_settings(
    wisesr: CommandLine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [
        "check",
        str(photos),
        "-s",
        "data.resize=pad",
        "--near-duplicates",
        "--sheet",
        "pairs.png",
        "--format",
        "csv",
    ]
    monkeypatch.setattr(sys, "argv", ["wisesr", *line])
    assert wisesr(*line).said("next: ") == [f"next: wisesr train {photos} -s data.resize=pad"]
