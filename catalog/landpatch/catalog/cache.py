"""Where derived, disposable files lie on this machine: what can be made again and need not be kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/landpatch`` or ``~/.cache/landpatch`` (XDG Base Directory Specification: a relative path in
    the variable is ignored).
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "landpatch"
