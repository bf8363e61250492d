"""Looking back: choosing, exporting and showing what a store holds."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result

from edgewf.cli import main
from edgewf.errors import EdgewfError
from edgewf.history import moment
from edgewf.telemetry.store import Store
from tests.states import ESTIMATE
from tests.states import WELL as HEALTH

START = 1_790_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Ten estimates an hour apart, from 90 to 45 %; the last without an accuracy."""
    path = tmp_path / "door.db"
    with Store(path) as opened:
        run = opened.begin_run(START, {"source": "demo"})
        for i in range(10):
            accuracy = None if i == 9 else 90.0 - 5 * i
            interval = None if accuracy is None else (accuracy - 6, accuracy + 6)
            flags = ("uniform_window",) if i == 4 else ()
            estimate = replace(
                ESTIMATE,
                accuracy=accuracy,
                interval=interval,
                flags=flags,
                time=START + 3600 * i,
            )
            opened.add_estimate(run, estimate.to_json())
        opened.add_health(run, replace(HEALTH, problems=("the picture is black",)).to_json())
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["history", *map(str, arguments)])


def accuracies(result: Result) -> list[float | None]:
    assert result.exit_code == 0, result.output
    return [record["accuracy"] for record in json.loads(result.stdout)["estimates"]]


def test_filters(store: Path) -> None:
    def of(*arguments: object) -> list[float | None]:
        return accuracies(call(store, "--json", *arguments))

    assert of() == [90, 85, 80, 75, 70, 65, 60, 55, 50, None]
    assert of("--below", 62) == [60, 55, 50]
    assert of("--flag", "uniform_window") == [70]
    assert of("--last", 2) == [50, None]
    assert of("--below", 62, "--last", 1) == [50]
    since = "2026-09-21T14:13:20+00:00"
    assert moment(since) == START
    assert of("--since", since, "--until", "2026-09-21T15:13:20Z") == [90, 85]
    assert of("--until", "1970-01-02") == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("90m", 5400), ("1.5h", 5400), ("2d", 172800), ("1w", 604800)],
)
def test_so_long_ago(text: str, seconds: float) -> None:
    assert moment(text, now=1e9) == 1e9 - seconds


@pytest.mark.parametrize("text", ["yesterday", "2 d", "", "2026-13-01", "-3h"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(EdgewfError, match="give how long ago"):
        moment(text)


def test_exports_hold_the_same(store: Path, tmp_path: Path) -> None:
    names = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "jsonl", "parquet")}
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an optional package")
    options = [x for kind, path in names.items() for x in (f"--{kind}", path)]
    records = json.loads(call(store, "--json", *options).stdout)["estimates"]
    lines = names["jsonl"].read_text().splitlines()
    assert [json.loads(line) for line in lines] == records
    with names["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows[:-1]] == list(range(90, 45, -5))
    assert rows[-1]["accuracy"] == ""
    assert (float(rows[0]["low"]), float(rows[0]["high"]), rows[-1]["low"]) == (84, 96, "")
    assert [row["flags"] for row in rows].count("uniform_window") == 1
    assert float(rows[0]["certainty"]) == ESTIMATE.scores["certainty"]
    table = pyarrow.read_table(names["parquet"]).to_pylist()
    assert [row["accuracy"] for row in table] == [r["accuracy"] for r in records]
    left = {p.name for p in tmp_path.iterdir() if not p.name.startswith("door.db-")}
    assert left == {"door.db", "out.csv", "out.jsonl", "out.parquet"}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot(store: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"past.{suffix}"
    assert call(store, "--plot", path).exit_code == 0
    if suffix == "png":
        image = cv2.imread(str(path))
        assert image is not None
        assert image.std() > 5
    else:
        assert "90 % interval" in path.read_text() or "<svg" in path.read_text()


def test_for_a_person(store: Path) -> None:
    result = call(store)
    assert result.exit_code == 0
    assert result.stdout == ""
    for words in ("10 estimates", "1 runs", "unknown", "84.0 to 96.0", "uniform_window", "█"):
        assert words in result.stderr
    assert "the picture is black" in result.stderr
    assert "no such estimates" in " ".join(call(store, "--below", 1).stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.db"], "no such file: gone.db"),
        (["STORE", "--since", "soon"], "time 'soon'"),
        (["STORE", "--flag", "odd"], "no flag 'odd': use one of no_calibration"),
        (["STORE", "--plot", "past.gif"], "ends in .png or .svg"),
        (["STORE", "--csv", "gone/out.csv"], "No such file or directory"),
    ],
)
def test_bad_input_is_one_line(store: Path, arguments: list[str], message: str) -> None:
    result = call(*(str(store) if x == "STORE" else x for x in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
