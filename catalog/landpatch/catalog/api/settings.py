"""What one may set of the STAC API."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from landpatch.catalog.errors import InvalidParameter


def cache_folder() -> Path:
    """Where derived, disposable files of datasets lie: ``$XDG_CACHE_HOME/landpatch`` or ``~/.cache/landpatch``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "landpatch"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one application. Raises InvalidParameter where they contradict each other."""

    title: str = "landpatch"
    description: str = "Land-cover patches of Sentinel-1 and Sentinel-2"
    landing_id: str = "landpatch"

    page: int = 1000
    """Most items of a page; an item has 7 to 8 kB."""
    page_bytes: int | None = None
    """Most bytes of a page's items; AWS Lambda answers with 6 MB at most."""
    body_bytes: int = 1_000_000
    """Most bytes of a request."""
    seconds: float = 10.0
    """Most time of one search."""
    watch_seconds: float = 2.0
    """How often datasets are looked at for changes."""
    threads: int | None = None
    """Threads that one search may use; None: cores, but no more than 4."""

    assets: Literal["served", "presigned"] = "served"
    """How clients reach the files of a dataset: below ``/assets``, or by presigned S3 URLs (S3 only)."""
    presigned_seconds: int = 3600
    cache: Path | None = field(default_factory=cache_folder)
    """Folder for derived files; None: everything in memory."""
    previews: bool = False
    """Whether items link to their previews, which ``service.add_previews`` serves."""
    access_log: bool = True
    """One line of JSON a request to the logger ``landpatch.access``."""
    compress: bool = True
    """Answers in Brotli for clients that take it; costs 10 ms a megabyte."""

    def __post_init__(self) -> None:
        if self.page < 1 or self.body_bytes < 1 or self.seconds <= 0 or self.presigned_seconds < 1:
            raise InvalidParameter("page, body_bytes, seconds and presigned_seconds are positive numbers")
