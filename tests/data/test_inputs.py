from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisesr_cli.data import inputs
from wisesr_cli.data.inputs import LONGEST_PATH, RUN, find_inputs, not_empty, sorted_names
from wisesr_cli.errors import DataError


@pytest.fixture(autouse=True)
def here(empty_folder: Path) -> Path:
    return empty_folder


def make(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(*inputs: str, **options: object) -> list[str]:
    return list(find_inputs(inputs, **options))  # type: ignore[arg-type]


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_named_files_are_returned_exactly_as_typed(here: Path) -> None:
    make("a.jpg", "notes.txt", ".hidden.png")
    typed = ["./a.jpg", "notes.txt", ".hidden.png", str(here / "a.jpg"), "gone.jpg", "a.jpg", "a.jpg"]
    assert found(*typed) == typed


def test_folder_yields_its_sorted_images_then_those_of_its_subfolders() -> None:
    make(*(f"p/{name}" for name in ("b.JPG", "a.png", "10.webp", "2.tiff", "notes.txt", "q.eps")))
    make("p/z/y/c.gif", "p/z/b.bmp", "p/a/d.jpeg")
    expected = ["p/10.webp", "p/2.tiff", "p/a.png", "p/b.JPG", "p/a/d.jpeg", "p/z/b.bmp", "p/z/y/c.gif"]
    assert found("p") == found("p/") == expected
    assert found("./p")[0] == "./p/10.webp"


def test_hidden_files_and_system_folders_are_skipped() -> None:
    make("p/a.png", "p/.b.png", "p/._a.png", "p/.cache/c.png", "p/lost+found/d.png", "p/@Recycle/e.png")
    assert found("p") == ["p/a.png"]


def test_folder_links_are_followed_once_and_never_within_the_same_folder() -> None:
    make("p/a.png", "p/own/b.png", "q/d.png", "q/in/e.png")
    for name, target in {"up": "..", "loop": ".", "self": "own", "there": "../q", "thereagain": "../q"}.items():
        Path("p", name).symlink_to(target)
    Path("q/back").symlink_to("../p")
    Path("q/in/round").symlink_to("../../q")
    Path("p/link.png").symlink_to("../q/d.png")
    ignored: Counter[str] = Counter()
    expected = ["p/a.png", "p/link.png", "p/own/b.png", "p/there/d.png", "p/there/in/e.png"]
    assert found("p", ignored=ignored) == expected
    assert ignored == {"folder linked twice": 6}
    Path("linked").symlink_to("q")
    assert found("linked")[0] == "linked/d.png"


def test_inputs_keep_the_order_typed() -> None:
    make("p/a.png", "b.png", "c.png")
    assert found("c.png", "p", "b.png") == ["c.png", "p/a.png", "b.png"]


def test_glob_yields_sorted_matches_and_expands_folders() -> None:
    make("p/b1.png", "p/a1.png", "p/c.txt", "p/b2/x.png", "p/b2/x.txt")
    assert found("p/*1.png") == ["p/a1.png", "p/b1.png"]
    assert found("p/b*") == ["p/b1.png", "p/b2/x.png"]
    assert found("p/[ab]1.png") == ["p/a1.png", "p/b1.png"]


def test_recursive_glob_yields_every_image_once() -> None:
    make("p/a.png", "p/q/b.png", "p/q/r/c.png")
    assert sorted(found("p/**")) == sorted(found("p/**/*")) == ["p/a.png", "p/q/b.png", "p/q/r/c.png"]
    assert found("p/**/*.png") == ["p/a.png", "p/q/b.png", "p/q/r/c.png"]


def test_file_whose_name_looks_like_a_pattern_is_taken_literally() -> None:
    make("a[1].png", "a1.png", "what?.png")
    assert found("a[1].png", "what?.png") == ["a[1].png", "what?.png"]


def test_pattern_without_matches_is_an_error_that_shows_it() -> None:
    with pytest.raises(DataError, match=r"^\*\\x1b\.png: matches no file$"):
        found("*\x1b.png")


def test_unreadable_subfolder_is_yielded_as_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    make("photos/a.png", "photos/private/b.png", "photos/z/c.png")
    scandir = os.scandir

    def refuse(folder: str) -> Iterator[os.DirEntry[str]]:
        if folder.endswith("private"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(find_inputs(["photos"])) == ["photos/a.png", "photos/private", "photos/z/c.png"]
    with pytest.raises(DataError, match=r"photos/private: cannot be read: Permission denied"):
        list(find_inputs(["photos/private"]))


def test_folder_without_images_yields_nothing_and_no_images_at_all_is_an_error() -> None:
    make("p/notes.txt")
    assert found("p") == []
    with pytest.raises(DataError, match="no image to label"):
        not_empty(found("p"))
    assert list(not_empty(["a", "b"])) == ["a", "b"]


def test_empty_input_is_not_taken_for_a_folder() -> None:
    make("a.png")
    assert found("") == [""]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a.png\nb.png\n", ["a.png", "b.png"]),
        (b"a.png\r\nb c.png", ["a.png", "b c.png"]),
        (b"\n\na.png\n\n", ["a.png"]),
        (b"", []),
        (b"*.png\n-\np\n", ["*.png", "-", "p"]),
        (b"caf\xc3\xa9.png\n\xff.png\n", ["caf\u00e9.png", "\udcff.png"]),
        (b"\xef\xbb\xbfa.png\nb.png\n", ["a.png", "b.png"]),
        (b"\xef\xbb\xbf", []),
        (b"\xef\xbb", ["\udcef\udcbb"]),
    ],
)
def test_listed_paths_are_taken_literally(monkeypatch: pytest.MonkeyPatch, content: bytes, expected: list[str]) -> None:
    type_in(monkeypatch, content)
    assert found("-") == expected
    Path("list.txt").write_bytes(content)
    assert found(from_file="list.txt") == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-16-le"])
