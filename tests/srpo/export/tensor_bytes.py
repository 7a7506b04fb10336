"""Weights made of text: small, finite, and another file for another text."""

import ml_dtypes
import numpy as np
from safetensors.numpy import save

TUNED = b"tuned weights."


def tensor_file(data, size):
    """A safetensors file with ``size`` bytes of ``data`` as finite bfloat16 numbers."""
    padded = bytearray((data + bytes(size))[:size])
    padded[1::2] = bytes(byte & 0x3F for byte in padded[1::2])
    return save({"weight": np.frombuffer(bytes(padded), ml_dtypes.bfloat16)})
