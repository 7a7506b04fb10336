"""Images whose bytes tell nothing but their pixels: no metadata, and all of one length.

How many of the bytes are pixels can still be read from the file, as it can from the pixels themselves by compressing
them again: what cannot be hidden from somebody who sees the image.
"""

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LOSSLESS = 256  # images up to this size are small enough to be kept as they are
PADDING = b"JUNK"  # a chunk of RIFF that readers skip
LEAST_PADDING = 64
Pixels = NDArray[np.uint8]


def encode(pixels: Pixels, quality: int) -> bytes:
    """WebP of ``pixels`` [H, W, 3]: pixels alone, whatever the file they came from held."""
    buffer = io.BytesIO()
    lossless = quality == 100 or max(pixels.shape[:2]) <= LOSSLESS
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=lossless, quality=100 if lossless else quality, method=4)
    return buffer.getvalue()


def pad(image: bytes, length: int, noise: bytes) -> bytes:
    """The WebP file ``image`` made ``length`` bytes long by a chunk that readers skip, filled with ``noise``.

    Args:
        image: a RIFF file of even length.
        length: even, at least :func:`padded_length` of the image.
        noise: at least as many bytes as are filled; zeros would show where the image ends.
    """
    fill = length - len(image) - 8
    chunk = PADDING + struct.pack("<I", fill) + noise[:fill]
    return image[:4] + struct.pack("<I", length - 8) + image[8:] + chunk


def padded_length(images: list[bytes]) -> int:
    """The one length that all ``images`` can be given, so that each ends in padding."""
    return max(map(len, images)) + 8 + LEAST_PADDING


def spoil(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """``pixels`` [H, W, 3] as nobody can call real or detailed: coarse blocks under noise."""
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels).resize((max(2, width // 12), max(2, height // 12)), Image.Resampling.BOX)
    coarse = np.asarray(small.resize((width, height), Image.Resampling.NEAREST), dtype=np.float64)
    return (coarse + generator.normal(0, 40, coarse.shape)).clip(0, 255).astype(np.uint8)
