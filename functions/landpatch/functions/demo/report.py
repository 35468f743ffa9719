"""A dataset as one self-contained HTML page: counts, pictures of some patches, where the splits lie, the classes."""

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landpatch.catalog import page
from landpatch.catalog.bands import REFERENCE_MAP, S1, S2_10M, PatchAsset
from landpatch.catalog.cogs import read_planes
from landpatch.catalog.errors import LandpatchError
from landpatch.catalog.grid import PATCH_METRES, TileGrid
from landpatch.catalog.items import scene_item_href
from landpatch.catalog.names import TILE_PATCHES, SceneId
from landpatch.catalog.nomenclature import UNLABELLED, Nomenclature
from landpatch.catalog.page import number
from landpatch.catalog.renderings import RENDERINGS
from landpatch.catalog.renderings import picture as rendered
from landpatch.catalog.splits import SPLITS
from landpatch.catalog.store import Dataset
from landpatch.functions.demo.pictures import calmed, mosaic, png, shrunk, true_colour
from landpatch.functions.jobs import Ledger

_RADAR, _MAP = RENDERINGS["s1_composite"], RENDERINGS["reference_map"]
_MOSAIC_PATCHES = 1200  # more would take longer to read than anybody waits for a page
_MOSAIC_PIXELS = 720  # of a mosaic's longer side
_MOST_TILES = 6
_COLUMNS = (
    "id",
    "datetime",
    "assets",
    *(
        f"landpatch:{name}"
        for name in (
            "scene",
            "tile",
            "x",
            "y",
            "split",
            "labels",
            "label_pixels",
            "s1_name",
            "snow",
            "cloud",
            "shadow",
            "contains_seasonal_snow",
            "contains_cloud_or_shadow",
        )
    ),
)
_OUTSIDE = "OUTSIDE"
_NAMES = {"KEPT": "Kept", "NODATA": "No data", "NO_S1": "No Sentinel-1"}
_REASONS = {
    "NODATA": "a pixel of one of the 12 bands is missing: the edge of the satellite's swath",
    "UNLABELLED": "a quarter or more of the reference map has no class",
    "NO_S1": "no Sentinel-1 scene covers the patch wholly",
    "QUALITY": "a quality indicator of the whole scene is not PASSED",
    "CLOUD": "more cloud and shadow than was asked for",
    "SNOW": "more snow than was asked for",
    _OUTSIDE: "positions of the tile that the scene's files do not reach",
}


@dataclass(frozen=True, slots=True)
class _Patch:
    """A row of the catalogue, as far as the page needs it."""

    id: str
    sensed: datetime
    scene: str
    tile: str
    x: int
    y: int
    split: str
    labels: tuple[str, ...]
    label_pixels: tuple[int, ...]
    s1_name: str | None
    snow: float
    cloud: float
    flags: tuple[str, ...]
    hrefs: dict[str, str]
    bytes: int

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "_Patch":
        def own(name: str) -> Any:
            return row[f"landpatch:{name}"]

        assets = {key: asset for key, asset in row["assets"].items() if asset is not None}
        flags = []
        if own("contains_seasonal_snow"):
            flags.append("snow")
        if own("contains_cloud_or_shadow"):
            flags.append("cloud or shadow")
        return cls(
            row["id"],
            row["datetime"],
            own("scene"),
            own("tile"),
            own("x"),
            own("y"),
            own("split"),
            tuple(own("labels") or ()),
            tuple(own("label_pixels") or ()),
            own("s1_name"),
            own("snow") or 0.0,
            (own("cloud") or 0.0) + (own("shadow") or 0.0),
            tuple(flags),
            {key: asset["href"] for key, asset in assets.items()},
            sum(asset.get("file:size") or 0 for asset in assets.values()),
        )


@dataclass(frozen=True, slots=True)
class _Scene:
    """A scene of the ledger: what was kept and dropped, which patch positions its files reach, what its item says."""

    name: str
    kept: int
    dropped: dict[str, int]
    columns: range
    rows: range
    description: str


