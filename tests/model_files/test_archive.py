"""A model file is checked to its last byte, and found to be what wisesr writes, before Keras sees it."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from command_line import REPOSITORY, CommandLine, Trained, fresh
from hostile_archives import (
    ARCHIVES,
    CONFIG,
    CONFIGS,
    FOREIGN_OBJECTS,
    OTHER_WEIGHTS,
    PLACES,
    RAW_CONFIGS,
    WEIGHT_FILES,
    WEIGHTS,
    Members,
    first_table,
    members_of,
    pack,
    put_layer,
    with_config,
)
from reliability import Seen

from wisesr_cli.errors import RunError
from wisesr_cli.model_files.archive import check_model, check_weights_file
from wisesr_cli.model_files.hdf5 import check_weights, table_of

MEMORY_LIMIT_MB = 500
FUNCTIONAL = {"module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional"}
CHILD_LIMIT_MB = 2600  # the limit set by `isolation`, plus the memory in use before


@pytest.fixture(scope="module")
def members(trained: Trained) -> Members:
    return members_of(trained.run / "best.keras")


@pytest.fixture
def no_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if Keras' loading code is used."""

    def loaded(*arguments: object, **options: object) -> None:
        raise AssertionError("Keras' loading code was reached")

    for name in ("load_model", "load_weights", "deserialize_keras_object"):
        monkeypatch.setattr(f"keras.saving.{name}", loaded)
    monkeypatch.setattr("keras.models.load_model", loaded)
    monkeypatch.setattr("keras.Model.load_weights", loaded)
    monkeypatch.setattr("keras.src.saving.serialization_lib.deserialize_keras_object", loaded)


def test_a_valid_file_passes_with_its_weights_and_config(trained: Trained) -> None:
    checked = check_model(trained.run / "best.keras")
    model = keras.models.load_model(trained.run / "best.keras")
    assert Counter(checked.weights.values()) == Counter(
        table_of(keras.ops.convert_to_numpy(weight)) for weight in model.weights
    )
    assert checked.config["class_name"] == "Functional"


@pytest.mark.reliability(34)
@pytest.mark.usefixtures("no_keras")
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("name", FOREIGN_OBJECTS)
def test_a_class_that_is_not_on_the_list_is_rejected_anywhere_in_the_config(
    tmp_path: Path, members: Members, name: str, place: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    path = with_config(tmp_path / "x.keras", members, lambda config: place(config, FOREIGN_OBJECTS[name]))
    with pytest.raises(
        RunError,
        match=r"x\.keras: refused: (it has a '.*' of .*, which no wisesr model contains|a model .* is compiled)",
    ):
        check_model(path)


@pytest.mark.reliability(34)
@pytest.mark.usefixtures("no_keras")
@pytest.mark.parametrize("name", ["Lambda", "TFSMLayer", "TorchModuleWrapper", "StringLookup", "a bare lambda"])
def test_every_command_rejects_a_model_with_a_foreign_class_before_keras_loads_it(
    tmp_path: Path, trained: Trained, members: Members, wisesr: CommandLine, seen: Seen, name: str
) -> None:
    run = trained.copy_to(tmp_path / "run")
    with_config(run / "best.keras", members, lambda config: put_layer(config, FOREIGN_OBJECTS[name]))
    photos = trained.photos
    for command in (
        ("predict", run, photos / "test"),
        ("predict", run / "best.keras", photos / "test"),
        ("evaluate", run),
        ("train", photos, "--resume", "-o", tmp_path, "--name", "run", "--epochs", 3, "-s", f"model.weights={run}"),
        ("train", photos, "-o", tmp_path, "-s", f"model.weights={run / 'best.keras'}", "--backbone", "compact_small"),
    ):
        answer = wisesr(*command).failed(4, "best.keras: refused: it has a '")
    seen(f"{name}: exit 4, {answer.error.partition('refused: ')[2][:60]}...")


@pytest.mark.reliability(34)
def test_a_lambda_that_would_write_a_file_never_runs(
    tmp_path: Path, trained: Trained, wisesr: CommandLine, seen: Seen
) -> None:
    trace = tmp_path / "trace"
    pixels = keras.Input((32, 32, 3))
    source = f"lambda x: [open({str(trace)!r}, 'w').close(), x][1]"
    function = eval(source)
    model = keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Lambda(function)(pixels))))
    trace.unlink(missing_ok=True)  # building the model ran it
    run = trained.copy_to(tmp_path / "run")
    record = members_of(run / "best.keras")["wisesr.json"]
    config = model.get_config()
    bare = keras.src.utils.python_utils.func_dump(function)
    for layer in config["layers"]:
        if layer["class_name"] == "Lambda":
            layer["config"]["function"] = {"class_name": "__lambda__", "config": {"value": bare}}
    text = json.dumps({**FUNCTIONAL, "config": config}, default=list).encode()
    weights = io.BytesIO()
    h5py.File(weights, "w").close()
    pack(run / "best.keras", {CONFIG: text, WEIGHTS: weights.getvalue(), "wisesr.json": record})
    wisesr("predict", run, trained.photos / "test").failed(4, "'Lambda' of keras.layers")
    assert not trace.exists()
    seen("a Lambda that would write a file: no file written")


