"""Ray gives the same records in the same order as a single process, even if a worker is killed midway."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from command_line import CommandLine, Trained, environment, make_photo, make_photos

from wisesr_cli.data.oddities import Oddities
from wisesr_cli.engines.choose import ChosenEngine, choose_engine
from wisesr_cli.errors import DataError, MachineError, RunError, UsageError
from wisesr_cli.listening import Silent
from wisesr_cli.machine.installation import install_line
from wisesr_cli.prediction.ray import driver
from wisesr_cli.prediction.ray import session as ray_session
from wisesr_cli.prediction.ray.driver import block_size, job_of, ray_records
from wisesr_cli.prediction.ray.session import RayOptions, session
from wisesr_cli.prediction.ray.worker import Answer, Job, Labeller, decoded
from wisesr_cli.prediction.stream import predict_paths
from wisesr_cli.requests import PredictRequest
from wisesr_cli.run.located import locate

WAIT_SECONDS = 240

pytestmark = pytest.mark.usefixtures("empty_folder")


# The worker, run in this process


def job(trained: Trained, **options: Any) -> Job:
    return job_of(*asked(trained, **options))


def asked(trained: Trained, *, engine: str = "litert", **options: Any) -> tuple[PredictRequest, ChosenEngine]:
    """Return a request and the engine chosen for it."""
    values = {"top_k": 2, "min_score": 0.0, "batch_size": 4, "pixel_limit": 10**6, **options}
    chosen = choose_engine(locate(trained.run), engine, listener=Silent())  # type: ignore[arg-type]
    return PredictRequest(trained.run, **values), chosen


@pytest.fixture
def labeller(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that creates a job's labeller as a worker does, without changing this process."""
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr("wisesr_cli.prediction.ray.worker.limit_worker_count", lambda most: None)
    return lambda given: Labeller([given])


@pytest.mark.parametrize("engine", ["litert", "keras"])
def test_a_worker_returns_exactly_the_records_of_this_process(trained: Trained, labeller: Any, engine: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    photos = make_photos(Path("photos"), 3)
    paths = [*map(str, sorted(photos.rglob("*.png"))), "photos/missing.png", "", "photos/odd\udc80.png"]
    make_photo(Path("photos/red/odd.jpg"), 2, 1).rename(paths[-1])
    local, oddities = choose_engine(locate(trained.run), engine, listener=Silent()).start(Silent()), Oddities()
    expected = list(predict_paths(local, paths, asked(trained)[0], oddities=oddities))
    worker = labeller(job(trained, engine=engine))
    found, headers = [], []
    for first in range(0, len(paths), 4):
        block = {"number": range(first, first + len(paths[first : first + 4])), "path": paths[first : first + 4]}
        block["path"] = [os.fsencode(path) for path in block["path"]]
        table = worker(pyarrow.table(block))
        assert table["first"].to_pylist() == [first]
        for record, header in decoded(table["answers"][0].as_py()):
            found.append(record)
            headers.append(header)
    assert found == expected
    assert [header is None for header in headers] == [record.error is not None for record in expected]
    assert [record.path for record, header in zip(found, headers, strict=True) if header and header.format == "JPEG"]
    assert oddities.misnamed.count == 1


def test_worker_errors_are_raised_unchanged(trained: Trained, labeller: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    block = pyarrow.table({"number": [0], "path": [b"a.png"]})

    def answer(asked: Job) -> list[Answer]:
        return decoded(labeller(asked)(block)["answers"][0].as_py())

    broken = Job(**{**vars(job(trained, engine="keras")), "model": b"no model"})
    with pytest.raises(RunError, match=r"best\.keras"):
        answer(broken)
    asked = job(trained)
    for error in (DataError("logits\udc80"), MemoryError("a smaller --batch-size may help")):
        with monkeypatch.context() as patch:
            patch.setattr("wisesr_cli.prediction.ray.worker.predict_paths", raising(error))
            with pytest.raises(type(error), match=str(error)):
                answer(asked)
    monkeypatch.setattr("wisesr_cli.prediction.ray.worker.__version__", "0.0.1")
    with pytest.raises(
        MachineError, match=r"a Ray worker has wisesr 0\.0\.1, and the command .*; install the same version"
    ):
        answer(asked)


def raising(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("inputs", "batch_size", "workers", "expected"),
    [
        (1, 32, 4, 32),
        (1000, 32, 4, 32),
        (10_000, 32, 4, 256),
        (10**6, 32, 4, 256),
        (10**6, 1000, 4, 1000),
        (50, 1, 2, 3),
    ],
)
def test_blocks_are_whole_batches_and_leave_several_for_every_worker(
    inputs: int, batch_size: int, workers: int, expected: int
) -> None:
    assert block_size(inputs, batch_size, workers) == expected


# Errors before anything is started


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--ray-workers", "2"), "--ray-address and --ray-workers need --engine ray"),
        (("--ray-address", "auto"), "--ray-address and --ray-workers need --engine ray"),
        (("--engine", "ray", "--show"), "--engine ray draws no pictures"),
        (("--engine", "ray", "--explain", "why"), "--engine ray draws no pictures"),
        (("--engine", "ray", "--ray-address", "nowhere"), "--ray-address nowhere: expected HOST:PORT"),
        (("--engine", "ray", "--ray-address", "host:port"), "--ray-address host:port: expected HOST:PORT"),
        (("--engine", "ray", "--ray-address", "ray://host:10001"), "give HOST:PORT of a cluster's head, or auto"),
    ],
)
def test_options_incompatible_with_ray_are_usage_errors(
    wisesr: CommandLine, trained: Trained, words: tuple[str, ...], reason: str
) -> None:
    wisesr("predict", trained.run, trained.photos / "test", *words).refused(2, reason)
    assert not Path("why").exists()


