"""Load patches into xarray with odc-stac: from a STAC API, and from a dataset as it lies. Pixels come out the same.

python docs/gallery/load_patches.py http://127.0.0.1:8080/ europe/ patches.jpg
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import odc.stac
import pyarrow.parquet
import pystac
from pystac_client import Client
from stac_geoparquet.arrow import stac_table_to_items

address, dataset, picture = sys.argv[1:]

# From a STAC API: sixteen neighbours, whose ground becomes one raster.
square = '"landpatch:tile" = \'33UUP\' AND "landpatch:x" BETWEEN 22 AND 25 AND "landpatch:y" BETWEEN 12 AND 15'
items = list(Client.open(address).search(filter=square, filter_lang="cql2-text").items())

# odc-stac knows a plane as asset.number; the items say which band that is.
planes = {
    f"{key}.{number}": band["name"]
    for key, asset in items[0].assets.items()
    for number, band in enumerate(asset.extra_fields.get("bands", []), 1)
}
bands = [plane for plane, name in planes.items() if name in ("B02", "B03", "B04", "VV", "Data")]
cube = odc.stac.load(items, bands=bands, resolution=10).rename({plane: planes[plane] for plane in bands})
print(cube)

# From a dataset as it lies, without a server: the same items out of items.parquet, hrefs relative to where it lies.
ids = [item.id for item in items]
rows = pyarrow.parquet.read_table(Path(dataset) / "items.parquet", filters=[("id", "in", ids)])
local = [pystac.Item.from_dict(row) for row in stac_table_to_items(rows)]
for item in local:
    item.set_self_href(str(Path(dataset).absolute() / "items.parquet"))
again = odc.stac.load(local, bands=bands, geobox=cube.odc.geobox)
for plane in bands:
    np.testing.assert_array_equal(cube[planes[plane]], again[plane])

colours = cube[["B04", "B03", "B02"]].isel(time=0).to_array("band").transpose("y", "x", "band")
figure, (optical, radar, codes) = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
optical.imshow(np.clip(colours / 2500, 0, 1))
optical.set_title("Sentinel-2: B04, B03, B02")
cube["VV"].isel(time=0).plot.imshow(ax=radar, cmap="gray", vmin=-22, vmax=-4, add_labels=False)
radar.set_title("Sentinel-1: VV, dB")
cube["Data"].isel(time=0).plot.imshow(ax=codes, cmap="tab20", add_labels=False)
codes.set_title("Reference map: CORINE codes")
for axes in (optical, radar, codes):
    axes.set_axis_off()
    axes.set_aspect("equal")
figure.savefig(picture, dpi=80)
