"""Turning a label source into a file that a tile can read its own part of.

Polygons become GeoParquet 1.1, sorted along a Hilbert curve in small row groups with a bounding box for every
row: a tile reads the footer and the few groups that touch it. Rasters become a tiled GeoTIFF of codes. Either
carries its nomenclature, and is all that a build needs.

The official CORINE Land Cover file holds 2.4 million polygons in 9 GB, so nothing here holds a layer in memory:
polygons stream through files of one piece of the curve each, which are then sorted one by one.
"""

import errno
import json
import logging
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyogrio
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landpatch.catalog.errors import InvalidLabels, InvalidParameter, LandpatchError, StorageError, UnreadableAsset
from landpatch.catalog.nomenclature import NODATA, UNLABELLED, Nomenclature, clc2018
from landpatch.catalog.store import Storage
from landpatch.functions.labels import NOMENCLATURE_KEY, NOMENCLATURE_TAG, SOURCE_KEY, SOURCE_TAG
from landpatch.functions.raster import gdal_environment, open_raster

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

CLC_COLUMN = "code_18"
"""The column of CORINE Land Cover 2018 that holds the code, whatever its case."""

# CLC's own ways to say that nothing was classified, beside its 44 classes (EEA legend: 48 = 999 NODATA,
# 49 = 990 and 255 = 990 UNCLASSIFIED, 50 = 995 UNCLASSIFIED WATER BODIES).
_CLC_NOTHING = {"990": UNLABELLED, "995": UNLABELLED}
_CLC_NOTHING_GRID = {48: UNLABELLED, 49: UNLABELLED, 50: UNLABELLED, 255: UNLABELLED}

ROW_GROUP_ROWS = 2048
"""Polygons in a row group: a tile of CLC holds about 5,000; the footer of 2.4 million stays near 1 MB."""
ROW_GROUP_BYTES = 8 * 2**20
"""Bytes of geometry in a row group, unless one polygon alone is larger."""
_BATCH = 1024  # features read at a time: 4 MB of CLC, of which GDAL reads several ahead
_CURVE_BITS = 16  # of each axis: cells of 100 m over Europe
_WIDE = 1 << 2 * _CURVE_BITS
_WIDE_SHARE = 64  # a polygon wider than a 64th of the layer is kept apart: 100 km, a tile, in CLC
_SPLIT_BITS = 6  # 64 files at a time; twice that, with the wide ones, stays below every system's limit of 256
_SORT_BYTES = 32 * 2**20  # of geometry sorted in memory at once; a few copies of it live at a time
_RASTER_BLOCK = 512
_SHOWN = 8  # unknown values or columns that an error lists

