"""Images whose files tell nothing but their pixels.

Whoever has compressed an image has measured it: smooth ones come out shorter than busy ones, and that names the model.
Padding hides such a length only from those who do not look inside the file. So images are not compressed at all, as
BMP: a fixed header, then the pixels, and of two images of one size every byte but the pixels is the same. PNG without
compression is none of that: each row begins with the filter that suits its content, and checksums follow.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEADER = 54  # bytes before the pixels
Pixels = NDArray[np.uint8]


def encode(pixels: Pixels) -> bytes:
    """BMP of ``pixels`` [H, W, 3], 24 bits a pixel: nothing of the file they came from but its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def encoded_length(size: tuple[int, int]) -> int:
    """Bytes of an encoded image of ``size`` (width, height); a row is filled up with zeros to a multiple of four."""
    width, height = size
    return HEADER + height * (-(-3 * width // 4) * 4)


def spoil(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """``pixels`` [H, W, 3] as nobody can call real or detailed: coarse blocks under noise."""
    height, width = pixels.shape[:2]
    small = Image.fromarray(pixels).resize((max(2, width // 12), max(2, height // 12)), Image.Resampling.BOX)
    coarse = np.asarray(small.resize((width, height), Image.Resampling.NEAREST), dtype=np.float64)
    return (coarse + generator.normal(0, 40, coarse.shape)).clip(0, 255).astype(np.uint8)
