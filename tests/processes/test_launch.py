"""Who trains together, who reads what, and how processes tell one another to stop, to go on, and to end."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from command_line import make_photo

from wisesr_cli.data.pixels import open_pixels, share_of_files
from wisesr_cli.errors import DataError, EndedElsewhere, MachineError, UsageError, WisesrError
from wisesr_cli.images import decoding
from wisesr_cli.listening import Silent
from wisesr_cli.processes.agreement import StopAgreement
from wisesr_cli.processes.channel import Channel, join
from wisesr_cli.processes.connection import Connection
from wisesr_cli.processes.launch import Address, Cluster, find_cluster, first_host
from wisesr_cli.processes.watchdog import Verdict, Watchdog
from wisesr_cli.training.devices.sharded import filled_up, share_of_batch
from wisesr_cli.version import __version__

OWN = {"WISESR_COORDINATOR": "a:1", "WISESR_NUM_PROCESSES": "4", "WISESR_PROCESS_ID": "1"}
KERAS = {
    "KERAS_DISTRIBUTION_JOB_ADDRESSES": "10.0.0.1:1234,10.0.0.2:2345",
    "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
    "KERAS_DISTRIBUTION_PROCESS_ID": "1",
}
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NODELIST": "node[07-09,12]",
    "SLURM_STEP_NODELIST": "node[08-09]",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "3",
}


def test_nobody_who_says_nothing_waits_for_others() -> None:
    assert find_cluster(environment={}) is None
    assert find_cluster("a:1", 1, 0, environment={}) is None
    assert find_cluster(num_processes=1, environment=SLURM) is None  # somebody who says so in a step of many tasks


def test_a_batch_script_or_a_shell_in_an_allocation_of_slurm_trains_alone() -> None:
    batch = {key: SLURM[key] for key in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")}
    assert find_cluster(environment=batch) is None
    assert find_cluster(environment={**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert find_cluster(environment={**SLURM, "SLURM_PTY_PORT": "40000"}) is None  # srun --ntasks=8 --pty bash


def test_options_come_before_own_variables_before_those_of_keras_before_slurm() -> None:
    everything = {**SLURM, **KERAS, **OWN}
    assert find_cluster("h:5", 3, 2, environment=everything) == Cluster(Address("h", 5), 3, 2)
    assert find_cluster(environment=everything) == Cluster(Address("a", 1), 4, 1)
    assert find_cluster(environment={**SLURM, **KERAS}) == Cluster(Address("10.0.0.1", 1234), 2, 1)
    found = find_cluster(environment=SLURM)
    assert found is not None
    assert (found.coordinator.host, found.processes, found.process) == ("node08", 8, 3)


def test_all_tasks_of_a_step_of_slurm_choose_one_port_and_other_steps_another() -> None:
    ports = [
        find_cluster(environment={**SLURM, "SLURM_PROCID": task, "SLURM_STEP_ID": step}).coordinator.port  # type: ignore[union-attr]
        for task, step in (("0", "0"), ("7", "0"), ("0", "1"))
    ]
    assert ports[0] == ports[1] != ports[2]
    assert all(port > 60_999 for port in ports)  # Linux gives those below to outgoing connections


def test_an_indexed_job_of_kubernetes_gives_the_number_of_the_process() -> None:
    job = {"WISESR_COORDINATOR": "train-0.train:1234", "WISESR_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "2"}
    assert find_cluster(environment=job) == Cluster(Address("train-0.train", 1234), 4, 2)
    assert find_cluster(environment={"JOB_COMPLETION_INDEX": "2"}) is None  # an indexed job may do anything


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node07", "node07"),
        ("node[07-09,12],login", "node07"),
        ("a,b", "a"),
        ("rack[1-2]node[3,4]x", "rack1node3x"),
        ("n[12]", "n12"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list_of_slurm_is_found(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, None), "--coordinator, --process-id missing beside --num-processes"),
        (("h", 2, 0), "--coordinator is 'h'; it takes HOST:PORT"),
        (("h:70000", 2, 0), "--coordinator is 'h:70000'"),
        (("\x1b[31m:1", 2, 0), r"--coordinator is '\x1b[31m:1'"),
        (("h:1", 0, 0), "--num-processes is '0'; it takes a number from 1"),
        (("h:1", 2, 2), "--process-id is 2; of 2 processes it is 0 to 1"),
    ],
)
def test_what_is_missing_or_wrong_is_named(given: tuple[str, int, int], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_cluster(*given, environment={})
    assert str(caught.value).startswith(message)


def test_half_of_the_variables_is_an_error_that_names_them() -> None:
    with pytest.raises(
        UsageError, match=r"^WISESR_NUM_PROCESSES, WISESR_PROCESS_ID \(or JOB_COMPLETION_INDEX\) missing"
    ):
        find_cluster(environment={"WISESR_COORDINATOR": "h:1"})
    with pytest.raises(UsageError, match=r"^KERAS_DISTRIBUTION_JOB_ADDRESSES"):
        find_cluster(environment={"KERAS_DISTRIBUTION_PROCESS_ID": "1"})


def test_an_address_of_version_six_is_read_and_shown_in_brackets() -> None:
    found = find_cluster("[::1]:80", 2, 0, environment={})
    assert found is not None
    assert found.coordinator == Address("::1", 80)
    assert str(found.coordinator) == "[::1]:80"


@pytest.mark.parametrize(("processes", "local"), [(1, 4), (2, 1), (4, 1), (4, 2), (3, 1)])
@pytest.mark.parametrize("examples", [0, 1, 5, 8, 29])
def test_the_shares_of_a_batch_are_the_batch_and_each_device_gets_as_many_rows(
    examples: int, processes: int, local: int
) -> None:
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
    assert ends == sorted(ends)  # what is added stands at the end of the batch


def test_every_file_is_tried_by_one_process() -> None:
    files = np.arange(11)
    shares = [share_of_files(files, process=process, processes=3) for process in range(3)]
    assert sorted(np.concatenate(shares).tolist()) == files.tolist()
    assert {len(share) for share in shares} == {3, 4}


def test_rows_that_fill_a_batch_up_are_zeros_of_its_type() -> None:
    rows = np.ones((2, 3), np.uint8)
    assert filled_up(rows, 0) is rows
    assert filled_up(rows, 2).tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert filled_up(rows, 2).dtype == np.uint8


class Post:
    """Carries messages between agreements of one test, in the order of each pair, when it is told to."""

    def __init__(self, processes: int) -> None:
        self.letters: deque[tuple[int, int, dict[str, object]]] = deque()
        self.members = [
            StopAgreement(me, [other for other in range(processes) if other != me], self._sender(me), self._wait)
            for me in range(processes)
        ]

    def _sender(self, sender: int):  # type: ignore[no-untyped-def]
        return lambda receiver, message: self.letters.append((sender, receiver, message))

    def _wait(self, changed: threading.Condition) -> None:
        changed.release()  # as a real wait does
        try:
            assert self.letters, "everyone waits, and nothing comes"
            self.carry(1)
        finally:
            changed.acquire()

    def carry(self, count: int = 1000) -> None:
        while self.letters and count:
            sender, receiver, message = self.letters.popleft()
            self.members[receiver].receive(sender, message)
            count -= 1


@pytest.mark.parametrize("seed", range(40))
def test_all_processes_stop_after_the_same_step_however_late_the_post_is(seed: int) -> None:
    random = np.random.default_rng(seed)
    processes = int(random.integers(1, 5))
    post = Post(processes)
    steps, stopped = [0] * processes, [0] * processes
    wants, when = int(random.integers(processes)), int(random.integers(1, 6))
    while not all(stopped):
        # No process is more than two steps ahead of another one, as each step needs all of them.
        able = [p for p in range(processes) if not stopped[p] and steps[p] - min(steps) < 2]
        assert able, "those that have not stopped wait for one that has"
        chosen = int(random.choice(able))
        steps[chosen] += 1
        wanted = {"signal": 15} if chosen == wants and steps[chosen] >= when else None
        if post.members[chosen].stop_after(steps[chosen], wanted) == {"signal": 15}:
            stopped[chosen] = steps[chosen]
        post.carry(int(random.integers(0, 3)))
    assert len(set(stopped)) == 1
    assert stopped[0] >= when


@pytest.fixture(autouse=True)
def _nothing_ends_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no watchdog of a test that fails take the other tests with it."""
    monkeypatch.setattr(Watchdog.__init__, "__defaults__", (lambda code: None,))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(*parts, lost_after: float = 30.0, join_timeout: float = 30.0, processes: int | None = None):  # type: ignore[no-untyped-def]
    """Run functions of a channel as the processes of one training, in threads; return what each returned or raised."""
    address, count = Address("127.0.0.1", free_port()), processes or len(parts)
    found: list[object] = [None] * len(parts)

    def run(number: int) -> None:
        cluster = Cluster(address, count, number)
        try:
            with join(cluster, join_timeout=join_timeout, lost_after=lost_after, listener=Silent()) as channel:
                found[number] = parts[number](channel)
        except (WisesrError, RuntimeError) as error:
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_processes_exchange_values_and_take_over_those_of_the_main_one() -> None:
    def part(channel: Channel) -> object:
        everything = channel.exchange("numbers", channel.process**2)
        arrays = channel.arrays_from_main("arrays", {"a/b": np.arange(3)} if channel.is_main else None)
        return everything, channel.from_main("name", f"of {channel.process}"), arrays["a/b"].tolist()

    assert together(part, part, part) == [([0, 1, 4], "of 0", [0, 1, 2])] * 3


