"""edgewf: how accurate is the image classifier on this device right now, without labels?"""

__version__ = "0.1.0"
