"""The store: what was measured survives kills, full disks and damaged files; files are written whole or not at all."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from emomc.errors import EmomcError
from emomc.files import atomic_write
from emomc.run.lock import FolderLock
from emomc.run.options import Options, check_same_run, read_options, write_options
from emomc.run.store import Store, salvage
from tests.conftest import ROOT

ROWS = 300


def result(number: int) -> dict[str, object]:
    return {"error": number / 1000, "loss": 1 / (number + 1), "samples": number, "more": "x" * 200}


@cache
def content(rows: int) -> bytes:
    """A closed store's file, written once: every row waits for the disk."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store.sqlite")
        for number in range(rows):
            store.put(f"key{number:04}", result(number), f"measure {number}")
        store.close()
        return (Path(folder) / "store.sqlite").read_bytes()


def filled(path: Path, rows: int = ROWS) -> Path:
    path.write_bytes(content(rows))
    return path


def read_back(path: Path, rows: int = ROWS) -> list[int]:
    """Numbers of the rows that are there, each checked to be what was stored."""
    store = Store(path)
    found = [number for number in range(rows) if store.get(f"key{number:04}") is not None]
    assert all(store.get(f"key{number:04}") == result(number) for number in found)
    assert len(store) == len(found)
    store.close()
    return found


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_results_come_back_as_they_were_put(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    assert store.get("a") is None and len(store) == 0
    value = {"error": 0.1 + 0.2, "strength": float("nan"), "nested": {"list": [1, None, "ü"]}, "big": 2**60}
    store.put("a", value, "note")
    assert repr(store.get("a")) == repr(value)
    store.put("a", {"error": 1.0}, "again")
    assert store.get("a") == {"error": 1.0} and len(store) == 1
    store.close()
    assert Store(tmp_path / "store.sqlite").get("a") == {"error": 1.0}


WRITER = """
import sys
from pathlib import Path
from tests.test_store import result
from emomc.run.store import Store
store = Store(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 10_000):
    store.put(f"key{number:04}", result(number), "note")
    print(number, flush=True)
"""


def test_everything_that_was_put_survives_kill_9_again_and_again(tmp_path: Path) -> None:
    path, stored = tmp_path / "store.sqlite", 0
    for count in (1, 40):
        writer = python(WRITER, path, stored)
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(count)]
        os.kill(writer.pid, signal.SIGKILL)
        told += [int(line) for line in writer.stdout.read().split()]
        writer.wait()
        writer.stdout.close()
        found = read_back(path, 10_000)
        assert found[: told[-1] + 1] == list(range(told[-1] + 1))
        assert len(found) <= told[-1] + 2  # the one that was being put
        stored = len(found)


FULL = """
import resource, sys
from pathlib import Path
from tests.test_store import result
from emomc.errors import EmomcError
from emomc.run.store import Store
store = Store(Path(sys.argv[1]))
store.put("key0000", result(0), "note")
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))  # no file may grow further, as on a full disk
try:
    for number in range(1, 10_000):
        store.put(f"key{number:04}", result(number), "note")
        print(number, flush=True)
except EmomcError as error:
    print("said:", error)
print("still there:", store.get("key0000") == result(0))
"""


def test_a_full_disk_is_told_and_nothing_put_before_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    output, _ = python(FULL, path).communicate(timeout=120)
    *numbers, said, still = output.splitlines()
    assert "cannot write" in said and "repeat the command" in said and str(path) in said
    assert still == "still there: True"
    assert read_back(path, 10_000) == list(range(len(numbers) + 1)) and len(numbers) > 5


def spoil(path: Path, start: int, length: int) -> None:
    data = bytearray(path.read_bytes())
    data[start : start + length] = bytes(len(data[start : start + length]))
    path.write_bytes(bytes(data))


