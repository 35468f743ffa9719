"""Import, compaction and audit of BigEarthNet v2.0's tables against the number of rows: time, peak memory, file size.

    import_tables.py FOLDER [ROWS ...]         FOLDER holds the published metadata tables; default: 10000 100000 all

Each size is a process of its own. With all rows, the counts are then compared with the published ones by those who
read the catalogue: pystac-client over the API, DuckDB, GeoPandas and rustac.
"""

import asyncio
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

TABLES = ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
CLEAN = {
    "op": "and",
    "args": [
        {"op": "=", "args": [{"property": f"landpatch:{flag}"}, False]}
        for flag in ("contains_seasonal_snow", "contains_cloud_or_shadow")
    ],
}


def importing(source: Path, destination: Path) -> dict[str, float]:
    from landpatch.catalog.official import import_bigearthnet

    result = import_bigearthnet(source, destination)
    return {
        "rows": result.patches,
        "items.parquet, MB": round((destination / "items.parquet").stat().st_size / 1e6, 1),
    }


def compacting(source: Path, destination: Path) -> dict[str, float]:
    from landpatch.catalog.compaction import compact
    from landpatch.catalog.store import Storage

    (destination / "items.parquet").unlink()
    compact(Storage.open(destination))
    return {}


def auditing_tables(source: Path, destination: Path) -> dict[str, float]:
    return auditing(source)


def auditing_items(source: Path, destination: Path) -> dict[str, float]:
    return auditing(destination)


def auditing(place: Path) -> dict[str, float]:
    from landpatch.catalog.auditing.auditor import audit

    result = audit(place)
    result.check()
    return {"patches": len(result.patches)}


STEPS = (importing, compacting, auditing_tables, auditing_items)


