"""What the page shows beyond the catalogue's renderings: a softer true colour, calmer radar, mosaics of patches.

The stretch is the same for all patches, so that pictures can be compared. Colour arrays are uint8 of shape
(rows, columns, 3).
"""

import base64
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# A steep start and a long shoulder: fields show their differences, snow and clouds their shape.
_SHOULDER = 9.5
_SATURATION = 1.25


def true_colour(planes: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Red, green, blue from B02, B03, B04 (and what follows); shape (>= 3, rows, columns), reflectance x 10000."""
    red, green, blue = (np.clip(planes[index] / 10_000.0, 0.0, 1.0) for index in (2, 1, 0))
    light = np.stack([red, green, blue], axis=-1)
    curved = _SHOULDER * light / (1.0 + (_SHOULDER - 1.0) * light)
    grey = curved.mean(axis=-1, keepdims=True)
    return _bytes(grey + _SATURATION * (curved - grey))


def calmed(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Radar in dB averaged, as power, over 3 x 3 pixels: speckle hides what an eye looks for. Shape kept."""
    power = np.pad(10 ** (planes.astype(np.float64) / 10), ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows, columns = planes.shape[1:]
    total = sum(power[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    return (10 * np.log10(total / 9)).astype(np.float32)


def shrunk(planes: NDArray[np.generic], pixels: int) -> NDArray[np.float64]:
    """Planes (bands, 120, 120) averaged to (bands, ``pixels``, ``pixels``); ``pixels`` divides 120."""
    bands, rows, columns = planes.shape
    blocks = planes.reshape(bands, pixels, rows // pixels, pixels, columns // pixels)
    mean: NDArray[np.float64] = blocks.mean(axis=(2, 4), dtype=np.float64)
    return mean


def mosaic(
    patches: Mapping[tuple[int, int], NDArray[np.uint8]], columns: range, rows: range, pixels: int
) -> NDArray[np.uint8]:
    """Pictures by position (x, y), each ``pixels`` square, side by side; shape (rows, columns, 4).

    The fourth channel is 0 where there is no patch.
    """
    whole = np.zeros((len(rows) * pixels, len(columns) * pixels, 4), np.uint8)
    for (x, y), picture in patches.items():
        top, left = (y - rows.start) * pixels, (x - columns.start) * pixels
        whole[top : top + pixels, left : left + pixels, :3] = picture
        whole[top : top + pixels, left : left + pixels, 3] = 255
    return whole


def png(picture: NDArray[np.uint8]) -> str:
    """A picture (rows, columns, 3 or 4) as a ``data:`` URI of a PNG."""
    image = Image.fromarray(picture)
    if picture.shape[2] == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) <= 256:
        image = image.quantize(256, dither=Image.Dither.NONE)
    target = io.BytesIO()
    image.save(target, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode("ascii")


def _bytes(picture: NDArray[np.floating]) -> NDArray[np.uint8]:
    scaled: NDArray[np.uint8] = np.rint(255.0 * np.clip(picture, 0.0, 1.0)).astype(np.uint8)
    return scaled
