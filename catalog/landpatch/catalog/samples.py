"""Samples to train on, from an LMDB export: batches of pixels and labels as NumPy arrays.

Values are looked at where LMDB maps the file into memory and copied once, into the batch, band by band: nothing is
parsed, and no array outlives the map. Pixels keep their native size; a model's input is made of a batch, on the GPU
where there is one. Bands and classes have the order in which they are named, for orders differ between programs.

``Samples`` is what PyTorch's DataLoader takes (``len``, ``[]`` and ``__getitems__`` for whole batches), and needs no
PyTorch itself::

    train = Samples("europe.lmdb", bands=("B04", "B03", "B02", "VV", "VH"), split="train")
    loader = DataLoader(train, batch_size=64, shuffle=True, collate_fn=torch.utils.data.default_convert)

Worker processes are seldom of use: handing a sample over costs them ten times what reading it does.

It reads any LMDB of BigEarthNet v2.0's keys with safetensors values, the published one and rico-hdl's too.
"""

import json
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from landpatch.catalog.bands import OPTICAL_ASSETS, PATCH_ASSETS, REFERENCE_MAP, S1, PatchAsset
from landpatch.catalog.errors import InvalidDataset, InvalidLabels, InvalidParameter, StorageError
from landpatch.catalog.nomenclature import clc2018
from landpatch.catalog.splits import Split
from landpatch.catalog.store import METADATA, METADATA_FLAGGED

_ASSET_OF_BAND = {plane: asset for asset in PATCH_ASSETS if asset is not REFERENCE_MAP for plane in asset.planes}
_DTYPES: dict[str, np.dtype[Any]] = {"U16": np.dtype("<u2"), "F32": np.dtype("<f4")}  # the two that patches have
_LENGTH = struct.Struct("<Q")


