"""The store: what it keeps, and what disks, clocks, kills and other processes do to it."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewf.errors import EdgewfError
from edgewf.telemetry import store as store_module
from edgewf.telemetry.store import SCHEMA, Store
from edgewf.telemetry.storing import StoreListener
from tests.states import ESTIMATE
from tests.states import WELL as HEALTH

ROOT = Path(__file__).parents[1]
RECORD = ESTIMATE.to_json()

# Writes estimates as fast as it can, and prints the number of each that is on disk.
WRITER = """
import sys
from edgewf.telemetry.store import Store
from tests.states import ESTIMATE
store = Store(sys.argv[1])
run = store.begin_run(1.0, {})
while True:
    print(store.add_estimate(run, ESTIMATE.to_json()), flush=True)
"""

# Two monitors write to one store and are killed at random times, again and again, some while they
# still open it. Prints how many were killed before and after their first record.
KILLED = """
import os, random, signal, sqlite3, sys, time
from edgewf.telemetry.store import Store
from tests.states import ESTIMATE
def write(number, told):
    with Store(sys.argv[1]) as store:
        run = store.begin_run(1.0, {"writer": number})
        while True:
            n = store.add_estimate(run, ESTIMATE.to_json())
            os.write(told, b"%d\\n" % n)
rng, early, late, printed = random.Random(0), 0, 0, []
for round in range(25):
    writers = []
    for number in range(2):
        reading, telling = os.pipe()
        child = os.fork()
        if child == 0:
            write(number, telling)
        os.close(telling)
        writers.append((child, reading))
    for child, reading in writers:
        time.sleep(rng.uniform(0, 0.04))
        os.kill(child, signal.SIGKILL)
    for child, reading in writers:
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        lines = open(reading).read().split()
        printed += map(int, lines)
        early, late = early + (not lines), late + bool(lines)
with Store(sys.argv[1]) as store:
    found = [x.id for x in store.estimates()]
    assert store._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert all(x.record == ESTIMATE.to_json() for x in store.estimates())
assert found == list(range(1, len(found) + 1))
assert len(set(printed)) == len(printed) and set(printed) <= set(found)
assert len(found) - len(printed) <= 50, (len(found), len(printed))
print(early, late)
"""

# Fills a disk that takes 200 kB, then makes room.
FULL_DISK = """
import resource, signal, sys
from edgewf.errors import EdgewfError
from edgewf.telemetry.store import Store
from edgewf.telemetry.storing import StoreListener
from tests.states import ESTIMATE
from tests.states import WELL as HEALTH
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
listener = StoreListener(Store(sys.argv[1]), {})
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
failed = 0
for _ in range(400):
    try:
        listener.estimate(ESTIMATE)
    except EdgewfError as error:
        failed += 1
        words = str(error)
assert failed > 50, failed
print(words)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
listener.health(HEALTH)
listener.close()
"""


# On a disk of 3 MB: fills it, makes room, and leaves two stores, one as a kill leaves it.
SMALL_DISK = """
import shutil, sys
from pathlib import Path
from edgewf.errors import EdgewfError
from edgewf.telemetry.store import Store
from edgewf.telemetry.storing import StoreListener
from tests.states import ESTIMATE
disk = Path(sys.argv[1])
listener = StoreListener(Store(disk / "door.db"), {})
ballast = disk / "ballast"
ballast.write_bytes(bytes(2_000_000))
failed = 0
while failed < 50:
    try:
        listener.estimate(ESTIMATE)
    except EdgewfError as error:
        failed, words = failed + 1, str(error)
assert "make room on its disk" in words, words
assert "50 records wait" in words, words
before = len(Store(disk / "door.db", read_only=True).estimates())
ballast.unlink()
listener.close()
with Store(disk / "door.db") as store:
    found = len(store.estimates())
    assert found == before + 50, (found, before)
with Store(disk / "killed.db") as store:
    store.add_estimate(store.begin_run(1.0, {}), ESTIMATE.to_json())
    for name in ("", "-wal", "-shm"):
        shutil.copy(disk / f"killed.db{name}", disk / f"left.db{name}")
print(found)
"""

# On the same disk, which may not be written any more.
READ_ONLY_DISK = """
import sys
from pathlib import Path
from edgewf.errors import EdgewfError
from edgewf.telemetry.store import Store
disk = Path(sys.argv[1])
for name in ("door.db", "left.db"):
    with Store(disk / name, read_only=True) as store:
        print(len(store.estimates()))
    try:
        with Store(disk / name) as store:
            store.begin_run(1.0, {})
    except EdgewfError as error:
        print(error)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "door.db"