def write_report(dataset: Dataset, destination: Path, *, title: str = "landpatch", pictures: int = 12) -> Path:
    """Write the page about ``dataset`` to ``destination`` and return that path.

    ``pictures``: how many patches are shown, chosen so that as many classes, splits and scenes as possible are seen.
    Raises InvalidDataset or StorageError if the dataset cannot be read, StorageError if the page cannot be written.
    """
    patches = [_Patch.from_row(row) for row in dataset.table(_COLUMNS).to_pylist()]
    collection = dataset.collection()
    nomenclature = dataset.nomenclature()
    scenes = _scenes(dataset)
    dropped = _dropped(collection, scenes)
    sections = [
        _header(title, patches, scenes, nomenclature),
        _kept_and_dropped(len(patches), dropped),
        _gallery(dataset, _varied(patches, pictures), nomenclature),
        _places(dataset, patches, scenes, nomenclature),
        _classes(patches, nomenclature),
        _scene_table(scenes),
        _go_on(dataset, patches),
    ]
    style = files("landpatch.functions.demo").joinpath("data/report.css").read_text("utf-8")
    return page.write(destination, title, style, sections)


# --- what is known -----------------------------------------------------------------------------------------------


def _scenes(dataset: Dataset) -> list[_Scene]:
    """The scenes of the ledger; none for a dataset that was downloaded or imported."""
    kept: Counter[str] = Counter()
    dropped: dict[str, Counter[str]] = defaultdict(Counter)
    ledger = Ledger(dataset.storage)
    items = {str(job.scene): job.optical for job in ledger.jobs()}
    for entry in ledger.entries():
        kept[entry.scene] += entry.kept
        dropped[entry.scene].update(entry.dropped)
    found = []
    for name, item in sorted(items.items()):
        try:
            document = dataset.storage.get_json(scene_item_href(item))
        except LandpatchError:
            document = {}  # the page then lacks what only the item tells
        columns, rows = _reach(document, SceneId.parse(name))
        description = str((document.get("properties") or {}).get("description") or "")
        reasons = dropped[name]
        outside = TILE_PATCHES**2 - len(columns) * len(rows)
        # The first reason that holds counts; positions that no file reaches are dropped as NODATA, unless the whole
        # scene fell to QUALITY.
        if outside and reasons["NODATA"] >= outside:
            reasons["NODATA"] -= outside
            reasons[_OUTSIDE] = outside
        found.append(_Scene(name, kept[name], {k: v for k, v in reasons.items() if v}, columns, rows, description))
    return found


def _reach(item: dict[str, Any], scene: SceneId) -> tuple[range, range]:
    """Columns and rows of the patches that lie wholly within the scene's files; the whole tile if nothing tells."""
    whole = range(TILE_PATCHES)
    try:
        shape, transform = next(
            (asset["proj:shape"], asset["proj:transform"])
            for asset in item["assets"].values()
            if "proj:shape" in asset and asset.get("proj:transform", [0])[0] == 10
        )
        grid = TileGrid.from_tile(scene.tile)
        west, north = (transform[2] - grid.ulx) / PATCH_METRES, (grid.uly - transform[5]) / PATCH_METRES
        east, south = west + shape[1] * 10 / PATCH_METRES, north + shape[0] * 10 / PATCH_METRES
        columns, rows = (range(math.ceil(a), math.floor(b)) for a, b in ((west, east), (north, south)))
    except (LookupError, TypeError, ValueError, StopIteration):
        return whole, whole
    return tuple(range(max(r.start, 0), min(r.stop, TILE_PATCHES)) for r in (columns, rows))  # type: ignore[return-value]


def _dropped(collection: dict[str, Any], scenes: Sequence[_Scene]) -> dict[str, int]:
    if not scenes:
        return dict(collection.get("landpatch:dropped") or {})
    total: Counter[str] = Counter()
    for scene in scenes:
        total.update(scene.dropped)
    return dict(total.most_common())


