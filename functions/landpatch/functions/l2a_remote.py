"""An L1C product on S3 corrected with sen2cor in a container, and its L2A product announced in the inbox.

The product's files are written first, its STAC item last, into the inbox bucket: that is what ``plan`` waits for. A
job that is done again writes the same files again.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.store import Storage, json_bytes
from landpatch.functions.l2a import TIMEOUT, correct


def correct_remote(
    source: str, products: str, inbox: str, *, program: str | None = None, timeout: float = TIMEOUT
) -> str:
    """Correct the zip at ``source`` (s3://); the L2A tree goes below ``products``, its item below ``inbox``.

    Returns the item's address. Needs three times the product on local disk (TMPDIR). Raises as ``l2a.correct``,
    StorageError, InvalidParameter.
    """
    parent, _, name = source.rpartition("/")
    if not source.startswith("s3://") or not name.lower().endswith(".zip"):
        raise InvalidParameter(f"{source}: expected s3://bucket/prefix/<L1C product>.zip")
    with tempfile.TemporaryDirectory(prefix="landpatch-l2a-") as scratch:
        folder = Path(scratch)
        _, _, pieces = Storage.open(parent).stream(name)
        with (folder / name).open("wb") as file:
            for piece in pieces:
                file.write(piece)
        done = correct(folder / name, folder / "out", program=program, timeout=timeout)
        target = Storage.open(f"{products.rstrip('/')}/{done.folder.name}")
        for path in sorted(done.folder.rglob("*")):
            if path.is_file():
                target.put_file(path.relative_to(done.folder).as_posix(), path)
        item = _moved(done.item, done.folder, target.url)
        shutil.copyfile(done.log, folder / "log.txt")
        target.put_file("sen2cor.log", folder / "log.txt")
    Storage.open(inbox).put(f"{item['id']}.json", json_bytes(item))
    return f"{inbox.rstrip('/')}/{item['id']}.json"


def _moved(item: Mapping[str, Any], folder: Path, url: str) -> dict[str, Any]:
    """The item with its files where they have been uploaded to."""
    assets = {
        key: {**asset, "href": f"{url}/{Path(asset['href']).relative_to(folder).as_posix()}"}
        for key, asset in item["assets"].items()
        if Path(asset["href"]).is_relative_to(folder)
    }
    return {**item, "assets": assets, "links": []}