def script(text: str, path: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        **options,
    )


def test_what_is_written_is_read_again(path: Path) -> None:
    with Store(path) as store:
        run = store.begin_run(100.0, {"source": "demo"})
        numbers = [
            store.add_estimate(run, replace(ESTIMATE, time=float(t)).to_json()) for t in range(10)
        ]
        store.add_health(run, HEALTH.to_json())
    assert numbers == list(range(1, 11))
    with Store(path, read_only=True) as store:
        assert [x.record for x in store.estimates()][3] == {**RECORD, "time": 3.0}
        assert [x.id for x in store.estimates(since=2, until=5)] == [3, 4, 5, 6]
        assert [x.id for x in store.estimates(last=2)] == [9, 10]
        assert [x.record for x in store.health()] == [HEALTH.to_json()]
        assert store.runs() == {1: {"source": "demo", "time": 100.0}}


def test_a_clock_that_jumps_changes_no_order_and_loses_nothing(path: Path) -> None:
    times = [1e9, 1e9 + 60, 4e9, 0.0, 1e9 + 120]  # far into the future, to 1970, and back
    with Store(path) as store:
        for t in times:
            store.add_estimate(1, replace(ESTIMATE, time=t).to_json())
        assert [x.record["time"] for x in store.estimates()] == times
        assert [x.record["time"] for x in store.estimates(since=1e9, until=2e9)] == [
            *times[:2],
            times[-1],
        ]


