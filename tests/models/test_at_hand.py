"""Local ImageNet weights are found, and `auto` uses what this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import KERAS, loaded_after
from served import md5_of, release_as, served

from wisesr_cli.errors import MachineError, RunError
from wisesr_cli.listening import Silent
from wisesr_cli.machine.download import is_reachable
from wisesr_cli.models import at_hand
from wisesr_cli.models.at_hand import backbones_at_hand, find_weights, own_name, resolve_weights, weights_folders
from wisesr_cli.models.released import RELEASES
from wisesr_cli.models.settings import ModelConfig

NAME = "MobileNetV2"
MODEL = ModelConfig(backbone=NAME)


@pytest.fixture
def cache(caches_of_this_test: Path) -> Path:
    return caches_of_this_test / "keras" / "models"


def put(path: Path, content: bytes = b"weights") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_lookup_order_is_config_folder_then_environment_variable_then_keras_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights_folders() == (cache,)
    monkeypatch.setenv("WISESR_WEIGHTS", str(tmp_path / "mine"))
    assert weights_folders(tmp_path / "given") == (tmp_path / "given", tmp_path / "mine", cache)
    assert find_weights(NAME, tmp_path / "given") is None
    for folder in (cache, tmp_path / "mine", tmp_path / "given"):
        own = put(folder / own_name(NAME))
        assert find_weights(NAME, tmp_path / "given") == own
        release = put(folder / RELEASES[NAME].file_name)
        assert find_weights(NAME, tmp_path / "given") == release
    assert backbones_at_hand() == {NAME: tmp_path / "mine" / RELEASES[NAME].file_name}


def test_without_keras_home_the_cache_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_folders() == (tmp_path / ".keras" / "models",)


def test_auto_is_imagenet_if_its_weights_are_local_and_random_if_none_exist(cache: Path) -> None:
    put(cache / own_name(NAME))
    assert resolve_weights(MODEL, Silent()) == at_hand.Resolved(MODEL.model_copy(update={"weights": "imagenet"}))
    compact = resolve_weights(ModelConfig(backbone="compact"), Silent())
    assert (compact.model.weights, compact.warning) == (None, None)


@pytest.mark.parametrize("weights", [None, "some/run"])
def test_explicit_weights_are_kept(weights: str | None) -> None:
    named = ModelConfig(backbone=NAME, weights=weights)
    assert resolve_weights(named, Silent()) == at_hand.Resolved(named)


def test_without_a_network_auto_is_random_with_a_warning_and_imagenet_is_an_error(cache: Path) -> None:
    resolved = resolve_weights(MODEL, Silent())
    assert resolved.model.weights is None
    with pytest.raises(MachineError) as raised:
        resolve_weights(MODEL.model_copy(update={"weights": "imagenet"}), Silent())
    file_name = RELEASES[NAME].file_name
    for text in (str(raised.value), resolved.warning or ""):
        for words in (
            "no network: storage.googleapis.com cannot be reached",
            f"{file_name}, about 9 MB, looked for in {cache}",
            f"wisesr weights fetch {NAME} -o FOLDER",
            f"wisesr weights add {NAME} FOLDER/{file_name}",
            "--weights none",
        ):
            assert words in text


def test_missing_weights_are_downloaded_once_into_the_keras_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_hand, "is_reachable", is_reachable)
    remote = put(tmp_path / "remote" / "v2.h5", b"x" * 100)
    with served(remote.parent) as url:
        release_as(monkeypatch, NAME, url=f"{url}v2.h5", checksum=md5_of(remote))
        seen = resolve_weights(MODEL, Silent(), may_download=False)
        assert (seen.model.weights, cache.exists()) == ("imagenet", False)
        assert resolve_weights(MODEL, Silent()).model.weights == "imagenet"
        assert find_weights(NAME) == cache / RELEASES[NAME].file_name
    assert resolve_weights(MODEL, Silent()).model.weights == "imagenet"  # the server is gone


def test_a_download_with_a_wrong_checksum_is_discarded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_hand, "is_reachable", is_reachable)
    remote = put(tmp_path / "remote" / "v2.h5")
    with served(remote.parent) as url:
        release_as(monkeypatch, NAME, url=f"{url}v2.h5", checksum="0" * 64)
        resolved = resolve_weights(MODEL, Silent())
    assert resolved.model.weights is None
    assert "does not have the checksum" in (resolved.warning or "")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("weights", ["auto", "imagenet"])
def test_a_truncated_release_is_an_error_with_the_command_that_replaces_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    path = put(cache / RELEASES[NAME].file_name, b"half")
    release_as(monkeypatch, NAME, checksum="0" * 32)
    with pytest.raises(
        RunError, match=r"its checksum is not that.*wisesr weights fetch MobileNetV2 --overwrite"
    ) as raised:
        resolve_weights(MODEL.model_copy(update={"weights": weights}), Silent())
    assert str(path) in str(raised.value)


def test_weights_are_resolved_without_importing_keras(tmp_path: Path) -> None:
    program = (
        "from wisesr_cli.models import at_hand\nfrom wisesr_cli.models.settings import ModelConfig\n"
        "at_hand.is_reachable = lambda url: False\nprint(at_hand.resolve_weights(ModelConfig(), None).model.weights)"
    )
    code, loaded, _ = loaded_after(program, tmp_path)
    assert code == 0
    assert not loaded & set(KERAS)
