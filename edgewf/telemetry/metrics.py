"""A Prometheus endpoint: what a monitor knows, at the moment it is asked (docs/metrics.md).

Names follow https://prometheus.io/docs/practices/naming/: base units, shares as `_ratio` from 0 to
1, counts as `_total`.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgewf.alerts.alerter import State
from edgewf.errors import EdgewfError
from edgewf.estimate import Estimate
from edgewf.flags import REASONS
from edgewf.health import Health
from edgewf.listener import Listener

DEFAULT_HOST = "127.0.0.1"

_STATES = ("starting", "live", "stalled", "reconnecting", "ended")


class MetricsServer(Listener):
    """Serves the newest estimate and health as metrics over HTTP.

    Every metric carries the labels `model` and `source`, so that one server can watch a fleet.

    Args:
        address: "PORT" or "HOST:PORT"; without a host only this machine can ask.
        model, source: the labels.
        alerts: returns where the rules of alerts stand; called for every request.

    Attributes:
        port: that is listened on, which the system chose if PORT was 0.

    Raises:
        EdgewfError: prometheus-client is missing, no such address, or it is taken.
    """

    def __init__(
        self,
        address: str,
        model: str,
        source: str,
        alerts: Callable[[], Sequence[State]] = tuple,
    ) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise EdgewfError("--metrics needs pip install 'edgewf[metrics]'") from error
        self._labels = {"model": model, "source": source}
        self._alerts = alerts
        # Replaced as a whole by one thread and read by another.
        self._estimate: Estimate | None = None
        self._health: Health | None = None
        self._estimates = 0
        self._registry = prometheus.CollectorRegistry()
        self._registry.register(self)
        host, port = parse_address(address)
        try:
            self._server, self._thread = prometheus.start_http_server(
                port, host, registry=self._registry
            )
        except OSError as error:
            raise EdgewfError(
                f"--metrics {address}: {error.strerror or error}: choose another port or address"
            ) from error
        self.port: int = self._server.server_port

    def estimate(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self._estimates += 1

    def health(self, health: Health) -> None:
        self._health = health

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def collect(self) -> Iterator[Any]:
        """Yield the metric families; `prometheus_client` calls it for every request."""
        yield self._counter("edgewf_estimates", "Estimates made.", self._estimates)
        if self._estimate is not None:
            yield from self._of_estimate(self._estimate)
        if self._health is not None:
            yield from self._of_health(self._health)
        rules = {alert.rule: alert.on for alert in self._alerts()}
        on = [name for name, state in rules.items() if state]
        yield self._states("edgewf_alert", "1 while the alert is on.", "rule", rules, on)

    def _of_estimate(self, e: Estimate) -> Iterator[Any]:
        if e.accuracy is not None and e.interval is not None:
            low, high = e.interval
            yield self._gauge("edgewf_accuracy_ratio", "Estimated accuracy.", e.accuracy / 100)
            yield self._gauge(
                "edgewf_accuracy_lower_ratio", "Lower end of its 90 % interval.", low / 100
            )
            yield self._gauge(
                "edgewf_accuracy_upper_ratio", "Upper end of its 90 % interval.", high / 100
            )
        yield self._gauge(
            "edgewf_average_confidence_ratio",
            "Mean largest probability of the deployed model.",
            e.average_confidence / 100,
        )
        yield self._gauge(
            "edgewf_flips_ratio", "Predictions that the burst changed.", e.flips / 1000
        )
        yield self._gauge(
            "edgewf_weighted_flips_ratio",
            "The same, weighted by the rank of the initial confidence.",
            e.weighted_flips / 1000,
        )
        yield self._gauge(
            "edgewf_adapted_ratio", "Share of the frames that adapted.", e.selected_share
        )
        yield self._gauge("edgewf_window_frames", "Frames of the estimate.", e.frames)
        yield self._gauge(
            "edgewf_estimate_timestamp_seconds", "When its window ended, Unix time.", e.time
        )
        yield self._states(
            "edgewf_flag", "1 for each reason to doubt the estimate.", "flag", REASONS, e.flags
        )

    def _of_health(self, h: Health) -> Iterator[Any]:
        source = h.source
        yield self._counter("edgewf_frames_seen", "Frames offered.", h.seen)
        yield self._counter("edgewf_frames_kept", "Frames taken into windows.", h.kept)
        yield self._counter("edgewf_bursts", "Bursts that ended in an estimate.", h.bursts)
        yield self._counter("edgewf_burst_failures", "Bursts that failed.", h.burst_failures)
        yield self._states(
            "edgewf_source_state", "1 for the state of the source.", "state", _STATES, source.state
        )
        yield self._counter(
            "edgewf_source_frames", "Frames that arrived, taken or not.", source.frames
        )
        yield self._counter(
            "edgewf_source_decode_errors", "Complaints of the decoder.", source.decode_errors
        )
        yield self._counter(
            "edgewf_source_reconnects", "Times the source was opened again.", source.reconnects
        )
        yield self._gauge(
            "edgewf_source_frozen", "1 if the picture stands still.", float(source.frozen)
        )
        yield self._gauge("edgewf_source_black", "1 if the picture is black.", float(source.black))
        optional = {
            ("edgewf_burst_duration_seconds", "Of the last burst."): h.last_burst_seconds,
            ("edgewf_burst_duty_ratio", "Share of the time that bursts ran."): h.duty,
            ("edgewf_temperature_celsius", "Of the hottest sensor."): h.temperature,
            ("edgewf_throttled", "1 if the device has slowed down."): h.throttled,
        }
        for (name, text), value in optional.items():
            if value is not None:
                yield self._gauge(name, text, float(value))
        yield self._gauge("edgewf_resident_memory_bytes", "Memory of the monitor.", h.memory_bytes)
        yield self._gauge(
            "edgewf_problems", "Problems that the owner should know of.", len(h.problems)
        )
        yield self._gauge("edgewf_health_timestamp_seconds", "When this was true.", h.time)

    def _gauge(self, name: str, text: str, value: float) -> Any:
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(name, text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Any:
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(name, text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _states(self, name: str, text: str, label: str, names: Any, held: Any) -> Any:
        """Return a gauge of 1 and 0 for each name, as Prometheus shows states."""
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(name, text, labels=[*self._labels, label])
        holds = {held} if isinstance(held, str) else set(held)
        for each in names:
            family.add_metric([*self._labels.values(), each], float(each in holds))
        return family


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of "PORT" or "HOST:PORT"; [::1]:9100 names an IPv6 address.

    Raises:
        EdgewfError: something else.
    """
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or DEFAULT_HOST
    if not port.isdecimal() or int(port) > 65535:
        raise EdgewfError(f"address {text!r}: give PORT or HOST:PORT, as 9464 or 0.0.0.0:9464")
    if ":" in host:
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise EdgewfError(f"address {text!r}: {error}") from error
    return host, int(port)
