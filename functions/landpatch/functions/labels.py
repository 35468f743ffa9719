"""The reference map of a tile, from prepared labels, and how much of each class its patches hold.

Rule of BigEarthNet v2.0 (arXiv:2407.03653): the vertices of the polygons are transformed to the tile's UTM zone
and the polygons burned at 10 m; a pixel has the code of the polygon that its centre lies in, the later one in
the source if there are several, and 999 where there is none.

Polygons are burned here by a scan-line fill over exact positions instead of through GDAL, which works in pixels
of the window that it is asked for: any cut of a tile gives the same pixels, large polygons cost only what lies
in the rows, and no Python object is made for a polygon. Both agree but for centres that lie exactly on an edge.
There GDAL's answer hangs on the direction in which a ring is drawn; here the centre belongs to the polygon on
the west and on the south of the edge, so that neighbours never share a pixel nor leave one out.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from landpatch.catalog.errors import InvalidLabels, InvalidScene, StorageError, UnreadableAsset
from landpatch.catalog.grid import PATCH_METRES, TileGrid
from landpatch.catalog.names import TILE_PATCHES
from landpatch.catalog.nomenclature import NO_CLASS, NODATA, UNLABELLED, Nomenclature
from landpatch.catalog.store import NotFound, Storage
from landpatch.functions.raster import gdal_environment, open_raster
from landpatch.functions.warp import PATCH_PIXELS, PIXEL_METRES, TILE_PIXELS, TileSampler

NOMENCLATURE_KEY, NOMENCLATURE_TAG = "landpatch:nomenclature", "LANDPATCH_NOMENCLATURE"
"""Under which prepared labels carry their nomenclature: in Parquet's key-value metadata, or in a TIFF's metadata,
where GDAL takes a colon for the end of the key."""
SOURCE_KEY, SOURCE_TAG = "landpatch:labels", "LANDPATCH_LABELS"
"""Under which they carry what they were made from."""

_REMOTE = ("s3", "http", "https")
_EDGES = ("xmin", "ymin", "xmax", "ymax")
# An edge that is straight in the labels' CRS is another straight line between the same vertices in UTM. So a
# polygon is a candidate when its box, grown by this share of its own size and of the tile's, touches the tile.
_BOX_MARGIN = 0.02
_DENSIFIED = 21  # points along each side of the tile when its box in another CRS is sought

_Box = tuple[float, float, float, float]


class Labels(ABC):
    """Prepared labels, open for reading. From ``open_labels``."""

    def __init__(self, href: str, name: str, nomenclature: Nomenclature, crs: Any, box: _Box) -> None:
        """``box`` is west, south, east, north in ``crs``, which is anything that pyproj takes for one."""
        self.href = href
        self.name = name
        """What they were made from (``U2018_CLC2018_V2020_20u1``); fit for an item's id and a file name."""
        self.nomenclature = nomenclature
        self._crs, self._box = crs, box

    @cached_property
    def bounds(self) -> _Box:
        """(west, south, east, north) in degrees, WGS 84; west > east across the antimeridian."""
        from pyproj import Transformer

        to_degrees = Transformer.from_crs(self._crs, 4326, always_xy=True)
        xmin, ymin, xmax, ymax = to_degrees.transform_bounds(*self._box, densify_pts=_DENSIFIED)
        return float(xmin), float(ymin), float(xmax), float(ymax)

    @abstractmethod
    def reference_map(self, grid: TileGrid, rows: range) -> NDArray[np.uint16]:
        """Codes of these patch rows (0..90) of a tile at 10 m, UNLABELLED (999) where the labels have nothing.

        Shape (120 len(rows), 10920), uint16; a pixel does not depend on which rows are asked for. What was read
        for a tile is kept until another tile is asked for. Raises InvalidLabels where the file is damaged,
        UnreadableAsset where it cannot be reached.
        """


def open_labels(href: str | Path) -> Labels:
    """Open what ``prepare_labels`` wrote: ``.parquet`` or ``.tif``, a local path, ``s3://`` or ``http(s)://``.

    Raises InvalidLabels for a file that is damaged, missing or not prepared; UnreadableAsset where a storage
    cannot be reached.
    """
    href = str(href)
    parts = urlsplit(href)
    local = parts.scheme in ("", "file") or len(parts.scheme) == 1
    path = Path(unquote(parts.path) if parts.scheme == "file" else href)
    if local and not path.exists():
        raise InvalidLabels(f"labels {href} do not exist")
    suffix = Path(parts.path).suffix.lower()
    if suffix in (".tif", ".tiff"):
        return RasterLabels(href)
    if suffix == ".parquet":
        return PolygonLabels(href)
    raise _unprepared(href, ".parquet")


