"""Where frames come from, and which of them make a window."""

from __future__ import annotations

from edgewf.stream.draw import draw_window
from edgewf.stream.frame import Frame, Source
from edgewf.stream.sampler import Window, WindowSampler
from edgewf.stream.source import open_source

__all__ = ["Frame", "Source", "Window", "WindowSampler", "draw_window", "open_source"]
