"""An OpenCV loop that also knows how accurate it is: `opencv_loop.py BUNDLE VIDEO`."""

import sys

import cv2

from edgewf.monitor import Monitor


def main(bundle: str, video: str) -> None:
    capture = cv2.VideoCapture(video)
    with Monitor(bundle) as monitor:
        while True:
            there, frame = capture.read()
            if not there:
                break
            prediction = monitor.observe(frame[..., ::-1])  # OpenCV has BGR, edgewf takes RGB
            line = f"{prediction.name} {prediction.confidence:.0%}"
            if monitor.latest is not None and monitor.latest.accuracy is not None:
                line += f", right on about {monitor.latest.accuracy:.0f} % of such frames"
            print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
