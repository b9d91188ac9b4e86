from __future__ import annotations

import errno
import gc
import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from image_folders import Heard, make_image

from wisesr_cli.data import disk_cache
from wisesr_cli.data import pixels as pipeline
from wisesr_cli.data import stream as data_stream
from wisesr_cli.data.pixels import DecodedImages, epoch_order, open_pixels
from wisesr_cli.data.stream import decode_in_order
from wisesr_cli.errors import DataError, MachineError
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.listening import Silent
from wisesr_cli.machine import memory as machine_memory

SIZE = (12, 16)
CACHES = ["none", "memory", "disk", "auto"]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return [str(make_image(tmp_path / f"{number:02}.png", number)) for number in range(23)]


def opened(paths: list[str], cache: str, listener: Silent | None = None, on_error: str = "fail") -> DecodedImages:
    return open_pixels(
        paths, image_size=SIZE, preparation=Preparation(), cache=cache, on_error=on_error, listener=listener or Silent()
    )


def decoded(paths: list[str]) -> np.ndarray:
    return np.stack([decode_image(path, image_size=SIZE) for path in paths])


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("decode_image", "decode_with_header"):
        monkeypatch.setattr(f"wisesr_cli.images.decoding.{name}", lambda *_, **__: pytest.fail("an image was decoded"))


@pytest.mark.parametrize("cache", CACHES)
def test_every_cache_returns_the_decoded_pixels(cache: str, paths: list[str]) -> None:
    pixels = opened(paths, cache)
    assert len(pixels) == 23
    order = np.random.default_rng(0).permutation(23)
    batch = pixels.batch(order)
    assert batch.dtype == np.uint8
    assert np.array_equal(batch, decoded(paths)[order])
    batch[:] = 0  # the caller owns the batch
    assert np.array_equal(pixels.batch(order), decoded(paths)[order])
    pixels.close()


