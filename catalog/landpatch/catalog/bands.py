"""The bands of the two sensors, and which of them share one file of a patch."""

import csv
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from landpatch.catalog.grid import PATCH_METRES


def read_table(text: str) -> list[dict[str, str]]:
    """Rows of a CSV table whose leading lines, with its sources, start with ``#``."""
    lines = [line for line in text.removeprefix("\ufeff").splitlines() if line.strip() and not line.startswith("#")]
    return list(csv.DictReader(lines))


@dataclass(frozen=True, slots=True)
class OpticalBand:
    """One Sentinel-2 band; wavelengths in micrometres, resolution in metres."""

    name: str
    resolution: int
    common_name: str
    center_wavelength: float
    full_width_half_max: float
    aliases: tuple[str, ...]


@cache
def optical_bands() -> dict[str, OpticalBand]:
    """The 12 bands of a patch by name, in the order B01 ... B08, B8A, B09, B11, B12."""
    text = files("landpatch.catalog").joinpath("data/sentinel2_bands.csv").read_text("utf-8")
    return {
        row["band"]: OpticalBand(
            row["band"],
            int(row["resolution"]),
            row["common_name"],
            float(row["center_wavelength"]),
            float(row["full_width_half_max"]),
            tuple(row["aliases"].split()),
        )
        for row in read_table(text)
    }


@dataclass(frozen=True, slots=True)
class PatchAsset:
    """One file of a patch: STAC asset ``key``, the planes in it, ``dtype``, ``resolution`` (m), ``nodata``.

    ``nodata`` is what the file's nodata tag says (None: no tag). ``suffix`` is appended to the stem of the file.
    """

    key: str
    suffix: str
    planes: tuple[str, ...]
    dtype: str
    resolution: int
    nodata: int | None

    @property
    def pixels(self) -> int:
        """Pixels along each side: 120, 60 or 20."""
        return PATCH_METRES // self.resolution


# Band order inside each file is ascending by band number, as people list them.
S2_10M = PatchAsset("S2_10m", "_S2_10m", ("B02", "B03", "B04", "B08"), "uint16", 10, 0)
S2_20M = PatchAsset("S2_20m", "_S2_20m", ("B05", "B06", "B07", "B8A", "B11", "B12"), "uint16", 20, 0)
S2_60M = PatchAsset("S2_60m", "_S2_60m", ("B01", "B09"), "uint16", 60, 0)
S1 = PatchAsset("S1", "", ("VV", "VH"), "float32", 10, None)
REFERENCE_MAP = PatchAsset("reference_map", "_reference_map", ("Data",), "uint16", 10, 0)

OPTICAL_ASSETS = (S2_10M, S2_20M, S2_60M)
PATCH_ASSETS = (*OPTICAL_ASSETS, S1, REFERENCE_MAP)


@cache
def band_files(asset: PatchAsset) -> tuple[PatchAsset, ...]:
    """The files that an asset's planes are in BigEarthNet's own layout: each plane by itself, in their order."""
    if asset is REFERENCE_MAP:
        return (asset,)
    return tuple(replace(asset, key=name, suffix=f"_{name}", planes=(name,)) for name in asset.planes)