def test_the_oldest_are_given_up_whatever_else_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two reports of health between two estimates, and a monitor that is often restarted."""
    monkeypatch.setitem(store_module.KEPT, "estimates", 20)
    monkeypatch.setitem(store_module.KEPT, "health", 30)
    monkeypatch.setattr(store_module, "_SWEEP", 8)
    for _ in range(20):
        with Store(path) as store:
            run = store.begin_run(1.0, {})
            for _ in range(5):
                store.add_health(run, HEALTH.to_json())
                store.add_estimate(run, RECORD)
                store.add_health(run, HEALTH.to_json())
    with Store(path, read_only=True) as store:
        for found, newest, kept in ((store.estimates(), 100, 20), (store.health(), 200, 30)):
            ids = [x.id for x in found]
            assert ids == list(range(ids[0], newest + 1))
            assert kept <= len(ids) < kept + 8


def test_a_record_whose_sweep_fails_is_not_written_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_SWEEP", 2)
    sweep, failures = Store._sweep, [sqlite3.OperationalError("database or disk is full")] * 3

    def fail_first(self: Store, table: str, newest: int) -> None:
        if failures:
            raise failures.pop()
        sweep(self, table, newest)

    monkeypatch.setattr(Store, "_sweep", fail_first)
    listener = StoreListener(Store(path), {})
    for t in range(10):
        with contextlib.suppress(EdgewfError):
            listener.estimate(replace(ESTIMATE, time=float(t)))
    assert not failures
    listener.close()
    with Store(path, read_only=True) as store:
        assert [x.record["time"] for x in store.estimates()] == list(range(10))


@pytest.mark.parametrize("seed", range(5))
def test_a_kill_loses_at_most_the_estimate_in_flight(path: Path, seed: int) -> None:
    with script(WRITER, path) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first == "1\n"
        time.sleep(random.Random(seed).uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        printed = [int(line) for line in (first, *process.stdout) if line.endswith("\n")]
    with Store(path) as store:
        found = store.estimates()
        assert store._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert store.add_estimate(2, RECORD) == len(found) + 1
    assert [x.id for x in found] == list(range(1, len(found) + 1))
    assert len(found) - len(printed) in (0, 1)
    assert {str(x.record) for x in found} == {str(RECORD)}


def test_kills_of_two_monitors_lose_what_was_in_flight_at_most(path: Path) -> None:
    with script(KILLED, path) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    early, late = map(int, said.split())
    assert early > 0
    assert late > 10


def test_a_full_disk_is_a_problem_until_there_is_room(path: Path) -> None:
    with script(FULL_DISK, path) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert f"{path}: " in said
    assert "make room on its disk" in said
    assert "records wait" in said
    with Store(path, read_only=True) as store:
        assert len(store.estimates()) == 400
        assert len(store.health()) == 1


def test_a_small_disk_that_fills_up_and_is_then_read_only(tmp_path: Path) -> None:
    python = f"{shlex.quote(sys.executable)} -c"
    disk = shlex.quote(str(tmp_path))
    mount = f"mount -t tmpfs -o size=3m none {disk}"
    in_a_namespace = ["unshare", "--mount", "sh", "-ec"]
    try:
        subprocess.run([*in_a_namespace, mount], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk")
    steps = f"""
        {mount}
        {python} {shlex.quote(SMALL_DISK)} {disk}
        mount -o remount,ro {disk}
        {python} {shlex.quote(READ_ONLY_DISK)} {disk}
    """
    done = subprocess.run(
        [*in_a_namespace, steps], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    found, read, refused, left, left_refused = done.stdout.splitlines()
    assert read == found
    assert int(found) > 50
    assert left == "1"
    for line in (refused, left_refused):  # SQLite cannot make its files there, or cannot write
        assert "its folder exists and may be written" in line or "its disk may be written" in line


def test_two_monitors_write_to_one_store(path: Path) -> None:
    def write(source: str) -> None:
        listener = StoreListener(Store(path), {"source": source})
        for _ in range(40):
            listener.estimate(replace(ESTIMATE, source=source))
        listener.close()

    threads = [threading.Thread(target=write, args=[name]) for name in ("front", "back")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store(path, read_only=True) as store:
        runs, found = store.runs(), store.estimates()
    assert sorted(run["source"] for run in runs.values()) == ["back", "front"]
    assert len(found) == 80
    assert all(x.record["source"] == runs[x.run]["source"] for x in found)


def test_monitors_that_make_a_store_at_once_find_one(tmp_path: Path) -> None:
    """Many times, for who is first is a matter of chance."""
    errors: list[BaseException] = []

    def make(path: Path, together: threading.Barrier) -> None:
        together.wait(60)
        try:
            with Store(path) as store:
                store.begin_run(1.0, {})
        except EdgewfError as error:
            errors.append(error)

    for number in range(40):
        path, together = tmp_path / f"{number}.db", threading.Barrier(3)
        threads = [threading.Thread(target=make, args=[path, together]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with Store(path, read_only=True) as store:
            assert errors == []
            assert len(store.runs()) == 3


def test_health_is_kept_now_and_then_and_when_something_goes_wrong(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("edgewf.telemetry.storing.time.monotonic", lambda: now[0])
    listener = StoreListener(Store(path), {})
    for second in range(0, 120, 5):
        now[0] = float(second)
        wrong = ("no frame has come",) if 20 <= second < 30 else ()
        listener.health(replace(HEALTH, time=float(second), problems=wrong))
    listener.close()
    with Store(path, read_only=True) as store:
        assert [x.record["time"] for x in store.health()] == [0, 20, 30, 90]


def test_a_locked_store_is_explained(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_BUSY_S", 0.1)
    with Store(path) as store:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(EdgewfError, match=r"door\.db: database is locked: another program"):
            store.add_estimate(1, RECORD)
        other.rollback()
        other.close()
        store.add_estimate(1, RECORD)


def test_files_that_are_no_store_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, " * 100)
    foreign, newer, damaged = (tmp_path / f"{x}.db" for x in ("foreign", "newer", "damaged"))
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE theirs (x)")
    database.close()
    for path in (newer, damaged):
        with Store(path) as store:
            for _ in range(200):
                store.add_estimate(1, RECORD)
    with sqlite3.connect(newer) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    database.close()
    data = bytearray(damaged.read_bytes())
    data[8192:] = bytes(len(data) - 8192)
    damaged.write_bytes(data)
    for path, message in (
        (text, "file is not a database: it is something else"),
        (foreign, "no store of edgewf: give another file"),
        (newer, "written by a newer edgewf"),
    ):
        before = path.read_bytes()
        with pytest.raises(EdgewfError, match=message) as caught:
            Store(path)
        assert str(path) in str(caught.value)
        assert path.read_bytes() == before
    with pytest.raises(EdgewfError, match="malformed: it is damaged"):
        Store(damaged, read_only=True).estimates()
    with pytest.raises(EdgewfError, match=r"no such file: .*--store"):
        Store(tmp_path / "gone.db", read_only=True)
    with pytest.raises(EdgewfError, match="unable to open database file: check that its folder"):
        Store(tmp_path / "gone" / "door.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_explained(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EdgewfError, match="check that its folder exists and may be written"):
        Store(tmp_path / "door.db")