@pytest.mark.reliability(34)
def test_our_code_never_unpickles_or_enables_unsafe_loading() -> None:
    for path in sorted((REPOSITORY / "wisesr_cli").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(import pickle|pickle\.|safe_mode=False|enable_unsafe|allow_pickle=True)", text), path
        for call in re.findall(r"np\.load\(.*", text):
            assert "allow_pickle=False" in call, path


@pytest.mark.reliability(36)
@pytest.mark.usefixtures("no_keras")
@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_is_not_exactly_a_model_is_rejected(tmp_path: Path, members: Members, name: str) -> None:
    path = ARCHIVES[name](tmp_path / "x.keras", members)
    with pytest.raises(RunError, match=r"x\.keras: (refused|damaged): ") as caught:
        check_model(path)
    assert str(caught.value).isprintable()
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.reliability(36)
@pytest.mark.parametrize("name", [*CONFIGS, *RAW_CONFIGS])
def test_a_config_with_absurd_numbers_or_shapes_is_rejected(
    tmp_path: Path, trained: Trained, members: Members, wisesr: CommandLine, name: str
) -> None:
    path = tmp_path / "x.keras"
    if name in CONFIGS:
        with_config(path, members, CONFIGS[name])
    else:
        pack(path, {**members, CONFIG: RAW_CONFIGS[name]})
    wisesr("predict", path, trained.photos / "test").failed(4, "x.keras: ")


@pytest.mark.reliability(36)
@pytest.mark.usefixtures("no_keras")
@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_hdf5_with_more_than_numbers_in_one_file_is_rejected(tmp_path: Path, members: Members, name: str) -> None:
    weights = WEIGHT_FILES[name](tmp_path, members[WEIGHTS])
    pack(tmp_path / "x.keras", {**members, WEIGHTS: weights})
    with pytest.raises(RunError, match=r"x\.keras: refused: model\.weights\.h5 in it: "):
        check_model(tmp_path / "x.keras")
    path = tmp_path / "x.weights.h5"
    path.write_bytes(weights)
    with pytest.raises(RunError, match=r"^model\.weights: .*x\.weights\.h5: refused: "):
        check_weights_file(path)


@pytest.mark.reliability(36, 31)
@pytest.mark.parametrize("name", OTHER_WEIGHTS)
def test_weights_that_do_not_match_the_model_are_rejected(
    tmp_path: Path, trained: Trained, members: Members, wisesr: CommandLine, name: str
) -> None:
    weights = OTHER_WEIGHTS[name](tmp_path, members[WEIGHTS])
    path = pack(tmp_path / "x.keras", {**members, WEIGHTS: weights})
    answer = wisesr("predict", path, trained.photos / "test")
    assert answer.code == 4
    assert re.search(r"x\.keras: (refused: the model (needs|has no use for) a weight|cannot be loaded: )", answer.error)


@pytest.mark.reliability(36)
def test_a_weights_file_with_an_unknown_suffix_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match=r"weights\.json: refused: neither a \.keras nor a \.h5 or \.hdf5 file"):
        check_weights_file(path)


