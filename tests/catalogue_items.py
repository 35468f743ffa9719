"""A catalogue of BigEarthNet v2.0's size without its pixels: items alone, from the two published metadata tables.

    catalogue_items.py METADATA FLAGGED DATASET [ROWS]

Grid, names, splits and items follow landpatch's own rules; labels, country and the Sentinel-1 half of every patch are
the published ones. What the tables do not say (pixel counts of labels, sizes, checksums, cloud) is drawn from the
patch's id: the same id, the same item. One part a scene, put together by ``compact``, as a build does.
"""

import hashlib
import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from landpatch.catalog.bands import PATCH_ASSETS
from landpatch.catalog.compaction import compact, part_path, write_part
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.items import LabelOrigin, Origin, PatchRecord, patch_table
from landpatch.catalog.names import PatchId, RadarPatchName, RadarSceneId, SceneId
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.scenes import BoaOffset, RadarScene
from landpatch.catalog.store import Storage

COLLECTION = "bigearthnet-v2"
PIXELS = 120 * 120


def published(*tables: Path) -> list[dict[str, Any]]:
    """The rows of the metadata tables, sorted by patch id."""
    table = pa.concat_tables([pq.read_table(path) for path in tables]).sort_by("patch_id")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def made_up(count: int) -> list[dict[str, Any]]:
    """Rows of the same form where the tables are not at hand: three tiles, some patches without labels or flags."""
    rows = []
    labels = clc2018().classes
    scenes = (
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "S1B_IW_GRDH_1SDV_20170612T165809", "Austria"),
        ("S2A_MSIL2A_20170701T093031_N9999_R136_T35VNK", "S1A_IW_GRDH_1SDV_20170701T043011", "Finland"),
        ("S2B_MSIL2A_20180204T094159_N9999_R036_T34TCR", "", "Serbia"),
    )
    for number in range(count):
        which, place = divmod(number, -(-count // len(scenes)))
        scene, radar, country = scenes[which]
        x, y = divmod(place, 91)
        name = f"{scene}_{x:02d}_{y:02d}"
        draw = random.Random(name)
        rows.append(
            {
                "patch_id": name,
                "labels": sorted(draw.sample(labels, draw.randrange(1, 6))),
                "country": country,
                "s1_name": f"{radar}_{scene[-5:]}_{x}_{y}" if radar else None,
                "s2v1_name": None,
                "contains_seasonal_snow": draw.random() < 0.1,
                "contains_cloud_or_shadow": False,
            }
        )
    return rows


def write_catalogue(dataset: Path, rows: list[dict[str, Any]], collection: str = COLLECTION) -> None:
    """``items.parquet``, ``collection.json`` and the parts of these rows (sorted by patch id)."""
    storage = Storage.open(dataset, create=True)
    for scene, table in scene_tables(rows, collection):
        write_part(
            storage, part_path(scene, "0-91"), table, collection=collection, nomenclature=clc2018(), dropped={}
        )
    compact(storage)


def scene_tables(rows: list[dict[str, Any]], collection: str = COLLECTION) -> Iterator[tuple[str, pa.Table]]:
    """Of each scene its name and its items as a table of SCHEMA."""
    for name, group in groupby(rows, key=lambda row: row["patch_id"][:-6]):
        patches = list(group)
        scene = SceneId.parse(name)
        halves = [RadarPatchName.parse(row["s1_name"]) if row["s1_name"] else None for row in patches]
        names = sorted({half.scene for half in halves if half})
        origin = Origin(
            scene=scene,
            grid=TileGrid.from_tile(scene.tile),
            optical_item=name,
            sensed=scene.sensed,
            offset=BoaOffset(False, "sen2cor run by hand"),
            radars=tuple(_radar(name) for name in names),
            labels=LabelOrigin("U2018_CLC2018_V2020_20u1", clc2018()),
            collection=collection,
        )
        records = [
            _record(row, None if half is None else names.index(half.scene))
            for row, half in zip(patches, halves, strict=True)
        ]
        table = patch_table(origin, records)
        for column in ("country", "s2v1_name"):
            place = table.schema.get_field_index(f"landpatch:{column}")
            table = table.set_column(
                place, table.schema.field(place), pa.array([row[column] for row in patches], pa.string())
            )
        yield name, table


def _radar(name: RadarSceneId) -> RadarScene:
    return RadarScene(str(name), name, name.start.astimezone(UTC), "", "", "dB", "sigma0", None)


def _record(row: dict[str, Any], radar: int | None) -> PatchRecord:
    patch = PatchId.parse(row["patch_id"])
    digest = hashlib.shake_128(row["patch_id"].encode()).digest(16 + 34 * len(PATCH_ASSETS))
    draw = random.Random(digest[:16])
    labels = tuple(row["labels"])
    cuts = sorted(draw.randrange(PIXELS) for _ in labels)
    files = {}
    for number, asset in enumerate(PATCH_ASSETS):
        if asset.key == "S1" and radar is None:
            continue
        own = digest[16 + 34 * number : 50 + 34 * number]
        files[asset.key] = (20_000 + int.from_bytes(own[32:], "big"), own[:32].hex())
    known = draw.random() < 0.9  # a tenth has no scene classification: missing values among the sorted ones
    return PatchRecord(
        x=patch.x,
        y=patch.y,
        radar=radar,
        labels=labels,
        label_pixels=tuple(after - before for before, after in zip([0, *cuts[:-1]], cuts, strict=True)),
        unlabelled=round((PIXELS - cuts[-1]) / PIXELS, 4) if cuts else 1.0,
        snow=(draw.random() if row["contains_seasonal_snow"] else 0.0) if known else None,
        cloud=round(draw.random() ** 4, 3) if known else None,
        shadow=0.0 if known else None,
        contains_seasonal_snow=row["contains_seasonal_snow"],
        contains_cloud_or_shadow=row["contains_cloud_or_shadow"],
        files=files,
    )


def main(metadata: str, flagged: str, dataset: str, rows: str = "") -> None:
    """Write the catalogue and say how long it took."""
    begun = datetime.now(UTC)
    cpu = time.process_time()
    chosen = published(Path(metadata), Path(flagged))[: int(rows) if rows else None]
    write_catalogue(Path(dataset), chosen)
    size = (Path(dataset) / "items.parquet").stat().st_size
    print(
        f"{len(chosen):,} items, {size / 1e6:.0f} MB, {time.process_time() - cpu:.0f} CPU s, "
        f"{(datetime.now(UTC) - begun).total_seconds():.0f} s"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
