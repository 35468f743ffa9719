"""A small official tree of BigEarthNet v2.0: written by GDAL from random pixels, as folders and as archives."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import rasterio
from affine import Affine

from landpatch.catalog.bands import PATCH_ASSETS, band_files
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.names import PatchId, RadarPatchName
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.official_layout import TREES, official_stem
from landpatch.catalog.tables import OFFICIAL_SCHEMA, write_table
from small_dataset import Patch


def labels_of(patch: Patch) -> list[str]:
    """The classes in the patch's reference map."""
    return clc2018().labels_of(np.unique(patch.pixels()["reference_map"]).tolist())


def write_tables(root: Path, patches: Sequence[Patch]) -> None:
    """Both metadata tables of these patches."""
    rows = [
        {
            "patch_id": patch.id,
            "labels": labels_of(patch),
            "split": "train",
            "country": "Austria",
            "s1_name": patch.s1_name if patch.radar else None,
            "s2v1_name": patch.id.replace("_N9999_R022_T33UUP", ""),
            "contains_seasonal_snow": patch.flags[0],
            "contains_cloud_or_shadow": patch.flags[1],
        }
        for patch in sorted(patches, key=lambda patch: patch.id)
    ]
    root.mkdir(parents=True, exist_ok=True)
    for name, flagged in (("metadata", False), ("metadata_for_patches_with_snow_cloud_or_shadow", True)):
        chosen = [
            row for row in rows if (row["contains_seasonal_snow"] or row["contains_cloud_or_shadow"]) is flagged
        ]
        (root / f"{name}.parquet").write_bytes(write_table(pa.Table.from_pylist(chosen, OFFICIAL_SCHEMA)))


def write_tree(root: Path, patches: Sequence[Patch]) -> None:
    """Tables, and the three trees of folders."""
    write_tables(root, patches)
    for patch in patches:
        name = PatchId.parse(patch.id)
        grid = TileGrid.from_tile(name.scene.tile)
        pixels = patch.pixels()
        for asset in PATCH_ASSETS:
            if asset.key not in pixels:
                continue
            radar = RadarPatchName.parse(patch.s1_name) if patch.radar else None
            for band, plane in zip(band_files(asset), pixels[asset.key], strict=True):
                stem = root / official_stem(band, name, radar)
                stem.parent.mkdir(parents=True, exist_ok=True)
                left, top = grid.corner(patch.x, patch.y)
                write_tiff(
                    stem.with_name(f"{stem.name}{band.suffix}.tif"), plane, grid.epsg, left, top, band.resolution
                )


def write_tiff(path: Path, plane: Any, epsg: int, left: float, top: float, resolution: int, **more: Any) -> None:
    """One band, as GDAL writes it."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=plane.shape[1],
        height=plane.shape[0],
        count=1,
        dtype=plane.dtype,
        crs=f"EPSG:{epsg}",
        transform=Affine(resolution, 0, left, 0, -resolution, top),
        **more,
    ) as file:
        file.write(plane, 1)


def tar_of(root: Path, tree: str) -> bytes:
    """A tree of folders as tar packs it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(root / tree, tree)
    return target.getvalue()


def zstd(data: bytes) -> bytes:
    """One zstd frame, written as a stream."""
    target = pa.BufferOutputStream()
    with pa.CompressedOutputStream(target, "zstd") as stream:
        stream.write(data)
    packed: bytes = target.getvalue().to_pybytes()
    return packed


def write_archives(root: Path, tree_root: Path) -> None:
    """The tables and the three archives of a tree of folders."""
    root.mkdir(parents=True, exist_ok=True)
    for path in tree_root.glob("*.parquet"):
        (root / path.name).write_bytes(path.read_bytes())
    for tree in TREES:
        (root / f"{tree}.tar.zst").write_bytes(zstd(tar_of(tree_root, tree)))