def _varied(patches: Sequence[_Patch], count: int) -> list[_Patch]:
    """Patches that together show much: each next one has the most that was not shown yet."""
    shown: Counter[str] = Counter()
    chosen: list[_Patch] = []
    rest = list(patches)
    while rest and len(chosen) < count:

        def worth(patch: _Patch) -> float:
            total = sum(patch.label_pixels) or 1
            value = sum(
                math.sqrt(pixels / total) / (1 + shown[label]) ** 1.5
                for label, pixels in zip(patch.labels, patch.label_pixels, strict=True)
            )
            value += sum(0.5 / (1 + shown[key]) for key in (patch.split, patch.scene))
            # One of each flag is worth seeing, but what lies below the clouds is not.
            for flag in patch.flags:
                value += (0.9 if 0.1 < max(patch.cloud, patch.snow) < 0.6 else -0.5) if not shown[flag] else -1.0
            near = any(patch.tile == p.tile and abs(patch.x - p.x) + abs(patch.y - p.y) <= 2 for p in chosen)
            return value - 0.8 * near

        best = max(rest, key=worth)  # the first of equals: patches come sorted by id
        rest.remove(best)
        chosen.append(best)
        shown.update([*best.labels, best.split, best.scene, *best.flags])
    return sorted(chosen, key=lambda patch: (bool(patch.flags), patch.id))


# --- the page ----------------------------------------------------------------------------------------------------


def _share(part: float, whole: float) -> str:
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.0f} %" if percent >= 1 or percent == 0 else "< 1 %"


def _dates(patches: Iterable[_Patch]) -> str:
    days = sorted({f"{patch.sensed:%Y-%m-%d}" for patch in patches})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _header(
    title: str, patches: Sequence[_Patch], scenes: Sequence[_Scene], nomenclature: Nomenclature | None
) -> str:
    if not patches:
        return (
            f"<header><h1>{escape(title)}</h1><p class=lead>No patch was kept. What was dropped, and why, stands "
            "below.</p></header>"
        )
    names = {patch.scene for patch in patches}
    labels = {label for patch in patches for label in patch.labels}
    radar = sum(S1.key in patch.hrefs for patch in patches)
    total = len({scene.name for scene in scenes} | names)
    tiles = len({patch.tile for patch in patches})
    facts = [
        (number(len(patches)), "patches of 1200 m"),
        (number(total), f"Sentinel-2 scene{'s' * (total != 1)} of {tiles} tile{'s' * (tiles != 1)}"),
        (number(radar), "patches with Sentinel-1"),
    ]
    if nomenclature is not None:
        each = sum(len(patch.labels) for patch in patches) / len(patches)
        facts.append((str(len(labels)), f"of {len(nomenclature.classes)} classes, {each:.1f} a patch"))
    facts.append((f"{sum(patch.bytes for patch in patches) / 1e6:.0f} MB", "in cloud-optimised GeoTIFFs"))
    cells = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for value, what in facts)
    told = " ".join(sorted({scene.description for scene in scenes} - {""}))
    note = f"<p class=note>The scenes say of themselves: {escape(told)}</p>" if told else ""
    return (
        f"<header><h1>{escape(title)}</h1><p class=lead>Sentinel-1 and Sentinel-2 patches"
        f"{' with land-cover labels' if nomenclature else ''}, sensed {_dates(patches)}, in the manner of "
        f"BigEarthNet v2.0.</p>{note}<dl class=facts>{cells}</dl></header>"
    )


def _reason(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " ").capitalize())