def _unprepared(href: str, suffix: str) -> InvalidLabels:
    stem = href.rpartition(".")[0] or href
    prepared = stem + ("-prepared" if href == stem + suffix else "") + suffix
    return InvalidLabels(f"{href} is not prepared; run: landpatch labels prepare {href} {prepared}")


def _nomenclature(stored: str, href: str) -> Nomenclature:
    try:
        return Nomenclature.from_json(stored)
    except InvalidLabels as error:
        raise InvalidLabels(f"labels {href} are damaged: {error}; prepare them again") from error


# Polygons -----------------------------------------------------------------------------------------------------


class PolygonLabels(Labels):
    """Labels from GeoParquet. The footer is read at once, polygons when a tile asks for its own."""

    def __init__(self, href: str) -> None:
        from pyproj import CRS
        from pyproj.exceptions import CRSError

        self._file = self._open(href)
        metadata = self._file.metadata.metadata or {}
        if NOMENCLATURE_KEY.encode() not in metadata or b"geo" not in metadata:
            raise _unprepared(href, ".parquet")
        try:
            column = json.loads(metadata[b"geo"])["columns"]["geometry"]
            crs = CRS.from_json_dict(column["crs"])
            west, south, east, north = (float(value) for value in column["bbox"])
            name = str(json.loads(metadata[SOURCE_KEY.encode()])["name"])
            self._boxes = _row_group_boxes(self._file.metadata)
        except (KeyError, TypeError, ValueError, CRSError) as error:
            raise InvalidLabels(f"labels {href} are damaged ({error}); prepare them again") from error
        nomenclature = _nomenclature(metadata[NOMENCLATURE_KEY.encode()].decode(), href)
        super().__init__(href, name, nomenclature, crs, (west, south, east, north))
        self._tile: tuple[TileGrid, _Polygons | None] | None = None

    def _open(self, href: str) -> pq.ParquetFile:
        parts = urlsplit(href)
        try:
            if parts.scheme in _REMOTE:
                parent, _, name = href.rpartition("/")
                source: Any = Storage.open(parent).open_file(name)
            else:
                source = unquote(parts.path) if parts.scheme == "file" else href
            return pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
        except (FileNotFoundError, NotFound) as error:
            raise InvalidLabels(f"labels {href} do not exist") from error
        except StorageError as error:
            raise UnreadableAsset(f"labels {href} cannot be reached: {error}") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise InvalidLabels(
                f"labels {href} are no readable Parquet file ({error}): prepare them again"
            ) from error

    def reference_map(self, grid: TileGrid, rows: range) -> NDArray[np.uint16]:
        """See ``Labels``."""
        polygons = self._polygons(grid)
        strip = np.full((len(rows) * PATCH_PIXELS, TILE_PIXELS), UNLABELLED, np.uint16)
        if polygons is not None and len(rows):
            _burn(
                polygons.columns,
                polygons.northings,
                polygons.vertex_rows,
                polygons.rings,
                polygons.parts,
                polygons.spans,
                polygons.codes,
                float(grid.uly),
                rows.start * PATCH_PIXELS,
                strip,
            )
        return strip

    def _polygons(self, grid: TileGrid) -> "_Polygons | None":
        if self._tile is None or self._tile[0] != grid:
            self._tile = None  # before the next is read: memory for one tile, not two
            self._tile = grid, self._read(grid)
        return self._tile[1]

    def _read(self, grid: TileGrid) -> "_Polygons | None":
        """The polygons that may touch the tile, in the order of the source."""
        import shapely
        from pyproj import Transformer

        # One for both ways: PROJ takes a tenth of a second to find the best operation between two datums.
        to_tile = Transformer.from_crs(self._crs, grid.epsg, always_xy=True)
        boxes = _tile_boxes(grid, to_tile)
        groups = np.flatnonzero(_touch(self._boxes, boxes)).tolist()
        if not groups:
            return None
        try:
            table = self._file.read_row_groups(groups)
            bbox = table["bbox"].combine_chunks().flatten()
            candidates = _touch(np.stack([edge.to_numpy() for edge in bbox], axis=1), boxes)
            table = table.filter(pa.array(candidates)).sort_by("fid")
            shapes = shapely.from_wkb(table["geometry"].to_numpy())
        except StorageError as error:
            raise UnreadableAsset(f"labels {self.href} cannot be read: {error}") from error
        except (pa.ArrowInvalid, OSError, shapely.errors.GEOSException) as error:
            raise InvalidLabels(f"labels {self.href} are damaged ({error}): prepare them again") from error
        if not len(shapes):
            return None
        return _Polygons.transformed(shapes, table["code"].to_numpy(), to_tile, grid, boxes, self.href)