class Samples:
    """The patches of one split of an LMDB export, in the order of their ids.

    A batch is a dictionary of arrays, n samples each:

    * ``S2_10m``, ``S2_20m``, ``S2_60m``: (n, bands, 120 | 60 | 20, same), uint16 reflectance x 10,000; ``S1``:
      (n, bands, 120, 120), float32 dB. Only those of which a band is asked for.
    * ``reference_map``: (n, 120, 120), uint16 codes of the nomenclature, if asked for
    * ``labels``: (n, classes), float32, 1 where the patch has the class and else 0
    * ``index``: (n,), int64, the samples' numbers: ``patch_ids[i]`` is the patch
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        bands: Sequence[str],
        split: str | None = None,
        classes: Sequence[str] | None = None,
        reference_map: bool = False,
        flagged: bool = False,
        metadata: str | os.PathLike[str] | None = None,
    ) -> None:
        """Read the metadata; the LMDB in the folder ``path`` is opened when a sample is asked for.

        ``bands`` as they are to follow one another in each array (``B02``, ``VV`` ...). ``split``: train, validation
        or test; None takes all. ``classes`` in the order of the labels' columns: ``clc2018().classes`` (by name:
        ConfigILM, the published weights; default) or ``clc2018().original_order`` (TorchGeo). ``flagged``: patches
        with snow, cloud or shadow too. ``metadata`` is the folder of the metadata tables, if not ``path``.

        Raises InvalidParameter, InvalidLabels (a label is no class), InvalidDataset, StorageError.
        """
        self.path = Path(path).absolute()
        self.classes = tuple(clc2018().classes if classes is None else classes)
        self.bands = _by_asset(bands)
        """Names of the bands in each array."""
        self._planes = dict(self.bands)
        if reference_map:
            self._planes[REFERENCE_MAP.key] = REFERENCE_MAP.planes
        self._copies: dict[bytes, list[_Copy]] = {}  # by a value's header
        table = _metadata(Path(metadata or path), split, flagged=flagged)
        self._patch_ids = table.column("patch_id").combine_chunks()
        self._s1_names = table.column("s1_name").combine_chunks()
        if S1.key in self.bands and self._s1_names.null_count:
            raise InvalidParameter(
                f"{self._s1_names.null_count} of {len(table)} patches have no Sentinel-1: do not ask for its bands"
            )
        self._labels = _multi_hot(table.column("labels").combine_chunks(), self.classes)
        self._map: _Map | None = None

    def __len__(self) -> int:
        return len(self._patch_ids)

    @property
    def patch_ids(self) -> list[str]:
        """Of all samples."""
        ids: list[str] = self._patch_ids.to_pylist()
        return ids

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Of all samples, (samples, classes): what weights of classes are reckoned from."""
        return self._labels

    def read(self, indices: Sequence[int], into: dict[str, NDArray[Any]] | None = None) -> dict[str, NDArray[Any]]:
        """These samples as a batch; ``into`` is an earlier batch of as many, which is written over.

        Raises IndexError, InvalidDataset (the LMDB lacks a patch or a band of its metadata), StorageError.
        """
        chosen = np.arange(len(self))[np.asarray(indices, np.int64)]
        batch = self._empty(len(chosen)) if into is None else into
        batch["index"][...] = chosen
        batch["labels"][...] = self._labels[chosen]
        targets = {key: batch[key].reshape(len(chosen), prod(batch[key].shape[1:])) for key in self._planes}
        with self._mapped().begin() as transaction:
            for assets, keys in self._keys(pa.array(chosen)):
                for number, key in enumerate(keys):
                    value = transaction.get(key.encode())
                    if value is None:
                        raise InvalidDataset(f"{self.path} holds no {key}, which is in its metadata: export it again")
                    (length,) = _LENGTH.unpack_from(value)
                    header = bytes(value[: _LENGTH.size + length])
                    copies = self._copies.get(header) or self._learnt(header, assets, key)
                    for copy in copies:
                        pixels = np.frombuffer(value, copy.dtype, copy.last - copy.first, copy.start)
                        targets[copy.array][number, copy.first : copy.last] = pixels
        return batch

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[0] for name, values in self.read([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, NDArray[Any]]:
        """A batch, as PyTorch's DataLoader asks for it."""
        return self.read(indices)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}  # a map is a process's own

    def _keys(self, rows: pa.Array) -> Iterator[tuple[Sequence[PatchAsset], list[str]]]:
        """Of every kind of value that is wanted, what is in it and the keys of these samples."""
        if S1.key in self._planes:
            yield (S1,), self._s1_names.take(rows).to_pylist()
        patches = self._patch_ids.take(rows).to_pylist()
        if any(asset.key in self._planes for asset in OPTICAL_ASSETS):
            yield OPTICAL_ASSETS, patches
        if REFERENCE_MAP.key in self._planes:
            yield (REFERENCE_MAP,), [patch + REFERENCE_MAP.suffix for patch in patches]

    def _empty(self, count: int) -> dict[str, NDArray[Any]]:
        batch: dict[str, NDArray[Any]] = {}
        for asset in PATCH_ASSETS:
            if asset.key in self._planes:
                bands = () if asset is REFERENCE_MAP else (len(self.bands[asset.key]),)
                batch[asset.key] = np.empty((count, *bands, asset.pixels, asset.pixels), asset.dtype)
        batch["labels"] = np.empty((count, len(self.classes)), np.float32)
        batch["index"] = np.empty(count, np.int64)
        return batch

    def _learnt(self, header: bytes, assets: Sequence[PatchAsset], key: str) -> list["_Copy"]:
        """What is copied from values with this header: the same for nearly all. Raises InvalidDataset."""
        tensors = json.loads(header[_LENGTH.size :])
        copies: list[_Copy] = []
        for asset in assets:
            size = asset.pixels**2
            for number, name in enumerate(self._planes.get(asset.key, ())):
                found = tensors.get(name)
                if found is None:
                    raise InvalidDataset(f"{self.path}: {key} lacks the band {name}")
                dtype = _DTYPES.get(found["dtype"])
                if dtype != asset.dtype or found["shape"] != [asset.pixels, asset.pixels]:
                    raise InvalidDataset(
                        f"{self.path}: {key} holds {name} as {found['shape']} of {found['dtype']}, "
                        f"not {asset.pixels} x {asset.pixels} of {asset.dtype}"
                    )
                start = len(header) + found["data_offsets"][0]
                copy = _Copy(asset.key, number * size, (number + 1) * size, np.dtype(asset.dtype), start)
                if copies and copies[-1].ends_at(copy):
                    copy = replace(copies.pop(), last=copy.last)
                copies.append(copy)
        if len(self._copies) >= 256:
            self._copies.clear()
        self._copies[header] = copies
        return copies

    def _mapped(self) -> "_Map":
        if self._map is None or self._map.process != os.getpid():
            self._map = _map_of(self.path)
        return self._map


