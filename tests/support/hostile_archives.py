"""Model files that must not be loaded, each a valid one with a single change, named after that change."""

from __future__ import annotations

import base64
import io
import json
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Members = dict[str, bytes]
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path: Path, members: Members, *extra: tuple[str | zipfile.ZipInfo, bytes], packed: int = 0) -> Path:
    """Write members as Keras does, without compression, then `extra` ones as they are."""
    with zipfile.ZipFile(path, "w", packed) as archive, warnings.catch_warnings(action="ignore"):
        for name, content in members.items():
            archive.writestr(name, content)
        for name, content in extra:
            archive.writestr(name, content)
    return path


# --- foreign objects in config.json ---


def layer_record(module: str | None, name: str, config: Any = None, registered: str | None = None) -> dict[str, Any]:
    return {
        "module": module,
        "class_name": name,
        "config": {"name": "guest"} if config is None else config,
        "registered_name": registered,
        "name": "guest",
        "inbound_nodes": [],
    }


FOREIGN_OBJECTS: dict[str, dict[str, Any]] = {
    "Lambda": layer_record("keras.layers", "Lambda", {"function": {"class_name": "__lambda__", "config": {}}}),
    "a bare lambda": layer_record(None, "__lambda__", {"value": ["4wAAAA==", None, None]}),
    "TFSMLayer": layer_record("keras.layers", "TFSMLayer", {"filepath": "/somewhere"}),
    "TorchModuleWrapper": layer_record("keras.layers", "TorchModuleWrapper", {"module": "gASVAA=="}),
    "StringLookup": layer_record("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
    "TextVectorization": layer_record("keras.layers", "TextVectorization", {"vocabulary": "/etc/passwd"}),
    "a Keras layer that wisesr does not use": layer_record("keras.layers", "LSTM", {"units": 3}),
    "a function": layer_record("builtins", "function", "get_file"),
    "a function of Keras": layer_record("keras.utils", "function", "get_file"),
    "a type of TensorFlow": {**layer_record("tensorflow", "__typespec__", []), "spec_name": "TensorSpec"},
    "a tensor": layer_record(None, "__tensor__", {"value": [1], "dtype": "float32"}),
    "an array": layer_record(None, "__numpy__", {"value": [1], "dtype": "object"}),
    "bytes": layer_record(None, "__bytes__", {"value": "x"}),
    "a module of the current folder": layer_record("keras_cv", "Model"),
    "an internal module": layer_record("keras.src.utils.file_utils", "get_file"),
    "a known class of another module": layer_record("os", "Dense"),
    "a known class without a module": layer_record(None, "Dense"),
    "a known class with a registered name": layer_record("keras.layers", "Dense", registered="guest>Dense"),
    "our layer with another registered name": layer_record(
        "wisesr_cli.layers", "TileAveragePooling2D", registered="guest>Tile"
    ),
    "a class whose name is not text": {**layer_record("keras.layers", "Dense"), "class_name": ["Dense"]},
    "a class whose module is a number": {**layer_record("keras.layers", "Dense"), "module": 5},
}


def put_layer(config: dict[str, Any], record: dict[str, Any]) -> None:
    """Add a layer to a model."""
    config["config"]["layers"].append(record)


def put_nested(config: dict[str, Any], record: dict[str, Any]) -> None:
    """Add a layer to the nested model."""
    inner = first_of(config, "Functional")
    inner["config"]["layers"].append(record)


def put_initializer(config: dict[str, Any], record: dict[str, Any]) -> None:
    """Put an object in place of an initializer, deep inside a layer."""
    first_of(config, "Dense")["config"]["kernel_initializer"] = [{"deep": [record]}]


def put_compiled(config: dict[str, Any], record: dict[str, Any]) -> None:
    """Put an object into the compile config of the nested model."""
    inner = first_of(config, "Functional")
    inner["compile_config"] = {"optimizer": record}


PLACES = (put_layer, put_nested, put_initializer, put_compiled)


def first_of(config: dict[str, Any], class_name: str) -> dict[str, Any]:
    """Return the first layer of a class in a model."""
    return next(layer for layer in config["config"]["layers"] if layer["class_name"] == class_name)


def with_config(path: Path, members: Members, change: Callable[[dict[str, Any]], None]) -> Path:
    config = json.loads(members[CONFIG])
    change(config)
    return pack(path, {**members, CONFIG: json.dumps(config).encode()})


# --- malformed archives ---


def _without(members: Members, name: str) -> Members:
    return {key: content for key, content in members.items() if key != name}


def _of_kind(path: Path, members: Members, mode: int, content: bytes) -> Path:
    """A record that is not a regular file."""
    info = zipfile.ZipInfo("metadata.json")
    info.external_attr = mode << 16
    return pack(path, _without(members, "metadata.json"), (info, content))


def _bomb(path: Path, members: Members) -> Path:
    """Weights of 400 MB in 400 KB."""
    pack(path, _without(members, WEIGHTS))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open(WEIGHTS, "w") as file:
        for _ in range(400):
            file.write(bytes(1_000_000))
    return path


def _says_less(path: Path, members: Members) -> Path:
    """A member that is longer than its declared size."""
    content = pack(path, members).read_bytes()
    size = struct.pack("<I", len(members[WEIGHTS]))
    path.write_bytes(content.replace(size, struct.pack("<I", len(members[WEIGHTS]) // 2)))
    return path


def _overlapping(path: Path, members: Members) -> Path:
    """Two names for the bytes of one member."""
    content = bytearray(pack(path, members).read_bytes())
    end = content.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", content, end + 16)[0]
    second = content.index(b"PK\1\2", start + 4)
    struct.pack_into("<I", content, second + 42, struct.unpack_from("<I", content, start + 42)[0])
    path.write_bytes(content)
    return path


def _flagged(path: Path, members: Members, flag: int) -> Path:
    content = bytearray(pack(path, members).read_bytes())
    content[content.index(b"PK\1\2") + 8] |= flag
    path.write_bytes(content)
    return path


def _endless_list(path: Path, members: Members) -> Path:
    """A directory of members of 3 MB."""
    return pack(path, members, *((f"member{number:06}", b"") for number in range(30_000)))


ARCHIVES: dict[str, Callable[[Path, Members], Path]] = {
    "a member above its folder": lambda path, members: pack(path, members, ("../evil.py", b"x")),
    "a member with an absolute path": lambda path, members: pack(path, members, ("/tmp/evil.py", b"x")),
    "a member with backslashes": lambda path, members: pack(path, members, ("..\\evil.py", b"x")),
    "an extra member": lambda path, members: pack(path, members, ("readme.txt", b"x")),
    "an assets folder": lambda path, members: pack(path, members, ("assets/", b"")),
    "a name with a line feed": lambda path, members: pack(path, members, ("x\n\x1b[31m", b"")),
    "the config twice": lambda path, members: pack(path, members, (CONFIG, b"{}")),
    "the weights twice": lambda path, members: pack(path, members, (WEIGHTS, b"x")),
    "no config": lambda path, members: pack(path, _without(members, CONFIG)),
    "no weights": lambda path, members: pack(path, _without(members, WEIGHTS)),
    "a link": lambda path, members: _of_kind(path, members, stat.S_IFLNK | 0o777, b"/etc/passwd"),
    "a device": lambda path, members: _of_kind(path, members, stat.S_IFCHR | 0o600, b""),
    "weights that unpack to a thousand times their size": _bomb,
    "a config of 5 MB": lambda path, members: pack(path, {**members, CONFIG: b'{"class_name":' + b" " * 5_000_000}),
    "a config of 5 MB, packed": lambda path, members: pack(
        path, {**members, CONFIG: b'{"class_name":' + b" " * 5_000_000}, packed=zipfile.ZIP_DEFLATED
    ),
    "a record of 5 MB": lambda path, members: pack(path, {**members, "wisesr.json": b" " * 5_000_000}),
    "weights packed with bzip2": lambda path, members: pack(path, members, packed=zipfile.ZIP_BZIP2),
    "weights packed with LZMA": lambda path, members: pack(path, members, packed=zipfile.ZIP_LZMA),
    "an encrypted member": lambda path, members: _flagged(path, members, 1),
    "members that overlap": _overlapping,
    "a member longer than its declared size": _says_less,
    "an unknown flag": lambda path, members: _flagged(path, members, 0x40),
    "a directory of 30,000 members": _endless_list,
}


# --- malformed config.json ---


def _numbers(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        first_of(config, "Dense")["config"][key] = value

    return change


def _wide_input(config: dict[str, Any]) -> None:
    """The same weights, but pictures of a million by a million pixels."""
    text = json.dumps(config).replace("[null, 32, 32, 3]", "[null, 1000000, 1000000, 3]")
    config.clear()
    config.update(json.loads(text))


def _option(class_name: str, key: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Change an option of the first layer of a class inside the backbone."""

    def change(config: dict[str, Any]) -> None:
        first_of(first_of(config, "Functional"), class_name)["config"][key] = value

    return change


def _loose_layer(config: dict[str, Any]) -> None:
    """A layer with 3.6 GB of weights whose output is not used."""
    dense = json.loads(json.dumps(first_of(config, "Dense")))
    dense["name"] = dense["config"]["name"] = "loose"
    dense["config"]["units"] = 30_000
    dense["build_config"] = {"input_shape": [None, 30_000]}
    config["config"]["layers"].insert(-1, dense)


def _called_twice(config: dict[str, Any]) -> None:
    inner = first_of(config, "Functional")
    inner["inbound_nodes"] = inner["inbound_nodes"] * 2


def _backwards(config: dict[str, Any]) -> None:
    config["config"]["layers"].reverse()


def _models_in_models(config: dict[str, Any]) -> None:
    for _ in range(6):
        inner = json.loads(json.dumps(config))
        inner.update(name="deeper", inbound_nodes=first_of(config, "Functional")["inbound_nodes"])
        first_of(config, "Functional")["config"]["layers"].append(inner)


CONFIGS: dict[str, Callable[[dict[str, Any]], None]] = {
    "a layer whose output is not used": _loose_layer,
    "a model that is called twice": _called_twice,
    "layers before their inputs": _backwards,
    "models in models in models": _models_in_models,
    "a dilation of 3,000": _option("Conv2D", "dilation_rate", [3000, 3000]),
    "a kernel of 100,000": _option("Conv2D", "kernel_size", [100_000, 100_000]),
    "a grid of a billion positions": lambda config: first_of(config, "PositionWeightedPooling2D")["config"].update(
        grid_size=[40_000, 40_000]
    ),
    "a slow initializer": _numbers("kernel_initializer", "orthogonal"),
    "an activation of another kind": _numbers("activation", "glu"),
    "an activation that is not one": _numbers("activation", "get"),
    "a name with a line feed": _numbers("name", "a\nb\x1b[31m"),
    "a name with a space": _numbers("name", "a b"),
    "an input of text": lambda config: config["config"]["layers"][0]["config"].update(dtype="string"),
    "a sparse input": lambda config: config["config"]["layers"][0]["config"].update(sparse=True),
    "a Sequential without layers": lambda config: config.update(
        module="keras", class_name="Sequential", registered_name=None, config={"name": "x", "layers": []}
    ),
    "a billion units": _numbers("units", 1_000_000_000),
    "a million units without their weights": _numbers("units", 1_000_000),
    "infinitely many units": _numbers("units", float("inf")),
    "units that are not a number": _numbers("units", float("nan")),
    "a number of 3,000 digits": _numbers("units", 10**3000),
    "negative units": _numbers("units", -5),
    "pictures of a million by a million pixels": _wide_input,
    "no layers": lambda config: config["config"].update(layers=[]),
    "a layer that feeds itself": lambda config: config["config"]["layers"][1].update(
        inbound_nodes=config["config"]["layers"][2]["inbound_nodes"]
    ),
    "a compiled model inside": lambda config: put_compiled(config, {"module": "keras.optimizers"}),
    "not a model": lambda config: [config.pop(key) for key in list(config)] and None,
}

RAW_CONFIGS: dict[str, bytes] = {
    "not JSON": b"\x80\x04K\x05.",
    "a list": b"[]",
    "nothing": b"",
    "nested a million deep": b'{"class_name":' * 1_000_000,
    "nested 500 deep": b'{"module":"keras","class_name":"Sequential","registered_name":null,"config":%b}'
    % (b"[" * 500 + b"]" * 500),
    "not UTF-8": b'{"class_name": "\xff\xfe"}',
}


# --- malformed weight files ---


def _changed_weights(change: Callable[[h5py.File], None], **options: Any) -> Callable[[Path, bytes], bytes]:
    def make(folder: Path, weights: bytes) -> bytes:
        file = io.BytesIO(weights)
        with h5py.File(file, "r+", **options) as root:
            change(root)
        return file.getvalue()

    return make


def first_table(root: h5py.File) -> str:
    """Return the path of the first table of numbers with more than one dimension."""
    found: list[str] = []
    root.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) and len(item.shape) > 1 else None
    )
    return found[0]


def _instead(make: Callable[[h5py.File, str, Any], None]) -> Callable[[Path, bytes], bytes]:
    """Replace the first table with something else."""

    def change(root: h5py.File) -> None:
        path = first_table(root)
        values = root[path][()]
        del root[path]
        make(root, path, values)

    return _changed_weights(change)


def _external(root: h5py.File, path: str, values: Any) -> None:
    root.create_dataset(path, values.shape, values.dtype, external=[("/etc/passwd", 0, values.nbytes)])


def _virtual(root: h5py.File, path: str, values: Any) -> None:
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource("/tmp/other.h5", "x", values.shape)
    root.create_virtual_dataset(path, layout)


def _long_attribute(root: h5py.File) -> None:
    root.create_group("more").attrs.create("layer_names", np.zeros(480_000, "S100"))


# HDF5 of three small tables with three bytes changed, compressed here; its library needs gigabytes to read it.
GREEDY = zlib.decompress(
    base64.b85decode(
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfz9^&eVe$!3nh{EOK<O1sFmXn(oCH){5NbZUx{x4OSCH!eXaHu<A2tZh!7#kR5{6NL4S2XZ27u@"
        "YC?A$ePcWgX%So(EEh<K&M-K|^Wn^H5n8gU=LsBv$BSe51st!R*fRzd=$OH2d2q-X!b1;b4L*-e4DHtTr#Kgo1NzV}Tm>CTq${BdjT+l"
        "HHW23<yNI2li+bK|=w6GDEw^_I$w8UsKAI;m~90M&2+0gQ~0hBg`(nhFtj|GYL2K)KDfKo85PO)J@H4i-<j{;m}B=&M32O6+FT*Q?FJp"
        "3c0jvoc2)$wb%P}P+sf@*l`)$x#WfEk|dTsTn60rYeXbJq?bRCN!ad<Id}`s|4`syZGS2(2SGGRlDxXp?3NA93YCh`?w$Fj@{^mIGV(P"
        "}Lcr^*yOm4j|eCK0K)Aqo?ChKwLN~Fpq}G;O={_5gIOiPxLyNP+emoF<RG*)-{-Qje;m`+nl)4?*gd32gHd>zYUV3>31~!Vy52*;`D7R"
        "RfwXRkDiW40de6tM{qPu26tQOhV*c0E1{1=5UOiZ6i4ftVGer8scU@X2Bxia25Rpc1>(~08l}<nJK9#lOusye^ld9G0jApqB=gbJ@hBi"
        "J98XA%h6y<U05N{=Bm"
    )
)

WEIGHT_FILES: dict[str, Callable[[Path, bytes], bytes]] = {
    "a link into another file": _instead(
        lambda root, path, values: root.__setitem__(path, h5py.ExternalLink("/etc/passwd", "/"))
    ),
    "a soft link": _instead(lambda root, path, values: root.__setitem__(path, h5py.SoftLink("/a"))),
    "numbers in another file": _instead(_external),
    "a virtual table": _instead(_virtual),
    "a packed table": _instead(lambda root, path, values: root.create_dataset(path, data=values, compression="gzip")),
    "a table of 4 TB": _instead(lambda root, path, values: root.create_dataset(path, shape=(1 << 40,), dtype="f4")),
    "a table of text": _instead(
        lambda root, path, values: root.create_dataset(path, data=["text"] * 3, dtype=h5py.string_dtype())
    ),
    "a table of references": _instead(
        lambda root, path, values: root.create_dataset(path, shape=(3,), dtype=h5py.ref_dtype)
    ),
    "a table without a shape": _instead(lambda root, path, values: root.create_dataset(path, data=h5py.Empty("f4"))),
    "a type in place of a table": _instead(lambda root, path, values: root.__setitem__(path, np.dtype("f4"))),
    "a group that holds itself": _changed_weights(lambda root: root.__setitem__("loop", root["/"])),
    "one table under a thousand names": _changed_weights(
        lambda root: [root.__setitem__(f"again{number}", root[first_table(root)]) for number in range(1000)] and None
    ),
    "an attribute of 48 MB": _changed_weights(_long_attribute, libver="latest"),
    "a file that takes gigabytes to read": lambda folder, weights: GREEDY,
    "not HDF5": lambda folder, weights: b"numbers, numbers\n" * 100,
    "nothing": lambda folder, weights: b"",
    "the first half of the file": lambda folder, weights: weights[: len(weights) // 2],
}

# These can be read, but are not the weights of the model.
OTHER_WEIGHTS: dict[str, Callable[[Path, bytes], bytes]] = {
    "a missing table": _instead(lambda root, path, values: None),
    "a table of another shape": _instead(
        lambda root, path, values: root.create_dataset(path, data=np.zeros((5, 5), "f4"))
    ),
    "a transposed table": _instead(
        lambda root, path, values: root.create_dataset(path, data=np.ascontiguousarray(values.T))
    ),
    "an extra table": _changed_weights(lambda root: root.create_dataset("more/vars/0", data=np.zeros(3, "f4"))),
    "a renamed group": _changed_weights(lambda root: root.move(first_table(root).partition("/vars")[0], "elsewhere")),
}