def _kept_and_dropped(kept: int, dropped: dict[str, int]) -> str:
    inside = {reason: count for reason, count in dropped.items() if reason != _OUTSIDE}
    whole = kept + sum(inside.values())
    parts = [("KEPT", kept, "in the dataset"), *((r, n, _REASONS.get(r, "")) for r, n in inside.items())]
    bar = "".join(
        f'<span class="k{min(index, 6)}" style="flex-grow:{count}" title="{escape(name)}: {count:,}"></span>'
        for index, (name, count, _) in enumerate(parts)
        if count
    )
    rows = "".join(
        f'<tr><td><i class="dot k{min(index, 6)}"></i>{escape(_reason(name))}'
        f"<td class=n>{number(count)}<td class=n>{_share(count, whole)}<td>{escape(what)}"
        for index, (name, count, what) in enumerate(parts)
    )
    outside = dropped.get(_OUTSIDE, 0)
    note = (
        f"<p class=note>Not counted here: {number(outside)} {_REASONS[_OUTSIDE]} (the ledger has them as NODATA).</p>"
        if outside
        else ""
    )
    return (
        "<section><h2>Kept and dropped</h2>"
        f'<div class=bar role=img aria-label="{kept:,} of {whole:,} patches kept">{bar}</div>'
        "<div class=scroll><table class=reasons><thead><tr><th>What<th class=n>Patches<th class=n>Share"
        f"<th>Why</thead><tbody>{rows}</tbody></table></div>{note}</section>"
    )


def _gallery(dataset: Dataset, patches: Sequence[_Patch], nomenclature: Nomenclature | None) -> str:
    if not patches:
        return ""
    cards = "".join(_card(dataset, patch, nomenclature) for patch in patches)
    return (
        "<section><h2>Some of the patches</h2><p>Each is 1200 m wide, 120 pixels of 10 m. Sentinel-1 is shown with "
        "VV in red, VH in green and the difference of the two in blue, averaged over 3 x 3 pixels for the eye. "
        f"{'Beside each label stands its colour in the reference map.' if nomenclature else ''}</p>"
        f"<div class=cards>{cards}</div></section>"
    )


def _card(dataset: Dataset, patch: _Patch, nomenclature: Nomenclature | None) -> str:
    figures = [("True colour", true_colour(_planes(dataset, patch, S2_10M)))]
    if S1.key in patch.hrefs:
        figures.append(("Sentinel-1", rendered(_RADAR, calmed(_planes(dataset, patch, S1)))))
    chips = "".join(f"<li>{escape(label)}" for label in patch.labels)
    if nomenclature is not None and REFERENCE_MAP.key in patch.hrefs:
        codes = _planes(dataset, patch, REFERENCE_MAP)
        figures.append(("Reference map", rendered(_MAP, codes, nomenclature)))
        chips = _chips(codes[0], patch, nomenclature)
    pictures = "".join(
        f'<figure><img src="{png(picture)}" width=120 height=120 alt="{what} of {escape(patch.id)}">'
        f"<figcaption>{what}</figcaption></figure>"
        for what, picture in figures
    )
    flags = "".join(f"<span class=flag>{escape(flag)}</span>" for flag in patch.flags)
    radar = f"<br>{escape(patch.s1_name)}" if patch.s1_name else ""
    return (
        f"<article><div class=trio>{pictures}</div><ul class=chips>{chips}</ul>"
        f'<p class=meta><span class="badge {escape(patch.split)}">{escape(patch.split)}</span>{flags}'
        f"<time>{patch.sensed:%Y-%m-%d %H:%M} UTC</time></p>"
        f"<p class=ids>{escape(patch.id)}{radar}</p></article>"
    )