def table_pages(path: Path) -> list[int]:
    """Pages that hold rows of the table, by the page type byte of SQLite's file format, section 1.6."""
    data = path.read_bytes()
    return [number for number in range(1, len(data) // 4096) if data[number * 4096] == 13]


def test_a_spoilt_page_costs_the_rows_on_it_and_no_others(tmp_path: Path) -> None:
    path = filled(tmp_path / "store.sqlite")
    pages = table_pages(path)
    assert len(pages) > 10
    spoil(path, pages[len(pages) // 2] * 4096, 4096)
    before = path.read_bytes()
    with pytest.raises(EmomcError, match=rf"{path}.*damaged.*emomc salvage {tmp_path}"):
        Store(path)
    assert path.read_bytes() == before
    saved, kept = salvage(path)
    assert kept.read_bytes() == before and kept.parent == tmp_path
    found = read_back(path)
    assert len(found) == saved >= ROWS - 2 * ROWS // len(pages)
    assert found[0] == 0 and found[-1] == ROWS - 1


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_a_store_that_was_cut_short_keeps_the_rows_of_the_pages_that_are_left(tmp_path: Path, part: float) -> None:
    path = filled(tmp_path / "store.sqlite")
    data = path.read_bytes()
    left = int(part * len(data))
    path.write_bytes(data[:left])
    with pytest.raises(EmomcError, match="damaged"):
        Store(path)
    saved, kept = salvage(path)
    assert kept.read_bytes() == data[:left]
    assert len(read_back(path)) == saved
    complete = [number for number in table_pages(filled(tmp_path / "whole.sqlite")) if (number + 1) * 4096 <= left]
    assert saved >= len(complete) * ROWS // (len(data) // 4096) * 0.9
    assert not [each for each in tmp_path.iterdir() if each.is_dir()]


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 100), (0, 4096), (16, 8), (100, 3000), (-4096, 4096), (20_000, 10), (50_000, 30_000), (0, 10**9)],
)
def test_any_damage_gives_the_clear_error_or_no_wrong_result(tmp_path: Path, start: int, length: int) -> None:
    path = filled(tmp_path / "store.sqlite")
    spoil(path, start % path.stat().st_size, length)
    try:
        read_back(path)
    except EmomcError:
        saved, _ = salvage(path)
        assert len(read_back(path)) == saved


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_never_raise_anything_but_the_clear_error(tmp_path: Path, seed: int) -> None:
    path = filled(tmp_path / "store.sqlite")
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(5):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
    try:
        store = Store(path)
        for number in range(ROWS):
            store.get(f"key{number:04}")
        store.put("new", {}, "")
        store.close()
    except EmomcError:
        saved, _ = salvage(path)
        assert saved > ROWS // 2


def test_text_that_is_no_result_is_damage_and_hides_no_other_row(tmp_path: Path) -> None:
    path = filled(tmp_path / "store.sqlite", 20)
    data = path.read_bytes()
    assert data.count(b'{"error": 0.007') == 1
    path.write_bytes(data.replace(b'{"error": 0.007', b'{"error\xff: 0.007'))
    store = Store(path)
    with pytest.raises(EmomcError, match=r"unreadable result key0007.*salvage"):
        store.get("key0007")
    assert store.get("key0006") == result(6)
    store.close()
    saved, _ = salvage(path)
    assert saved == 19
    assert read_back(path, 20) == [number for number in range(20) if number != 7]


@pytest.mark.parametrize("content", [b"", b"measurements, in some other format" * 50])
def test_a_file_that_is_no_store(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    if content:
        with pytest.raises(EmomcError, match="damaged"):
            Store(path)
        assert salvage(path)[0] == 0
    assert len(Store(path)) == 0


def unreadable_row(path: Path) -> sqlite3.Connection:
    """Damage that costs no other row, and the connection that did it."""
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO measurements (key, result, note) VALUES ('spoilt', '{', '')")
    connection.commit()
    return connection


def test_what_a_killed_process_left_can_be_salvaged_too(tmp_path: Path) -> None:
    """Its last rows are not in the file yet, but in the log beside it."""
    path = tmp_path / "store.sqlite"
    writer = python(WRITER, path, 0)
    assert writer.stdout is not None
    for _ in range(5):
        writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    told = 5 + len(writer.stdout.read().split())
    writer.wait()
    writer.stdout.close()
    assert (tmp_path / "store.sqlite-wal").stat().st_size > 0
    with closing(unreadable_row(path)):  # closed before, it would move the log's rows into the file
        saved, _ = salvage(path)
    assert saved in (told, told + 1)
    assert read_back(path, 10_000) == list(range(saved))


def test_salvaging_twice_keeps_both_damaged_files_and_needs_one(tmp_path: Path) -> None:
    folder = tmp_path / "50% of it? #1"  # characters that have a meaning in addresses
    folder.mkdir()
    path, kept = filled(folder / "store.sqlite", 10), []
    for _ in range(2):
        unreadable_row(path).close()
        kept.append(salvage(path))
    assert [saved for saved, _ in kept] == [10, 10] and kept[0][1] != kept[1][1]
    assert all(damaged.exists() for _, damaged in kept)
    with pytest.raises(EmomcError, match="no store to salvage"):
        salvage(tmp_path / "nothing.sqlite")


def test_a_store_that_a_search_uses_is_left_alone(tmp_path: Path) -> None:
    path = filled(tmp_path / "store.sqlite", 10)
    lock = FolderLock(tmp_path)
    with pytest.raises(EmomcError, match="in use by another process"):
        salvage(path)
    assert path.read_bytes() == content(10)
    lock.release()
    unreadable_row(path).close()
    assert salvage(path)[0] == 10


def test_a_store_that_is_whole_stays_where_it_is(tmp_path: Path) -> None:
    path = filled(tmp_path / "store.sqlite", 10)
    with pytest.raises(EmomcError, match="not damaged"):
        salvage(path)
    assert path.read_bytes() == content(10) and len(list(tmp_path.glob("*.damaged*"))) == 0


def test_a_store_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(EmomcError, match="cannot write or read"):
        Store(tmp_path / "no such folder" / "store.sqlite")


def test_rows_are_committed_the_moment_they_are_put(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    store.put("a", {"error": 0.5}, "note")
    other = sqlite3.connect(tmp_path / "store.sqlite")
    assert other.execute("SELECT key, note FROM measurements").fetchall() == [("a", "note")]
    other.close()
    store.close()


# Files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic_write(path) as stream:
        stream.write(b"first")

    def interrupted() -> None:
        with atomic_write(path) as stream:
            stream.write(b"second")
            stream.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"first"
    with atomic_write(path) as stream:
        stream.write(b"third")
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"third"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


FULL_FILE = """
import resource, sys
from pathlib import Path
from emomc.errors import EmomcError
from emomc.files import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write(Path(sys.argv[1])) as stream:
        stream.write(bytes(5000))
except EmomcError as error:
    print(error)
"""


def test_a_file_that_does_not_fit_on_the_disk_is_told_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    output, _ = python(FULL_FILE, path).communicate(timeout=60)
    assert f"{path} cannot be written" in output and "Free disk space" in output
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# Options


def test_a_folder_keeps_its_run_and_refuses_another(tmp_path: Path) -> None:
    options = Options("digits", genes={"bit_width": (8, 4)}, constraints=("size<=10kB",))
    check_same_run(tmp_path, options, "weights")  # nothing there yet
    write_options(tmp_path, options, "weights")
    check_same_run(tmp_path, options, "weights")
    assert read_options(tmp_path)["task"] == "digits"
    longer = Options(
        "digits", genes={"bit_width": (8, 4)}, constraints=("size<=10kB",), budget=500, minutes=3, points=7
    )
    check_same_run(tmp_path, longer, "weights")
    write_options(tmp_path, longer, "weights")
    assert read_options(tmp_path)["budget"] == 500
    for other, fingerprint, words in (
        (options, "other weights", "other weights, data or error"),
        (Options("cifar10-resnet20"), "weights", "task 'digits', now it is 'cifar10-resnet20'"),
        (Options("digits", seed=1, genes={"bit_width": (8, 4)}, constraints=("size<=10kB",)), "weights", "seed 0"),
    ):
        with pytest.raises(EmomcError, match=words):
            check_same_run(tmp_path, other, fingerprint)
    assert read_options(tmp_path)["fingerprint"] == "weights"


@pytest.mark.parametrize(
    ("content", "words"), [(None, "holds no run"), ("{", "damaged"), ("[]", "damaged"), ("{}", "damaged")]
)
def test_a_folder_without_readable_options_is_told(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(EmomcError, match=words):
        read_options(tmp_path)


def test_a_store_that_is_closed_or_in_another_thread_is_not_called_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.sqlite")
    with ThreadPoolExecutor(1) as pool, pytest.raises(EmomcError, match="in the thread that opened it"):
        pool.submit(store.put, "key", result(1), "").result()
    store.close()
    with pytest.raises(EmomcError, match="before it is closed"):
        store.get("key")