def test_one_process_alone_exchanges_with_nobody() -> None:
    channel = Channel()
    assert channel.exchange("x", 1) == [1]
    assert channel.from_main("x", 2) == 2
    assert channel.stop_after(1, {"signal": 2}) == {"signal": 2}
    assert channel.place_on_host == (0, 1)


def test_an_error_of_one_process_ends_all_with_its_exit_code_and_is_told_by_two() -> None:
    def fails(channel: Channel) -> None:
        raise DataError("a.jpg: gone")

    def waits(channel: Channel) -> None:
        channel.from_main("never comes") if not channel.is_main else channel.exchange("never comes", 0)

    main, failed, other = together(waits, fails, waits)
    host = socket.gethostname()
    assert isinstance(failed, DataError)
    assert str(failed) == "process 1 of 3: a.jpg: gone"
    assert isinstance(main, EndedElsewhere)
    assert (main.exit_code, str(main)) == (3, f"process 1 of 3 ({host}): a.jpg: gone")
    assert isinstance(other, EndedElsewhere)
    assert (other.exit_code, str(other)) == (
        3,
        f"process 2 of 3: ended, as process 1 of 3 ({host}) did, which says why",
    )


def test_a_process_that_is_gone_or_silent_counts_as_lost() -> None:
    def gone(channel: Channel) -> None:
        channel.exchange("ready", 0)
        for connection in channel._connections.values():
            connection.close()
        raise EndedElsewhere("without a word", 5)

    def silent(channel: Channel) -> None:
        channel.exchange("ready", 0)
        channel._closing.set()  # no beat any more
        channel.watchdog.verdict = Verdict("unused", 5)  # and its threads read no more
        time.sleep(2)
        raise EndedElsewhere("without a word", 5)

    def waits(channel: Channel) -> None:
        channel.watchdog.standing = "the state is that of epoch 2"
        channel.exchange("ready", 0)
        channel.exchange("never comes", 0)

    for how, reason in ((gone, "its connection was closed"), (silent, "it was silent for too long")):
        main = together(waits, how, lost_after=1.0)[0]
        assert isinstance(main, EndedElsewhere)
        assert main.exit_code == 5
        assert str(main).endswith(f") was lost: {reason}; the state is that of epoch 2")


