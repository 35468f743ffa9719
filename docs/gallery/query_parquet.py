"""Ask the catalogue in SQL: DuckDB straight on items.parquet, without a server and without landpatch.

    python docs/gallery/query_parquet.py europe/items.parquet labels.png

(On S3 the same, after ``INSTALL httpfs``: ``s3://bucket/europe/items.parquet``.)
"""

import sys

import duckdb
import matplotlib.pyplot as plt

parquet, picture = sys.argv[1:]
items = duckdb.read_parquet(parquet)

# How many patches of each split have a label: columns are named as the items' properties.
labels = duckdb.sql("""
    SELECT label, "landpatch:split" AS split, count(*) AS patches
    FROM (SELECT unnest("landpatch:labels") AS label, "landpatch:split" FROM items)
    GROUP BY ALL ORDER BY ALL
""")
print(labels)

# Which wet patches are least cloudy, how large their files are, where they lie: assets are a column of structures.
best = duckdb.sql("""
    SELECT id, round("landpatch:cloud", 3) AS cloud, assets.S2_10m.href,
           (bbox.xmin + bbox.xmax) / 2 AS lon, (bbox.ymin + bbox.ymax) / 2 AS lat
    FROM items WHERE list_has_any("landpatch:labels", ['Inland wetlands', 'Inland waters'])
    ORDER BY cloud, id LIMIT 5
""")
print(best)

counts: dict[str, dict[str, int]] = {}
for label, split, patches in labels.fetchall():
    counts.setdefault(label, {})[split] = patches
names = sorted(counts, key=lambda label: sum(counts[label].values()))
figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
before = [0] * len(names)
for split in ("train", "validation", "test"):
    here = [counts[name].get(split, 0) for name in names]
    axes.barh([name[:40] for name in names], here, left=before, label=split)
    before = [one + other for one, other in zip(before, here, strict=True)]
axes.legend()
axes.set_xlabel("patches")
figure.savefig(picture, dpi=80)
