"""Workstation side: model sources -> ONNX -> batch-statistics forward and backward -> bundle.

from edgewf.export.exporter import export_bundle
from edgewf.export.sources.registry import load_source

export_bundle(load_source("efficientnet_lite0"), Path("bundle"))
"""
