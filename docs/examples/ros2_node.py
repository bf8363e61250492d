"""A ROS 2 node that watches the classifier of another: images in, accuracy out.

    python3 ros2_node.py --ros-args -p bundle:=/opt/edgewf/bundle -r image:=/camera/image_raw

Publishes the accuracy in percent on `accuracy`, and health on /diagnostics.
"""

import json

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Float32

from edgewf.listener import Listener
from edgewf.monitor import Monitor

CHANNELS = {"rgb8": slice(None), "bgr8": slice(None, None, -1)}


class Publisher(Listener):
    """Publishes estimates and health; rclpy allows that from the monitor's thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._accuracy = node.create_publisher(Float32, "accuracy", 10)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def estimate(self, estimate) -> None:
        if estimate.accuracy is not None:
            self._accuracy.publish(Float32(data=estimate.accuracy))

    def health(self, health) -> None:
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if health.problems else DiagnosticStatus.OK,
            name="edgewf",
            message="; ".join(health.problems) or "well",
            values=[KeyValue(key=k, value=json.dumps(v)) for k, v in health.to_json().items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(array)


class Watcher(Node):
    """Gives every image to the monitor."""

    def __init__(self) -> None:
        super().__init__("edgewf")
        bundle = self.declare_parameter("bundle", "").value
        self.monitor = Monitor(bundle, listeners=[Publisher(self)], source="ros2")
        self.create_subscription(Image, "image", self._look, qos_profile_sensor_data)

    def _look(self, message: Image) -> None:
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        pixels = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
        stamp = message.header.stamp
        when = stamp.sec + 1e-9 * stamp.nanosec
        self.monitor.observe(pixels[..., CHANNELS[message.encoding]], when=when)


def main() -> None:
    rclpy.init()
    node = Watcher()
    with node.monitor:
        rclpy.spin(node)


if __name__ == "__main__":
    main()
