"""All patches of a dataset in one picture: map tiles in Web Mercator, drawn from the patch files when asked for.

Where many patches share a tile, the map is so small that none of them could be seen: then their places are drawn
without opening a file.
"""

import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial
from threading import Lock

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyproj import Transformer

from landpatch.catalog.bands import S1
from landpatch.catalog.errors import InvalidParameter, UnreadableAsset
from landpatch.catalog.grid import PATCH_METRES, TileGrid
from landpatch.catalog.names import TILE_PATCHES
from landpatch.catalog.nomenclature import Nomenclature
from landpatch.catalog.previews import patch_planes
from landpatch.catalog.renderings import Rendering, picture
from landpatch.catalog.store import ITEMS, Dataset, NotFound

TILE_PIXELS = 256
MAX_ZOOM = 22
"""Web maps go no deeper; a pixel is then 4 cm."""
_MOST_PATCHES = 200
"""In one tile, drawn from their files: a tenth of a second. At 50 degrees north that is zoom 11."""
_PLACE = (0x60, 0x80, 0xA0, 0xA0)  # the colour of a patch that is not drawn, half transparent
_COLUMNS = ["landpatch:tile", "landpatch:x", "landpatch:y", "bbox", "datetime"]
_AT_ONCE = 32  # requests in flight, as in store.py
_GROUPS_HELD = 64  # row groups whose hrefs are held: 5,000 patches and 1 MB each