@pytest.mark.parametrize("cache", CACHES)
def test_batches_are_the_same_from_many_threads(cache: str, paths: list[str]) -> None:
    pixels, expected = opened(paths, cache), decoded(paths)
    orders = [np.random.default_rng(seed).permutation(23)[:7] for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for order, batch in zip(orders, pool.map(pixels.batch, orders), strict=True):
            assert np.array_equal(batch, expected[order])
    pixels.close()


@pytest.mark.parametrize("cache", CACHES)
def test_unreadable_images_are_named_before_the_first_batch(cache: str, paths: list[str]) -> None:
    whole = Path(paths[3]).read_bytes()
    Path(paths[3]).write_bytes(whole[: len(whole) // 2])
    Path(paths[5]).unlink()
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            opened(paths, cache)
        assert "2 unreadable images" in str(caught.value)
        assert f"{paths[3]}: truncated PNG" in str(caught.value)
        assert f"{paths[5]}: no such file" in str(caught.value)


@pytest.mark.parametrize("cache", CACHES)
def test_skip_keeps_the_readable_images_and_lists_the_others(cache: str, paths: list[str]) -> None:
    Path(paths[3]).write_bytes(b"")
    readable = [path for path in paths if path != paths[3]]
    for _ in range(2):  # the second time, the disk cache is complete
        heard = Heard()
        pixels = opened(paths, cache, heard, on_error="skip")
        assert len(pixels) == 22
        assert pixels.kept.tolist() == [number for number in range(23) if number != 3]
        assert np.array_equal(pixels.batch(np.arange(22)), decoded(readable))
        assert heard.warnings == [f"1 unreadable image skipped: {paths[3]}: empty file"]
        pixels.close()
    if cache == "disk":
        with pytest.raises(DataError, match="empty file"):
            opened(paths, cache)


def test_no_readable_image_is_an_error_even_with_skip(paths: list[str]) -> None:
    for path in paths:
        Path(path).write_bytes(b"")
    with pytest.raises(DataError, match="no image can be read"):
        opened(paths, "memory", on_error="skip")


def test_file_damaged_or_removed_later_is_named(paths: list[str]) -> None:
    pixels = opened(paths, "none")
    Path(paths[7]).unlink()
    Path(paths[8]).write_bytes(b"text")
    with pytest.raises(DataError, match=r"07\.png: no such file"):
        pixels.batch(np.array([6, 7]))
    with pytest.raises(DataError, match=r"08\.png: not an image"):
        pixels.batch(np.array([8]))
    assert len(pixels.batch(np.array([6]))) == 1


def test_failed_batch_does_not_keep_the_images_alive(paths: list[str]) -> None:
    pixels = opened(paths, "none")
    reference = weakref.ref(pixels)
    Path(paths[7]).unlink()
    gc.disable()  # threads and an open cache must be freed without it
    try:
        with suppress(DataError):
            pixels.batch(np.array([7]))
        pixels.close()
        del pixels
        assert reference() is None
    finally:
        gc.enable()


def test_reading_reports_progress_once_per_image(paths: list[str]) -> None:
    heard = Heard()
    opened(paths, "memory", heard)
    assert heard.steps == {"reading images": 23}


def test_files_known_to_be_sound_are_not_decoded_again(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened(paths, "memory").close()
    make_image(Path(paths[4]), seed=100)
    heard = Heard()
    opened(paths, "none", heard)
    assert heard.steps == {"reading images": 1}
    forbid_decoding(monkeypatch)
    opened(paths, "none")


def test_the_disk_cache_is_reused_without_decoding(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    opened(paths, "disk").close()
    expected = decoded(paths)
    forbid_decoding(monkeypatch)
    pixels = opened(paths, "disk")
    assert np.array_equal(pixels.batch(np.arange(23)), expected)


def test_disk_cache_is_updated_when_a_file_changes(paths: list[str]) -> None:
    opened(paths, "disk").close()
    make_image(Path(paths[4]), seed=100)
    assert np.array_equal(opened(paths, "disk").batch(np.arange(23)), decoded(paths))


def test_truncated_disk_cache_is_rewritten(paths: list[str], caches_of_this_test: Path) -> None:
    opened(paths, "disk").close()
    (file,) = caches_of_this_test.glob("pixels/*")
    file.write_bytes(file.read_bytes()[:-5])
    assert np.array_equal(opened(paths, "disk").batch(np.arange(23)), decoded(paths))


def test_disk_cache_truncated_while_in_use_is_an_error(paths: list[str], caches_of_this_test: Path) -> None:
    pixels = opened(paths, "disk")
    (file,) = caches_of_this_test.glob("pixels/*")
    os.truncate(file, 23 + 5 * SIZE[0] * SIZE[1] * 3)
    assert np.array_equal(pixels.batch(np.arange(5)), decoded(paths[:5]))
    with pytest.raises(MachineError, match=r"\.pixels: .*cut short; remove the file, or set data.cache: none"):
        pixels.batch(np.array([5]))


def test_a_disk_cache_is_not_closed_while_it_is_read(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = opened(paths, "disk")
    expected = decoded(paths)
    preadv = os.preadv

    def closing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        pixels.close()
        with Path(paths[0]).open("rb") as other:
            assert other.fileno() != descriptor
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", closing)
    assert np.array_equal(pixels.batch(np.arange(23)), expected)
    with pytest.raises(ValueError, match="closed"):
        pixels.batch(np.arange(23))


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_full_disk_disables_the_cache_with_a_warning(
    call: str, paths: list[str], monkeypatch: pytest.MonkeyPatch, caches_of_this_test: Path
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    heard = Heard()
    pixels = opened(paths, "disk", heard)
    assert np.array_equal(pixels.batch(np.arange(23)), decoded(paths))
    assert (pixels.cache, len(heard.warnings)) == ("none", 1)
    assert list(caches_of_this_test.glob("pixels/*")) == []


def test_too_little_memory_disables_the_cache_with_a_warning(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    empty = np.empty

    def fail(shape: object, *rest: object, **options: object) -> np.ndarray:
        if isinstance(shape, tuple) and shape[:1] == (23,) and len(shape) > 1:
            raise MemoryError
        return empty(shape, *rest, **options)

    monkeypatch.setattr(np, "empty", fail)
    heard = Heard()
    assert opened(paths, "memory", heard).cache == "none"
    assert len(heard.warnings) == 1


def test_oldest_unused_cache_is_removed_to_make_room_and_one_in_use_is_kept(
    paths: list[str], monkeypatch: pytest.MonkeyPatch, caches_of_this_test: Path
) -> None:
    one = 10 + 10 * SIZE[0] * SIZE[1] * 3
    monkeypatch.setattr(disk_cache, "DISK_LIMIT_BYTES", 2 * one)
    used = opened(paths[:10], "disk")
    opened(paths[1:11], "disk").close()
    files = {file.name for file in caches_of_this_test.glob("pixels/*")}
    os.utime(used._disk.path, (1, 1))  # the oldest, but in use
    opened(paths[2:12], "disk").close()
    after = {file.name for file in caches_of_this_test.glob("pixels/*")}
    assert len(files) == len(after) == 2
    assert used._disk.path.name in after
    assert np.array_equal(used.batch(np.arange(10)), decoded(paths[:10]))


def test_cache_over_the_disk_limit_is_not_written(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "DISK_LIMIT_BYTES", 100)
    heard = Heard()
    assert opened(paths, "disk", heard).cache == "none"
    assert len(heard.warnings) == 1


def test_leftovers_of_a_killed_process_are_removed(paths: list[str], caches_of_this_test: Path) -> None:
    left_over = caches_of_this_test / "pixels" / "abc.123.tmp"
    left_over.parent.mkdir()
    left_over.write_bytes(b"x" * 1000)
    opened(paths, "disk")
    assert not left_over.exists()


class Stopping(Heard):
    """A listener that raises KeyboardInterrupt at the first step of progress."""

    def advance(self, steps: int = 1) -> None:
        raise KeyboardInterrupt

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Stopping]:
        yield self


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("wisesr")]


@pytest.mark.parametrize("cache", CACHES)
def test_interrupt_while_reading_leaves_no_thread_and_no_cache_file(
    cache: str, paths: list[str], caches_of_this_test: Path
) -> None:
    before = decoding_threads()
    with pytest.raises(KeyboardInterrupt) as caught:
        opened(paths, cache, Stopping())
    assert caught.value.__traceback__ is not None  # holding it keeps the frames and their objects alive
    assert decoding_threads() == before
    assert list(caches_of_this_test.glob("pixels/*")) == []


def test_closed_writer_does_not_write_into_another_file(tmp_path: Path) -> None:
    pixels = np.ones((*SIZE, 3), np.uint8)
    with disk_cache.new_cache(tmp_path / "a.pixels", (2, *SIZE, 3)) as writer:
        number = writer._descriptor
        writer.write(0, pixels)
    with (tmp_path / "other").open("w+b") as other:
        os.dup2(other.fileno(), number)  # usually the same number already
        with pytest.raises(ValueError, match="closed"):
            writer.write(1, pixels)
        assert other.read() == b""
        if other.fileno() != number:
            os.close(number)


def test_a_writer_is_not_closed_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, begun, go_on = os.pwrite, threading.Event(), threading.Event()
    failures: list[Exception] = []

    def slow(descriptor: int, data: bytes, offset: int) -> int:
        begun.set()
        go_on.wait(30)
        return pwrite(descriptor, data, offset)

    def write() -> None:
        try:
            writer.write(0, np.ones((*SIZE, 3), np.uint8))
        except Exception as error:
            failures.append(error)

    monkeypatch.setattr(os, "pwrite", slow)
    later = threading.Timer(0.2, go_on.set)
    with disk_cache.new_cache(tmp_path / "a.pixels", (1, *SIZE, 3)) as writer:
        thread = threading.Thread(target=write)
        thread.start()
        begun.wait(30)
        later.start()
    thread.join(30)
    assert failures == []
    found = disk_cache.open_cache(tmp_path / "a.pixels", (1, *SIZE, 3))
    assert found is not None
    rows = np.zeros((1, *SIZE, 3), np.uint8)
    found.read(np.array([0]), rows)
    assert rows.all()
    found.close()


@pytest.mark.parametrize(
    ("memory", "room", "expected"), [(10**9, True, "memory"), (1000, True, "disk"), (1000, False, "none")]
)
def test_auto_prefers_memory_then_disk_then_no_cache(
    memory: int, room: bool, expected: str, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "available_memory_bytes", lambda: memory)
    monkeypatch.setattr(disk_cache, "has_room", lambda shape: room)
    assert opened(paths, "auto").cache == expected


def test_available_memory_is_known() -> None:
    assert 10**7 < machine_memory.available_memory_bytes() < 10**14


def test_epoch_order_is_a_permutation_determined_by_seed_and_epoch() -> None:
    order = epoch_order(1000, seed=3, epoch=7)
    assert sorted(order.tolist()) == list(range(1000))
    np.random.default_rng(0)
    assert np.array_equal(order, epoch_order(1000, seed=3, epoch=7))
    assert not np.array_equal(order, epoch_order(1000, seed=3, epoch=8))
    assert not np.array_equal(order, epoch_order(1000, seed=4, epoch=7))


def stream(paths: Iterator[str] | list[str], batch_size: int = 5) -> Iterator[list[data_stream.Decoded]]:
    return decode_in_order(paths, image_size=SIZE, preparation=Preparation(), batch_size=batch_size)


def test_stream_keeps_the_order_and_yields_one_record_per_input(paths: list[str]) -> None:
    Path(paths[2]).write_bytes(b"")
    inputs = [*paths, "absent.jpg", "a\0b", paths[0]]
    batches = list(stream(inputs))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5, 5, 1]
    items = list(itertools.chain.from_iterable(batches))
    assert [item.path for item in items] == inputs
    assert {item.path: item.error for item in items if item.pixels is None} == {
        paths[2]: "empty file",
        "absent.jpg": "no such file",
        "a\0b": "no such file",
    }
    assert np.array_equal(items[-1].pixels, decoded(paths[:1])[0])
