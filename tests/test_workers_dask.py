"""Dask as the engine: a real scheduler, two worker processes, one of them killed while it works."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

import emomc
from emomc.run.dask_workers import DaskWorkers
from emomc.run.workers import ENDED, LATE, Failure, Job
from tests.conftest import ROOT
from tests.workers_toy import Toy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("distributed") is None, reason="needs the extra 'dask'"),
]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a scheduler with two worker processes, started by the documented commands."""
    folder = tmp_path_factory.mktemp("dask")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    command = [sys.executable, "-m", "dask"]
    file = folder / "scheduler.json"
    options = {"cwd": folder, "env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [
        subprocess.Popen(
            [*command, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)], **options
        ),
        subprocess.Popen(
            [*command, "worker", "--scheduler-file", str(file), "--nworkers", "2", "--nthreads", "1", "--no-dashboard"],
            **options,
        ),
    ]
    from distributed import Client

    client = Client(scheduler_file=str(file), timeout=60, set_as_default=False)
    client.wait_for_workers(2, timeout=60)
    yield client.scheduler.address
    client.close()
    for process in reversed(started):
        process.terminate()
    for process in started:
        with suppress(subprocess.TimeoutExpired):  # on a busy machine; what was to be tested has been
            process.wait(60)
        process.kill()
        process.wait()


def test_jobs_go_on_when_a_worker_is_killed_and_what_cannot_be_done_has_failed(scheduler: str, tmp_path: Path) -> None:
    workers = DaskWorkers(Toy(), scheduler, tmp_path, seconds=3.0)  # type: ignore[arg-type]
    try:
        pids = set(dict(workers.run([Job("pid", ()) for _ in range(8)])).values())
        assert len(pids) == 2
        jobs = [Job("square", (number,)) for number in range(40)]
        found = {}
        for number, result in workers.run(jobs):
            if not found:
                os.kill(min(pids), signal.SIGKILL)
            found[number] = result
        assert found == {number: number**2 for number in range(40)}
        bad = [Job("square", (3,)), Job("die", ()), Job("hang", (600.0,)), Job("square", (4,))]
        assert dict(workers.run(bad)) == {0: 9, 1: Failure(ENDED), 2: Failure(LATE, 3.0), 3: 16}
    finally:
        workers.close()
    assert not list(tmp_path.iterdir())


def test_short_jobs_go_out_together_and_the_one_to_blame_is_known(scheduler: str, tmp_path: Path) -> None:
    workers = DaskWorkers(Toy(), scheduler, tmp_path, seconds=3.0)  # type: ignore[arg-type]
    squares = [Job("square", (number,)) for number in range(48)]
    assert [len(bundle) for bundle in workers._bundles(list(enumerate(squares)))] == [1] * 48  # nothing known yet
    try:
        assert dict(workers.run(squares)) == {number: number**2 for number in range(48)}
        assert 0 < workers._pace < math.inf
        workers._pace = 0.02  # whatever this machine is busy with
        bundles = workers._bundles(list(enumerate(squares)))
        assert [job for bundle in bundles for _, job in bundle] == squares
        assert all(1 < len(bundle) <= 6 for bundle in bundles)  # each worker gets four at least
        assert [len(bundle) for bundle in workers._bundles(list(enumerate(squares[:8])))] == [1] * 8
        mixed = [*squares[:20], Job("die", ()), *squares[21:30], Job("hang", (600.0,)), *squares[31:]]
        expected = {number: number**2 for number in range(48)} | {20: Failure(ENDED), 30: Failure(LATE, 3.0)}
        assert dict(workers.run(mixed)) == expected
    finally:
        workers.close()


def test_a_search_leaves_the_same_files_as_on_this_machine(scheduler: str, tmp_path: Path) -> None:
    options = emomc.Options("digits", budget=4, seed=2, points=2)
    with emomc.Session(tmp_path / "own", options, workers=1) as session:
        (tmp_path / "dask").mkdir()
        shutil.copy(tmp_path / "own" / "store.sqlite", tmp_path / "dask")  # the probes, to save time
        emomc.run_search(session)
    with emomc.Session(tmp_path / "dask", options, scheduler=scheduler) as session:
        known = len(session._store)
        emomc.run_search(session)
        assert len(session._store) > known
    for file in ("front.csv", "history.csv"):
        assert (tmp_path / "dask" / file).read_bytes() == (tmp_path / "own" / file).read_bytes()


def test_an_address_without_a_scheduler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emomc.run.dask_workers._PATIENCE", 1)
    with pytest.raises(emomc.EmomcError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'.*dask scheduler"):
        DaskWorkers(Toy(), "tcp://127.0.0.1:9", tmp_path)  # type: ignore[arg-type]
    with pytest.raises(emomc.EmomcError, match="no Dask scheduler answers at 'nowhere at all'"):
        DaskWorkers(Toy(), "nowhere at all", tmp_path)  # type: ignore[arg-type]
