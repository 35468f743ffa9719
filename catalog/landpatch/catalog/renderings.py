"""How a patch becomes a picture for people: true colour, false colour, radar, and the reference map with its legend.

Stretches are the same for all patches, so that pictures can be compared, and the same for whoever draws them: a
collection's ``renders`` (render extension 2.0.0) are made from the table here.
"""

import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landpatch.catalog.bands import REFERENCE_MAP, S1, S2_10M, PatchAsset
from landpatch.catalog.nomenclature import UNLABELLED, Nomenclature

_NO_COLOUR = (0x80, 0x80, 0x80)
_UNLABELLED_COLOUR = (0x8A, 0x8A, 0x8A)
_UNLABELLED_NAME = "Unlabelled"


@dataclass(frozen=True, slots=True)
class Channel:
    """One colour of a picture: ``plane`` (less the plane ``minus``); ``low`` is shown as 0, ``high`` as 255."""

    plane: str
    low: float
    high: float
    minus: str | None = None


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the planes of one asset become red, green and blue; without channels by the nomenclature's colours."""

    name: str
    title: str
    asset: PatchAsset
    channels: tuple[Channel, ...]


# Reflectance x 10000 up to 0.2, where most vegetated land lies, in the near infrared up to 0.5; config.js of STAC
# Browser has the same. Backscatter in dB: about the 1st and 99th percentile of BigEarthNet's land surfaces.
RENDERINGS = {
    rendering.name: rendering
    for rendering in (
        Rendering(
            "true_colour",
            "True colour",
            S2_10M,
            (Channel("B04", 0, 2000), Channel("B03", 0, 2000), Channel("B02", 0, 2000)),
        ),
        Rendering(
            "false_colour",
            "False colour, near infrared",
            S2_10M,
            (Channel("B08", 0, 5000), Channel("B04", 0, 2000), Channel("B03", 0, 2000)),
        ),
        Rendering(
            "s1_composite",
            "Sentinel-1: VV, VH, VV - VH, dB",
            S1,
            (Channel("VV", -21, -3), Channel("VH", -27, -9), Channel("VV", 2, 12, minus="VH")),
        ),
        Rendering("s1_vv", "Sentinel-1 VV, dB", S1, (Channel("VV", -25, 0),)),
        Rendering("s1_vh", "Sentinel-1 VH, dB", S1, (Channel("VH", -32, -7),)),
        Rendering("reference_map", "Reference map", REFERENCE_MAP, ()),
    )
}
"""By name, in the order in which they are offered."""

TRUE_COLOUR = RENDERINGS["true_colour"]


def renders(nomenclature: Nomenclature | None) -> dict[str, Any]:
    """The table as a collection's ``renders`` (render extension 2.0.0); no reference map without a nomenclature."""
    documents: dict[str, Any] = {}
    for name, rendering in RENDERINGS.items():
        document: dict[str, Any] = {"title": rendering.title, "assets": [rendering.asset.key]}
        number = {plane: index for index, plane in enumerate(rendering.asset.planes, 1)}
        if not rendering.channels:
            if nomenclature is None:
                continue
            document["colormap"] = {str(code.code): list(code.colour) for code in nomenclature.codes}
        elif any(channel.minus for channel in rendering.channels):
            key = rendering.asset.key
            document["expression"] = ";".join(
                f"{key}_b{number[channel.plane]}" + (f"-{key}_b{number[channel.minus]}" if channel.minus else "")
                for channel in rendering.channels
            )
        else:
            document["bidx"] = [number[channel.plane] for channel in rendering.channels]
        if rendering.channels:
            document["rescale"] = [[channel.low, channel.high] for channel in rendering.channels]
        documents[name] = document
    return documents


# --- pixels to pictures ------------------------------------------------------------------------------------------


def picture(
    rendering: Rendering, planes: NDArray[Any], nomenclature: Nomenclature | None = None
) -> NDArray[np.uint8]:
    """A patch in colours: uint8 of shape (rows, columns, 3), or (rows, columns) where there is one channel.

    ``planes`` are the asset's, shape (planes, rows, columns). What is not a number is grey, as are codes that the
    nomenclature does not know.
    """
    if not rendering.channels:
        coloured: NDArray[np.uint8] = _code_colours(nomenclature)[planes[0]]
        return coloured
    place = {plane: index for index, plane in enumerate(rendering.asset.planes)}
    shape = (*planes.shape[1:], len(rendering.channels))
    values = np.empty(shape, np.float32)
    for number, channel in enumerate(rendering.channels):
        value = planes[place[channel.plane]].astype(np.float32)
        if channel.minus is not None:
            value -= planes[place[channel.minus]]
        values[..., number] = (value - channel.low) * (255 / (channel.high - channel.low))
    missing = np.isnan(values).any(axis=-1)
    if missing.any():
        values[missing] = _NO_COLOUR[0]
    drawn = np.clip(values, 0, 255).astype(np.uint8)
    return drawn if len(rendering.channels) > 1 else drawn[..., 0]


def _code_colours(nomenclature: Nomenclature | None) -> NDArray[np.uint8]:
    table = np.full((65536, 3), _NO_COLOUR, np.uint8)
    for code in nomenclature.codes if nomenclature else ():
        table[code.code] = code.colour
    table[UNLABELLED] = _UNLABELLED_COLOUR
    return table


def png(drawn: NDArray[np.uint8], size: int | None = None, *, level: int = 6) -> bytes:
    """A picture as PNG, enlarged or reduced to ``size`` pixels along a side.

    Larger pictures keep their pixels as squares; smaller ones take every n-th, so that no colour appears that has no
    meaning on a map. ``level`` is zlib's: 1 takes a third of the time of 6 for a tenth more bytes.
    """
    from PIL import Image

    image = Image.fromarray(drawn)
    if size is not None and size != image.width:
        image = image.resize((size, size), Image.Resampling.NEAREST)
    target = io.BytesIO()
    image.save(target, "PNG", compress_level=level)
    return target.getvalue()


# --- legend ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One colour of a reference map: ``code``, its ``name``, ``class_name`` ("" = none), ``colour`` (RGB)."""

    code: int
    name: str
    class_name: str
    colour: tuple[int, int, int]


def legend(nomenclature: Nomenclature, codes: Collection[int] | None = None) -> list[LegendEntry]:
    """The nomenclature's colours by code, each once; ``codes`` leaves only those, the unlabelled too."""
    entries = {c.code: LegendEntry(c.code, c.name, c.class_name, c.colour) for c in nomenclature.codes}
    entries[UNLABELLED] = LegendEntry(UNLABELLED, _UNLABELLED_NAME, "", _UNLABELLED_COLOUR)
    return [entry for code, entry in sorted(entries.items()) if codes is None or code in codes]


def legend_svg(entries: Iterable[LegendEntry]) -> str:
    """A legend as an SVG picture: a swatch, the code and the name a line."""
    entries = list(entries)
    line, width = 20, 28 + 8 * max((len(entry.name) + 5 for entry in entries), default=0)
    rows = "".join(
        f'<g transform="translate(0 {number * line})">'
        f'<rect x="4" y="3" width="18" height="14" fill="rgb{entry.colour}" stroke="#555" stroke-width="0.5"/>'
        f'<text x="28" y="14">{entry.code} {escape(entry.name)}</text></g>'
        for number, entry in enumerate(entries)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{line * len(entries)}" '
        f'font-family="sans-serif" font-size="13">{rows}</svg>'
    )