def _chips(codes: NDArray[np.uint16], patch: _Patch, nomenclature: Nomenclature) -> str:
    """The labels, largest first, each with its share and the colours that it has in this patch's map."""
    present = Counter(dict(zip(*(v.tolist() for v in np.unique(codes, return_counts=True)), strict=True)))
    by_code = {code.code: code for code in nomenclature.codes}
    order = sorted(zip(patch.label_pixels, patch.labels, strict=True), key=lambda pair: (-pair[0], pair[1]))
    chips = []
    for pixels, label in order:
        colours = [
            by_code[c].colour for c, _ in present.most_common() if c in by_code and by_code[c].class_name == label
        ]
        chips.append(_chip(label, colours, pixels, codes.size))
    others = [c for c, _ in present.most_common() if c not in by_code or not by_code[c].class_name]
    for code in others:
        known = by_code.get(code)
        name = "unlabelled" if code == UNLABELLED or known is None else f"{known.name} (no class)"
        colour = (0x8A, 0x8A, 0x8A) if code == UNLABELLED or known is None else known.colour
        chips.append(_chip(name, [colour], present[code], codes.size, "without"))
    return "".join(chips)


def _chip(label: str, colours: Sequence[tuple[int, int, int]], pixels: int, whole: int, kind: str = "") -> str:
    swatches = "".join(f'<i style="background:#{r:02x}{g:02x}{b:02x}"></i>' for r, g, b in colours)
    return f'<li class="{kind}">{swatches}{escape(label)} <small>{_share(pixels, whole)}</small>'


def _planes(dataset: Dataset, patch: _Patch, asset: PatchAsset) -> NDArray[Any]:
    href = patch.hrefs[asset.key]
    try:
        return read_planes(dataset.storage.get(href), asset)
    except LandpatchError as error:
        raise type(error)(f"{dataset.storage.url}/{href}: {error}") from error


def _places(
    dataset: Dataset, patches: Sequence[_Patch], scenes: Sequence[_Scene], nomenclature: Nomenclature | None
) -> str:
    """Per tile: the split map; per scene, while the dataset is small, mosaics of all its patches."""
    by_tile: dict[str, list[_Patch]] = defaultdict(list)
    for patch in patches:
        by_tile[patch.tile].append(patch)
    tiles = sorted(by_tile, key=lambda tile: (-len(by_tile[tile]), tile))
    blocks = []
    budget = _MOSAIC_PATCHES
    for tile in tiles[:_MOST_TILES]:
        here = by_tile[tile]
        reach = [scene for scene in scenes if SceneId.parse(scene.name).tile == tile]
        columns = range(
            min([p.x for p in here] + [s.columns.start for s in reach if s.columns]),
            max([p.x for p in here] + [s.columns.stop - 1 for s in reach if s.columns]) + 1,
        )
        rows = range(
            min([p.y for p in here] + [s.rows.start for s in reach if s.rows]),
            max([p.y for p in here] + [s.rows.stop - 1 for s in reach if s.rows]) + 1,
        )
        figures = [_split_map(here, columns, rows)]
        for scene in sorted({p.scene for p in here}):
            of_scene = [p for p in here if p.scene == scene]
            if len(of_scene) <= budget:
                budget -= len(of_scene)
                figures += _mosaics(dataset, of_scene, columns, rows, nomenclature)
        counts = Counter(p.split for p in here)
        legend = "".join(
            f'<li><i class="{split}"></i>{split} <small>{number(counts[split])}</small>' for split in SPLITS
        )
        blocks.append(
            f"<h3>Tile {escape(tile)}</h3><ul class=legend>{legend}<li><i class=hollow></i>dropped</ul>"
            f"<div class=wall>{''.join(figures)}</div>"
        )
    if not blocks:
        return ""
    more = len(tiles) - _MOST_TILES
    rest = f"<p class=note>{number(more)} more tiles are not shown.</p>" if more > 0 else ""
    return (
        "<section><h2>Where they lie</h2><p>A patch's split follows from its position in its tile alone, in three "
        f"concentric areas of its {TILE_PATCHES} x {TILE_PATCHES} positions, so that the same ground is never in two "
        f"splits of one tile.</p>{''.join(blocks)}{rest}</section>"
    )


