"""Names of tiles, scenes and patches: the official BigEarthNet v2.0 spelling, parsed and formatted.

Sources: BigEarthNet v2.0 metadata tables (Clasen et al., arXiv:2407.03653); ESA's Sentinel-2 product naming
convention (``MMM_MSIXXX_YYYYMMDDTHHMMSS_Nxxyy_ROOO_Txxxxx_<discriminator>.SAFE``).
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Self

from landpatch.catalog.errors import InvalidName

TILE_PATCHES = 91
"""Whole patches along each side of a Sentinel-2 tile: 109,800 m // 1,200 m."""

_TILE = r"(?:0[1-9]|[1-5]\d|60)[C-HJ-NP-X][A-HJ-NP-Z][A-HJ-NP-V]"
_SCENE = rf"(S2[A-D])_(MSIL1C|MSIL2A)_(\d{{8}}T\d{{6}})_N(\d{{4}})_R(\d{{3}})_T({_TILE})"
_RADAR_SCENE = r"(S1[A-D])_(\w\w)_(GRD[HMF]|SLC_|RTC_)_1S(SH|SV|DH|DV)_(\d{8}T\d{6})"


def _whole(pattern: str) -> re.Pattern[str]:
    # ASCII: \d must not take other scripts' digits. \Z: $ would let a line end pass. Neither would format back.
    return re.compile(rf"{pattern}\Z", re.ASCII)


_SCENE_RE = _whole(rf"{_SCENE}(?:_(\d{{8}}T\d{{6}}))?(?:\.SAFE)?")
_PATCH_RE = _whole(r"(.{44})_(\d\d)_(\d\d)")  # what the scene's 44 characters must be, SceneId knows
_RADAR_SCENE_RE = _whole(rf"{_RADAR_SCENE}(?:_.*)?")
_RADAR_PATCH_RE = _whole(rf"(.{{32}})_({_TILE})_(0|[1-9]\d?)_(0|[1-9]\d?)")
_V1_PATCH_RE = _whole(r"(S2[AB])_(MSIL2A)_(\d{8})T(\d{5,6})_(\d{1,2})_(\d{1,2})")
_TILE_RE = _whole(rf"({_TILE})")


def parse_tile(text: str) -> str:
    """The MGRS tile in ``33UUP``, ``T33UUP`` or ``MGRS-33UUP``, as ``33UUP``.

    A one-digit zone gets its zero (``1CCV`` -> ``01CCV``). Raises InvalidName.
    """
    plain = text.strip().upper().removeprefix("MGRS-").removeprefix("T")
    if re.match(r"\d\D", plain, re.ASCII):
        plain = "0" + plain
    match = _TILE_RE.match(plain)
    if match is None:
        raise InvalidName(f"{text!r} is no Sentinel-2 tile: expected something like 33UUP")
    return match.group(1)


@lru_cache(maxsize=4096)
def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)


@lru_cache(maxsize=4096)
def _written(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y%m%dT%H%M%S}"


def _sensed(text: str, name: str) -> datetime:
    try:
        return _time(text)
    except ValueError as error:
        raise InvalidName(f"{name!r} holds no valid time: {text!r} ({error})") from error


def _position(x: int, y: int, name: object) -> None:
    if not (0 <= x < TILE_PATCHES and 0 <= y < TILE_PATCHES):
        raise InvalidName(f"{str(name)!r} lies outside its tile: x and y run from 0 to {TILE_PATCHES - 1}")


