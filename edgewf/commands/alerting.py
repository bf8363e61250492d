"""Options of alerts: which there are, and where they go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgewf.errors import EdgewfError

if TYPE_CHECKING:
    from edgewf.alerts import Alerter
    from edgewf.alerts.message import Delivery
    from edgewf.telemetry.store import Store

Command = TypeVar("Command", bound=Callable[..., Any])

ALERTS = (
    "alert_below",
    "alert_on_change",
    "alert_unhealthy",
    "alert_pause",
    "alert_picture",
    "hook",
    "webhook",
    "mqtt",
    "mqtt_discovery",
)


def alert_options(command: Command) -> Command:
    """Add the options of alerts, named by `ALERTS`."""
    options = [
        click.option(
            "--alert-below",
            type=click.FloatRange(0, 100),
            metavar="PERCENT",
            help="Alert at an accuracy under this.",
        ),
        click.option(
            "--alert-on-change", is_flag=True, help="Alert if it falls under the device's past."
        ),
        click.option(
            "--alert-unhealthy",
            type=click.FloatRange(0),
            metavar="SECONDS",
            help="Alert if the monitor has had problems for so long.",
        ),
        click.option(
            "--alert-pause",
            type=click.FloatRange(0),
            default=300,
            show_default=True,
            metavar="SECONDS",
            help="Between two messages of one alert.",
        ),
        click.option("--alert-picture", is_flag=True, help="Send a frame with each message."),
        click.option("--hook", metavar="COMMAND", help="Run when an alert goes on or off."),
        click.option(
            "--webhook",
            envvar="EDGEWF_WEBHOOK",
            metavar="URL",
            help="Post when an alert goes on or off.",
        ),
        click.option(
            "--mqtt",
            metavar="URI",
            help="Publish all to a broker: mqtt[s]://[USER@]HOST[:PORT][/TOPIC].",
        ),
        click.option("--mqtt-discovery", is_flag=True, help="Introduce it to Home Assistant."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Alerting:
    """The values of the options."""

    alert_below: float | None
    alert_on_change: bool
    alert_unhealthy: float | None
    alert_pause: float
    alert_picture: bool
    hook: str | None
    webhook: str | None
    mqtt: str | None
    mqtt_discovery: bool

    def __post_init__(self) -> None:
        any_rule = self.alert_on_change or not (self.alert_below is self.alert_unhealthy is None)
        for option, given in (("--hook", self.hook), ("--webhook", self.webhook)):
            if given is not None and not any_rule:
                raise EdgewfError(
                    f"{option} needs --alert-below, --alert-on-change or --alert-unhealthy: there "
                    "is nothing to tell it of"
                )
        if self.mqtt_discovery and self.mqtt is None:
            raise EdgewfError("--mqtt-discovery needs --mqtt URI")

    def refuse_accuracy(self, bundle: Path) -> None:
        """Raise EdgewfError if there is a rule on an accuracy, which nothing will estimate."""
        given = {"--alert-below": self.alert_below is not None}
        given["--alert-on-change"] = self.alert_on_change
        for option in (option for option, wanted in given.items() if wanted):
            raise EdgewfError(
                f"{option} needs an accuracy, and {bundle} has no calibration: run "
                f"`edgewf calibrate {bundle} --data DIR` first"
            )

    def rules_to_json(self) -> dict[str, Any]:
        """Return what the rules are set to."""
        names = ("alert_below", "alert_on_change", "alert_unhealthy")
        return {name: getattr(self, name) for name in names}

    def deliveries(self) -> list[Delivery]:
        """Return the ways to the owner; a broker is reached for at once, in the background."""
        from edgewf.alerts import Hook, Webhook
        from edgewf.alerts.secrets import secret

        made: list[Delivery] = []
        if self.hook is not None:
            made.append(Hook(self.hook))
        if self.webhook is not None:
            made.append(Webhook(self.webhook, secret("EDGEWF_WEBHOOK_SECRET")))
        if self.mqtt is not None:
            from edgewf.alerts.mqtt import MqttPublisher

            password = secret("EDGEWF_MQTT_PASSWORD")
            made.append(MqttPublisher(self.mqtt, password, discovery=self.mqtt_discovery))
        return made

    def alerter(
        self, deliveries: Sequence[Delivery], store: Store | None, settings: dict[str, Any]
    ) -> Alerter:
        """Return what asks the rules, which go on from where the runs in the store left them."""
        from edgewf.alerts import AlertBelow, Alerter, AlertOnChange, AlertUnhealthy, Rule
        from edgewf.alerts.mqtt import MqttPublisher
        from edgewf.alerts.past import read_past

        past = read_past(store, settings)
        rules: dict[str, Rule] = {}
        if self.alert_below is not None:
            rules["alert_below"] = AlertBelow(self.alert_below, past.estimates)
        if self.alert_on_change:
            rules["alert_on_change"] = AlertOnChange(past.estimates)
        if self.alert_unhealthy is not None:
            rules["alert_unhealthy"] = AlertUnhealthy(self.alert_unhealthy, past.health)
        told = {
            rule.name
            for option, rule in rules.items()
            if past.settings.get(option) == settings[option]
        }
        alerter = Alerter(
            list(rules.values()),
            deliveries,
            settings["model"],
            settings["source"],
            pause=self.alert_pause,
            told=told,
        )
        for delivery in deliveries:
            if isinstance(delivery, MqttPublisher):
                delivery.state = lambda: alerter.state
        return alerter