@pytest.mark.slow
@pytest.mark.reliability(36)
def test_all_rejected_files_together_take_little_memory(
    tmp_path: Path, members: Members, trained: Trained, seen: Seen
) -> None:
    paths = [make(tmp_path / f"archive{number}.keras", members) for number, make in enumerate(ARCHIVES.values())]
    paths += [
        with_config(tmp_path / f"config{number}.keras", members, change)
        for number, change in enumerate(CONFIGS.values())
    ]
    for number, text in enumerate(RAW_CONFIGS.values()):
        paths.append(pack(tmp_path / f"raw{number}.keras", {**members, CONFIG: text}))
    for number, make_weights in enumerate((*WEIGHT_FILES.values(), *OTHER_WEIGHTS.values())):
        weights = make_weights(tmp_path, members[WEIGHTS])
        paths.append(pack(tmp_path / f"weights{number}.keras", {**members, WEIGHTS: weights}))
    program = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from wisesr_cli.machine import keras_start\nkeras_start.start('cpu')\n"
        "from wisesr_cli.errors import RunError\nfrom wisesr_cli.model_files.archive import check_model\n"
        "from wisesr_cli.model_files.loading import load_model\n"
        "load_model(check_model(Path(sys.argv[1])))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[2:]:\n"
        "    try:\n        load_model(check_model(Path(path)))\n        print('LOADED', path)\n"
        "    except RunError:\n        pass\n"
        "print('GREW', (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
        "print('CHILD', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)\n"
    )
    variables = {"PYTHONPATH": str(REPOSITORY), "KERAS_BACKEND": keras.backend.backend()}
    line = (trained.run / "best.keras", *paths)
    said = fresh(*line, cwd=tmp_path, program=("-c", program), variables=variables, timeout=300).worked().out
    assert "LOADED" not in said
    grew, child = (int(said.split(f"{name} ")[1].split()[0]) for name in ("GREW", "CHILD"))
    assert grew < MEMORY_LIMIT_MB
    assert child < CHILD_LIMIT_MB
    seen(f"{len(paths)} rejected files: memory grew by {grew} MB; the process that reads HDF5: {child} MB")


def test_a_recompressed_archive_still_passes(tmp_path: Path, members: Members) -> None:
    path = pack(tmp_path / "x.keras", members, packed=zipfile.ZIP_DEFLATED)
    assert check_model(path).weights


def test_bfloat16_scalars_and_empty_tensors_are_accepted(tmp_path: Path) -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root["scalar"] = np.float32(3)
        root["layers/vars/0"] = np.zeros((2, 3), "V2")
        root["layers/vars/0"].attrs["dtype"] = "bfloat16"
        root["empty"] = np.zeros((0, 3), "f4")
    shapes = {path: table.shape for path, table in check_weights(file).items()}
    assert shapes == {"/scalar": (), "/layers/vars/0": (2, 3), "/empty": (0, 3)}


def test_the_optimizer_of_a_compiled_model_is_ignored(tmp_path: Path) -> None:
    from wisesr_cli.models.weights import load_backbone

    pixels = keras.Input((32, 32, 3))
    backbone, _ = load_backbone("compact_small", (32, 32), None)
    model = keras.Model(pixels, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(backbone(pixels))))
    model.compile(keras.optimizers.AdamW(), "mse")
    model.fit(np.zeros((4, 32, 32, 3), "float32"), np.zeros((4, 2), "float32"), verbose=0)
    model.save(tmp_path / "x.keras")
    assert first_table(h5py.File(io.BytesIO(members_of(tmp_path / "x.keras")[WEIGHTS])))
    loaded, tensors = load_backbone("compact_small", (32, 32), str(tmp_path / "x.keras"))
    assert tensors is not None
    assert tensors.used == len(loaded.weights)


@pytest.mark.reliability(31)
def test_a_weight_silently_skipped_by_keras_is_an_error(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, wisesr: CommandLine, seen: Seen
) -> None:
    original = keras.layers.Conv2D.load_own_variables

    def skip_one(layer: Any, store: Any) -> None:
        if layer.name != "mix_convolution":
            original(layer, store)

    monkeypatch.setattr(keras.layers.Conv2D, "load_own_variables", skip_one)
    answer = wisesr("predict", trained.run, trained.photos / "test", "--engine", "keras")
    assert answer.code == 4
    assert "Keras did not load 1 of its weights, one of the shape (1, 1, 48, 64)" in answer.error
    seen(f"a weight that was not loaded: exit {answer.code}")


@pytest.mark.reliability(36)
@pytest.mark.parametrize("suffix", ["weights.h5", "keras"])
def test_a_sparse_file_is_rejected_whatever_size_it_claims(tmp_path: Path, members: Members, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(pack(tmp_path / "whole", members).read_bytes() if suffix == "keras" else members[WEIGHTS])
    with path.open("r+b") as file:
        file.truncate(12 << 30)
    with pytest.raises(RunError, match=rf"x\.{suffix}: (refused: most of its 12,884,901,888 bytes are holes|damaged)"):
        check_weights_file(path)


def test_a_large_file_of_numbers_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as root:
        root["vars/0"] = np.random.default_rng(0).standard_normal((4096, 5120), "float32")
    assert path.stat().st_size > 1 << 26
    check_weights_file(path)