def _row_group_boxes(metadata: Any) -> NDArray[np.float64]:
    """Boxes (xmin, ymin, xmax, ymax) of the row groups from their statistics. Shape (n, 4)."""
    first = metadata.row_group(0)
    columns = {first.column(i).path_in_schema: i for i in range(first.num_columns)}
    boxes = np.empty((metadata.num_row_groups, 4))
    for i in range(len(boxes)):
        group = metadata.row_group(i)
        for j, edge in enumerate(_EDGES):
            statistics = group.column(columns[f"bbox.{edge}"]).statistics
            if statistics is None or not statistics.has_min_max:
                raise ValueError(f"row group {i} has no statistics of bbox.{edge}")
            boxes[i, j] = statistics.min if edge in ("xmin", "ymin") else statistics.max
    return boxes


def _tile_boxes(grid: TileGrid, to_tile: Any) -> NDArray[np.float64]:
    """Boxes of the tile's patches in the labels' CRS, from which ``to_tile`` leads to the tile's: one; two across the
    antimeridian; none outside of the CRS.
    """
    west, south, _, _ = grid.bounds(0, TILE_PATCHES - 1)
    side = TILE_PATCHES * PATCH_METRES
    box = to_tile.transform_bounds(
        west, south, west + side, south + side, densify_pts=_DENSIFIED, direction="INVERSE"
    )
    if not np.isfinite(box).all():
        return np.empty((0, 4))
    xmin, ymin, xmax, ymax = box
    if xmin > xmax:
        return np.array([[xmin, ymin, 180.0, ymax], [-180.0, ymin, xmax, ymax]])
    return np.array([box])


