"""`wisesr init --sample` turns every sample into a standalone config that trains the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import REPOSITORY, CommandLine

from wisesr_cli.config import samples
from wisesr_cli.config.reader import load_config
from wisesr_cli.errors import MachineError

FOLDER = REPOSITORY / "sample_configs"
NAMES = list(samples.list_samples())
PLACES = ("dir", "train_dir", "validation_dir")

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_every_sample_is_listed_except_the_bases_of_others(wisesr: CommandLine) -> None:
    files = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml")}
    assert set(NAMES) == {name for name in files if "base_" not in name}
    assert len(NAMES) == 23
    shown = wisesr("init", "--list").worked()
    assert not [name for name in NAMES if f" {name} " not in shown.out]
    assert "small images, few epochs, nothing downloaded." in shown.out
    assert not Path("config.yaml").exists()


@pytest.mark.parametrize("name", NAMES)
def test_sample_written_for_a_folder_has_the_settings_of_its_file(wisesr: CommandLine, photos: Path, name: str) -> None:
    answer = wisesr("init", photos, "--sample", name, "-o", "mine.yaml").worked()
    assert "next: wisesr check mine.yaml\n" in answer.err
    text = Path("mine.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "wisesr train mine.yaml" in text
    assert "sample_configs" not in text
    ours, theirs = (load_config(path).config.to_dict() for path in ("mine.yaml", FOLDER / f"{name}.yaml"))
    assert ours["data"]["dir"] == str(photos)
    for place in PLACES:
        ours["data"].pop(place)
        theirs["data"].pop(place)
    assert ours == theirs


def test_sample_written_without_a_folder_takes_images_from_the_command_line(wisesr: CommandLine, photos: Path) -> None:
    for name in ("quick_start.yaml", "paper/intel_densenet169_wise"):
        answer = wisesr("init", "--sample", name, "--overwrite").worked()
        assert "next: wisesr check config.yaml --data FOLDER\n" in answer.err
        data = load_config("config.yaml").config.data
        assert not [place for place in PLACES if getattr(data, place) is not None]
        shown = wisesr("config", "show", "config.yaml", "--data", photos).worked()
        assert f"dir: {photos}" in shown.out


def test_comments_are_kept(wisesr: CommandLine) -> None:
    wisesr("init", "--sample", "medical").worked()
    text = Path("config.yaml").read_text(encoding="utf-8")
    schema, _, rest = text.partition("\n")
    assert schema == "# yaml-language-server: $schema=wisesr.schema.json"
    assert rest == (FOLDER / "medical.yaml").read_text(encoding="utf-8").replace(
        "sample_configs/medical.yaml", "config.yaml"
    )


def test_mistakes_exit_with_2_or_3_and_write_nothing(wisesr: CommandLine, photos: Path) -> None:
    wisesr("init", "--sample", "foto").refused(2, "Did you mean 'photos'?", "wisesr init --list")
    answer = wisesr("init", photos, "--sample", "photos", "--task", "multilabel")
    answer.refused(2, "--task multilabel cannot be combined with --sample")
    wisesr("init").refused(2, "FOLDER is missing", "--sample NAME")
    wisesr("init", "nowhere", "--sample", "photos").refused(3, "nowhere: no such folder")
    Path("config.yaml").write_text("mine", encoding="utf-8")
    wisesr("init", photos, "--sample", "photos").refused(2, "--overwrite")
    assert Path("config.yaml").read_text(encoding="utf-8") == "mine"


def test_folder_name_with_special_characters_is_read_back(wisesr: CommandLine) -> None:
    odd = Path("a: b #ü'\"")
    odd.mkdir()
    wisesr("init", odd, "--sample", "photos").worked()
    assert load_config("config.yaml").config.data.dir == odd.absolute()


def test_missing_samples_raise_an_error_that_suggests_reinstalling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_PACKAGE", tmp_path / "wisesr_cli")
    with pytest.raises(MachineError, match="the sample configs are missing; reinstall wisesr"):
        samples.list_samples()