class Mosaic:
    """A dataset's patches by place; may be shared by threads.

    Describes the ``items.parquet`` that is there when it is made: a file replaced later is not looked at. Raises as
    ``Dataset.table`` does.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._lock = Lock()
        self._file = dataset.storage.open_parquet(ITEMS)
        table = self._file.read(columns=_COLUMNS)
        self._tiles = table.column("landpatch:tile").to_numpy().astype(str)
        self._xs = table.column("landpatch:x").to_numpy()
        self._ys = table.column("landpatch:y").to_numpy()
        self._times = table.column("datetime").to_numpy()
        box = table.column("bbox").combine_chunks()
        self._boxes = np.stack([box.field(side).to_numpy() for side in ("xmin", "ymin", "xmax", "ymax")])
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._hrefs = lru_cache(maxsize=_GROUPS_HELD)(self._read_hrefs)

    def tile(
        self, zoom: int, column: int, row: int, rendering: Rendering, nomenclature: Nomenclature | None = None
    ) -> NDArray[np.uint8]:
        """The map tile, uint8 of shape (256, 256, 4); the fourth channel is 0 where no patch lies.

        Tiles are numbered as in OGC's WebMercatorQuad: ``row`` from the north. Raises InvalidParameter for a tile
        that does not exist. A patch that lacks the file or whose file cannot be read leaves its place empty.
        """
        if not (0 <= zoom <= MAX_ZOOM and 0 <= column < 2**zoom and 0 <= row < 2**zoom):
            raise InvalidParameter(f"there is no map tile {zoom}/{column}/{row}")
        drawn = np.zeros((TILE_PIXELS, TILE_PIXELS, 4), np.uint8)
        longitude, latitude = _pixel_places(zoom, column, row)
        found = self._patches_in(longitude, latitude)
        if len(found) > _MOST_PATCHES:
            drawn[self._places(found, zoom, column, row)] = _PLACE
            return drawn
        for tile in np.unique(self._tiles[found]):
            grid = TileGrid.from_tile(str(tile))
            here = found[self._tiles[found] == tile]
            patch, line, pixel = self._looked_up(grid, here, longitude, latitude)
            visible = np.unique(patch[patch >= 0]).tolist()
            for index, colours in zip(visible, self._all_colours(visible, rendering, nomenclature), strict=True):
                seen = patch == index
                if colours is not None:
                    drawn[seen, :3] = colours[line[seen], pixel[seen]]
                    drawn[seen, 3] = 255
        return drawn

    def _patches_in(self, longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.int64]:
        west, south, east, north = self._boxes
        crossing = west > east  # a box over the antimeridian lies on both its sides
        inside = (south <= latitude[0]) & (north >= latitude[-1])
        inside &= ((west <= longitude[-1]) & (east >= longitude[0])) | (
            crossing & ((west <= longitude[-1]) | (east >= longitude[0]))
        )
        return np.flatnonzero(inside)

    def _places(self, rows: NDArray[np.int64], zoom: int, column: int, row: int) -> NDArray[np.bool_]:
        """Which pixels of the tile the bounding box of any of these patches touches."""
        west, south, east, north = self._boxes[:, rows]
        left, right = (((side + 180) / 360 * 2**zoom - column) * TILE_PIXELS for side in (west, east))
        top, bottom = (
            ((1 - np.arcsinh(np.tan(np.radians(side))) / math.pi) / 2 * 2**zoom - row) * TILE_PIXELS
            for side in (north, south)
        )
        first_x, first_y = (np.clip(np.floor(side), 0, TILE_PIXELS).astype(np.int64) for side in (left, top))
        last_x, last_y = (np.clip(np.ceil(side), 0, TILE_PIXELS).astype(np.int64) for side in (right, bottom))
        # A box is four steps, whose running sum over both axes is 1 inside; over the antimeridian there is none.
        steps = np.zeros((TILE_PIXELS + 1, TILE_PIXELS + 1), np.int64)
        whole = west <= east
        for x, y, step in ((first_x, first_y, 1), (last_x, first_y, -1), (first_x, last_y, -1), (last_x, last_y, 1)):
            np.add.at(steps, (y[whole], x[whole]), step)
        inside: NDArray[np.bool_] = steps.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
        return inside

    def _looked_up(
        self, grid: TileGrid, rows: NDArray[np.int64], longitude: NDArray[np.float64], latitude: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """For each pixel of the map the row of the patch there (-1: none) and the place in it in 10 m pixels."""
        easting, northing = _to_metres(grid.epsg).transform(*np.meshgrid(longitude, latitude))
        # No pixel is drawn from the other end of the world, where the projection has no value.
        metres_right = np.where(np.isfinite(easting), easting - grid.ulx, -1.0)
        metres_down = np.where(np.isfinite(northing), grid.uly - northing, -1.0)
        x, y = (np.floor(metres / PATCH_METRES).astype(np.int64) for metres in (metres_right, metres_down))
        inside = (x >= 0) & (x < TILE_PATCHES) & (y >= 0) & (y < TILE_PATCHES)
        table = np.full((TILE_PATCHES, TILE_PATCHES), -1, np.int64)
        newest_last = rows[np.argsort(self._times[rows], kind="stable")]
        table[self._ys[newest_last], self._xs[newest_last]] = newest_last
        patch = np.where(inside, table[np.where(inside, y, 0), np.where(inside, x, 0)], -1)
        line, pixel = (
            (metres % PATCH_METRES // S1.resolution).astype(np.int64) for metres in (metres_down, metres_right)
        )
        return patch, line, pixel

    def _all_colours(
        self, rows: Sequence[int], rendering: Rendering, nomenclature: Nomenclature | None
    ) -> Iterable[NDArray[np.uint8] | None]:
        draw = partial(self._colours, rendering=rendering, nomenclature=nomenclature)
        if self._dataset.storage.folder is not None:  # a local read is too short for threads to help
            return map(draw, rows)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(draw, rows))

    def _colours(self, row: int, rendering: Rendering, nomenclature: Nomenclature | None) -> NDArray[np.uint8] | None:
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        href = self._hrefs(group, rendering.asset.key)[row - int(self._starts[group])].as_py()
        if href is None:
            return None
        try:
            drawn = picture(rendering, patch_planes(self._dataset, href, rendering.asset), nomenclature)
        except (NotFound, UnreadableAsset):
            return None
        return drawn if drawn.ndim == 3 else np.repeat(drawn[..., None], 3, axis=2)

    def _read_hrefs(self, group: int, key: str) -> pa.Array:
        with self._lock:
            table = self._file.read_row_group(group, columns=[f"assets.{key}.href"])
        return table.column("assets").combine_chunks().field(key).field("href")


@cache
def _to_metres(epsg: int) -> Transformer:
    return Transformer.from_crs(4326, epsg, always_xy=True)


def _pixel_places(zoom: int, column: int, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude of the pixel columns and latitude of the pixel rows of a map tile: their centres, in degrees."""
    places = (np.arange(TILE_PIXELS) + 0.5) / TILE_PIXELS
    longitude = (column + places) / 2**zoom * 360 - 180
    latitude = np.degrees(np.arctan(np.sinh(math.pi * (1 - 2 * (row + places) / 2**zoom))))
    return longitude, latitude