def _touch(boxes: NDArray[np.float64], tile: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the boxes, shape (n, 4), come near one of the tile's. Shape (n,)."""
    touching = np.zeros(len(boxes), np.bool_)
    sizes = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    for xmin, ymin, xmax, ymax in tile.tolist():
        margin = _BOX_MARGIN * (sizes + max(xmax - xmin, ymax - ymin))
        touching |= (
            (boxes[:, 0] <= xmax + margin)
            & (boxes[:, 2] >= xmin - margin)
            & (boxes[:, 1] <= ymax + margin)
            & (boxes[:, 3] >= ymin - margin)
        )
    return touching


@dataclass(frozen=True, slots=True)
class _Polygons:
    """Polygons of a tile as coordinates: ``n`` parts in burning order, a multipolygon being several.

    ``columns`` is the easting of each vertex in pixels east of the tile's corner, ``northings`` its northing in
    metres, ``vertex_rows`` the first pixel row whose centre is not north of it; ring ``i`` has the vertices
    ``rings[i]:rings[i + 1]``, part ``i`` the rings ``parts[i]:parts[i + 1]`` and, in ``spans[i]``, the pixel rows
    from the first up to, but not including, the second.
    """

    columns: NDArray[np.float64]
    northings: NDArray[np.float64]
    vertex_rows: NDArray[np.int64]
    rings: NDArray[np.int64]
    parts: NDArray[np.int64]
    spans: NDArray[np.int64]
    codes: NDArray[np.uint16]

    @classmethod
    def transformed(
        cls,
        shapes: NDArray[np.object_],
        codes: NDArray[np.uint16],
        to_tile: Any,
        grid: TileGrid,
        boxes: NDArray[np.float64],
        href: str,
    ) -> "_Polygons":
        """From shapes in the CRS from which ``to_tile`` leads to the tile's."""
        import shapely

        kind, coordinates, offsets = shapely.to_ragged_array(shapes, include_z=False)
        x, y = to_tile.transform(coordinates[:, 0], coordinates[:, 1])
        outside = ~(np.isfinite(x) & np.isfinite(y))
        if outside.any():
            # A polygon that spans the globe reaches where UTM has no coordinates: what lies near the tile will do.
            _, owners = shapely.get_coordinates(shapes, return_index=True)
            shapes = shapes.copy()
            for i in np.unique(owners[outside]):
                shapes[i] = _near(shapes[i], boxes, href)
            kind, coordinates, offsets = shapely.to_ragged_array(shapes, include_z=False)
            x, y = to_tile.transform(coordinates[:, 0], coordinates[:, 1])
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                raise InvalidLabels(
                    f"labels {href} have polygons at tile {grid.tile} that EPSG:{grid.epsg} cannot hold"
                )
        rings, parts = offsets[0].astype(np.int64), offsets[1].astype(np.int64)
        if kind == shapely.GeometryType.MULTIPOLYGON:
            codes = np.repeat(codes, np.diff(offsets[2]))
        y = np.ascontiguousarray(y)
        vertex_rows = _first_rows(float(grid.uly), y)
        spans = _spans(vertex_rows, rings, parts)
        return cls((np.asarray(x) - grid.ulx) / PIXEL_METRES, y, vertex_rows, rings, parts, spans, codes)


def _near(shape: Any, boxes: NDArray[np.float64], href: str) -> Any:
    """What of a polygon lies within one tile's size of the tile, in the labels' CRS."""
    import shapely

    pieces: list[Any] = []
    for xmin, ymin, xmax, ymax in boxes.tolist():
        side = max(xmax - xmin, ymax - ymin)
        try:
            piece = shapely.clip_by_rect(
                shapely.make_valid(shape), xmin - side, ymin - side, xmax + side, ymax + side
            )
        except shapely.errors.GEOSException as error:
            raise InvalidLabels(f"labels {href}: a polygon around the globe cannot be cut: {error}") from error
        pieces.extend(part for part in shapely.get_parts(piece) if part.geom_type == "Polygon")
    return shapely.multipolygons(pieces)


@njit(cache=True, nogil=True)
def _first_rows(uly: float, northings: NDArray[np.float64]) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """For each vertex the first pixel row of the tile whose centre is not north of it, exactly."""
    rows = np.empty(len(northings), np.int64)
    for i in range(len(northings)):
        row = int(np.ceil((uly - northings[i]) / 10.0 - 0.5))
        while uly - 10.0 * row - 5.0 > northings[i]:
            row += 1
        while uly - 10.0 * (row - 1) - 5.0 <= northings[i]:
            row -= 1
        rows[i] = row
    return rows


@njit(cache=True, nogil=True)
def _spans(
    vertex_rows: NDArray[np.int64], rings: NDArray[np.int64], parts: NDArray[np.int64]
) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """The pixel rows of every part: first, and the one after the last. Shape (n, 2)."""
    spans = np.zeros((len(parts) - 1, 2), np.int64)
    for part in range(len(spans)):
        first, last = rings[parts[part]], rings[parts[part + 1]]
        if first < last:
            spans[part, 0], spans[part, 1] = vertex_rows[first:last].min(), vertex_rows[first:last].max()
    return spans


@njit(cache=True, nogil=True)
def _sort(values: NDArray[np.float64], start: int, end: int) -> None:  # pragma: no cover - compiled
    """Sort a slice in place; it nearly always has two or four values."""
    if end - start > 32:
        values[start:end].sort()
        return
    for i in range(start + 1, end):
        value = values[i]
        k = i
        while k > start and values[k - 1] > value:
            values[k] = values[k - 1]
            k -= 1
        values[k] = value


@njit(cache=True, nogil=True)
def _burn(
    columns: NDArray[np.float64],
    northings: NDArray[np.float64],
    vertex_rows: NDArray[np.int64],
    rings: NDArray[np.int64],
    parts: NDArray[np.int64],
    spans: NDArray[np.int64],
    codes: NDArray[np.uint16],
    uly: float,
    top: int,
    strip: NDArray[np.uint16],
) -> None:  # pragma: no cover - compiled
    """Burn polygons, one over the other, into ``strip``, whose first row is row ``top`` of the tile.

    Even-odd rule within a part. All positions are those of the tile, so that the strip only chooses rows.
    """
    height, width = strip.shape
    ends = np.empty(height + 1, np.int64)
    for part in range(len(codes)):
        first, last = max(spans[part, 0], top), min(spans[part, 1], top + height)
        if first >= last:
            continue
        # How often the edges cross each row, then where; an edge crosses the rows from its upper vertex's first
        # row up to, but not including, its lower vertex's, so that a vertex counts once.
        ends[: last - first + 1] = 0
        for ring in range(parts[part], parts[part + 1]):
            for i in range(rings[ring], rings[ring + 1] - 1):
                upper = max(min(vertex_rows[i], vertex_rows[i + 1]), first)
                lower = min(max(vertex_rows[i], vertex_rows[i + 1]), last)
                for row in range(upper, lower):
                    ends[row - first + 1] += 1
        for row in range(last - first):
            ends[row + 1] += ends[row]
        crossings = np.empty(ends[last - first], np.float64)
        for ring in range(parts[part], parts[part + 1]):
            for i in range(rings[ring], rings[ring + 1] - 1):
                a, b = i, i + 1
                if vertex_rows[a] > vertex_rows[b]:
                    a, b = b, a  # from north to south, so that neighbours compute the same crossing
                for row in range(max(vertex_rows[a], first), min(vertex_rows[b], last)):
                    south = northings[a] - (uly - 10.0 * row - 5.0)
                    share = south * (columns[b] - columns[a]) / (northings[a] - northings[b])
                    crossings[ends[row - first]] = columns[a] + share
                    ends[row - first] += 1  # becomes the row's end, which is the next one's start
        start = 0
        for row in range(first, last):
            end = ends[row - first]
            _sort(crossings, start, end)
            for k in range(start, end - 1, 2):
                # Centres after the western edge, up to and including the eastern one.
                west = int(np.floor(min(max(crossings[k], 0.0), float(width)) + 0.5))
                east = int(np.floor(min(max(crossings[k + 1], 0.0), float(width)) + 0.5))
                strip[row - top, west:east] = codes[part]
            start = end


# Rasters ------------------------------------------------------------------------------------------------------


class RasterLabels(Labels):
    """Labels from a GeoTIFF of codes; a pixel of the map has the code of the source's pixel that it lies in."""

    def __init__(self, href: str) -> None:
        self._remote = urlsplit(href).scheme in _REMOTE
        with gdal_environment(), self._explained(href):
            self._dataset = open_raster(href)
        tags = self._dataset.tags()
        if NOMENCLATURE_TAG not in tags:
            raise _unprepared(href, ".tif")
        if self._dataset.crs is None:
            raise InvalidLabels(f"labels {href} are damaged (no coordinate reference system): prepare them again")
        super().__init__(
            href,
            str(json.loads(tags[SOURCE_TAG])["name"]),
            _nomenclature(tags[NOMENCLATURE_TAG], href),
            self._dataset.crs.to_wkt(),
            tuple(self._dataset.bounds),
        )
        self._sampler: tuple[TileGrid, TileSampler] | None = None

    def reference_map(self, grid: TileGrid, rows: range) -> NDArray[np.uint16]:
        """See ``Labels``."""
        with gdal_environment(), self._explained(self.href):
            if self._sampler is None or self._sampler[0] != grid:
                self._sampler = grid, TileSampler(self._dataset, grid)
            strip: NDArray[np.uint16] = self._sampler[1].nearest(rows, NODATA)
        strip[strip == NODATA] = UNLABELLED
        return strip

    @contextmanager
    def _explained(self, href: str) -> Iterator[None]:
        """A file that is not there is worth another try only where a network lies between."""
        try:
            yield
        except InvalidScene as error:
            raise InvalidLabels(f"labels {href}: {error}") from error
        except UnreadableAsset as error:
            if self._remote:
                raise
            raise InvalidLabels(f"labels {href} are damaged ({error}): prepare them again") from error


# Counts -------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def count_classes(
    strip: NDArray[np.uint16], class_of_code: NDArray[np.uint8], n_classes: int
) -> NDArray[np.int32]:  # pragma: no cover - compiled
    """How many pixels of each class every patch of a strip has, in one pass.

    ``strip`` is a reference map of shape (120 r, 120 c), ``class_of_code`` the lookup of shape (65536,) from
    ``Nomenclature.class_of_code``. Shape (r, c, n_classes + 2), int32; the last two count pixels of codes without
    a class, and UNLABELLED ones. They add up to 14400.
    """
    rows, columns = strip.shape[0] // PATCH_PIXELS, strip.shape[1] // PATCH_PIXELS
    counts = np.zeros((rows, columns, n_classes + 2), np.int32)
    for row in range(rows * PATCH_PIXELS):
        for column in range(columns):
            patch = counts[row // PATCH_PIXELS, column]
            for pixel in range(column * PATCH_PIXELS, (column + 1) * PATCH_PIXELS):
                code = strip[row, pixel]
                if code == UNLABELLED:
                    patch[n_classes + 1] += 1
                else:
                    number = class_of_code[code]
                    patch[n_classes if number == NO_CLASS else number] += 1
    return counts