def test_missing_ray_exits_with_5_and_the_install_command(
    wisesr: CommandLine, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_session, "find_spec", lambda package: None)
    answer = wisesr("predict", trained.run, trained.photos / "test", "--engine", "ray")
    assert (answer.code, answer.out) == (5, "")
    assert answer.error.endswith(f"ray is not installed: {install_line('ray')}")


def test_an_unreachable_cluster_exits_with_5_immediately(wisesr: CommandLine, trained: Trained) -> None:
    with socket.socket() as listener:  # bound, but not listening
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        words = ("predict", trained.run, trained.photos / "test", "--engine", "ray", "--ray-address", address)
        answer = wisesr(*words, "-o", "labels.jsonl")
    assert (answer.code, answer.out) == (5, "")
    assert f"no Ray cluster at {address}: Connection refused; start one: ray start --head" in answer.error
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "seconds", "reason"),
    [(b"", 0.2, "timed out"), (b"HTTP/1.1 400", 60, "something else listens there")],
)
def test_a_server_that_does_not_speak_the_ray_protocol_is_rejected(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, seconds: float, reason: str
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_session, "CONNECT_SECONDS", seconds)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as executor:
        accepted = executor.submit(listener.accept)
        executor.submit(lambda: accepted.result()[0].sendall(answer))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(MachineError, match=f"no Ray cluster at 127.*: {reason}"), session(RayOptions(), 1):
            pass


def test_an_invalid_address_is_reported_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(UsageError, match=r"^RAY_ADDRESS nowhere: expected HOST:PORT"), session(RayOptions(), 1):
        pass