def test_a_process_that_never_comes_is_named_and_those_that_came_are_told() -> None:
    main, other = together(lambda channel: None, lambda channel: None, processes=4, join_timeout=1.0)
    assert isinstance(main, MachineError)
    assert str(main).startswith("2 of 4 processes did not come within 1 seconds: 2, 3; ")
    assert isinstance(other, EndedElsewhere)
    assert other.exit_code == 5


def test_what_speaks_another_language_at_the_port_is_passed_over() -> None:
    address = Address("127.0.0.1", free_port())

    def stranger() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                with socket.create_connection((address.host, address.port)) as connected:
                    connected.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(100))
                    return
            except OSError:
                time.sleep(0.02)

    found: list[object] = []

    def run(number: int) -> None:
        with join(Cluster(address, 2, number), join_timeout=20, lost_after=30, listener=Silent()) as channel:
            found.append(channel.exchange("numbers", number))

    threads = [threading.Thread(target=run, args=(0,)), threading.Thread(target=stranger)]
    for thread in threads:
        thread.start()
    threads[1].join(30)
    run(1)
    threads[0].join(30)
    assert found == [[0, 1]] * 2


def test_two_processes_of_one_number_are_refused() -> None:
    address, found = Address("127.0.0.1", free_port()), []

    def run(number: int) -> None:
        try:
            with join(Cluster(address, 3, number), join_timeout=10, lost_after=30, listener=Silent()):
                pass
        except WisesrError as error:
            found.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in (0, 1, 1)]
    for thread in threads:
        thread.start()
    threads[0].join(30)
    assert any(str(error).startswith("two processes are number 1, on ") and error.exit_code == 2 for error in found)


