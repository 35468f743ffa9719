"""Sentinel-1 GRD on a chip of 17 x 17 patches (2040 px at 10 m): landpatch and sarsen, side by side.

    python tests/benchmarks/sar_grd.py SAFE [--gamma0] [--oracle PYTHON]

SAFE is a real IW GRD product, of which only the metadata is used (../shared/data/s1-grd-rome): its image is replaced
by a generated one. PYTHON has sarsen (``make oracle`` makes .venv-oracle). Both make VV and VH in one process; sarsen
does one after the other and gives beta0 with the noise in it; so both polarisations of the copy have no noise, and
beta0's table for sigma0's. --one-polarisation has sarsen make VV alone. With
--gamma0 both flatten terrain (sarsen: gamma_bilinear, 3 x 3 pixels together, which needs 9 GB); as sarsen's areas are
of 30 m and ours of 10 m, means over 400 m are compared.
"""

import argparse
import re
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from measure import cpu_seconds, measured, write_report
from rasterio.transform import from_origin

TILE, FIRST, PATCHES = "33TUG", 40, 17
PIXELS = PATCHES * 120
STRIP = 7


def peak_bytes() -> int:
    """Of this process so far; getrusage(2) counts in bytes on macOS, else in kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def landpatch(safe: str, dem: str, target: str, backscatter: Any) -> dict[str, Any]:
    """Both polarisations; the elevation model is given in 30 m geographic pixels, as Copernicus GLO-30 is."""
    from landpatch.catalog.grid import TileGrid
    from landpatch.catalog.radar_safe import radar_safe_item
    from landpatch.catalog.scenes import radar_scene
    from landpatch.functions.raster import gdal_environment
    from landpatch.functions.sar import ElevationModel
    from landpatch.functions.sar_grd.reader import GrdReader

    scene = radar_scene(radar_safe_item(Path(safe)), backscatter=backscatter)
    model = ElevationModel(dem, "ellipsoid", sea=True)
    columns = range(FIRST, FIRST + PATCHES)
    before, imported = cpu_seconds(), peak_bytes()
    with (
        gdal_environment(),
        GrdReader(scene, TileGrid.from_tile(TILE), model) as reader,
        Path(target).open("wb") as file,
    ):
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (PIXELS, PIXELS)}
        )
        # A strip at a time, as a build does it (7 rows: a piece) and as sarsen writes its file.
        for first in range(FIRST, FIRST + PATCHES, STRIP):
            rows = range(first, min(first + STRIP, FIRST + PATCHES))
            out = np.empty((2, len(rows) * 120, PIXELS), np.float32)
            reader.power(rows, columns, out)
            file.write(out[0].tobytes())
    return {"work": cpu_seconds() - before, "imported": imported}


def sarsen(safe: str, dem: str, target: str, backscatter: str, *polarisations: str) -> dict[str, Any]:
    """One GeoTIFF each; the elevation model is given at the pixels of the result, as sarsen wants it."""
    import sarsen

    before, imported = cpu_seconds(), peak_bytes()
    radiometry = {"correct_radiometry": "gamma_bilinear"} if backscatter == "gamma0-terrain" else {}
    for polarisation in polarisations:
        product = sarsen.Sentinel1SarProduct(safe, f"IW/{polarisation}")
        path = f"{target}-{polarisation}.tif"
        sarsen.terrain_correction(product, dem, output_urlpath=path, interp_method="linear", **radiometry)
    return {"work": cpu_seconds() - before, "imported": imported}


def sarsen_pixels(path: str) -> Any:
    """What sarsen wrote, north up: it turns elevation models upside down, and its results with them."""
    with rasterio.open(path) as dataset:
        pixels = dataset.read(1)
        return pixels[::-1] if dataset.transform.e > 0 else pixels


def forge(source: Path, folder: Path) -> tuple[Path, Path, Path]:
    """The product's copy, and the elevation model at 30 m and at the chip's pixels."""
    from pyproj import Transformer

    from landpatch.catalog.grid import TileGrid
    from landpatch.functions.sar_grd.annotation import read_annotation
    from landpatch.functions.sar_grd.geometry import Geometry, to_ecef

    safe = folder / source.name
    (safe / "measurement").mkdir(parents=True)
    (safe / "annotation/calibration").mkdir(parents=True)
    shutil.copy(source / "manifest.safe", safe)
    for file in source.glob("annotation/**/*-vv-*.xml"):
        text = file.read_text()
        text = re.sub(r"(<noise(?:Range)?Lut[^>]*>)[^<]*", lambda m: m.group(1) + _zeros(m.string, m.end()), text)
        text = re.sub(
            r"(<sigmaNought[^>]*>)[^<]*(</sigmaNought>\s*<betaNought[^>]*>)([^<]*)", r"\g<1>\g<3>\g<2>\g<3>", text
        )
        for polarisation, number in (("vv", "001"), ("vh", "002")):
            name = file.name.replace("-vv-", f"-{polarisation}-").replace("-001.", f"-{number}.")
            (safe / file.relative_to(source).parent / name).write_text(text)
    annotation = read_annotation(str(next(safe.glob("annotation/*-vv-*.xml"))))
    grid = TileGrid.from_tile(TILE)
    left, top = grid.corner(FIRST, FIRST)
    size = PATCHES * 1200
    to_degrees = Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    corners = to_degrees.transform(left + size * np.array([0.0, 1, 1, 0]), top - size * np.array([0.0, 0, 1, 1]))
    geometry = Geometry(annotation)
    line, sample = geometry.pixels(*geometry.seen_from_orbit(to_ecef(*corners, 0.0)))
    low = int(line.min()) - 300, int(sample.min()) - 300
    high = int(line.max()) + 300, int(sample.max()) + 300
    y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
    counts = (300 + 120 * np.sin(y / 9) * np.cos(x / 11) + 60 * np.sin((x + y) / 40)).astype(np.uint16)
    window = (low[0], high[0]), (low[1], high[1])
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "SPARSE_OK": True}
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint16", "height": annotation.shape[0]}
    original = next(source.glob("measurement/*-vv-*")).name
    for polarisation, number in (("vv", "001"), ("vh", "002")):
        name = original.replace("-vv-", f"-{polarisation}-").replace("-001.", f"-{number}.")
        path = safe / "measurement" / name
        with rasterio.open(path, "w", width=annotation.shape[1], **profile, **options) as dataset:
            dataset.write(counts, 1, window=window)
    return safe, *_elevation(folder, grid.epsg, left, top, corners)


def _zeros(text: str, end: int) -> str:
    return " ".join(["0"] * len(text[text.rindex(">", 0, end) + 1 : end].split()))


def _elevation(folder: Path, epsg: int, left: int, top: int, corners: Any) -> tuple[Path, Path]:
    """Waves of 0 to 1500 m: seen by both through the same 30 m raster."""
    from rasterio.warp import Resampling, reproject

    pixel = 1 / 3600
    west, north = corners[0].min() - 0.05, corners[1].max() + 0.05
    width = int((corners[0].max() + 0.05 - west) / pixel)
    height = int((north - corners[1].min() + 0.05) / pixel)
    y, x = np.mgrid[:height, :width]
    heights = (750 + 750 * np.sin(x / 120) * np.cos(y / 100)).astype(np.float32)
    coarse, fine = folder / "dem30.tif", folder / "dem10.tif"
    transform = from_origin(west, north, pixel, pixel)
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32"}
    with rasterio.open(
        coarse, "w", crs="EPSG:4326", transform=transform, height=height, width=width, **profile
    ) as dataset:
        dataset.write(heights, 1)
    there = from_origin(left, top, 10, 10)
    out = np.zeros((PIXELS, PIXELS), np.float32)
    reproject(
        heights, out, src_transform=transform, src_crs="EPSG:4326", dst_transform=there, dst_crs=f"EPSG:{epsg}",
        resampling=Resampling.bilinear, tolerance=0,
    )  # fmt: skip
    with rasterio.open(
        fine, "w", crs=f"EPSG:{epsg}", transform=there, height=PIXELS, width=PIXELS, **profile
    ) as dataset:
        dataset.write(out, 1)
    return coarse, fine


def main() -> None:
    """Measure both, compare, print."""
    parser = argparse.ArgumentParser(description="Sentinel-1 GRD: landpatch and sarsen on one chip.")
    parser.add_argument("safe", type=Path)
    parser.add_argument("--oracle", default=str(Path(__file__).parents[2] / ".venv-oracle/bin/python"))
    parser.add_argument("--one-polarisation", action="store_true", help="sarsen makes VV alone, landpatch both.")
    parser.add_argument("--gamma0", action="store_true", help="Terrain-flattened gamma0 instead of sigma0.")
    options = parser.parse_args()
    backscatter = "gamma0-terrain" if options.gamma0 else "sigma0"
    polarisations = ("VV",) if options.one_polarisation else ("VV", "VH")
    with tempfile.TemporaryDirectory(prefix="landpatch-bench-grd-") as name:
        folder = Path(name)
        # In a process of its own: this one must stay small (see measured).
        measured("sar_grd.py", "forge", options.safe.absolute(), folder)
        safe = next(folder.glob("*.SAFE"))
        measured("sar_grd.py", "landpatch", safe, folder / "dem30.tif", folder / "warm.npy", backscatter)
        ours = measured("sar_grd.py", "landpatch", safe, folder / "dem30.tif", folder / "ours.npy", backscatter)
        theirs = measured(
            "sar_grd.py",
            "sarsen",
            safe,
            folder / "dem10.tif",
            folder / "theirs",
            backscatter,
            *polarisations,
            python=options.oracle,
        )
        one, two = np.load(folder / "ours.npy"), sarsen_pixels(f"{folder}/theirs-VV.tif")
    if options.gamma0:
        one, two = (image.reshape(PIXELS // 40, 40, -1, 40).mean(axis=(1, 3)) for image in (one, two))
    both = np.isfinite(one) & np.isfinite(two) & (one > 0) & (two > 0)
    difference = np.abs(10 * np.log10(one[both] / two[both]))
    print(f"{PIXELS} x {PIXELS} px at 10 m; {both.mean():.1%} of them compared")
    print(f"{'':34}{'landpatch, VV and VH':>22}{'sarsen, ' + ' and '.join(polarisations):>18}{'ratio':>8}")
    for title, mine, other in (
        ("CPU s, imports left out", ours.report["work"], theirs.report["work"]),
        ("CPU s, whole process", ours.cpu, theirs.cpu),
        ("peak memory, GB", ours.peak / 1e9, theirs.peak / 1e9),
        ("the same beyond imports, GB", *((run.peak - run.report["imported"]) / 1e9 for run in (ours, theirs))),
    ):
        print(f"{title:34}{mine:22.2f}{other:18.2f}{other / mine:8.1f}")
    print(
        f"difference, dB: median {np.median(difference):.4f}, 99 % {np.percentile(difference, 99):.4f}, "
        f"largest {difference.max():.3f}"
    )


def _forge(source: str, folder: str) -> dict[str, Any]:
    forge(Path(source), Path(folder))
    return {}


if __name__ == "__main__":
    modes = {"landpatch": landpatch, "sarsen": sarsen, "forge": _forge}
    if len(sys.argv) > 2 and sys.argv[1] in modes:
        *arguments, report = sys.argv[2:]
        write_report(report, modes[sys.argv[1]](*arguments))
    else:
        main()
