"""`edgewf monitor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgewf.commands.alerting import ALERTS, Alerting, alert_options
from edgewf.commands.groups import GroupedCommand
from edgewf.commands.options import burst_options, estimator_option, open_bundle, stderr_console
from edgewf.commands.running import (
    SCHEDULE,
    SERVICE,
    running_options,
    service_listeners,
    terminated_like_ctrl_c,
)

EXIT_ALERT = 1


@click.command(
    cls=GroupedCommand,
    groups={
        "Frames": ("uri", "labelled", "stride", "past", "max_windows"),
        "Output": ("as_json", "output", "store", "metrics", "dashboard"),
        "Alerts": ALERTS,
        "Schedule": SCHEDULE,
        "Service": SERVICE,
        "Engine": ("engine_name", "threads"),
        "Burst": (
            "estimator_name",
            "objective",
            "steps",
            "batch_size",
            "window",
            "source_samples",
            "learning_rate",
            "seed",
        ),
    },
    epilog="""\b
Sources: /dev/video0, v4l2:///dev/video0, rtsp://..., http://..., csi://0, a video file,
a folder of images, demo. Exit status: 0, 1 if an alert on the accuracy was on, 2 on errors.
Examples:
  edgewf monitor bundles/efficientnet_lite0 --source demo
  edgewf monitor BUNDLE --source rtsp://camera/stream --alert-below 60 --hook ./page-me
  edgewf monitor BUNDLE --source /dev/video0 --json | jq .accuracy
""",
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--source", "uri", metavar="URI", required=True, help="Where frames come from.")
@click.option("--labelled", is_flag=True, help="Sub-folder names of a folder are the truth.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an estimate on stdout.")
@click.option("--output", metavar="FILE", help="Append the JSON lines to a file.")
@click.option(
    "--store",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Remember estimates and health, for `edgewf history`.",
)
@click.option("--metrics", metavar="[HOST:]PORT", help="Serve Prometheus metrics.")
@click.option("--dashboard", metavar="[HOST:]PORT", help="Serve a page that shows it.")
@click.option("--max-windows", type=click.IntRange(1), metavar="N", help="Stop after N estimates.")
@click.option(
    "--stride",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Look at every N-th frame.",
)
@click.option(
    "--past",
    type=click.IntRange(1),
    metavar="N",
    help="Where the newest frames show few classes, take some of the last N windows "
    "(of cameras 8, of recordings 1, which is none but the newest).",
)
@alert_options
@running_options
@estimator_option
@burst_options
def monitor(
    bundle: Path,
    uri: str,
    labelled: bool,
    as_json: bool,
    output: str | None,
    store: Path | None,
    metrics: str | None,
    dashboard: str | None,
    max_windows: int | None,
    stride: int,
    past: int | None,
    duty_cycle: float | None,
    every: float,
    max_temperature: float | None,
    status: Path | None,
    estimator_name: str,
    engine_name: str,
    threads: int | None,
    **burst: Any,
) -> None:
    """Watch a stream and estimate the accuracy window by window."""
    from edgewf.alerts.past import read_past
    from edgewf.alerts.secrets import secret
    from edgewf.dashboard import Dashboard
    from edgewf.listener import Listener
    from edgewf.monitor import DUTY_CYCLE, Monitor
    from edgewf.report import summary_line
    from edgewf.stream import open_source
    from edgewf.stream.sampler import PAST
    from edgewf.telemetry import JsonLines, Session, open_display
    from edgewf.telemetry.metrics import MetricsServer
    from edgewf.telemetry.store import Store
    from edgewf.telemetry.storing import StoreListener
    from edgewf.telemetry.thumbnail import thumbnail
    from edgewf.watch import watch

    wanted = Alerting(**{name: burst.pop(name) for name in ALERTS})
    loaded, calibration, settings = open_bundle(bundle, burst)
    if calibration is None:
        wanted.refuse_accuracy(bundle)
    source = open_source(uri, labels=loaded.labels if labelled else None, seed=settings.seed)
    deliveries = wanted.deliveries()
    settings_of_run = {
        "model": loaded.manifest.model,
        "fingerprint": loaded.manifest.fingerprint,
        "source": source.uri,
        "estimator": estimator_name,
        "burst": settings.to_json(),
        **wanted.rules_to_json(),
    }
    opened = None if store is None else Store(store)
    alerter = wanted.alerter(deliveries, opened, settings_of_run)
    listeners: list[Listener] = [alerter]
    if as_json:
        listeners.append(JsonLines(None))
    if output is not None:
        listeners.append(JsonLines(output))
    if opened is not None:
        listeners.append(StoreListener(opened, settings_of_run))
    if metrics is not None:
        listeners.append(
            MetricsServer(metrics, loaded.manifest.model, source.uri, alerts=lambda: alerter.state)
        )
    page = None
    if dashboard is not None:
        page = Dashboard(
            dashboard,
            secret("EDGEWF_DASHBOARD_TOKEN"),
            model=loaded.manifest.model,
            source=source.uri,
            window=settings.window,
            names=[label.name for label in loaded.labels],
            frames_total=source.frames_total,
            threshold=None if alerter.below is None else alerter.below.threshold_percent,
            past=read_past(opened, settings_of_run).estimates,
            alerts=lambda: alerter.state,
        )
        listeners.append(page)
        click.echo(f"edgewf: dashboard at {page.url}", err=True)
    listeners += [delivery for delivery in deliveries if isinstance(delivery, Listener)]
    listeners += service_listeners(status)
    session = Session(
        loaded.manifest.model, source.uri, source.frames_total, settings.window, alerter.below
    )
    shared_terminal = as_json and sys.stdout.isatty()
    listeners.append(open_display(session, live=False if shared_terminal else None))
    if past is None:
        past = PAST if source.live else 1
    if duty_cycle is None:
        duty_cycle = DUTY_CYCLE if source.live else 1.0
    with terminated_like_ctrl_c():
        running = Monitor(
            loaded,
            settings=settings,
            estimator=estimator_name,
            engine=engine_name,
            threads=threads,
            inference=source.live or past > 1,
            past=past,
            listeners=listeners,
            source=source.uri,
            source_health=source.health,
            duty_cycle=duty_cycle,
            every=every,
            max_temperature=max_temperature,
        )
        if page is not None:
            page.monitor = running
        if wanted.alert_picture:
            alerter.take_picture = lambda: thumbnail(running.picture)
        click.echo(f"edgewf: {running.engine}", err=True)
        summary = watch(running, source, stride=stride, max_windows=max_windows)
    stderr_console().print(summary_line(summary), highlight=False)
    if alerter.fired:
        sys.exit(EXIT_ALERT)