def test_a_process_that_was_started_anew_before_all_had_come_takes_its_place() -> None:
    address, found = Address("127.0.0.1", free_port()), []

    def run(number: int) -> None:
        with join(Cluster(address, 3, number), join_timeout=20, lost_after=30, listener=Silent()) as channel:
            found.append(channel.exchange("numbers", number))

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in (0, 1, 2)]
    threads[0].start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((address.host, address.port)) as connected:
            killed = Connection(connected, 5.0)
            killed.send({"hello": __version__, "process": 1, "processes": 3, "host": "old"})
            break
        time.sleep(0.02)
    threads[2].start()
    time.sleep(0.3)  # now three have called, and one of them is gone
    threads[1].start()
    for thread in threads:
        thread.join(30)
    assert found == [[0, 1, 2]] * 3


def test_the_watchdog_ends_a_process_whose_main_thread_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    ended: list[int] = []
    watchdog = Watchdog("process 1 of 2", ended.append)
    watchdog.pronounce(Verdict("process 0 was lost", 5), grace_seconds=0.0)
    assert not watchdog.pronounce(Verdict("too late", 3))
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == [5]
    assert capfd.readouterr().err == "wisesr: process 1 of 2: process 0 was lost\n"
    with pytest.raises(EndedElsewhere, match=r"^process 1 of 2: process 0 was lost$"):
        watchdog.check()


def test_the_watchdog_leaves_a_process_alone_that_ends_by_itself(tmp_path: Path) -> None:
    ended: list[int] = []
    watchdog = Watchdog("", ended.append)
    watchdog.leave()
    assert not watchdog.pronounce(Verdict("too late", 5), grace_seconds=0.0)
    assert ended == []


def test_every_image_is_tried_by_one_process_and_all_agree_on_what_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WISESR_CACHE_DIR", str(tmp_path / "caches"))
    paths = [str(make_photo(tmp_path / f"{number}.png", number % 3, number, (8, 8))) for number in range(7)]
    Path(paths[3]).write_bytes(b"no image")
    tried: list[str] = []
    decode = decoding.decode_image
    monkeypatch.setattr(
        decoding, "decode_image", lambda path, **options: (tried.append(path), decode(path, **options))[1]
    )

    def part(channel: Channel) -> tuple[list[int], list[int]]:
        pixels = open_pixels(
            paths,
            image_size=(8, 8),
            resize="squash",
            cache="memory",
            on_error="skip",
            listener=Silent(),
            channel=channel,
        )
        channel.exchange("all have tried", None)
        first = sorted(tried)
        channel.exchange("all have looked", None)
        assert first == sorted(paths)
        channel.exchange("nobody reads yet", None)
        batch = pixels.batch(np.arange(6))
        again = pixels.batch(np.arange(6))  # from memory
        np.testing.assert_array_equal(batch, again)
        pixels.close()
        return pixels.kept.tolist(), batch.sum(axis=(1, 2, 3)).tolist()

    found = together(part, part)
    assert found[0] == found[1]
    assert found[0][0] == [0, 1, 2, 4, 5, 6]  # type: ignore[index]
    assert found[0][1] == [int(decode(paths[n], image_size=(8, 8), resize="squash").sum()) for n in (0, 1, 2, 4, 5, 6)]  # type: ignore[index]
    assert len(tried) <= len(paths) * 2  # each process decodes an image once at most


def test_no_thread_is_left_of_a_training_that_has_ended() -> None:
    def fails(channel: Channel) -> None:
        if channel.process == 1:
            raise DataError("gone")
        channel.exchange("never comes", 0)

    together(lambda channel: None, lambda channel: None)
    together(fails, fails, fails)
    deadline = time.monotonic() + 20
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("wisesr")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