def measured(step: str, source: str, destination: str) -> None:
    """One step, in this process; prints what it took as JSON."""
    work = next(one for one in STEPS if one.__name__ == step)
    begun, wall = time.process_time(), time.perf_counter()
    told = work(Path(source), Path(destination))
    took = {
        "seconds": round(time.perf_counter() - wall, 1),
        "CPU seconds": round(time.process_time() - begun, 1),
        "peak, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }
    print(json.dumps({"step": step, **told, **took}), flush=True)


def main(folder: str, *sizes: str) -> None:
    """All sizes, one after the other."""
    whole = [pq.read_table(Path(folder) / name) for name in TABLES]
    for size in sizes or ("10000", "100000", "all"):
        with tempfile.TemporaryDirectory() as name:
            source, destination = Path(name, "source"), Path(name, "dataset")
            source.mkdir()
            share = 1.0 if size == "all" else int(size) / sum(table.num_rows for table in whole)
            for file, table in zip(TABLES, whole, strict=True):
                pq.write_table(table.slice(0, round(table.num_rows * share)), source / file)
            for step in STEPS:
                arguments = [sys.executable, __file__, "--one", step.__name__, str(source), str(destination)]
                subprocess.run(arguments, check=True)
            if size == "all":
                compared(Path(folder), destination)


# --- counts ---------------------------------------------------------------------------------------------------------


def compared(folder: Path, destination: Path) -> None:
    """The tables row by row, and the counts by every reader. Raises AssertionError."""
    for name in TABLES:
        ours, theirs = pq.read_table(destination / name), pq.read_table(folder / name)
        assert ours.equals(theirs)
        assert ours.schema.equals(theirs.schema)
    expected = expectation(folder)
    for reader in (by_duckdb, by_geopandas, by_rustac, by_api):
        begun = time.perf_counter()
        found = reader(destination)
        assert found == expected, reader.__name__
        print(f"{reader.__name__}: {len(expected)} counts as published, {time.perf_counter() - begun:.1f} s")


def expectation(folder: Path) -> Counter[tuple[str, str]]:
    """Published counts by (kind, word): clean patches by split, by label and split, and by scene and split; flagged
    patches by scene; all patches by country, from the tables themselves.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for row in csv.DictReader((folder / "class_counts_clean_by_split.csv").open()):
        for split in ("train", "validation", "test"):
            counts["label", f"{row['labels']}, {split}"] = int(row[split])
    for row in csv.DictReader((folder / "tile_summary_115.csv").open()):
        for split in ("train", "validation", "test"):
            counts["scene", f"{row['tile']}, {split}"] += int(row[split])
        counts["flagged", row["tile"]] = int(row["snow"]) + int(row["cloud_shadow"])
    tables = pa.concat_tables([pq.read_table(folder / name) for name in TABLES])
    for entry in tables.column("country").value_counts().to_pylist():
        counts["country", entry["values"]] = entry["counts"]
    return +counts


def counted(rows: Any) -> Counter[tuple[str, str]]:
    """The same counts from rows of scene, split, country, labels, flagged."""
    counts: Counter[tuple[str, str]] = Counter()
    for scene, split, country, labels, flagged in rows:
        counts["country", country] += 1
        counts["scene", f"{scene}, {split}"] += 1
        if flagged:
            counts["flagged", scene] += 1
        else:
            counts.update(("label", f"{label}, {split}") for label in labels)
    return counts


def by_duckdb(dataset: Path) -> Counter[tuple[str, str]]:
    import duckdb

    rows = duckdb.sql(
        'SELECT "landpatch:scene", "landpatch:split", "landpatch:country", "landpatch:labels", '
        '"landpatch:contains_seasonal_snow" OR "landpatch:contains_cloud_or_shadow" '
        f"FROM '{dataset}/items.parquet'"
    )
    return counted(rows.fetchall())


def by_geopandas(dataset: Path) -> Counter[tuple[str, str]]:
    import geopandas

    names = ["scene", "split", "country", "labels", "contains_seasonal_snow", "contains_cloud_or_shadow"]
    columns = [f"landpatch:{name}" for name in names]
    frame = geopandas.read_parquet(dataset / "items.parquet", columns=["geometry", *columns])
    assert frame.crs == "OGC:CRS84"
    lists = [frame[column].tolist() for column in columns]
    return counted((*row[:4], row[4] or row[5]) for row in zip(*lists, strict=True))


def by_rustac(dataset: Path) -> Counter[tuple[str, str]]:
    """Every item, as rustac reads it; in pieces of some row groups, because all of them as dictionaries take 8 GB."""
    import rustac

    async def read(place: Path) -> Any:
        return await rustac.read(str(place))

    file = pq.ParquetFile(dataset / "items.parquet")
    counts: Counter[tuple[str, str]] = Counter()
    piece = dataset / "piece.parquet"
    for first in range(0, file.num_row_groups, 8):
        groups = range(first, min(first + 8, file.num_row_groups))
        pq.write_table(file.read_row_groups(list(groups)), piece)
        found = [item["properties"] for item in asyncio.run(read(piece))["features"]]
        names = ("scene", "split", "country", "labels", "contains_seasonal_snow", "contains_cloud_or_shadow")
        rows = ([properties[f"landpatch:{name}"] for name in names] for properties in found)
        counts += counted((*row[:4], row[4] or row[5]) for row in rows)
    return counts


def by_api(dataset: Path) -> Counter[tuple[str, str]]:
    import pystac_client

    from api_server import running
    from landpatch.catalog.api import Settings, create_app

    table = pq.read_table(dataset / "items.parquet", columns=["landpatch:scene", "landpatch:country"])
    scenes, countries = (sorted(set(table.column(name).to_pylist())) for name in table.column_names)
    labels = json.loads((dataset / "collection.json").read_text())["landpatch:counts"]["labels"]
    counts: Counter[tuple[str, str]] = Counter()
    with running(create_app([dataset], Settings(cache=dataset / "cache", access_log=False))) as address:
        client = pystac_client.Client.open(address)

        def matched(*conditions: dict[str, Any]) -> int:
            return int(client.search(filter={"op": "and", "args": list(conditions)}, limit=1).matched() or 0)

        def equal(name: str, value: str) -> dict[str, Any]:
            return {"op": "=", "args": [{"property": f"landpatch:{name}"}, value]}

        for split in ("train", "validation", "test"):
            for label in labels:
                has = {"op": "a_contains", "args": [{"property": "landpatch:labels"}, [label]]}
                counts["label", f"{label}, {split}"] = matched(CLEAN, equal("split", split), has)
            for scene in scenes:
                counts["scene", f"{scene}, {split}"] = matched(equal("scene", scene), equal("split", split))
        for scene in scenes:
            counts["flagged", scene] = matched(equal("scene", scene), {"op": "not", "args": [CLEAN]})
        for country in countries:
            counts["country", country] = matched(equal("country", country), equal("country", country))
    return +counts


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        measured(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
