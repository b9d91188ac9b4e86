"""Shards partition the inputs: every input is in exactly one shard, and all shards together equal one run."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest
from command_line import CommandLine, Trained, make_photos
from hypothesis import given
from hypothesis import strategies as st

from wisesr_cli.data.inputs import PathList
from wisesr_cli.data.shards import Shard, ShardInputs, parse_shard
from wisesr_cli.errors import DataError, UsageError
from wisesr_cli.machine.threads import always

pytestmark = pytest.mark.usefixtures("empty_folder")

NAMES = st.lists(st.text(max_size=5).map(lambda text: text.replace("\0", "")), min_size=1, max_size=40)


def part(names: list[str], shard: Shard) -> list[str]:
    return list(ShardInputs(iter(names), always, shard))


@given(NAMES, st.integers(1, 9))
def test_every_input_is_in_exactly_one_shard_and_interleaving_restores_the_list(names: list[str], count: int) -> None:
    parts = [part(names, Shard(index, count)) for index in range(count)]
    in_turns = [name for turn in zip_longest(*parts) for name in turn if name is not None]
    assert in_turns == names
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_empty_list_is_an_error_in_every_shard_but_an_empty_shard_is_not() -> None:
    assert part(["a"], Shard(1, 2)) == []
    for index in range(2):
        with pytest.raises(DataError, match="no image to label"):
            part([], Shard(index, 2))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0/0", "0 shards; allowed: 1 to 1,000,000"),
        ("5/4", "shards count from 0; allowed: 0/4 to 3/4"),
        ("4/4", "shards count from 0; allowed: 0/4 to 3/4"),
        *((text, "expected I/N, for instance 0/4") for text in ("a/b", "", "1", "1/", "/4", "-1/4", "0.5/4", "1/2/3")),
    ],
)
def test_invalid_shard_is_a_usage_error_that_says_what_is_allowed(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_shard(text)
    assert str(error.value).startswith(f"--shard {text}: {reason}")


def test_shard_is_ready_only_once_an_input_of_its_own_has_arrived() -> None:
    """A slowly written list must not delay inputs that have already arrived."""
    source, sink = os.pipe()
    with os.fdopen(source, "rb") as file, os.fdopen(sink, "wb", buffering=0) as writer:
        paths = PathList("list", file, b"\n")
        inputs = ShardInputs(iter(paths), paths.ready, Shard(1, 3))
        writer.write(b"a\n")
        assert not inputs.ready()
        writer.write(b"b\n")
        assert inputs.ready()
        assert next(inputs) == "b"
        writer.write(b"c\nd\n")
        assert not inputs.ready()
        writer.close()
        assert inputs.ready()
        assert list(inputs) == []


# The command


@pytest.mark.parametrize("source", ["folder", "list", "pipe"])
def test_interleaved_lines_of_all_shards_equal_those_of_one_run(
    wisesr: CommandLine, trained: Trained, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(Path("photos"), 3)
    (photos / "red" / "broken.png").write_bytes(b"nothing")
    names = "".join(f"{path}\n" for path in sorted(photos.rglob("*.png"), reverse=True))
    Path("list.txt").write_text(names, encoding="utf-8")

    def lines(*options: str) -> list[str]:
        inputs = {"folder": ["photos"], "list": ["--from-file", "list.txt"], "pipe": ["--from-file", "pipe"]}[source]
        if source == "pipe":
            Path("pipe").unlink(missing_ok=True)
            os.mkfifo("pipe")
            threading.Thread(target=Path("pipe").write_text, args=(names,), daemon=True).start()
        answer = wisesr("predict", trained.run, *inputs, "--format", "jsonl", *options)
        assert answer.code in (0, 6), answer.err
        return answer.out.splitlines()

    parts = [lines("--shard", f"{index}/3") for index in range(3)]
    assert [line for turn in zip_longest(*parts) for line in turn if line is not None] == lines()


def test_keras_scores_are_the_same_with_shards_up_to_rounding(wisesr: CommandLine, trained: Trained) -> None:
    inputs = ("predict", trained.run, trained.photos / "test", "--format", "json", "--engine", "keras", "-b", "4")
    whole = {row["path"]: row for row in wisesr(*inputs).data}
    for index in range(2):
        for row in wisesr(*inputs, "--shard", f"{index}/2").data:
            assert row["label"] == whole[row["path"]]["label"]
            assert row["score"] == pytest.approx(whole[row["path"]]["score"], abs=1e-6)


def test_shard_reports_its_number_of_inputs_and_identifies_the_list(wisesr: CommandLine, trained: Trained) -> None:
    make_photos(Path("photos"), 2)
    notes = [
        wisesr("predict", trained.run, "photos", "--shard", f"{index}/4", "--format", "jsonl").err for index in range(4)
    ]
    said = [line for err in notes for line in err.splitlines() if line.startswith("shard ")]
    assert [line.partition(";")[0] for line in said] == [
        "shard 0/4: 2 of 6 inputs",
        "shard 1/4: 2 of 6 inputs",
        "shard 2/4: 1 of 6 inputs",
        "shard 3/4: 1 of 6 inputs",
    ]
    assert Counter(line.partition(";")[2] for line in said).most_common()[0][1] == 4
    Path("photos/red/zz.png").write_bytes(b"nothing")
    other = wisesr("predict", trained.run, "photos", "--shard", "0/4", "--format", "jsonl").err
    assert said[0].partition("; ")[2] not in other


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [("jsonl", ""), ("json", "[\n]\n"), ("csv", "path,label,score,error,margin,entropy,note\n"), ("table", "")],
)
def test_empty_shard_writes_a_complete_output(
    wisesr: CommandLine, trained: Trained, chosen: str, expected: str
) -> None:
    make_photos(Path("photos"), 1)
    words = ("predict", trained.run, "photos", "--shard", "3/4", "--format", chosen)
    answer = wisesr(*words)
    assert (answer.code, answer.out) == (0, expected), answer.err
    answer = wisesr(*words, "-o", "labels")
    assert (answer.code, answer.out) == (0, ""), answer.err
    assert Path("labels").read_text(encoding="utf-8") == expected


def test_shard_cannot_be_resumed_as_another_shard(
    wisesr: CommandLine, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wisesr_cli.prediction.output import FileOutput

    def killed(self: FileOutput) -> None:
        raise KeyboardInterrupt

    make_photos(Path("photos"), 3)
    words = ("predict", trained.run, "photos", "--format", "jsonl", "-o", "labels.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(FileOutput, "finish", killed)
        assert wisesr(*words, "--shard", "1/2").code == 130
    for other in ((), ("--shard", "0/2"), ("--shard", "1/3")):
        wisesr(*words, *other, "--resume").failed(4, "with other options: shard was 1/2 and is")
    assert wisesr(*words, "--shard", "1/2", "--resume").code == 0
    found = [json.loads(line)["path"] for line in Path("labels.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found == [str(path) for path in sorted(Path("photos").rglob("*.png"))][1::2]


def test_invalid_shard_exits_with_2_before_the_model_is_opened(wisesr: CommandLine) -> None:
    for text in ("0/0", "5/4", "a/b"):
        wisesr("predict", "nowhere", "photos", "--shard", text).failed(2, f"--shard {text}")
