"""Python imports this at its start where this folder is on PYTHONPATH: it hides packages that only tests need.

Pyarrow imports pandas, and rasterio boto3, wherever they are installed: 1.5 CPU s in each process that somebody who
installs landpatch does not pay, because it depends on neither.
"""

import sys
from importlib.abc import MetaPathFinder

HIDDEN = ("boto3", "pandas")


class _Absent(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:  # noqa: ARG002
        if fullname in HIDDEN:
            raise ModuleNotFoundError(f"No module named {fullname!r} (hidden by the benchmark)", name=fullname)


sys.meta_path.insert(0, _Absent())