_SPILLED = pa.schema(
    [
        ("key", pa.uint64()),
        ("fid", pa.int64()),
        ("code", pa.uint16()),
        ("xmin", pa.float64()),
        ("ymin", pa.float64()),
        ("xmax", pa.float64()),
        ("ymax", pa.float64()),
        ("geometry", pa.large_binary()),
    ]
)
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_WRITTEN = pa.schema(
    [
        pa.field("code", pa.uint16(), nullable=False),
        pa.field("fid", pa.int64(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
        pa.field(
            "bbox",
            pa.struct([pa.field(edge, pa.float64(), nullable=False) for edge in _EDGES]),
            nullable=False,
        ),
    ]
)


def prepare_labels(
    source: str | Path,
    destination: str | Path,
    *,
    nomenclature: Nomenclature | None = None,
    code_column: str | None = None,
    layer: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the label source ``source`` as a file that ``open_labels`` reads.

    ``source`` is a local file: a GeoTIFF (``.tif``, becomes ``.tif``), or polygons in any format that GDAL reads
    (become ``.parquet``). ``destination`` is a local path or ``s3://``; it appears when it is complete. The same
    source gives the same bytes. Beside a local destination (for S3: in the temporary folder) as much space as
    the source takes twice is needed meanwhile.

    ``nomenclature`` says what the source's values mean; default CORINE Land Cover 2018. ``code_column`` holds
    the values (compared as text, integers without a decimal point); default ``code_18``. ``layer`` need not be
    given where only one has that column. ``progress(done, total)`` is called now and then.

    A value that the nomenclature does not know is an error, never a polygon less. 999 means that nothing was
    classified, and so do CLC's 990 and 995 where the nomenclature is CLC's. Features without a polygon are left
    out, with a warning in the log that counts them. A raster's values are grid codes if the nomenclature has
    all of them as such, otherwise codes; 0 and what the file masks are nothing.

    Returns how many polygons, or raster pixels, were written. Raises InvalidLabels, InvalidParameter (the two
    names), StorageError.
    """
    source, destination = str(source), str(destination)
    nomenclature = nomenclature or clc2018()
    path = Path(source)
    if "://" in source:
        raise InvalidParameter(f"{source} is not a local file: download it, then prepare it")
    if not path.exists():
        raise InvalidLabels(f"label source {source} does not exist")
    raster = path.suffix.lower() in (".tif", ".tiff")
    suffixes = (".tif", ".tiff") if raster else (".parquet",)
    if not destination.lower().endswith(suffixes):
        kind = "a raster" if raster else "polygons"
        raise InvalidParameter(f"{source} is {kind}: the destination must end with {suffixes[0]}, not {destination}")
    with _appearing(destination) as (folder, target):
        if raster:
            return _prepare_raster(path, target, nomenclature, progress)
        return _prepare_polygons(path, target, folder, nomenclature, code_column, layer, progress)


@contextmanager
def _appearing(destination: str) -> Iterator[tuple[Path, Path]]:
    """A temporary folder, and in it the name of a file that becomes ``destination`` when the block ends well."""
    remote = urlsplit(destination).scheme == "s3"
    parent, _, name = destination.rpartition("/") if remote else ("", "", Path(destination).name)
    try:
        if remote:
            storage = Storage.open(parent)
            storage.exists(name)  # whether the bucket can be reached at all: now, not after an hour
            folder = Path(tempfile.mkdtemp(prefix="landpatch-labels-"))
        else:
            beside = Path(destination).absolute().parent
            beside.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=beside))
        try:
            yield folder, folder / name
            if remote:
                storage.put_file(name, folder / name)
            else:
                (folder / name).replace(destination)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        if isinstance(error, LandpatchError):
            raise
        reason = "the disk is full: free some space" if error.errno == errno.ENOSPC else str(error)
        raise StorageError(f"cannot write {destination}: {reason}; then run the same command again") from error


# Polygons -----------------------------------------------------------------------------------------------------


def _prepare_polygons(
    source: Path,
    target: Path,
    folder: Path,
    nomenclature: Nomenclature,
    code_column: str | None,
    layer: str | None,
    progress: Progress | None,
) -> int:
    layer, column, info = _choose_layer(source, code_column, layer)
    total = int(info["features"])
    where = f"{source}, layer {layer}"
    if total == 0:
        raise InvalidLabels(f"{where} has no features")
    if not info["crs"]:
        raise InvalidLabels(f"{where} declares no coordinate reference system; set it: ogr2ogr -a_srs EPSG:... ")
    crs = _projjson(info["crs"], where)
    meanings = _meanings(nomenclature)
    west, south, east, north = _extent(info, where)
    side = max(east - west, north - south) or 1.0

    spill = _Spill(folder, 2 * _CURVE_BITS - _SPLIT_BITS)
    kinds: set[int] = set()
    extent = np.array([np.inf, np.inf, -np.inf, -np.inf])
    read = written = 0
    for values, wkb in _read(source, layer, column, where):
        fids = np.arange(read, read + len(values), dtype=np.int64)
        read += len(values)
        shapes, wkb, keep = _polygons(wkb, fids, where)
        values = values.filter(pa.array(keep))
        codes = _translate(values, meanings)
        if codes is None:
            raise _unknown_values(source, layer, column, meanings, nomenclature, where)
        kinds.update(np.unique(shapely.get_type_id(shapes)).tolist())
        bounds = shapely.bounds(shapes)
        if len(bounds):
            extent[:2] = np.minimum(extent[:2], bounds[:, :2].min(axis=0))
            extent[2:] = np.maximum(extent[2:], bounds[:, 2:].max(axis=0))
        keys = _curve((bounds[:, 0] + bounds[:, 2]) / 2 - west, (bounds[:, 1] + bounds[:, 3]) / 2 - south, side)
        wide = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]) > side / _WIDE_SHARE
        keys[wide] += np.uint64(_WIDE)
        spill.add(pa.record_batch([keys, fids[keep], codes, *bounds.T, wkb.cast(pa.large_binary())], schema=_SPILLED))
        written += len(codes)
        if progress:
            progress(min(read, total), 2 * total)
    if read < total:
        # GDAL ends a damaged GeoPackage's features early without an error: only the count tells.
        raise InvalidLabels(
            f"{where} declares {total} features but only {read} can be read: the file is damaged or incomplete; "
            "copy or download it again"
        )
    if not written:
        raise InvalidLabels(f"{where} has no polygons among its {total} features")
    if read > written:
        logger.warning("%s: left out %d of %d features: they have no polygon", where, read - written, read)

    geo = {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": [name for kind, name in ((3, "Polygon"), (6, "MultiPolygon")) if kind in kinds],
                "crs": crs,
                "bbox": extent.tolist(),
                "covering": {"bbox": {edge: ["bbox", edge] for edge in _EDGES}},
            }
        },
    }
    about = {
        "name": _name(source.stem, layer),
        "code_column": column,
        "features": written,
        "skipped": read - written,
    }
    done = 0
    with pq.ParquetWriter(
        target,
        _WRITTEN,
        compression="zstd",
        compression_level=3,
        use_dictionary=["code"],
        write_statistics=["code", "fid", *(f"bbox.{edge}" for edge in _EDGES)],
        write_page_checksum=True,
        store_schema=False,
        version="2.6",
    ) as writer:
        for group in _row_groups(spill.sorted()):
            writer.write_table(_as_written(group), row_group_size=len(group))
            done += len(group)
            if progress:
                progress(total + done, 2 * total)
        writer.add_key_value_metadata(
            {"geo": _json(geo), NOMENCLATURE_KEY: nomenclature.to_json(), SOURCE_KEY: _json(about)}
        )
    if progress:
        progress(2 * total, 2 * total)
    return written


def _choose_layer(source: Path, code_column: str | None, layer: str | None) -> tuple[str, str, dict[str, Any]]:
    """The layer, its code column and what pyogrio says about it."""
    try:
        names = [str(name) for name, kind in pyogrio.list_layers(source) if kind is not None]
        if layer is not None and layer not in names:
            raise InvalidLabels(f"{source} has no layer {layer!r} with geometry; it has {', '.join(names) or 'none'}")
        found = {
            name: pyogrio.read_info(source, layer=name, force_feature_count=True, force_total_bounds=True)
            for name in ([layer] if layer else names)
        }
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise InvalidLabels(
            f"{source} cannot be read as polygons ({_one_line(error)}): it is damaged, incomplete or of a format "
            "that GDAL does not read here; copy it again, or convert it: ogr2ogr labels.gpkg SOURCE"
        ) from error
    if not found:
        raise InvalidLabels(f"{source} has no layer with geometry")
    wanted = (code_column or CLC_COLUMN).lower()
    with_column = {
        name: column
        for name, info in found.items()
        for column in info["fields"]
        if column == code_column or column.lower() == wanted
    }
    if not with_column:
        columns = "; ".join(f"{name}: {', '.join(info['fields']) or 'none'}" for name, info in found.items())
        missing = f"no column {code_column!r}" if code_column else f"no column {CLC_COLUMN!r}, so it is not CLC 2018"
        raise InvalidLabels(f"{source} has {missing}; name the one that holds the codes. Columns of {columns}")
    if len(with_column) > 1:
        raise InvalidLabels(
            f"{source} has several layers with a column {code_column or CLC_COLUMN!r}: "
            f"{', '.join(sorted(with_column))}; say which layer"
        )
    ((name, column),) = with_column.items()
    return name, column, found[name]


def _projjson(crs: str, where: str) -> dict[str, Any]:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        document: dict[str, Any] = CRS.from_user_input(crs).to_2d().to_json_dict()
    except CRSError as error:
        raise InvalidLabels(f"{where}: its coordinate reference system cannot be used: {_one_line(error)}") from error
    return document


def _extent(info: dict[str, Any], where: str) -> tuple[float, float, float, float]:
    """Declared extent of the layer: it only scales the curve, so that a wrong one costs speed, not polygons."""
    bounds = info["total_bounds"]
    if bounds is None or not np.isfinite(bounds).all():
        raise InvalidLabels(f"{where} has no polygons: its extent is empty")
    west, south, east, north = (float(value) for value in bounds)
    return west, south, east, north


def _read(source: Path, layer: str, column: str, where: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Batches of (code values, WKB) in the order of the source."""
    try:
        with pyogrio.open_arrow(source, layer=layer, columns=[column], batch_size=_BATCH, use_pyarrow=True) as (
            meta,
            reader,
        ):
            geometry = meta["geometry_name"] or "wkb_geometry"
            for batch in reader:
                wkb = batch.column(geometry)
                if isinstance(wkb, pa.ExtensionArray):
                    wkb = wkb.storage
                yield batch.column(column), wkb
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError, pa.ArrowInvalid) as error:
        raise InvalidLabels(f"{where} cannot be read to its end ({_one_line(error)}): copy it again") from error


def _polygons(
    wkb: pa.Array, fids: NDArray[np.int64], where: str
) -> tuple[NDArray[np.object_], pa.Array, NDArray[np.bool_]]:
    """The polygons among the geometries: as shapes, as two-dimensional WKB, and which of the rows they are."""
    raw = wkb.to_numpy(zero_copy_only=False)
    try:
        shapes = shapely.from_wkb(raw, on_invalid="ignore")
    except NotImplementedError as error:  # shapely's word for circular strings and what is made of them
        raise InvalidLabels(
            f"{where} has curved geometries; make them straight: ogr2ogr -nlt CONVERT_TO_LINEAR"
        ) from error
    present = wkb.is_valid().to_numpy(zero_copy_only=False)
    broken = present & shapely.is_missing(shapes)
    if broken.any():
        raise InvalidLabels(
            f"{where}: feature {fids[broken][0]} (counted from 0) has a damaged geometry; copy the file again, or "
            "repair it: ogr2ogr -makevalid"
        )
    kinds = shapely.get_type_id(shapes)
    changed = (shapely.has_z(shapes) | shapely.has_m(shapes)) & present
    for i in np.flatnonzero(kinds == 7):
        parts = shapely.get_parts(shapely.get_parts(shapes[i]))  # of a collection: polygons, also inside multi ones
        shapes[i] = shapely.multipolygons(parts[shapely.get_type_id(parts) == 3])
        changed[i] = True
    keep = np.isin(shapely.get_type_id(shapes), (3, 6)) & ~shapely.is_empty(shapes)
    if changed.any():
        raw = raw.copy()
        raw[changed] = shapely.to_wkb(shapes[changed], output_dimension=2, byte_order=1)
        wkb = pa.array(raw, type=pa.large_binary())
    return shapes[keep], wkb.filter(pa.array(keep)), keep


def _meanings(nomenclature: Nomenclature) -> dict[str, int]:
    """Code of each value that the code column may hold."""
    meanings = {str(UNLABELLED): UNLABELLED}
    if _is_clc(nomenclature):
        meanings |= _CLC_NOTHING
    return meanings | {c.source: c.code for c in nomenclature.codes}


def _is_clc(nomenclature: Nomenclature) -> bool:
    """Whether these are CLC's codes: its last class, sea and ocean, tells."""
    return any(c.code == 523 and c.grid_code == 44 for c in nomenclature.codes)


def _translate(values: pa.Array, meanings: dict[str, int]) -> NDArray[np.uint16] | None:
    """Codes of a batch, or None if it holds a value without a meaning."""
    distinct = values.unique()
    codes = [meanings.get(_text(value)) for value in distinct.to_pylist()]
    if None in codes:
        return None
    return np.array(codes, np.uint16)[pc.index_in(values, distinct).to_numpy(zero_copy_only=False)]


def _text(value: object) -> str:
    """A code column's value as the nomenclature spells it."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "(empty)" if value is None else str(value).strip()


def _unknown_values(
    source: Path, layer: str, column: str, meanings: dict[str, int], nomenclature: Nomenclature, where: str
) -> InvalidLabels:
    """The error that tells all values without a meaning, from another pass over the column alone."""
    counts: Counter[str] = Counter()
    with pyogrio.open_arrow(source, layer=layer, columns=[column], read_geometry=False, use_pyarrow=True) as (
        _,
        rows,
    ):
        for batch in rows:
            for entry in pc.value_counts(batch.column(column)).to_pylist():
                counts[_text(entry["values"])] += entry["counts"]
    unknown = sorted(
        ((n, value) for value, n in counts.items() if value not in meanings), key=lambda e: (-e[0], e[1])
    )
    return InvalidLabels(
        f"{where}: column {column!r} holds {len(unknown)} value(s) that nomenclature {nomenclature.name!r} does not "
        f"know: {_shown([f'{value} ({n} features)' for n, value in unknown])}. Give the nomenclature a row for each "
        "(an empty class is allowed), or take the features out of the file"
    )


def _curve(x: NDArray[np.float64], y: NDArray[np.float64], side: float) -> NDArray[np.uint64]:
    """Position on a Hilbert curve over the square from (0, 0) with this side; points outside count as on its edge.

    Algorithm: bit by bit from the coarsest square, turning the quadrants (Hilbert 1891; Warren, Hacker's Delight).
    """
    last = (1 << _CURVE_BITS) - 1
    column = np.clip(x / side * last, 0, last).astype(np.uint64)
    row = np.clip(y / side * last, 0, last).astype(np.uint64)
    position = np.zeros(len(x), np.uint64)
    one = np.uint64(1)
    for bit in range(_CURVE_BITS - 1, -1, -1):
        east = column >> np.uint64(bit) & one
        north = row >> np.uint64(bit) & one
        position += (np.uint64(3) * east ^ north) << np.uint64(2 * bit)
        flip = (north == 0) & (east == 1)
        column[flip] = np.uint64(last) - column[flip]
        row[flip] = np.uint64(last) - row[flip]
        swap = north == 0
        column[swap], row[swap] = row[swap], column[swap].copy()
    return position


class _Spill:
    """Rows on disk, apart by the leading bits of their key, so that they can be sorted piece by piece."""

    def __init__(self, folder: Path, shift: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="spill-", dir=folder))
        self._shift = shift
        self._writers: dict[int, tuple[pa.OSFile, pa.RecordBatchWriter]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows of schema ``_SPILLED``."""
        if not len(batch):
            return
        piece = batch.column("key").to_numpy() >> np.uint64(self._shift)
        order = np.argsort(piece, kind="stable")
        pieces, starts = np.unique(piece[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        for number, start, end in zip(pieces.tolist(), starts.tolist(), ends, strict=True):
            if number not in self._writers:
                file = pa.OSFile(str(self._folder / f"{number:x}"), "wb")
                self._writers[number] = (file, pa.ipc.new_stream(file, _SPILLED))
            self._writers[number][1].write_batch(batch.take(pa.array(order[start:end])))

    def sorted(self) -> Iterator[pa.Table]:
        """All rows in order of (key, fid), in tables of bounded size. Can be called once."""
        for file, writer in self._writers.values():
            writer.close()
            file.close()
        for number in sorted(self._writers):
            path = self._folder / f"{number:x}"
            if path.stat().st_size > _SORT_BYTES and self._shift > 0:
                finer = _Spill(self._folder, max(self._shift - _SPLIT_BITS, 0))
                with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                    for batch in reader:
                        finer.add(batch)
                path.unlink()
                yield from finer.sorted()
            else:
                with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
                    table = reader.read_all()
                path.unlink()
                yield table.take(pa.array(np.lexsort((table["fid"].to_numpy(), table["key"].to_numpy()))))


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The rows cut into groups, however the tables cut them.

    Wide polygons, sorted last, share no group with others: they would make its bounding box too large to skip.
    """
    waiting = _SPILLED.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table]).combine_chunks()
        total = np.cumsum(pc.binary_length(waiting["geometry"]).to_numpy())
        first_wide = int(np.searchsorted(waiting["key"].to_numpy(), _WIDE))
        start = 0
        while start < len(waiting):
            before = total[start - 1] if start else 0
            full = int(np.searchsorted(total, before + ROW_GROUP_BYTES, side="right"))
            end = min(start + ROW_GROUP_ROWS, max(full, start + 1))
            if start < first_wide:
                end = min(end, first_wide)
            if end >= len(waiting):
                break
            yield waiting.slice(start, end - start)
            start = end
        waiting = waiting.slice(start)
    yield waiting


def _as_written(group: pa.Table) -> pa.Table:
    group = group.combine_chunks()
    edges = [group[edge].combine_chunks() for edge in _EDGES]
    box = pa.StructArray.from_arrays(edges, fields=list(_WRITTEN.field("bbox").type))
    return pa.table([group["code"], group["fid"], group["geometry"].cast(pa.binary()), box], schema=_WRITTEN)


def _name(*parts: str) -> str:
    """A name for the labels that can be an item's id and a file's name."""
    return re.sub(r"[^\w.-]+", "-", "-".join(dict.fromkeys(parts))).strip(".-") or "labels"


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _shown(values: list[str]) -> str:
    return ", ".join(values[:_SHOWN]) + (f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else "")


# Rasters ------------------------------------------------------------------------------------------------------


def _prepare_raster(source: Path, target: Path, nomenclature: Nomenclature, progress: Progress | None) -> int:
    try:
        with gdal_environment(), open_raster(str(source)) as dataset:
            if dataset.count != 1:
                raise InvalidLabels(f"{source} has {dataset.count} bands; a label raster has one")
            if dataset.crs is None:
                raise InvalidLabels(f"{source} declares no coordinate reference system; set it: gdal_edit.py -a_srs")
            windows = list(_windows(dataset.height, dataset.width))
            steps = 2 * len(windows)
            found: set[int] = set()
            for done, window in enumerate(windows, 1):
                found.update(np.unique(_values(dataset, window, source)).tolist())
                if progress:
                    progress(done, steps)
            found.discard(NODATA)
            values, codes = _codes_of_values(found, nomenclature, source)
            labelled = 0
            with rasterio.open(
                target,
                "w",
                driver="GTiff",
                dtype="uint16",
                count=1,
                height=dataset.height,
                width=dataset.width,
                crs=dataset.crs,
                transform=dataset.transform,
                nodata=NODATA,
                tiled=True,
                blockxsize=_RASTER_BLOCK,
                blockysize=_RASTER_BLOCK,
                compress="deflate",
                predictor=2,
                bigtiff="if_safer",
            ) as written:
                # Before the pixels: GDAL then puts the tags at the front of the file.
                written.update_tags(
                    **{NOMENCLATURE_TAG: nomenclature.to_json(), SOURCE_TAG: _json({"name": _name(source.stem)})}
                )
                for done, window in enumerate(windows, 1):
                    block = codes[np.searchsorted(values, _values(dataset, window, source))]
                    labelled += int(np.count_nonzero(block))
                    written.write(block, 1, window=window)
                    if progress:
                        progress(len(windows) + done, steps)
    except UnreadableAsset as error:
        raise InvalidLabels(str(error)) from error
    except RasterioError as error:
        if "space" in str(error).lower() or "write" in str(error).lower():
            raise StorageError(f"cannot write {target.name}: {_one_line(error)}") from error
        raise InvalidLabels(f"{source} is damaged or incomplete ({_one_line(error)}): copy it again") from error
    return labelled


def _windows(height: int, width: int) -> Iterator[Window]:
    for row in range(0, height, _RASTER_BLOCK):
        for column in range(0, width, _RASTER_BLOCK):
            yield Window(column, row, min(_RASTER_BLOCK, width - column), min(_RASTER_BLOCK, height - row))


def _values(dataset: rasterio.DatasetReader, window: Window, source: Path) -> NDArray[np.int64]:
    """Pixels of the window as integers; 0 where the file masks them."""
    pixels = dataset.read(1, window=window)
    pixels[dataset.read_masks(1, window=window) == 0] = NODATA
    with np.errstate(invalid="ignore"):  # NaN becomes some integer, and differs from it
        values: NDArray[np.int64] = pixels.astype(np.int64)
    if pixels.dtype.kind == "f" and not np.array_equal(values, pixels):
        raise InvalidLabels(f"{source} holds fractions, so its pixels are no codes of land cover")
    return values


def _codes_of_values(
    found: set[int], nomenclature: Nomenclature, source: Path
) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Sorted values (with 0) and the code of each."""
    if not found:
        raise InvalidLabels(f"{source} has no labelled pixels: all are 0 or nodata")
    clc = _is_clc(nomenclature)
    by_grid_code = {c.grid_code: c.code for c in nomenclature.codes if c.grid_code is not None}
    by_code = {c.code: c.code for c in nomenclature.codes}
    readings: tuple[dict[int, int], ...] = (
        (_CLC_NOTHING_GRID if clc else {}) | by_grid_code,
        {UNLABELLED: UNLABELLED} | ({int(v): c for v, c in _CLC_NOTHING.items()} if clc else {}) | by_code,
    )
    for meanings in readings:
        if found <= meanings.keys():
            values = sorted(found | {NODATA})
            return np.array(values), np.array([meanings.get(v, NODATA) for v in values], np.uint16)
    # The reading that explains more of the values is the one that was meant.
    unknown = min((sorted(found - meanings.keys()) for meanings in readings), key=len)
    raise InvalidLabels(
        f"{source} holds {len(unknown)} value(s) that nomenclature {nomenclature.name!r} knows neither as grid code "
        f"nor as code: {_shown([str(v) for v in unknown])}. Give the nomenclature a row for each, or declare the "
        "file's nodata value: gdal_edit.py -a_nodata"
    )
