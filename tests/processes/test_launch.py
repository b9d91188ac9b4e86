"""How processes find each other, share the work, exchange values and end together."""

from __future__ import annotations

import atexit
import ctypes
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import make_photo

from wisesr_cli.data.pixels import open_pixels, share_of_files
from wisesr_cli.errors import DataError, EndedElsewhere, UsageError, WisesrError
from wisesr_cli.images import decoding
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.listening import Silent
from wisesr_cli.machine.stopping import stop_on_signals
from wisesr_cli.machine.threads import for_each
from wisesr_cli.processes.channel import Channel
from wisesr_cli.processes.launch import Cluster, find_cluster
from wisesr_cli.training.devices.sharded import filled_up, share_of_batch

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[08-09]",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


def found_with(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], *given: Any) -> Cluster | None:
    """Return the cluster found with only these scheduler variables set; JAX reads them itself."""
    for name in {*SLURM, *OPEN_MPI, "SLURM_PTY_PORT", "KUBERNETES_SERVICE_HOST"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"KERAS_BACKEND": "jax", **variables}.items():
        monkeypatch.setenv(name, value)
    return find_cluster(*(given or (None, None, None)))


def test_process_runs_alone_without_options_or_with_one_process_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_with(monkeypatch, {}) is None
    assert found_with(monkeypatch, {}, "a:1", 1, 0) is None
    assert found_with(monkeypatch, SLURM, None, 1, None) is None  # requested in a step of many tasks


