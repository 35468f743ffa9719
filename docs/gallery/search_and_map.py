"""Search a catalogue with pystac-client, and map what is found with GeoPandas.

python docs/gallery/search_and_map.py http://127.0.0.1:8080/ map.png
"""

import sys

import geopandas
import matplotlib.pyplot as plt
from pystac_client import Client

address, picture = sys.argv[1:]
client = Client.open(address)

# What the catalogue offers, without opening an item: labels and splits stand in the collection.
(collection,) = client.get_collections()
counts = collection.extra_fields["landpatch:counts"]
print(collection.id, counts["splits"])

# Patches with water or wetland, by the words that the server's queryables list.
search = client.search(
    collections=[collection.id],
    filter="a_overlaps(\"landpatch:labels\", ('Inland waters', 'Inland wetlands')) AND \"eo:cloud_cover\" < 20",
    filter_lang="cql2-text",
)
print(search.matched(), "patches found")

patches = geopandas.GeoDataFrame.from_features(search.item_collection_as_dict(), crs="EPSG:4326")
patches["water"] = ["Inland waters" in labels for labels in patches["landpatch:labels"]]

# A patch is 1200 m: of several tiles, the one with most of them makes the better map.
tile = patches["landpatch:tile"].mode()[0]
patches = patches[patches["landpatch:tile"] == tile].to_crs(patches["proj:code"].iloc[0])

figure, (by_label, by_split) = plt.subplots(1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained")
for water, colour in ((True, "#4d9de0"), (False, "#7768ae")):
    some = patches[patches["water"] == water]
    if len(some):
        some.plot(ax=by_label, color=colour, edgecolor="white", linewidth=0.5)
    by_label.plot([], [], "s", color=colour, label="Inland waters" if water else "Inland wetlands only")
by_label.legend(loc="upper right")
by_label.set_title(f"Tile {tile}: what was found")
patches.plot(ax=by_split, column="landpatch:split", legend=True, edgecolor="white", linewidth=0.5, cmap="Set2")
by_split.set_title("The same by split: ground decides, not chance")
for axes in (by_label, by_split):
    axes.set(xlabel="easting, m", ylabel="northing, m")
    axes.ticklabel_format(style="plain")
figure.savefig(picture, dpi=80)
