"""A small dataset on storage, written straight from records and random pixels: what exports read, without a build."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from landpatch.catalog.bands import OPTICAL_ASSETS, PATCH_ASSETS, REFERENCE_MAP, S1
from landpatch.catalog.cogs import CogEncoder
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.items import (
    LabelOrigin,
    Origin,
    PatchRecord,
    Summary,
    collection_document,
    parquet_metadata,
    patch_hrefs,
    patch_table,
)
from landpatch.catalog.names import RadarSceneId, SceneId
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.scenes import BoaOffset, RadarScene
from landpatch.catalog.store import COLLECTION, ITEMS, Dataset, Storage

SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
RADAR = "S1B_IW_GRDH_1SDV_20170612T165809"
LABELS = ("Arable land", "Pastures")


@dataclass(frozen=True)
class Patch:
    """A patch to be written; ``flags`` are snow and cloud, ``radar_seed`` None means: from the patch's own seed."""

    x: int
    y: int
    scene: str = SCENE
    radar: str | None = RADAR
    labelled: bool = True
    flags: tuple[bool, bool] = (False, False)
    radar_seed: int | None = None
    compression: str = "deflate"

    @property
    def id(self) -> str:
        return f"{self.scene}_{self.x:02d}_{self.y:02d}"

    @property
    def s1_name(self) -> str:
        return f"{self.radar}_{self.scene[-5:]}_{self.x}_{self.y}"

    def pixels(self) -> dict[str, NDArray[Any]]:
        """Planes by asset key: random, the same for the same patch."""
        seed = int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:4], "big")
        random = np.random.default_rng(seed)
        planes: dict[str, NDArray[Any]] = {
            asset.key: random.integers(1, 12_000, (len(asset.planes), asset.pixels, asset.pixels), np.uint16)
            for asset in OPTICAL_ASSETS
        }
        radar = np.random.default_rng(seed if self.radar_seed is None else self.radar_seed)
        if self.radar is not None:
            planes[S1.key] = radar.normal(-14, 4, (2, 120, 120)).astype(np.float32)
        if self.labelled:
            planes[REFERENCE_MAP.key] = random.choice(np.array([211, 231, 999], np.uint16), (1, 120, 120))
        return planes


def write_dataset(place: str | Storage, patches: Sequence[Patch]) -> Dataset:
    """A dataset of these patches, with all its files, items and collection."""
    storage = Storage.open(place, create=True) if isinstance(place, str) else place
    tables = [
        _write_scene(storage, scene, [patch for patch in patches if patch.scene == scene])
        for scene in sorted({patch.scene for patch in patches})
    ]
    table = pa.concat_tables(tables).sort_by("id")
    summary = Summary()
    summary.add(table)
    nomenclature = clc2018() if any(patch.labelled for patch in patches) else None
    collection = collection_document("small", summary, nomenclature=nomenclature, dropped={})
    storage.put_json(COLLECTION, collection)
    target = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(parquet_metadata(collection)), target, compression="zstd")
    storage.put(ITEMS, target.getvalue())
    return Dataset(storage)


def _write_scene(storage: Storage, name: str, patches: Sequence[Patch]) -> pa.Table:
    scene = SceneId.parse(name)
    grid = TileGrid.from_tile(scene.tile)
    radars = tuple(
        RadarScene(radar, RadarSceneId.parse(radar), datetime(2017, 6, 12, tzinfo=UTC), "", "", "dB", "sigma0", None)
        for radar in sorted({patch.radar for patch in patches if patch.radar is not None})
    )
    origin = Origin(
        scene=scene,
        grid=grid,
        optical_item=name,
        sensed=scene.sensed,
        offset=BoaOffset(False, "made without"),
        radars=radars,
        labels=LabelOrigin("clc", clc2018()) if any(patch.labelled for patch in patches) else None,
        collection="small",
    )
    records = []
    for patch in patches:
        radar = next((index for index, scene in enumerate(radars) if str(scene.name) == patch.radar), None)
        files: dict[str, tuple[int, str]] = {}
        for key, planes in patch.pixels().items():
            asset = next(asset for asset in PATCH_ASSETS if asset.key == key)
            data = CogEncoder(asset, grid.epsg, patch.compression).encode(planes, *grid.corner(patch.x, patch.y))
            hrefs = patch_hrefs(scene, patch.x, patch.y, None if radar is None else radars[radar])
            storage.put(hrefs[key], data)
            files[key] = (len(data), hashlib.sha256(data).hexdigest())
        records.append(_record(patch, radar, files))
    return patch_table(origin, records)


def _record(patch: Patch, radar: int | None, files: Mapping[str, tuple[int, str]]) -> PatchRecord:
    labels = LABELS if patch.labelled else ()
    return PatchRecord(
        x=patch.x,
        y=patch.y,
        radar=radar,
        labels=labels,
        label_pixels=tuple(100 for _ in labels),
        unlabelled=0.1 if patch.labelled else None,
        snow=float(patch.flags[0]),
        cloud=float(patch.flags[1]),
        shadow=0.0,
        contains_seasonal_snow=patch.flags[0],
        contains_cloud_or_shadow=patch.flags[1],
        files=files,
    )
