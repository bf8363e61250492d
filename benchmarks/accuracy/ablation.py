"""What each score of the default estimate is worth: without it, and with others beside it.

    python -m benchmarks.accuracy.ablation --bundle BUNDLE --data DIR

The windows are those of `benchmarks.accuracy.held_out`, whose finished bursts are taken if they
are there. All mixtures are fitted as the default is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import click

from benchmarks.accuracy import options
from benchmarks.accuracy.bank import Bank, Seen, kept_in, points, references
from benchmarks.accuracy.errors import judge
from benchmarks.accuracy.windows import of_kind, windows
from benchmarks.machine import describe_machine, machine_line
from edgewf.bundle import Bundle, write_text
from edgewf.calibration import Point
from edgewf.commands.explaining import ExplainingCommand
from edgewf.engines.select import select_engine
from edgewf.estimators import DEFAULT, WITHOUT_STEPS, scores_of
from edgewf.estimators.fitted import Fitted
from edgewf.estimators.stack import Stack
from edgewf.estimators.table import References
from edgewf.report import burst_text

KINDS = ("corruptions", "pairs", "few classes")
OTHERS = (
    "soft_agreement",
    "weighted_flips",
    "weighted_zero_step",
    "average_confidence",
    "nuclear_norm",
    "nuclear_norm_tempered",
    "cot_tempered",
    "dispersion",
)
_FALLING = ("weighted_flips", "weighted_zero_step")


def mixtures() -> list[tuple[str, ...]]:
    """Return the scores of each mixture: parts of the default, it without steps, with another."""
    default = scores_of(DEFAULT)
    parts = [part for n in (3, 2, 1) for part in combinations(default, n)]
    still = scores_of(WITHOUT_STEPS)
    return [*parts, still, still[:1], *((*default, other) for other in OTHERS)]


def fitted(keys: Sequence[str], calibration: Sequence[Point]) -> Fitted:
    """Fit a mixture of scores as the default is fitted."""
    x = [[p.scores[key] for key in keys] for p in calibration]
    curve = Stack.fit(x, [p.accuracy for p in calibration], [p.shift for p in calibration])
    return Fitted(" + ".join(keys), tuple(keys), curve)


def scored(found: Sequence[Seen], known: References, keys: Sequence[str]) -> list[Point]:
    """Summarise windows; falling scores are turned around: a mixture's lines never fall."""
    return [
        replace(p, scores={k: -v if k in _FALLING else v for k, v in p.scores.items()})
        for p in points(found, known, keys)
    ]


@click.command(cls=ExplainingCommand)
@options.BUNDLE
@options.DATA
@options.OUTPUT
@options.WORK
@options.CALIBRATIONS
@options.ENGINE
@options.STEPS
@options.BATCH_SIZE
@options.WINDOW
def main(
    bundle: Path,
    data: Path,
    output: Path,
    work: Path,
    calibrations: int,
    engine_name: str,
    **burst: object,
) -> None:
    """Print the table and write it as Markdown and JSON."""
    loaded = Bundle.load(bundle)
    settings = loaded.manifest.burst.with_changes(**burst)
    engine = select_engine(engine_name, loaded, None).engine
    bank = Bank(kept_in(work, loaded, data, engine), engine, settings)
    chosen = windows(loaded, data, settings.window, calibrations)
    seen = bank.look(of_kind(chosen, "calibration"), "calibration")
    known = references(seen)
    keys = sorted({key for mixture in mixtures() for key in mixture})
    calibration = scored(seen, known, keys)
    judged = {
        kind: [
            p
            for p in scored(bank.look(of_kind(chosen, kind), kind), known, keys)
            if p.severity > 0 or kind != "corruptions"
        ]
        for kind in KINDS
    }
    rows: list[dict[str, Any]] = []
    for mixture in mixtures():
        estimator = fitted(mixture, calibration)
        assert isinstance(estimator.curve, Stack)
        rows.append(
            {"scores": mixture, "weights": estimator.curve.weights}
            | {"unseen": estimator.curve.residual_std}
            | {"hindsight": _hindsight(mixture, judged["corruptions"], settings.window)}
            | {kind: judge(estimator, found, settings.window) for kind, found in judged.items()}
        )
    lines = [
        f"# Parts of the default estimate: {loaded.manifest.model} on {data.name}",
        "",
        "Each row is a mixture of lines, fitted to the calibration as the default is. Error on "
        "unseen kinds: of calibration windows under a kind of shift that the lines did not see, "
        "all that a choice may look at. The others are "
        f"of windows that the calibration never saw, points of accuracy; in hindsight: if the "
        f"mixture is fitted to those windows themselves. Burst: "
        f"{burst_text(settings)}. `python -m benchmarks.accuracy.ablation`; {machine_line()}.",
        "",
        "| mixture of | weights | error on unseen kinds | MAE | in hindsight | bias | worst | "
        + " | ".join(f"MAE, {kind}" for kind in KINDS[1:])
        + " |",
        "|---|---|---:|---:|---:|---:|---:|" + "---:|" * len(KINDS[1:]),
        *map(_line, rows),
    ]
    output.mkdir(parents=True, exist_ok=True)
    stem = output / f"ablation_{loaded.manifest.model}_{data.name}"
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")
    record = {"machine": describe_machine(), "settings": settings.to_json(), "rows": rows}
    write_text(stem.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    click.echo("\n".join(lines))


def _hindsight(mixture: Sequence[str], judged: Sequence[Point], frames: int) -> float:
    """Return the mean absolute error that is left where the calibration could not be better."""
    return float(judge(fitted(mixture, judged), judged, frames)["mae"])


def _line(row: dict[str, Any]) -> str:
    """Return a row as Markdown."""
    used = zip(row["scores"], row["weights"], strict=True)
    weights = ", ".join(f"{weight:.2f} {name}" for name, weight in used if weight > 0)
    main = row["corruptions"]
    return (
        f"| {_named(row['scores'])} | {weights} | {row['unseen']:.2f} | {main['mae']:.2f} "
        f"| {row['hindsight']:.2f} | {main['bias']:+.2f} | {main['worst']:+.1f} | "
        + "".join(f"{row[kind]['mae']:.2f} | " for kind in KINDS[1:]).rstrip()
    )


def _named(scores: Sequence[str]) -> str:
    """Say what becomes of the default."""
    default = scores_of(DEFAULT)
    if len(scores) == 1:
        return f"{scores[0]} alone"
    added, missing = set(scores) - set(default), set(default) - set(scores)
    changes = [f"with {', '.join(added)}"] if added else []
    changes += [f"without {', '.join(missing)}"] if missing else []
    return " ".join(["the default", *changes])


if __name__ == "__main__":
    main()
