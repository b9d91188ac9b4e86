"""`wisesr weights` lists, fetches and adds weights; training starts from available weights and reports missing ones."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest
from command_line import CommandLine, make_photos
from served import md5_of, release_as, served, write_release

from wisesr_cli.machine.download import is_reachable
from wisesr_cli.models.released import RELEASES
from wisesr_cli.run.run import Run

NAME = "MobileNet"  # Keras has no checksum for its weights
FILE = RELEASES[NAME].file_name
OTHER = "mobilenet_notop.weights.h5"
TINY = ("--backbone", NAME, "--image-size", "32", "-b", "4", "--epochs", "1", "--max-steps", "1")

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("release") / FILE
    write_release(NAME, path)
    return path


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WISESR_WEIGHTS", str(tmp_path / "mine"))
    return tmp_path / "mine"


def test_list_shows_every_backbone_and_which_weights_are_available(
    wisesr: CommandLine, mine: Path, release: Path
) -> None:
    mine.mkdir()
    shutil.copy(release, mine)
    rows = {row["backbone"]: row for row in wisesr("weights", "list", "--format", "json").worked().data}
    assert list(rows) == list(RELEASES)
    assert (rows[NAME]["path"], rows[NAME]["origin"]) == (str(mine / FILE), "release by its name")
    assert (rows["VGG16"]["path"], rows["VGG16"]["licence"]) == (None, "CC-BY-4.0")
    shown = list(csv.DictReader(io.StringIO(wisesr("weights", "list", "--format", "csv").worked().out)))
    assert [row["checksum"] for row in shown] == [row.checksum or "" for row in RELEASES.values()]
    table = wisesr("weights", "list").worked().out
    assert f"1 of {len(RELEASES)} backbones have weights here" in table


def test_list_tells_a_release_from_a_damaged_file(
    wisesr: CommandLine, mine: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine.mkdir()
    shutil.copy(release, mine)
    for checksum, origin in ((md5_of(release), "release"), ("0" * 32, "damaged")):
        release_as(monkeypatch, NAME, checksum=checksum)
        row = next(r for r in wisesr("weights", "list", "--format", "json").data if r["backbone"] == NAME)
        assert row["origin"] == origin


def test_path_prints_the_weights_folders_or_the_file_of_one_backbone(
    wisesr: CommandLine, mine: Path, release: Path
) -> None:
    assert wisesr("weights", "path").worked().out.splitlines()[0] == str(mine)
    wisesr("weights", "path", NAME).refused(4, "not on this machine", f"wisesr weights fetch {NAME}")
    mine.mkdir()
    shutil.copy(release, mine)
    assert wisesr("weights", "path", NAME.lower()).worked().out == f"{mine / FILE}\n"


@pytest.mark.parametrize(("name", "said"), [("MobilNet", "Did you mean"), ("compact", "has no ImageNet weights")])
def test_unknown_backbone_or_one_without_weights_is_a_usage_error(wisesr: CommandLine, name: str, said: str) -> None:
    for line in (("path", name), ("fetch", name), ("add", name, "x.h5")):
        wisesr("weights", *line).refused(2, said)


# fetch


def test_weights_fetched_to_a_folder_can_be_added_elsewhere(
    wisesr: CommandLine, mine: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wisesr_cli.models.at_hand.is_reachable", is_reachable)
    with served(release.parent) as url:
        release_as(monkeypatch, NAME, url=url + FILE, checksum=md5_of(release))
        answer = wisesr("weights", "fetch", NAME, "-o", "usb").worked()
    assert f"on the other machine: wisesr weights add {NAME} usb/{FILE}" in answer.err
    assert ": already there" in wisesr("weights", "fetch", NAME, "-o", "usb").worked().err  # the server is down
    assert "origin: release" in wisesr("weights", "add", NAME, f"usb/{FILE}").worked().err
    assert (mine / FILE).read_bytes() == release.read_bytes()


def test_fetch_without_a_network_exits_with_5_and_a_command_for_another_machine(wisesr: CommandLine) -> None:
    wisesr("weights", "fetch", "VGG16").refused(5, "no network", "wisesr weights fetch VGG16 -o FOLDER")


# add


def test_release_without_a_checksum_is_recognized_by_its_name_and_tensors(
    wisesr: CommandLine, mine: Path, release: Path
) -> None:
    assert "origin: release by its name" in wisesr("weights", "add", NAME, release).worked().err
    assert [path.name for path in mine.iterdir()] == [FILE]
    wisesr("weights", "add", NAME, release).worked()  # adding it again is fine


def test_other_file_that_fits_is_added_with_a_note_of_its_unknown_origin(
    wisesr: CommandLine, mine: Path, release: Path, tmp_path: Path
) -> None:
    given = tmp_path / "found.h5"
    shutil.copy(release, given)
    answer = wisesr("weights", "add", NAME, given).worked()
    assert "the origin of these weights is not known; MobileNet scales pixels as 'tf'" in answer.err
    assert [path.name for path in mine.iterdir()] == [OTHER]
    wisesr("weights", "add", NAME, given).worked()
    first = (mine / OTHER).read_bytes()
    write_release(NAME, given, seed=1)
    wisesr("weights", "add", NAME, given).refused(2, "exists, with other weights", "--overwrite")
    assert (mine / OTHER).read_bytes() == first
    wisesr("weights", "add", NAME, given, "--overwrite").worked()
    assert (mine / OTHER).read_bytes() != first


def test_file_that_does_not_fit_exits_with_4_and_adds_nothing(
    wisesr: CommandLine, mine: Path, release: Path, tmp_path: Path
) -> None:
    wisesr("weights", "add", "MobileNetV2", release).refused(4, "nothing was added")
    (tmp_path / "text.h5").write_text("no weights")
    wisesr("weights", "add", NAME, tmp_path / "text.h5").refused(4, "text.h5", "refused")
    wisesr("weights", "add", NAME, tmp_path / "nowhere.h5").refused(4, "nowhere.h5: no such file")
    assert not mine.exists()


# train, check


def test_training_starts_from_available_weights_and_records_it(wisesr: CommandLine, mine: Path, release: Path) -> None:
    mine.mkdir()
    shutil.copy(release, mine)
    photos = make_photos(Path("photos"), 6)
    answer = wisesr("train", photos, *TINY, "--name", "run").worked()
    assert "random weights" not in answer.err
    assert Run(Path("runs/run")).load_config().model.weights == "imagenet"


def test_training_without_weights_and_network_says_so_at_its_start_and_end(wisesr: CommandLine) -> None:
    photos = make_photos(Path("photos"), 6)
    answer = wisesr("train", photos, *TINY, "--name", "run").worked()
    lines = answer.err.splitlines()
    said = [number for number, line in enumerate(lines) if "starts from random weights, which takes far more" in line]
    assert len(said) == 2
    assert said[0] < next(number for number, line in enumerate(lines) if "train" in line and number > said[0]) < said[1]
    assert Run(Path("runs/run")).load_config().model.weights is None
    resumed = wisesr("train", photos, *TINY, "--name", "run", "--resume").worked()
    assert resumed.said("starts from random weights, which") == []  # the resumed run keeps its choice


@pytest.mark.parametrize("line", ["--weights imagenet", "-s model.weights=imagenet"])
def test_unavailable_imagenet_weights_exit_with_5_if_requested_and_leave_no_run(wisesr: CommandLine, line: str) -> None:
    photos = make_photos(Path("photos"), 6)
    wisesr("train", photos, *TINY, *line.split()).refused(5, "not on this machine", FILE, "--weights none")
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_weights_none_means_random_weights(wisesr: CommandLine) -> None:
    shown = wisesr("config", "show", "--weights", "none", "--format", "json").worked().data
    assert shown["model"]["weights"] is None


@pytest.mark.parametrize(("weights", "level", "code"), [("auto", "warn", 0), ("imagenet", "fail", 3)])
def test_check_reports_weights_that_are_neither_present_nor_reachable(
    wisesr: CommandLine, weights: str, level: str, code: int
) -> None:
    photos = make_photos(Path("photos"), 6)
    answer = wisesr("check", photos, "-s", f"model.backbone={NAME}", "--weights", weights, "--format", "json")
    assert answer.code == code
    row = answer.finding("imagenet-weights")
    assert row["level"] == level
    assert FILE in row["message"]


@pytest.mark.slow
def test_comparison_chooses_weights_once_and_says_so_at_its_start_and_end(wisesr: CommandLine) -> None:
    photos = make_photos(Path("photos"), 8)
    line = ("compare", photos, "--heads", "gap,wise", "--seeds", "0,", "-b", "8", "--name", "both", "--epochs", "1")
    answer = wisesr(*line, "--backbone", NAME, "--image-size", "32").worked()
    assert len(answer.said("starts from random weights, which")) == 2
    again = wisesr(*line, "--backbone", NAME, "--image-size", "32", "--resume").worked()
    assert again.said("starts from random weights, which") == []