def test_ray_shuts_down_if_labelling_stops_before_the_first_record(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    @contextmanager
    def told(*_: object) -> Iterator[None]:
        yield
        ended.append(True)

    monkeypatch.setattr(driver, "session", told)
    monkeypatch.setattr(driver, "_workers", lambda *_, **__: 1)
    request, chosen = asked(trained)
    records = ray_records(job_of(request, chosen), [], request=request, oddities=Oddities())
    records.close()
    del records
    gc.collect()
    assert ended == [True]


# With Ray running


def large_photos(folder: Path) -> list[str]:
    """Write images that are slow to decode and a broken one; return 140 paths that repeat them."""
    names = [str(make_photo(folder / f"{number}.png", number % 3, number, (1200, 1200))) for number in range(6)]
    (folder / "broken.png").write_bytes(b"nothing")
    names.append(str(folder / "broken.png"))
    return [names[number % len(names)] for number in range(140)]


def start(*words: object, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wisesr_cli", *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env={**environment(folder), **variables}, **streams)  # type: ignore[call-overload,no-any-return]


def wait_for_records(journal: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not journal.exists() or journal.read_bytes().count(b"\n") < count + 2:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_labellers(session: Path, count: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while len(labelling_processes(session)) != count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def labelling_processes(session: Path) -> list[int]:
    """Return the ids of the labelling processes of the Ray instance whose files are in `session`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_labeller = b"MapWorker(MapBatches(Labeller))" in (process / "cmdline").read_bytes()
            if is_labeller and (process / "fd/1").readlink().is_relative_to(session):
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.fixture(scope="module")
def expected(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Return a list of inputs and the output of predicting them without Ray."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in large_photos(folder)), encoding="utf-8")
    words = ("predict", trained.run, "--from-file", folder / "list.txt", "--format", "jsonl", "-b", "3")
    process = start(*words, folder=folder)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 6, err.decode()
    return folder / "list.txt", out


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Start a local Ray cluster: a head that computes nothing and two nodes with one CPU each."""
    pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    store = {"object_store_memory": 100 << 20}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **store},
        shutdown_at_exit=False,
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **store)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.long
def test_every_input_is_labelled_exactly_once_if_a_worker_and_a_machine_are_lost(
    trained: Trained, expected: tuple[Path, bytes], cluster: Any, tmp_path: Path
) -> None:
    names, whole = expected
    words = ("predict", trained.run, "--from-file", names, "--format", "jsonl", "-b", "3", "-o", "labels.jsonl")
    process = start(*words, "--engine", "ray", folder=tmp_path, RAY_ADDRESS=cluster.address)
    journal = tmp_path / "labels.jsonl.partial"
    wait_for_records(journal, 30, process)
    workers = labelling_processes(Path(cluster.head_node.get_session_dir_path()))
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    wait_for_records(journal, 70, process)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 6, err.decode()
    assert (tmp_path / "labels.jsonl").read_bytes() == whole
    said = err.decode().splitlines()
    assert (out, said[0]) == (b"", "device: 2 Ray workers with LiteRT on the CPU")
    assert "warning: Ray lost a worker: another one repeats what it had started" in said
    assert said[-1] == "warning: 20 of 140 images could not be read"
    before = said[: next(number for number, line in enumerate(said) if line.rstrip() == "Labels")]  # the table
    assert all(line.startswith(("device:", "labelling:", "warning:")) for line in before), err.decode()


@pytest.mark.slow
def test_a_stopped_driver_leaves_nothing_behind_and_can_be_resumed_without_ray(
    trained: Trained, expected: tuple[Path, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    names, whole = expected
    words = ("predict", trained.run, "--from-file", names, "--format", "jsonl", "-b", "3", "-o", "labels.jsonl")
    with TemporaryDirectory(dir="/tmp") as short:  # paths of sockets inside it must be short, too
        files = Path(short)
        process = start(*words, "--engine", "ray", "--ray-workers", "2", folder=tmp_path, TMPDIR=short)
        wait_for_records(tmp_path / "labels.jsonl.partial", 30, process)
        wait_for_labellers(files, 2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WAIT_SECONDS)
        ours = [line for line in out.splitlines() if b"(raylet)" not in line]  # Ray may report a killed worker
        assert (process.returncode, ours) == (143, []), err.decode()
        assert err.decode().splitlines()[-1] == "wisesr: stopped by SIGTERM; repeat the command with --resume"
        wait_for_labellers(files, 0)  # they exit on their own soon after Ray
        assert list(files.iterdir()) == []
    assert not (tmp_path / ".ray").exists()
    process = start(*words, "--resume", folder=tmp_path)
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 6
    assert (tmp_path / "labels.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_ray_labels_a_long_list_in_order_and_matches_local_litert_and_keras(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both engines use a Ray instance started by the calling program, which must keep running."""
    ray = pytest.importorskip("ray")
    paths = [str(path) for path in sorted(make_photos(Path("photos"), 3).rglob("*.png"))]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    try:
        for engine, part, tolerance in (("litert", 5, 0.0), ("keras", 100, 1e-6)):
            monkeypatch.setattr(driver, "PART", part)
            local = choose_engine(locate(trained.run), engine, listener=Silent()).start(Silent())
            expected = list(predict_paths(local, paths, asked(trained)[0]))
            oddities = Oddities()
            request, chosen = asked(trained, engine=engine)
            job = job_of(request, chosen)
            found = list(ray_records(job, paths, request=request, oddities=oddities))
            assert [(record.path, record.label) for record in found] == [
                (record.path, record.label) for record in expected
            ]
            differences = [abs(one.score - other.score) for one, other in zip(found, expected, strict=True)]
            assert max(differences) <= tolerance
        assert ray.is_initialized()
    finally:
        ray.shutdown()