def test_list_in_utf_16_is_an_error_that_suggests_conversion(encoding: str) -> None:
    Path("list.txt").write_bytes("\ufeffa.png\nb.png\n".encode(encoding))
    with pytest.raises(DataError, match=r"^list\.txt: in UTF-16; convert it to UTF-8: iconv"):
        found(from_file="list.txt")


def test_utf_8_byte_order_mark_may_arrive_in_pieces(pipe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with os.fdopen(os.dup(pipe), "wb", buffering=0) as writer:
        threading.Thread(target=lambda: [writer.write(b"%c" % byte) for byte in b"\xef\xbb\xbfa.png\n"]).start()
        assert next(find_inputs(["-"])) == "a.png"


def test_folder_with_brackets_in_its_name_is_literal_within_a_pattern() -> None:
    make("photos [1]/a.png", "photos [1]/in/b.png", "photos 1/c.png", "d[e]/f.png")
    assert found("photos [1]/*.png") == ["photos [1]/a.png"]
    assert found("photos [1]/**/*.png") == ["photos [1]/a.png", "photos [1]/in/b.png"]
    assert found("./photos [1]/*/b.*") == ["./photos [1]/in/b.png"]
    assert found("photos [12]/*.png") == ["photos 1/c.png"]
    assert found("photos[ ][1]/*.png") == ["photos 1/c.png"]


def test_null_separated_paths_may_contain_line_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"a\nb.png\0c\r\0\0d.png"
    type_in(monkeypatch, content)
    assert found("-", null_separated=True) == ["a\nb.png", "c\r", "d.png"]
    Path("list").write_bytes(content + b"\0")
    assert found(from_file="list", null_separated=True) == ["a\nb.png", "c\r", "d.png"]


def test_arguments_standard_input_and_a_list_are_combined_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"b.png\n")
    Path("list").write_bytes(b"d.png\n")
    assert found("a.png", "-", "c.png", from_file="list") == ["a.png", "b.png", "c.png", "d.png"]