def test_batch_script_or_shell_in_a_slurm_allocation_trains_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = {key: SLURM[key] for key in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID")}
    assert found_with(monkeypatch, batch) is None
    assert found_with(monkeypatch, {**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert found_with(monkeypatch, {**SLURM, "SLURM_PTY_PORT": "40000"}) is None  # srun --ntasks=8 --pty bash


def test_jax_finds_slurm_and_open_mpi_tasks_unless_options_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    found = found_with(monkeypatch, SLURM)
    assert found is not None
    assert (found.coordinator.partition(":")[0], found.processes, found.process) == ("node08", 8, 3)
    assert found_with(monkeypatch, SLURM, "h:5", 3, 2) == Cluster("h:5", 3, 2)
    found = found_with(monkeypatch, OPEN_MPI, "auto", None, None)
    assert found is not None
    assert (found.coordinator.partition(":")[0], found.processes, found.process) == ("10.96.0.1", 4, 2)


def test_cluster_unknown_to_jax_or_unsupported_by_tensorflow_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    with pytest.raises(UsageError, match="JAX cannot tell which processes train together"):
        found_with(monkeypatch, {"OMPI_COMM_WORLD_SIZE": "4"})
    with pytest.raises(UsageError, match="KERAS_BACKEND=jax wisesr train"):
        found_with(monkeypatch, {**SLURM, "KERAS_BACKEND": "tensorflow"})


def test_indexed_kubernetes_job_provides_the_process_id() -> None:
    job = {"JOB_COMPLETION_INDEX": "2"}
    assert find_cluster("train-0.train:1234", 4, None, environment=job) == Cluster("train-0.train:1234", 4, 2)
    assert find_cluster(None, None, None, environment=job) is None  # an indexed job need not train together


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, None), "several processes need all of --coordinator, --num-processes and --process-id"),
        (("h", 2, 0), "--coordinator is 'h'; expected HOST:PORT"),
        (("\x1b[31m:1", 2, 0), r"--coordinator is '\x1b[31m:1'"),
        (("h:1", 2, 2), "--process-id is 2; with 2 processes it is 0 to 1"),
    ],
)
def test_missing_or_invalid_option_is_named(given: tuple[str, int, int], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_cluster(*given, environment={})
    assert str(caught.value).startswith(message)


def test_ipv6_address_is_given_in_brackets() -> None:
    assert find_cluster("[::1]:80", 2, 0, environment={}) == Cluster("[::1]:80", 2, 0)


@pytest.mark.parametrize(("processes", "local"), [(1, 4), (2, 1), (4, 1), (4, 2), (3, 1)])
@pytest.mark.parametrize("examples", [0, 1, 5, 8, 29])
def test_shares_partition_a_batch_and_every_device_gets_as_many_rows(examples: int, processes: int, local: int) -> None:
    batch = np.random.default_rng(examples).permutation(examples).astype(np.int64)
    shares = [
        share_of_batch(batch, process=process, processes=processes, devices=processes * local)
        for process in range(processes)
    ]
    assert np.concatenate([share.examples for share in shares]).tolist() == batch.tolist()
    rows = {len(share.examples) + share.added for share in shares}
    assert len(rows) == 1
    assert rows.pop() % local == 0
    assert sum(share.added for share in shares) == shares[0].padding < processes * local
    ends = [share.added for share in shares]
    assert ends == sorted(ends)  # the padding is at the end of the batch


def test_every_file_is_assigned_to_one_process() -> None:
    files = np.arange(11)
    shares = [share_of_files(files, process=process, processes=3) for process in range(3)]
    assert sorted(np.concatenate(shares).tolist()) == files.tolist()
    assert {len(share) for share in shares} == {3, 4}


def test_rows_that_pad_a_batch_are_zeros_of_its_dtype() -> None:
    rows = np.ones((2, 3), np.uint8)
    assert filled_up(rows, 0) is rows
    assert filled_up(rows, 2).tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert filled_up(rows, 2).dtype == np.uint8


class Store:
    """Stand-in for the store of JAX's coordinator, for processes that are threads of a test."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, timeout_in_ms / 1000):
                raise RuntimeError(f"DEADLINE_EXCEEDED: {key}")
            return self.values[key]


def together(monkeypatch: pytest.MonkeyPatch, *parts: Callable[[Channel], Any]) -> list[Any]:
    """Run functions of a channel in threads, as the processes of one training; return what each returned or raised."""
    monkeypatch.setattr(atexit, "register", lambda *call: None)  # or pytest itself would exit as a failed process
    state = SimpleNamespace(client=Store())
    found: list[Any] = [None] * len(parts)

    def run(number: int) -> None:
        channel = Channel(len(parts), number, state)
        try:
            channel.hosts = channel.exchange("ab"[number // 2])
            found[number] = parts[number](channel)
        except WisesrError as error:
            channel.fail(error)
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_processes_exchange_values_and_receive_those_of_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def part(channel: Channel) -> object:
        if channel.process == 1:
            time.sleep(1.2)  # longer than a single wait of the others
        return channel.exchange(channel.process**2), channel.from_main(f"of {channel.process}"), channel.rank_on_host

    found = together(monkeypatch, part, part, part)
    assert found == [([0, 1, 4], "of 0", place) for place in ((0, 2), (1, 2), (0, 1))]


def test_single_process_exchanges_with_no_other() -> None:
    channel = Channel()
    arrays = {"a": np.arange(3)}
    assert channel.exchange(1) == [1]
    assert channel.from_main(2) == 2
    assert channel.arrays_from_main(arrays) is arrays
    assert channel.stop_after(1, {"signal": 2}) == {"signal": 2}
    assert channel.rank_on_host == (0, 1)


def test_jax_keeps_its_signal_handler_while_the_main_thread_waits() -> None:
    """JAX sets it in C, so Python still reports its own handler, which must not be restored within the block."""
    seen: list[str] = []
    jax_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: seen.append("jax"))
    system = ctypes.CDLL(None).signal
    state = SimpleNamespace(initialize_preemption_sync_manager=lambda: system(signal.SIGTERM, jax_handler))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with stop_on_signals() as stop:
            stop.deferring = True
            with Channel(2, 0, state).synchronized_stops():
                for_each(str, range(3), finished=lambda count: None)
                signal.raise_signal(signal.SIGTERM)
            assert (seen, stop.signal_number) == (["jax"], None)
            signal.raise_signal(signal.SIGTERM)
            assert (seen, stop.signal_number) == (["jax"], signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("failing", [0, 1])
def test_error_in_one_process_ends_the_waiting_ones_with_its_exit_code(
    failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def part(channel: Channel) -> None:
        channel.from_main("first")
        if channel.process == failing:
            raise DataError("a.jpg: gone")
        channel.exchange("never comes")

    found = together(monkeypatch, part, part, part)
    assert [type(error) for error in found] == [
        DataError if number == failing else EndedElsewhere for number in range(3)
    ]
    assert [error.exit_code for error in found] == [3, 3, 3]
    assert str(found[2]) == "process 2 ended with the others: another process says why"
    assert failing == 0 or str(found[0]) == "process 0 ended with the others: process 1: a.jpg: gone"


def test_every_image_is_checked_by_one_process_and_all_agree_on_the_readable_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WISESR_CACHE_DIR", str(tmp_path / "caches"))
    paths = [str(make_photo(tmp_path / f"{number}.png", number % 3, number, (8, 8))) for number in range(7)]
    Path(paths[3]).write_bytes(b"no image")
    path_of = {Path(path).read_bytes(): path for path in paths}
    tried: list[str] = []
    for name in ("decode_image", "decode_with_header"):
        decode = getattr(decoding, name)

        def counted(source: Any, *, decode: Callable[..., Any] = decode, **options: object) -> Any:
            tried.append(
                source if isinstance(source, str) else path_of[source if isinstance(source, bytes) else source.read()]
            )
            return decode(source, **options)

        monkeypatch.setattr(decoding, name, counted)

    def part(channel: Channel) -> tuple[list[int], list[int]]:
        pixels = open_pixels(
            paths,
            image_size=(8, 8),
            preparation=Preparation(),
            cache="memory",
            on_error="skip",
            listener=Silent(),
            channel=channel,
        )
        channel.exchange("all have tried")
        first = sorted(tried)
        channel.exchange("all have looked")
        assert first == sorted(paths)
        channel.exchange("nobody reads yet")
        batch = pixels.batch(np.arange(6))
        again = pixels.batch(np.arange(6))  # from memory
        np.testing.assert_array_equal(batch, again)
        pixels.close()
        return pixels.kept.tolist(), batch.sum(axis=(1, 2, 3)).tolist()

    found = together(monkeypatch, part, part)
    assert found[0] == found[1]
    assert found[0][0] == [0, 1, 2, 4, 5, 6]
    assert len(tried) <= len(paths) * 2  # each process decodes an image at most once
    assert found[0][1] == [int(decode_image(paths[n], image_size=(8, 8)).sum()) for n in (0, 1, 2, 4, 5, 6)]
