"""The patch files that an export reads: which they are, whether they are sound, and the state they are in together.

Every file is compared with the checksum in its item before its pixels go anywhere.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from landpatch.catalog.bands import PATCH_ASSETS, PatchAsset
from landpatch.catalog.cogs import read_planes_into
from landpatch.catalog.errors import InvalidDataset, InvalidParameter, UnreadableAsset
from landpatch.catalog.store import ITEMS, Dataset, NotFound, Storage

_SHA256 = "1220"  # multihash (multiformats.io): code 0x12 = sha-256, length 0x20
_SHOWN = 5  # problems in one message; more would hide the first


class DamagedFile(InvalidDataset):
    """A patch file is missing, damaged or not the one that its item describes."""


@dataclass(frozen=True, slots=True)
class PatchFile:
    """One asset of a patch: ``href`` relative to the dataset's root, ``checksum`` as a sha-256 multihash."""

    patch_id: str
    asset: PatchAsset
    href: str
    checksum: str

    def read(self, storage: Storage) -> NDArray[Any]:
        """The pixels (planes, pixels, pixels). Raises DamagedFile naming patch and file, StorageError."""
        planes = np.empty((len(self.asset.planes), self.asset.pixels, self.asset.pixels), self.asset.dtype)
        self.read_into(storage, list(planes))
        return planes

    def read_into(self, storage: Storage, planes: Sequence[NDArray[Any]]) -> None:
        """Fill ``planes``, a contiguous array (pixels, pixels) each. Raises as ``read`` does."""
        where = f"patch {self.patch_id}: {storage.url}/{self.href}"
        try:
            data = storage.get(self.href)
        except NotFound as error:
            raise DamagedFile(f"{where} is missing") from error
        if _SHA256 + hashlib.sha256(data).hexdigest() != self.checksum:
            raise DamagedFile(f"{where} ({len(data)} bytes) does not have the checksum that its item records")
        try:
            read_planes_into(data, self.asset, planes)
        except UnreadableAsset as error:
            raise DamagedFile(f"{where}: {error}") from error


def asset_columns(assets: Sequence[PatchAsset], *fields: str) -> list[str]:
    """Names under which Parquet knows these fields of these assets in ``items.parquet``."""
    return [f"assets.{asset.key}.{field}" for asset in assets for field in fields]


def asset_field(table: pa.Table, asset: PatchAsset, field: str) -> pa.ChunkedArray:
    """One field of an asset, null for patches without the asset. Raises InvalidDataset if there is no such column."""
    try:
        return pc.struct_field(table.column("assets"), [asset.key, field])
    except (KeyError, pa.ArrowInvalid) as error:
        raise InvalidDataset(
            f"{ITEMS} has no column assets.{asset.key}.{field}: it is none of landpatch's"
        ) from error


def chosen_rows(dataset: Dataset, columns: Sequence[str], where: Collection[str] | None) -> pa.Table:
    """``id`` and ``columns`` of the dataset's items, of the patches ``where`` (None: all), in the items' order.

    Raises InvalidParameter if a patch in ``where`` is not in the dataset.
    """
    table = dataset.table(["id", *columns])
    if where is None:
        return table
    wanted = pa.array(sorted(set(where)), pa.string())
    unknown = wanted.filter(pc.invert(pc.is_in(wanted, table.column("id").combine_chunks())))
    if len(unknown):
        raise InvalidParameter(
            f"{len(unknown)} of the patches asked for are not in {dataset.storage.url}, first {unknown[0].as_py()}"
        )
    return table.filter(pc.is_in(table.column("id"), wanted))


def fingerprints(dataset: Dataset, where: Collection[str] | None = None) -> dict[str, str]:
    """Of each scene of a dataset, a digest of which patches it has and of what is in their files.

    Equal digests mean that an export would write the same. Raises InvalidDataset where no item has a file of ours.
    """
    columns = ["landpatch:scene", "landpatch:s1_name", "proj:code", *asset_columns(PATCH_ASSETS, "file:checksum")]
    table = chosen_rows(dataset, columns, where)
    checksums = [asset_field(table, asset, "file:checksum") for asset in PATCH_ASSETS]
    if table.num_rows and all(column.null_count == table.num_rows for column in checksums):
        raise InvalidDataset(
            f"the items of {dataset.storage.url} have no files that could be exported (it was imported from tables "
            "alone): import the official folders or archives"
        )
    parts = [
        pc.fill_null(column, "-")
        for column in (
            table.column("id"),
            table.column("landpatch:s1_name"),
            table.column("proj:code"),
            *checksums,
        )
    ]
    digests: dict[str, Any] = {}
    lines = pa.table({"scene": table.column("landpatch:scene"), "line": pc.binary_join_element_wise(*parts, "\n")})
    for batch in lines.to_batches(max_chunksize=8192):
        for scene, line in zip(batch["scene"].to_pylist(), batch["line"].to_pylist(), strict=True):
            digests.setdefault(scene, hashlib.sha256()).update(line.encode() + b"\n\n")
    return {scene: digest.hexdigest() for scene, digest in sorted(digests.items())}


def damage_report(problems: Sequence[str], kept: str) -> InvalidDataset:
    """One error for all files that could not be exported; ``kept`` says where the others are."""
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return InvalidDataset(
        f"{len(problems)} file(s) could not be exported: {'; '.join(problems[:_SHOWN])}{more}. {kept} "
        "Restore the damaged files, or build their scenes again, then run the same command: it goes on from here"
    )


def batches(total: int, size: int) -> Iterator[range]:
    """0..total in ranges of ``size``."""
    for start in range(0, total, size):
        yield range(start, min(start + size, total))
