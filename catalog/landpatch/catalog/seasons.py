"""Meteorological seasons: which months they are, and which season a moment at a place belongs to."""

from collections.abc import Mapping
from datetime import datetime

from landpatch.catalog.grid import BANDS

SEASONS: Mapping[str, frozenset[int]] = {
    "spring": frozenset({3, 4, 5}),
    "summer": frozenset({6, 7, 8}),
    "autumn": frozenset({9, 10, 11}),
    "winter": frozenset({12, 1, 2}),
}
"""Meteorological seasons of the **northern** hemisphere as months; south of the equator summer is ``winter``'s."""


def season_of(moment: datetime, tile: str) -> str:
    """The season at an MGRS tile (``33UUP``): latitude bands from N on lie north of the equator."""
    southern = BANDS.index(tile[2]) < BANDS.index("N")
    month = (moment.month + 6 * southern - 1) % 12 + 1
    return next(name for name, months in SEASONS.items() if month in months)
