"""Looking back: choosing from the estimates of a store, and writing them elsewhere."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from edgewf.bundle import write_text
from edgewf.errors import EdgewfError

Record = dict[str, Any]

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def moment(text: str, now: float | None = None) -> float:
    """Return seconds since the epoch of "90m", "2d" (so long ago) or an ISO 8601 date or time.

    A time without an offset is local.

    Raises:
        EdgewfError: neither.
    """
    match = _AGO.fullmatch(text)
    if match is not None:
        return (time.time() if now is None else now) - float(match[1]) * _SECONDS[match[2]]
    try:
        # Python 3.10 does not read the Z of UTC.
        return datetime.fromisoformat(re.sub("Z$", "+00:00", text)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise EdgewfError(
            f"time {text!r}: give how long ago, as 90m, 12h, 2d or 3w, or a date such as "
            "2026-03-01 or 2026-03-01T14:30"
        ) from None


def chosen(records: Sequence[Record], *, below: float | None, flags: Sequence[str]) -> list[Record]:
    """Return the estimates under an accuracy, in percent, that carry one of some flags.

    None, or no flag, lets all pass.
    """
    return [
        record
        for record in records
        if (below is None or (record["accuracy"] is not None and record["accuracy"] < below))
        and (not flags or set(flags) & set(record["flags"]))
    ]


def write_csv(records: Sequence[Record], path: Path) -> None:
    """Write a table: the interval in two columns, flags joined by spaces, scores by name."""
    rows = [flat(record) for record in records]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_jsonl(records: Sequence[Record], path: Path) -> None:
    """Write one JSON object a line, as `edgewf monitor --json` prints them."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def write_parquet(records: Sequence[Record], path: Path) -> None:
    """Write the same table as `write_csv`.

    Raises:
        EdgewfError: pyarrow is missing.
    """
    try:
        import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise EdgewfError("Parquet needs pyarrow: pip install pyarrow, or use --csv") from error
    table = pyarrow.Table.from_pylist([flat(record) for record in records])
    part = path.with_name(f".{path.name}.part")
    try:
        pyarrow.parquet.write_table(table, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def flat(record: Record) -> Record:
    """Return an estimate without lists and objects in it."""
    low, high = record["interval"] or (None, None)
    row: Record = {}
    for name, value in record.items():
        if name == "interval":
            row |= {"low": low, "high": high}
        elif name == "flags":
            row[name] = " ".join(value)
        elif name == "scores":
            row |= value
        else:
            row[name] = value
    return row