def _split_map(patches: Sequence[_Patch], columns: range, rows: range) -> str:
    """All positions between ``columns`` and ``rows``: kept ones in their split's colour, others hollow."""
    split_of = {(p.x, p.y): p.split for p in patches}
    gap = 0.08
    paths: dict[str, list[str]] = defaultdict(list)
    for y in rows:
        for x in columns:
            side = 1 - 2 * gap
            paths[split_of.get((x, y), "hollow")].append(
                f"M{x - columns.start + gap:g} {y - rows.start + gap:g}h{side:g}v{side:g}h-{side:g}z"
            )
    drawn = "".join(f'<path class="{split}" d="{"".join(path)}"/>' for split, path in sorted(paths.items()))
    width, height = len(columns), len(rows)
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role=img aria-label="Split of each patch">'
        f"{drawn}</svg>"
        f"<figcaption>{_whole_tile(columns, rows)}Split by position: x {columns.start} to {columns.stop - 1}, "
        f"y {rows.start} to {rows.stop - 1}; the small square is the whole tile</figcaption></figure>"
    )


def _whole_tile(columns: range, rows: range) -> str:
    """The three areas of a tile, and where the map lies in it. Sizes: BigEarthNet v2.0's rule in ``splits``."""
    return (
        f'<svg class=overview viewBox="0 0 {TILE_PATCHES} {TILE_PATCHES}" aria-hidden=true>'
        f'<path class=train d="M0 0h{TILE_PATCHES}v{TILE_PATCHES}h-{TILE_PATCHES}z"/>'
        '<path class=validation d="M13 13h65v65h-65z"/><path class=test d="M23 23h46v46h-46z"/>'
        f'<path class=here d="M{columns.start} {rows.start}h{len(columns)}v{len(rows)}h-{len(columns)}z"/></svg>'
    )