@dataclass(frozen=True, slots=True)
class _Copy:
    """Pixels ``first`` to ``last`` of a sample in an array of the batch: from byte ``start`` of a value on."""

    array: str
    first: int
    last: int
    dtype: np.dtype[Any]
    start: int

    def ends_at(self, other: "_Copy") -> bool:
        """Whether the other one goes on where this one ends, on both sides."""
        end = self.start + (self.last - self.first) * self.dtype.itemsize
        return (self.array, self.last, end) == (other.array, other.first, other.start)


# --- the file in memory -----------------------------------------------------------------------------------------


class _Map:
    """An LMDB file as one process maps it, closed with its last user."""

    def __init__(self, path: Path) -> None:
        """Raises StorageError."""
        self.process = os.getpid()
        try:
            # What is read next is chosen by chance: reading ahead would read for nothing.
            self._environment = lmdb.open(
                str(path), create=False, readonly=True, lock=False, readahead=False, max_readers=1
            )
        except lmdb.Error as error:
            raise StorageError(f"{path} cannot be opened as LMDB: {error}") from error

    def begin(self) -> Any:
        """A transaction whose values are views of the map: good for nothing once it has ended."""
        return self._environment.begin(buffers=True)

    def close(self) -> None:
        """Let go of the file."""
        self._environment.close()


_maps: WeakValueDictionary[Path, _Map] = WeakValueDictionary()
_opening = threading.Lock()


def _map_of(path: Path) -> _Map:
    """One for all ``Samples`` of a file in this process: LMDB cannot open a file twice."""
    with _opening:
        found = _maps.get(path)
        if found is None:
            found = _maps[path] = _Map(path)
        return found


def _close_inherited() -> None:
    """In a forked child: LMDB's maps are of no use there, and in the way of its own."""
    global _opening
    _opening = threading.Lock()
    for inherited in list(_maps.values()):
        inherited.close()
    _maps.clear()


if hasattr(os, "register_at_fork"):  # not on Windows, where no process is forked
    os.register_at_fork(after_in_child=_close_inherited)


# --- what is asked for ------------------------------------------------------------------------------------------


def _by_asset(bands: Sequence[str]) -> dict[str, tuple[str, ...]]:
    unknown = [band for band in bands if band not in _ASSET_OF_BAND]
    if unknown or not bands or len(set(bands)) != len(bands) or isinstance(bands, str):
        raise InvalidParameter(f"bands are some of {', '.join(_ASSET_OF_BAND)}, each once; not {bands!r}")
    return {
        asset.key: tuple(band for band in bands if band in asset.planes)
        for asset in PATCH_ASSETS
        if not set(bands).isdisjoint(asset.planes)
    }


def _metadata(folder: Path, split: str | None, *, flagged: bool) -> pa.Table:
    if split is not None and split not in tuple(Split):
        raise InvalidParameter(f"{split!r} is no split: {', '.join(Split)}")
    columns = ["patch_id", "labels", "split", "s1_name"]
    names = (METADATA, METADATA_FLAGGED) if flagged else (METADATA,)
    try:
        table = pa.concat_tables(pq.read_table(folder / name, columns=columns) for name in names)
    except FileNotFoundError as error:
        raise StorageError(
            f"{folder} has no metadata table: {error.filename}; `metadata` says where it is"
        ) from error
    except pa.ArrowException as error:
        raise InvalidDataset(f"{folder}: the metadata cannot be read: {error}") from error
    if split is not None:
        table = table.filter(pc.equal(table.column("split"), split))
    return table.sort_by("patch_id")


def _multi_hot(labels: pa.ListArray, classes: Sequence[str]) -> NDArray[np.bool_]:
    numbers = pc.index_in(labels.flatten(), value_set=pa.array(classes, pa.string()))
    if numbers.null_count:
        strange = pc.unique(labels.flatten().filter(pc.is_null(numbers))).to_pylist()
        raise InvalidLabels(f"{strange[0]!r} is a label of the patches and none of the {len(classes)} classes")
    lengths = pc.fill_null(pc.list_value_length(labels), 0).to_numpy()
    hot = np.zeros((len(labels), len(classes)), np.bool_)
    hot[np.repeat(np.arange(len(labels)), lengths), numbers.to_numpy()] = True
    return hot
