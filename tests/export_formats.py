"""The formats of exported models; ONNX where it can be had."""

import importlib.util

import pytest

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("jax2onnx", "onnxruntime"))
FORMATS = [
    "stablehlo",
    pytest.param("onnx", marks=pytest.mark.skipif(not HAS_ONNX, reason="no jax2onnx: ONNX export was NOT checked")),
]