@dataclass(frozen=True, slots=True, order=True)
class SceneId:
    """One Sentinel-2 scene: a product id without its generation time, e.g.
    ``S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP``.

    ``sensed`` is the datatake's start (UTC), ``baseline`` the four digits after ``N`` (``9999``: sen2cor run by
    hand), ``orbit`` the relative orbit 1..143, ``tile`` the MGRS tile without ``T``.
    """

    platform: str
    level: str
    sensed: datetime
    baseline: str
    orbit: int
    tile: str
    _text: str = field(init=False, repr=False, compare=False)  # written once: a tile asks for it 200,000 times

    def __post_init__(self) -> None:
        text = f"{self.platform}_{self.level}_{_written(self.sensed)}_N{self.baseline}_R{self.orbit:03d}_T{self.tile}"
        object.__setattr__(self, "_text", text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a product id, with or without generation time and ``.SAFE``. Raises InvalidName."""
        match = _SCENE_RE.match(text)
        if match is None:
            raise InvalidName(
                f"{text!r} is no Sentinel-2 product id: expected something like "
                "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
            )
        platform, level, sensed, baseline, orbit, tile, _ = match.groups()
        return cls(platform, level, _sensed(sensed, text), baseline, int(orbit), tile)

    def __str__(self) -> str:
        return self._text

    def patch(self, x: int, y: int) -> "PatchId":
        """The id of this scene's patch in column ``x`` from the west and row ``y`` from the north."""
        return PatchId(self, x, y)


@lru_cache(maxsize=4096)
def _scene(text: str) -> SceneId:
    """Tables name few scenes and many patches of each."""
    return SceneId.parse(text)


@dataclass(frozen=True, slots=True, order=True)
class PatchId:
    """One patch: ``<scene>_xx_yy``, both padded to two digits. Raises InvalidName when outside the tile."""

    scene: SceneId
    x: int
    y: int

    def __post_init__(self) -> None:
        _position(self.x, self.y, self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57``. Raises InvalidName."""
        match = _PATCH_RE.match(text)
        if match is None:
            raise InvalidName(
                f"{text!r} is no patch id: expected something like S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57"
            )
        scene, x, y = match.groups()
        try:
            return cls(_scene(scene), int(x), int(y))
        except InvalidName as error:
            raise InvalidName(f"{text!r} is no patch id: {error}") from error

    def __str__(self) -> str:
        return f"{self.scene}_{self.x:02d}_{self.y:02d}"

    @property
    def reference_map(self) -> str:
        """Name of the patch's reference map, without file ending."""
        return f"{self}_reference_map"


@dataclass(frozen=True, slots=True, order=True)
class RadarSceneId:
    """The part of a Sentinel-1 product id that BigEarthNet keeps: ``S1B_IW_GRDH_1SDV_20170612T165809``."""

    platform: str
    mode: str
    product: str
    polarisation: str
    start: datetime
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = f"{self.platform}_{self.mode}_{self.product}_1S{self.polarisation}_{_written(self.start)}"
        object.__setattr__(self, "_text", text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a Sentinel-1 product or item id, whatever follows the start time. Raises InvalidName."""
        match = _RADAR_SCENE_RE.match(text)
        if match is None:
            raise InvalidName(
                f"{text!r} is no Sentinel-1 product id: expected something like S1B_IW_GRDH_1SDV_20170612T165809"
            )
        platform, mode, product, polarisation, start = match.groups()
        return cls(platform, mode, product, polarisation, _sensed(start, text))

    def __str__(self) -> str:
        return self._text

    def patch(self, tile: str, x: int, y: int) -> "RadarPatchName":
        """The name of this scene's patch at a position of a Sentinel-2 tile."""
        return RadarPatchName(self, tile, x, y)


@lru_cache(maxsize=4096)
def _radar_scene(text: str) -> RadarSceneId:
    return RadarSceneId.parse(text)


@dataclass(frozen=True, slots=True, order=True)
class RadarPatchName:
    """The Sentinel-1 half of a patch: ``S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57``, ``x`` and ``y`` *not*
    padded (``..._34VER_0_45`` belongs to ``..._T34VER_00_45``).
    """

    scene: RadarSceneId
    tile: str
    x: int
    y: int

    def __post_init__(self) -> None:
        _position(self.x, self.y, self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a published ``s1_name``. Raises InvalidName."""
        match = _RADAR_PATCH_RE.match(text)
        if match is None:
            raise InvalidName(
                f"{text!r} is no Sentinel-1 patch name: expected something like "
                "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_26_57"
            )
        scene, tile, x, y = match.groups()
        try:
            return cls(_radar_scene(scene), tile, int(x), int(y))
        except InvalidName as error:
            raise InvalidName(f"{text!r} is no Sentinel-1 patch name: {error}") from error

    def __str__(self) -> str:
        return f"{self.scene}_{self.tile}_{self.x}_{self.y}"

    def belongs_to(self, patch: PatchId) -> bool:
        """Whether both names mean the same ground."""
        return (self.tile, self.x, self.y) == (patch.scene.tile, patch.x, patch.y)


@dataclass(frozen=True, slots=True, order=True)
class V1PatchName:
    """A patch name of BigEarthNet v1, ``S2A_MSIL2A_20170613T101031_26_57``: no tile, ``x`` and ``y`` unpadded.

    Published v1 names have quirks: the hour's leading zero may be missing (``T94160``), and seconds may be 60 or
    more. ``sensed`` has them mended (seconds clamped to 59); ``text`` keeps the published spelling.
    """

    platform: str
    sensed: datetime
    x: int
    y: int
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From a published ``s2v1_name``. Raises InvalidName."""
        match = _V1_PATCH_RE.match(text)
        if match is None:
            raise InvalidName(
                f"{text!r} is no BigEarthNet v1 patch name: expected something like S2A_MSIL2A_20170613T101031_26_57"
            )
        platform, _, day, clock, x, y = match.groups()
        clock = clock.rjust(6, "0")
        seconds = min(int(clock[4:]), 59)
        _position(int(x), int(y), text)
        return cls(platform, _sensed(f"{day}T{clock[:4]}{seconds:02d}", text), int(x), int(y), text)

    def __str__(self) -> str:
        return self.text