def _mosaics(
    dataset: Dataset, patches: Sequence[_Patch], columns: range, rows: range, nomenclature: Nomenclature | None
) -> list[str]:
    """All patches of one scene side by side: true colour, Sentinel-1, reference map."""
    pixels = next(p for p in (40, 30, 24, 20, 15, 12, 10, 8, 6) if p * max(len(columns), len(rows)) <= _MOSAIC_PIXELS)
    kinds = [("True colour", S2_10M), ("Sentinel-1", S1)]
    if nomenclature is not None:
        kinds.append(("Reference maps", REFERENCE_MAP))
    figures = []
    for what, asset in kinds:
        pictures = {}
        for patch in patches:
            if asset.key not in patch.hrefs:
                continue
            planes = _planes(dataset, patch, asset)
            if asset is REFERENCE_MAP and nomenclature is not None:
                step = planes.shape[1] // pixels
                pictures[patch.x, patch.y] = rendered(
                    _MAP, planes[:, step // 2 :: step, step // 2 :: step], nomenclature
                )
            elif asset is S1:
                # Averaged as power, not as dB: speckle is multiplicative.
                power = shrunk(10 ** (planes.astype(np.float64) / 10), pixels)
                pictures[patch.x, patch.y] = rendered(_RADAR, (10 * np.log10(power)).astype(np.float32))
            else:
                pictures[patch.x, patch.y] = true_colour(shrunk(planes, pixels).astype(np.uint16))
        if pictures:
            day = f"{patches[0].sensed:%Y-%m-%d}"
            figures.append(
                f'<figure><img src="{png(mosaic(pictures, columns, rows, pixels))}" '
                f'alt="{what} of all patches of {escape(patches[0].scene)}">'
                f"<figcaption>{what}, {len(pictures):,} patches, {day}</figcaption></figure>"
            )
    return figures


def _classes(patches: Sequence[_Patch], nomenclature: Nomenclature | None) -> str:
    if nomenclature is None or not patches:
        return ""
    counts = {split: Counter(label for p in patches if p.split == split for label in p.labels) for split in SPLITS}
    total = sum(counts.values(), Counter())
    most = max(total.values(), default=1)
    colours: dict[str, tuple[int, int, int]] = {}
    for code in nomenclature.codes:
        colours.setdefault(code.class_name, code.colour)
    rows = []
    for label in sorted(nomenclature.classes, key=lambda label: (-total[label], label)):
        if not total[label]:
            continue
        bars = "".join(
            f'<span class="{split}" style="width:{100 * counts[split][label] / most:.2f}%" '
            f'title="{split}: {counts[split][label]:,}"></span>'
            for split in SPLITS
        )
        r, g, b = colours[label]
        numbers = "".join(f"<td class=n>{number(counts[split][label])}" for split in SPLITS)
        rows.append(
            f'<tr><th scope=row><i class=swatch style="background:#{r:02x}{g:02x}{b:02x}"></i>{escape(label)}'
            f"<td class=bars><div>{bars}</div><td class=n>{number(total[label])}{numbers}"
        )
    missing = [label for label in nomenclature.classes if not total[label]]
    note = f"<p class=note>Not in this dataset: {escape('; '.join(missing))}.</p>" if missing else ""
    heads = "".join(f'<th class=n><i class="dot {split}"></i>{split}' for split in SPLITS)
    splits = Counter(p.split for p in patches)
    foot = "".join(f"<td class=n>{number(splits[split])}" for split in SPLITS)
    return (
        "<section><h2>Classes</h2><p>Patches in which a class has at least one pixel; a patch has several.</p>"
        "<div class=scroll><table class=classes><thead><tr><th>Class<th class=bars><th class=n>Patches"
        f"{heads}</thead><tbody>{''.join(rows)}</tbody><tfoot><tr><th scope=row>All patches<td class=bars>"
        f"<td class=n>{number(len(patches))}{foot}</tfoot></table></div>{note}</section>"
    )


def _scene_table(scenes: Sequence[_Scene]) -> str:
    if not scenes:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(scene.name)}<td class=n>{number(scene.kept)}<td>"
        + (
            escape(
                ", ".join(
                    f"{_reason(reason)} {number(count)}"
                    for reason, count in scene.dropped.items()
                    if reason != _OUTSIDE
                )
            )
            or "none"
        )
        for scene in scenes
    )
    return (
        "<section><h2>Scenes</h2><div class=scroll><table class=scenes><thead><tr><th>Scene<th class=n>Kept"
        f"<th>Dropped</thead><tbody>{rows}</tbody></table></div></section>"
    )


def _go_on(dataset: Dataset, patches: Sequence[_Patch]) -> str:
    url = dataset.storage.url
    word = shlex.quote(url)
    commands = [
        ("What is done, dropped and failed, and why", f"landpatch status {word}"),
        ("LMDB for training, as BigEarthNet v2.0's readers open it", f"landpatch export lmdb {word} patches.lmdb"),
        ("The official folder tree, one file a band", f"landpatch export folders {word} BigEarthNet"),
        (
            "The catalogue in DuckDB",
            f"SELECT id, \"landpatch:labels\" FROM '{url}/items.parquet' WHERE \"landpatch:split\" = 'test';",
        ),
        ("The same in GeoPandas", f'geopandas.read_parquet("{url}/items.parquet")'),
        (
            "Your own scenes",
            "landpatch labels prepare U2018_CLC2018_V2020_20u1.gpkg clc2018.parquet\n"
            "landpatch build S2_ITEM.json --s1 S1_ITEM.json --labels clc2018.parquet --to my-dataset",
        ),
    ]
    if patches and S2_10M.key in patches[0].hrefs:
        href = shlex.quote(f"{url}/{patches[0].hrefs[S2_10M.key]}")
        commands.insert(3, ("One patch's 10 m bands, as any program sees them", f"rio info {href}"))
    steps = "".join(f"<dt>{escape(what)}<dd><pre>{escape(command)}</pre>" for what, command in commands)
    return f"<section><h2>How to go on</h2><dl class=steps>{steps}</dl></section>"
