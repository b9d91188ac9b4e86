"""Any config, command line or folder leads to a result or to an error with a location, and never to a hang."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from config_trees import SCHEMA, TREES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_folders import Data, make_image
from odd_names import shows_itself

from wisesr_cli.config.reader import LoadedConfig, Override, load_config, parse_head, parse_set
from wisesr_cli.config.schema import Config, dump_yaml
from wisesr_cli.data.dataset import build_index, scan_folder_for_evaluation
from wisesr_cli.data.inspection import inspect_data
from wisesr_cli.data.listing.layouts import find_splits
from wisesr_cli.data.survey import Survey, survey
from wisesr_cli.errors import ConfigError, DataError, UsageError
from wisesr_cli.listening import Silent
from wisesr_cli.models.heads import HEADS, HeadOptions
from wisesr_cli.results.images import Finding

SAMPLES = Path(__file__).parents[2] / "sample_configs"
TEXTS = {path.relative_to(SAMPLES).as_posix(): path.read_bytes() for path in sorted(SAMPLES.rglob("*.yaml"))}
PLACE = re.compile(r"(.+:\d+(:\d+)?|--\S.*|head '.*'|config): .")


def refusal(load: Callable[[], Any]) -> list[str]:
    """Return the lines of the error that `load` raises, none if it succeeds."""
    try:
        load()
    except (UsageError, DataError) as error:
        return str(error).split("\n")
    return []


def attempt(load: Callable[[], Any]) -> Any:
    """Return the result of `load`, or None for user errors, each a printable line that begins with its location."""
    lines = refusal(load)
    for line in lines:
        assert shows_itself(line), ascii(line)
        assert PLACE.match(line), ascii(line)
    return None if lines else load()


def check_config(config: Config) -> None:
    """Check that a loaded config can be written as printable YAML, and its paths passed to the file system."""
    text = config.to_yaml()
    text.encode("utf-8")
    assert shows_itself(text.replace("\n", ""))
    for path in (config.output_dir, config.data.dir, config.data.train_dir, config.model.weights, config.name):
        assert path is None or b"\0" not in os.fsencode(path)


# Files: the sample configs with a few edits.

PIECES = st.sampled_from([
    b"null", b"~", b"[]", b"{}", b"1e-3", b"-1", b"1e400", b"'", b'"', b"*a", b"&a ", b"- ", b": ", b"? ", b"!x ", b"|",
    b">", b"\xff", b"\0", b"\t", b"\xed\xa0\x80", b'"\\ud800"', b'"\\udcff"', b'"\\0"', b"9" * 400, b"name:",
    b"extends: ", b"epochs:", b"phases:", b"head:", b"x" * 300, b"/", b"~root", b"..", b"true", b"no", b"[1, 2]",
    b"{name: wise}", b".inf", b"0x10", b"%YAML 1.2\n---\n", b"--- ", b"...\n", b"<<: ", b"\n", b"\r", b"\xe2\x80\xa8",
    b"\xef\xbb\xbf", b"#", b"extends: ../base_mit.yaml\n", b"model: {head: {", b"}}",
]) | st.binary(max_size=3)  # fmt: skip
EDITS = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 40), PIECES), max_size=4)


def edited(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Return bytes after edits, each a position (in 10,000ths), the number of bytes to replace, and the new bytes."""
    for where, count, piece in edits:
        start = where * len(content) // 10_000
        content = content[:start] + piece + content[start + count :]
    return content


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(SAMPLES, tmp_path_factory.mktemp("samples") / "sample_configs"))


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(TEXTS)), edits=EDITS)
def test_an_edited_sample_loads_or_fails_with_a_location(
    samples: Path, name: str, edits: list[tuple[int, int, bytes]]
) -> None:
    path = samples / name
    path.write_bytes(edited(TEXTS[name], edits))
    try:
        loaded = attempt(lambda: load_config(path))
    finally:
        path.write_bytes(TEXTS[name])
    if loaded is not None:
        check_config(loaded.config)
    assert edits or loaded is not None


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000 + "x", "a\0b", "~nobody/x", "\ud800"])
def test_an_impossible_path_in_extends_is_an_error_with_its_location(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml({"extends": f"{name}.yaml"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml:1: extends '.*no such file"):
        load_config(path)


# Values: anything for every key.


def key_paths(node: dict[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Return every key path in the JSON Schema."""
    if "$ref" in node:
        return key_paths(SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]], path)
    found: set[tuple[str, ...]] = {path} if path else set()
    for key, child in node.get("properties", {}).items():
        found |= key_paths(child, (*path, key))
    for child in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        found |= key_paths(child, path)
    return found


KEY_PATHS = sorted(key_paths(SCHEMA))
ODD_VALUES = st.sampled_from([
    "\ud800", "\udcff", "a\0b", "x" * 5000, "/" * 5000, "~", "..", "", " ", "\n", "=1", 10**400, -(10**400), 1e308,
    5e-324, -0.0, True, [], {}, [[]], [{}], {"": 1}, {"name": None}, {"name": []}, {"name": "wise", "x": 1}, [1] * 300,
    "1e999", "(" * 2000, "(a|a)*" * 50, "[" * 300, "\\", "x{99999999999}", {"\ud800": 1.0}, [None], [0, 0], ["a", 1],
])  # fmt: skip


@pytest.mark.parametrize("way", ["options", "file", "options over a file"])
@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(KEY_PATHS), TREES | ODD_VALUES), min_size=1, max_size=3))
def test_any_value_of_any_key_loads_or_fails_with_a_location(
    tmp_path_factory: pytest.TempPathFactory, way: str, given_values: list[tuple[tuple[str, ...], Any]]
) -> None:
    in_file = {"options": 0, "file": 3, "options over a file": 1}[way]
    overrides = [Override(path, value, f"--set {'.'.join(path)}=...") for path, value in given_values[in_file:]]
    tree: dict[str, Any] = {}
    for path, value in given_values[:in_file]:
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                break
        else:
            inner[path[-1]] = deepcopy(value)
    source = tmp_path_factory.getbasetemp() / "values.yaml" if in_file else None
    if source:
        source.write_text(dump_yaml(tree), encoding="utf-8")
    loaded = attempt(lambda: load_config(source, overrides))
    if loaded is not None:
        assert isinstance(loaded, LoadedConfig)
        check_config(loaded.config)
        assert re.fullmatch(r"[^/\0]{1,200}", loaded.default_name)


# Command-line arguments.

SET_KEYS = st.sampled_from([*(".".join(path) for path in KEY_PATHS), "a.b.c.d", "train.phases.0.epochs", "extends"])
SET_VALUES = PIECES.map(os.fsdecode) | st.text(max_size=8)


@settings(max_examples=400)
@given(st.lists(st.builds("{}={}".format, SET_KEYS | st.text(max_size=5), SET_VALUES) | st.text(), max_size=3))
@example(["a.b.c.d=1"])
@example(["train.optimizer.x.y=1"])
@example(["train.epochs.x=1"])
def test_any_words_after_set_load_or_fail_with_an_error_that_names_the_option(words: list[str]) -> None:
    def load() -> LoadedConfig:
        return load_config(None, [parse_set(word) for word in words])

    loaded, lines = attempt(load), refusal(load)
    assert (loaded is None) == bool(lines)
    assert all(line.startswith("--set ") for line in lines), ascii(lines)
    if loaded is not None:
        check_config(loaded.config)


HEAD_WORDS = st.sampled_from([*HEADS, "wize", "", "WISE"])
HEAD_OPTIONS = st.builds(
    "{}={}".format,
    st.sampled_from(["pooling", "dropout", "pre_pool", "name", "constraint", "x", "", "pooling.x", "initializer"]),
    SET_VALUES,
)


@settings(max_examples=300)
@given(st.builds(lambda name, options: ":".join([name, *options]), HEAD_WORDS, st.lists(HEAD_OPTIONS, max_size=3)))
@example("wise:")
@example(":")
@example("wise:pooling")
@example("wise:name=gap")
@example("wise:pooling.x=1")
@example("\udcff\x1b")
def test_any_head_text_parses_or_fails_with_a_location(text: str) -> None:
    head = attempt(lambda: parse_head(text))
    if head is not None:
        assert isinstance(head, HeadOptions)
        assert attempt(lambda: parse_head(text, base=head)) == head


# Folders: trees of folders, images, links, and whatever else a file system holds.

FILE_NAMES = st.sampled_from([
    b"a", b"b", b"train", b"val", b"test", b"Training", b"A", b".h", b"x.png", b"y.jpg", b"z.txt", b"\xff.png", b"a\nb",
    b"c\xcc\xa7", b"\xc3\xa7", b"e\x1b[31m.png", b"Thumbs.db", b"__MACOSX", b"x" * 255, b"w" * 251 + b".png",
    b"\xe2\x80\xae.png", b"..x", b"-o", b"~", b" ", b"[/red]".replace(b"/", b""), b"=1.gif",
])  # fmt: skip
KINDS = st.sampled_from(
    ["image", "other image", "empty", "text", "cut", "fifo", "socket", "up", "root", "gone", "itself"]
)
# Name -> its kind, or its entries.
TREE = st.recursive(
    KINDS, lambda inner: st.dictionaries(FILE_NAMES, inner, max_size=4), max_leaves=12
).filter(lambda tree: isinstance(tree, dict))  # fmt: skip
ROOTS = st.dictionaries(FILE_NAMES, TREE | KINDS, max_size=5)


class Maker:
    """Creates a tree on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.image = make_image(root.with_name("one.png"), seed=1).read_bytes()
        self.other = make_image(root.with_name("two.png"), seed=2).read_bytes()

    def make(self, tree: Any) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self._make(self.root, tree)

    def _make(self, path: Path, tree: Any) -> None:
        if isinstance(tree, dict):
            path.mkdir()
            for name, inner in tree.items():
                self._make(path / os.fsdecode(name), inner)
        elif tree in {"fifo", "socket"}:
            os.mknod(path, 0o600 | (stat.S_IFIFO if tree == "fifo" else stat.S_IFSOCK))
        elif tree in {"up", "root", "gone", "itself"}:
            path.symlink_to({"up": "..", "root": self.root, "gone": "nowhere", "itself": path}[tree])
        else:
            contents = {"image": self.image, "other image": self.other, "empty": b"", "text": b"text"}
            path.write_bytes(contents.get(tree, self.image[:50]))


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("fuzz") / "root")


@settings(max_examples=300)
@given(
    tree=ROOTS,
    fraction=st.sampled_from([0.0, 0.2, 0.5]),
    strategy=st.sampled_from(["stratified", "hash", "group"]),
    on_error=st.sampled_from(["fail", "skip"]),
)
@example(tree={b"a": "up", b"b": "root"}, fraction=0.2, strategy="stratified", on_error="fail")
@example(tree={b"train": {b"a": "up"}, b"val": {b"a": {}}}, fraction=0.2, strategy="stratified", on_error="skip")
@example(tree={b"a": {b"x.png": "fifo"}, b"b": {b"x.png": "socket"}}, fraction=0.2, strategy="hash", on_error="skip")
@example(tree={b"a": {b"x.png": "image"}, b"b": {b"x.png": "empty"}}, fraction=0.0, strategy="hash", on_error="skip")
@example(tree={b"\xff": {b"a": {}, b"b": {b"x.png": "image"}}}, fraction=0.2, strategy="stratified", on_error="fail")
@example(tree={b"a": "gone", b"b": "itself"}, fraction=0.0, strategy="group", on_error="skip")
def test_any_folder_tree_gives_results_or_a_data_error(
    maker: Maker, tree: dict[bytes, Any], fraction: float, strategy: str, on_error: str
) -> None:
    maker.make(tree)
    root = maker.root
    regex = "(.).png" if strategy == "group" else None
    data = Data(dir=root, validation_split=fraction, split_strategy=strategy, group_regex=regex, on_error=on_error)
    silent = Silent()
    looks: list[Callable[[], Any]] = [
        lambda: find_splits(root),
        lambda: survey(data, listener=silent),
        lambda: build_index(data, seed=0, listener=silent),
        lambda: inspect_data(data, seed=0, listener=silent),
        lambda: scan_folder_for_evaluation(root, ("a", "b"), on_error=on_error, listener=silent),
    ]
    for look in looks:
        lines = refusal(look)
        assert len(lines) < 2
        assert all(shows_itself(line) for line in lines), ascii(lines)
        found = None if lines else look()
        if isinstance(found, Survey):
            assert all(shows_itself(problem.message) for problem in found.problems)
        elif isinstance(found, tuple):
            assert all(isinstance(finding, Finding) and shows_itself(finding.message) for finding in found)
            if not any(finding.level == "fail" for finding in found):  # data that passes the check is usable
                build_index(data, seed=0, listener=silent)