@given(st.lists(st.binary(min_size=1, max_size=9).filter(lambda name: b"\0" not in name), max_size=30))
def test_any_name_survives_a_null_separated_list(tmp_path_factory: pytest.TempPathFactory, names: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "list"
    path.write_bytes(b"\0".join(names))
    assert [os.fsencode(name) for name in find_inputs([], from_file=str(path), null_separated=True)] == names


def test_list_longer_than_a_block_is_split_correctly() -> None:
    names = [f"{number:05}-{'x' * (number % 97)}.png" for number in range(5000)]
    Path("list").write_text("\n".join(names), encoding="ascii")
    assert found(from_file="list") == names


def test_names_that_are_not_utf_8_are_found_and_keep_their_bytes(here: Path) -> None:
    name = os.fsencode(here) + b"/p/\xff\xfe.png"
    Path("p").mkdir()
    with open(name, "wb"):  # noqa: PTH123
        pass
    assert found("p") == ["p/\udcff\udcfe.png"]
    assert found("p/*.png") == ["p/\udcff\udcfe.png"]
    assert os.fsencode(found("p")[0]) == b"p/\xff\xfe.png"


def test_unreadable_list_is_an_error_that_names_it() -> None:
    with pytest.raises(DataError, match=r"gone\\n\.txt: cannot be read: No such file"):
        found(from_file="gone\n.txt")
    Path("folder").mkdir()
    with pytest.raises(DataError, match="folder: cannot be read"):
        found(from_file="folder")


def test_inputs_are_found_lazily(monkeypatch: pytest.MonkeyPatch) -> None:
    make("a.png")
    paths = find_inputs(["a.png", "*.nothing"])
    assert next(paths) == "a.png"
    with pytest.raises(DataError):
        next(paths)


def test_folders_nested_to_the_maximum_path_length_are_read(here: Path) -> None:
    depth = 0
    try:
        while True:
            Path("d").mkdir()
            os.chdir("d")
            depth += 1
            if len(os.getcwd()) > 3_800:  # noqa: PTH109
                break
        Path("a.png").touch()
        os.chdir(here)
        assert depth > 1_500
        assert found("d") == ["d/" * depth + "a.png"]
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-r", "d"], check=True)  # too deep for shutil.rmtree


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make standard input a pipe and yield its write end."""
    read_end, write_end = os.pipe()
    with open(read_end, encoding="utf-8") as standard_input:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", standard_input)
        yield write_end


def test_ready_tells_whether_the_next_path_has_arrived_in_a_pipe(pipe: int) -> None:
    paths = find_inputs(["first.png", "-"])
    assert next(paths) == "first.png"
    os.write(pipe, b"a.png\nb.png\nc.p")
    assert next(paths) == "a.png"
    assert paths.ready()
    assert next(paths) == "b.png"
    assert not paths.ready()
    os.write(pipe, b"ng\n")
    assert paths.ready()
    assert next(paths) == "c.png"
    assert not paths.ready()
    os.close(pipe)
    assert paths.ready()
    assert next(paths, None) is None
    assert paths.ready()


@pytest.mark.parametrize("before", ["first.png", "folder", "f*.png"])
def test_inputs_before_a_pipe_do_not_wait_for_it(pipe: int, before: str) -> None:
    make("first.png", "folder/a.png")
    paths = find_inputs([before, "-", "last.png"])
    assert next(paths) in {"first.png", "folder/a.png"}
    assert not paths.ready()
    assert not paths.ready()
    os.write(pipe, b"a.png\n")
    assert paths.ready()
    assert next(paths) == "a.png"
    assert not paths.ready()
    os.close(pipe)
    assert paths.ready()
    assert list(paths) == ["last.png"]


def test_inputs_before_a_named_pipe_do_not_wait_for_its_writer() -> None:
    os.mkfifo("list")
    paths = find_inputs(["a.png", "b.png"], from_file="list")
    assert next(paths) == "a.png"
    assert paths.ready()
    assert next(paths) == "b.png"
    assert not paths.ready()
    threading.Thread(target=Path("list").write_bytes, args=(b"c.png\n",)).start()
    assert next(paths) == "c.png"
    assert list(paths) == []


def test_non_blocking_pipe_is_read_to_its_end(pipe: int) -> None:
    os.set_blocking(sys.stdin.fileno(), False)
    threading.Timer(0.1, lambda: (os.write(pipe, b"a.png\n"), os.close(pipe))).start()
    assert found("-") == ["a.png"]


def test_inputs_without_a_pipe_are_always_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    make("p/a.png")
    Path("list").write_bytes(b"a.png\nb.png\n")
    type_in(monkeypatch, b"c.png\n")
    paths = find_inputs(["p", "-"], from_file="list")
    assert [paths.ready() for _ in paths] == [True] * 4


def test_endless_line_is_rejected_before_it_fills_the_memory(pipe: int) -> None:
    def write_on() -> None:
        with suppress(BrokenPipeError):
            while True:
                os.write(pipe, bytes(65536))

    threading.Thread(target=write_on, daemon=True).start()
    with pytest.raises(DataError, match=r"standard input: holds a line that is not a path; .* --null"):
        found("-")
    sys.stdin.close()


def test_longest_path_allowed_in_a_list_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"x" * LONGEST_PATH + b"\ny.png")
    assert [len(path) for path in found("-")] == [LONGEST_PATH, 5]


def test_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input: cannot be read: it is closed"):
        found("-")


@pytest.mark.parametrize("run", [1, 4, 1000])
def test_file_matched_twice_by_a_pattern_is_yielded_once(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "RUN", run)
    names = [f"p/{number:02}.png" for number in range(30)]
    make(*names)
    Path("q").symlink_to("p")
    assert found("[pq]/**") == names


@pytest.mark.parametrize("count", [0, 1, 2, RUN, RUN + 1, 3 * RUN + 7])
def test_sorted_names_has_the_order_of_sorted(count: int) -> None:
    draw = random.Random(count)
    letters = ["a", "Z", "0", ".", "é", "\U0001f600", "\udcff", "\n", "/"]
    names = ["".join(draw.choices(letters, k=draw.randrange(1, 40))) for _ in range(count)]
    assert list(sorted_names(names)) == sorted(names)


def test_sorted_names_reads_eagerly_and_yields_one_by_one() -> None:
    names = iter(["b", "a"])
    ordered = sorted_names(names)
    assert next(names, None) is None
    assert next(ordered) == "a"
