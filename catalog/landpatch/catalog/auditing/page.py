"""An audit as one self-contained HTML page: verdict, maps of the splits, distances, labels, findings."""

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path, PurePath

import numpy as np
import pyproj
from numpy.typing import NDArray
from PIL import Image

from landpatch.catalog import page
from landpatch.catalog.auditing.auditor import Audit
from landpatch.catalog.auditing.findings import Severity
from landpatch.catalog.grid import PATCH_METRES, TILE_METRES, TileGrid
from landpatch.catalog.leakage import BIN_METRES, Patches, Relation
from landpatch.catalog.names import TILE_PATCHES
from landpatch.catalog.page import number
from landpatch.catalog.splits import SPLITS, Split

# The style sheet's colours on paper, for pictures, which cannot follow a dark screen.
_COLOURS = np.array([[0x3B, 0x6F, 0xB6], [0xE3, 0xA2, 0x1A], [0xB5, 0x38, 0x6A], [0xA8, 0xAE, 0xAA]], np.uint8)
_MAP_PIXELS = 900  # of the longer side
_FINE = 3  # pixels of the map are averaged from so many squared: splits that alternate mix instead of flickering
_CELL = 6  # pixels of a patch in the large picture of one tile
_MOST_TILES = 72
_MOST_FINDINGS = 200
_FARTHEST = 60  # bins of the distances that are drawn


def write_page(audit: Audit, destination: Path) -> Path:
    """Write the page to ``destination`` and return that path. Raises StorageError."""
    title = f"Audit of {' and '.join(PurePath(source).name or source for source in audit.sources)}"
    grids = _split_grids(audit.patches)
    sections = [_header(audit, title), _relations(audit), _maps(grids), _tiles(grids), _distances(audit)]
    sections += [_buffers(audit), _labels(audit), _findings(audit)]
    style = files("landpatch.catalog").joinpath("data/audit.css").read_text("utf-8")
    return page.write(destination, title, style, sections)


def _share(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 0.05:
        return "< 0.1 %"
    return "> 99.9 %" if 99.95 <= percent < 100 else f"{percent:.1f} %"


# --- words -------------------------------------------------------------------------------------------------------


def _header(audit: Audit, title: str) -> str:
    errors, warnings = (audit.findings.number(severity) for severity in (Severity.ERROR, Severity.WARNING))
    if errors:
        verdict, kind = f"{number(errors)} error{'s' * (errors != 1)}", "error"
    elif warnings:
        verdict, kind = f"no errors, {number(warnings)} warning{'s' * (warnings != 1)}", "warning"
    else:
        verdict, kind = "nothing to find fault with", "good"
    found, checked = audit.leakage, audit.checked
    facts = [
        (number(len(audit.patches)), "patches"),
        (number(len(audit.patches.tiles)), "tiles"),
        (number(len(audit.patches.scenes)), "scenes"),
        *((number(found.patches[split.value]), split.value) for split in SPLITS),
    ]
    if found.unsplit:
        facts.append((number(found.unsplit), "in no split"))
    if checked.files:
        facts.append((number(checked.files), f"files looked for, {number(checked.read)} read"))
    rule = (
        "Its splits, as they are recorded."
        if audit.rule == "recorded"
        else f"Its patches, split by the rule of {audit.rule} instead of their own."
    )
    cells = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for value, what in facts)
    return (
        f"<header><h1>{escape(title)}</h1><p class=lead>{escape(rule)}</p>"
        f"<p class=id>{escape(', '.join(audit.sources))}</p>"
        f'<p class="verdict {kind}">{verdict}</p>'
        f"<dl class=facts>{cells}</dl></header>"
    )


def _relations(audit: Audit) -> str:
    cards = "".join(_relation(relation) for relation in audit.leakage.relations if relation.patches)
    if not cards:
        return ""
    return (
        "<section><h2>How far apart are the splits?</h2><p>Patches that touch show the same field, forest or lake to "
        f"both sides of a test; a score then says little about other places.</p><div class=trio>{cards}</div>"
        "</section>"
    )


def _relation(relation: Relation) -> str:
    touching = relation.overlap + relation.edge + relation.corner
    kinds = ("overlap", relation.overlap), ("edge", relation.edge), ("corner", relation.corner)
    bar = "".join(
        f'<span class="{name}" style="width:{100 * count / relation.patches:.3f}%"></span>' for name, count in kinds
    )
    told = ", ".join(
        f"{what} {_share(count, relation.patches)}"
        for what, count in (
            ("share ground with one", relation.overlap),
            ("an edge", relation.edge),
            ("a corner only", relation.corner),
        )
    )
    rows = "".join(
        f"<tr><td>within {metres / 1000:g} km<td class=n>{number(count)}<td class=n>{_share(count, relation.patches)}"
        for metres, count in relation.within.items()
        if metres
    )
    nearest = ""
    if relation.nearest is not None:
        near = relation.nearest
        nearest = (
            f"<p class=note>Nearest centres: <b>{near.grid_metres / 1000:.3f} km</b> on the UTM grid, "
            f"{near.ground_metres / 1000:.3f} km on the ellipsoid.<br><span class=id>{escape(near.patch)}<br>"
            f"{escape(near.other)}</span></p>"
        )
    return (
        f"<article><h3>{escape(relation.of)} beside {escape(relation.to)}</h3>"
        f"<div class=big>{_share(touching, relation.patches)} "
        f"<small>touch a {escape(relation.to)} patch</small></div>"
        f"<div class=bar>{bar}</div><p class=note>{told}; an edge within one scene "
        f"{_share(relation.edge_same_scene, relation.patches)}</p>{nearest}<table>{rows}</table></article>"
    )


def _buffers(audit: Audit) -> str:
    rows = "".join(
        f"<tr><td>{'more than 0: none touch' if not buffer.metres else f'more than {buffer.metres / 1000:g} km'}"
        + "".join(f"<td class=n>{number(count)}" for count in buffer.left_out.values())
        + f"<td class=n>{100 * buffer.share:.1f} %"
        for buffer in audit.leakage.buffers
    )
    same = audit.leakage.same_ground
    return (
        "<section><h2>What distance would cost</h2><p>Patches to leave out so that the squares of any two splits lie "
        "so far apart. Validation gives way to train and test, test to train.</p><div class=scroll><table>"
        "<thead><tr><th>Between splits<th class=n>validation<th class=n>test<th class=n>of all patches</thead>"
        f"<tbody>{rows}</tbody></table></div><p class=note>The same ground: {number(same.several_dates)} patches "
        f"have their place at several dates ({number(same.dates_across_splits)} of them in several splits); "
        f"{number(same.two_tiles)} share ground with a patch of another tile, "
        f"{number(same.tiles_across_splits)} with one of another split "
        f"({same.square_km_across_splits:,.0f} of {same.square_km:,.0f} km\u00b2).</p></section>"
    )


def _labels(audit: Audit) -> str:
    shares = {split: audit.labels.shares(split.value) for split in SPLITS}
    names = sorted(shares[Split.TRAIN], key=lambda name: -max(share[name] for share in shares.values()))
    most = max((share[name] for share in shares.values() for name in names), default=0.0)
    if not most:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}<td class=bars>"
        + "".join(
            f'<span class="{split}" style="width:{100 * shares[split][name] / most:.2f}%"></span>' for split in SPLITS
        )
        + "".join(f"<td class=n>{100 * shares[split][name]:.1f} %" for split in SPLITS)
        for name in names
    )
    told = []
    for one, other in ((Split.TRAIN, Split.VALIDATION), (Split.TRAIN, Split.TEST), (Split.VALIDATION, Split.TEST)):
        divergence = audit.labels.divergence(one.value, other.value)
        if divergence is not None:
            told.append(f"{one} and {other} {divergence:.4f}")
    heads = "".join(f'<th class=n><i class="{split}"></i>{split}' for split in SPLITS)
    return (
        "<section><h2>Labels</h2><p>Share of a split's patches that have each label. Jensen-Shannon divergence in "
        f"bits (0 the same, 1 nothing in common): {', '.join(told)}.</p><div class=scroll><table><thead><tr><th>Label"
        f"<th class=bars>{heads}</thead><tbody>{rows}</tbody></table></div></section>"
    )


def _findings(audit: Audit) -> str:
    if not audit.findings.counts:
        return ""
    order = list(Severity)
    kept = sorted(audit.findings.kept, key=lambda finding: order.index(finding.severity))
    rows = "".join(
        f'<tr><td class="{finding.severity}">{finding.severity}<td>{finding.kind}'
        f"<td class=id>{escape(finding.patch or finding.file)}<td>{escape(finding.text)}"
        for finding in kept[:_MOST_FINDINGS]
    )
    counts = sorted(audit.findings.counts.items(), key=lambda entry: order.index(entry[0][0]))
    told = ", ".join(f"{severity} {kind} {number(count)}" for (severity, kind), count in counts)
    return (
        f"<section><h2>Findings</h2><p>{told}. The first of each kind:</p><div class=scroll><table><thead><tr>"
        f"<th>Severity<th>Kind<th>Where<th>What, and what to do</thead><tbody>{rows}</tbody></table></div></section>"
    )


# --- pictures ----------------------------------------------------------------------------------------------------


_Grids = dict[str, NDArray[np.int8]]


def _split_grids(patches: Patches) -> _Grids:
    """Of each tile the split codes by [y, x]; 3 is a patch of no split, -1 no patch."""
    names, tile = patches.tiles, patches.tile
    whole = np.full((len(names), TILE_PATCHES, TILE_PATCHES), -1, np.int8)
    whole[tile, patches.y, patches.x] = np.where(patches.split < 0, 3, patches.split)
    return dict(zip(names, whole, strict=True))


def _png(picture: NDArray[np.uint8]) -> str:
    """A picture (rows, columns, 4) as a ``data:`` URI."""
    image = Image.fromarray(picture)
    target = io.BytesIO()
    image.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(target, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode("ascii")


def _coloured(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    picture = np.zeros((*codes.shape, 4), np.uint8)
    picture[..., :3] = _COLOURS[np.maximum(codes, 0)]
    picture[..., 3] = np.where(codes < 0, 0, 255)
    return picture


def _legend(*more: str) -> str:
    entries = [f'<li><i class="{split}"></i>{split}' for split in SPLITS]
    return f"<ul class=legend>{''.join([*entries, *more])}</ul>"


def _maps(grids: _Grids) -> str:
    if not grids:
        return ""
    largest = max(grids, key=lambda tile: int((grids[tile] >= 0).sum()))
    return (
        f"<section><h2>Where they lie</h2>{_legend('<li><i class=dot></i>test that touches train')}"
        f"<div class=maps>{_overview(grids)}<figure class=zoom><img src='{_png(_zoom(grids[largest]))}' "
        f"alt='Splits of tile {escape(largest)}'><figcaption>Tile {escape(largest)}, one square a patch of 1200 m; a "
        "dot marks test patches that touch a train patch of the tile.</figcaption></figure></div></section>"
    )


def _zoom(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    picture = np.kron(_coloured(codes), np.ones((_CELL, _CELL, 1), np.uint8))
    picture[_CELL - 1 :: _CELL, :, 3] = 0
    picture[:, _CELL - 1 :: _CELL, 3] = 0
    train = np.pad(codes == SPLITS.index(Split.TRAIN), 1)
    size = TILE_PATCHES
    beside = np.any(
        [train[1 + i : 1 + i + size, 1 + j : 1 + j + size] for i in (-1, 0, 1) for j in (-1, 0, 1)], axis=0
    )
    for y, x in zip(*np.nonzero(beside & (codes == SPLITS.index(Split.TEST))), strict=True):
        picture[y * _CELL + 1 : y * _CELL + 4, x * _CELL + 1 : x * _CELL + 4] = (0x11, 0x11, 0x11, 255)
    return picture


def _overview(grids: _Grids) -> str:
    """All tiles on one equal-area map; each pixel asks the tiles what lies there."""
    places = {tile: TileGrid.from_tile(tile) for tile in grids}
    corners = np.concatenate(
        [_degrees(grid, np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])) for grid in places.values()]
    )
    towards = np.exp(1j * np.radians(corners[:, 0])).mean()  # a mean that knows no edge at 180 degrees
    centre = math.degrees(math.atan2(towards.imag, towards.real))
    equal_area = f"+proj=laea +lat_0={corners[:, 1].mean():.3f} +lon_0={centre:.3f} +datum=WGS84 +units=m"
    to_map = pyproj.Transformer.from_crs(4326, equal_area, always_xy=True)
    x, y = to_map.transform(*corners.T)
    margin = 0.03 * max(np.ptp(x), np.ptp(y))
    west, north = x.min() - margin, y.max() + margin
    width, height = np.ptp(x) + 2 * margin, np.ptp(y) + 2 * margin
    metres = max(width, height) / _MAP_PIXELS / _FINE
    shape = (math.ceil(height / metres / _FINE) * _FINE, math.ceil(width / metres / _FINE) * _FINE)
    codes = np.full(shape, -1, np.int8)
    for tile, grid in places.items():
        _draw_tile(codes, grid, grids[tile], equal_area, (west, north, metres))
    image = Image.fromarray(_coloured(codes)).convert("RGBa")
    picture = image.resize((shape[1] // _FINE, shape[0] // _FINE), Image.Resampling.BOX).convert("RGBA")
    lines = _graticule(to_map, corners, (west, north, width, height), picture.size)
    return (
        f'<figure><div class=map><img src="{_png(np.asarray(picture))}" width={picture.width} '
        f'height={picture.height} alt="All patches by split">{lines}</div><figcaption>All {len(grids)} tile(s), '
        "equal-area; colours mix where splits alternate. Lines of longitude and latitude in degrees."
        "</figcaption></figure>"
    )


def _degrees(grid: TileGrid, columns: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Longitude and latitude of the corners of a tile, or points between (0..1)."""
    transformer = pyproj.Transformer.from_crs(grid.epsg, 4326, always_xy=True)
    return np.stack(transformer.transform(grid.ulx + TILE_METRES * columns, grid.uly - TILE_METRES * rows), axis=-1)


def _draw_tile(
    codes: NDArray[np.int8],
    grid: TileGrid,
    splits: NDArray[np.int8],
    equal_area: str,
    place: tuple[float, float, float],
) -> None:
    west, north, metres = place
    both = pyproj.Transformer.from_crs(grid.epsg, equal_area, always_xy=True)
    side = np.linspace(0, TILE_METRES, 9)
    rim = np.concatenate(
        [[side, side * 0], [side, side * 0 + TILE_METRES], [side * 0, side], [side * 0 + TILE_METRES, side]], axis=1
    )
    x, y = both.transform(grid.ulx + rim[0], grid.uly - rim[1])
    columns = np.arange(
        max(0, int((x.min() - west) / metres)), min(codes.shape[1], int((x.max() - west) / metres) + 2)
    )
    rows = np.arange(
        max(0, int((north - y.max()) / metres)), min(codes.shape[0], int((north - y.min()) / metres) + 2)
    )
    across, down = np.meshgrid(west + (columns + 0.5) * metres, north - (rows + 0.5) * metres)
    east, up = both.transform(across, down, direction="INVERSE")
    i = np.floor((east - grid.ulx) / PATCH_METRES).astype(np.int64)
    j = np.floor((grid.uly - up) / PATCH_METRES).astype(np.int64)
    inside = (i >= 0) & (i < TILE_PATCHES) & (j >= 0) & (j < TILE_PATCHES)
    found = np.where(inside, splits[np.where(inside, j, 0), np.where(inside, i, 0)], -1)
    part = codes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part[found >= 0] = found[found >= 0]


def _graticule(
    to_map: pyproj.Transformer,
    corners: NDArray[np.float64],
    frame: tuple[float, float, float, float],
    size: tuple[int, int],
) -> str:
    west, north, width, height = frame
    reach = float(np.ptp(corners[:, 1]))
    step = next(step for step in (0.2, 0.5, 1, 2, 5, 10, 20, 30) if reach / step <= 6 or step == 30)
    low = corners.min(axis=0) - 2 * step - 10
    high = corners.max(axis=0) + 2 * step + 10
    paths, texts = [], []

    def line(longitude: NDArray[np.float64], latitude: NDArray[np.float64], name: str, *, meridian: bool) -> None:
        x, y = to_map.transform(longitude, latitude)
        px, py = (x - west) / width * size[0], (north - y) / height * size[1]
        fit = np.isfinite(px) & np.isfinite(py)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px[fit], py[fit], strict=True))
        paths.append(f'<polyline class=grid points="{points}"/>')
        edge = np.abs(py - size[1]) if meridian else np.abs(px)
        at = int(np.nanargmin(edge))
        place = (px[at] + 4, size[1] - 6) if meridian else (5, py[at] - 4)
        if 14 < place[0] < size[0] - 30 or (not meridian and 14 < place[1] < size[1] - 14):
            texts.append(f'<text x="{place[0]:.0f}" y="{place[1]:.0f}">{name}</text>')

    for degree in np.arange(math.ceil(low[0] / step) * step, high[0], step):
        latitude = np.linspace(max(low[1], -89), min(high[1], 89), 90)
        line(np.full(90, degree), latitude, f"{(degree + 180) % 360 - 180:g}\u00b0", meridian=True)
    for degree in np.arange(math.ceil(max(low[1], -80) / step) * step, min(high[1], 89), step):
        line(np.linspace(low[0], high[0], 180), np.full(180, degree), f"{degree:g}\u00b0", meridian=False)
    return f'<svg class=lines viewBox="0 0 {size[0]} {size[1]}" aria-hidden=true>{"".join(paths + texts)}</svg>'


def _tiles(grids: _Grids) -> str:
    if len(grids) < 2:
        return ""
    order = sorted(grids, key=lambda tile: (-int((grids[tile] >= 0).sum()), tile))[:_MOST_TILES]
    figures = "".join(
        f'<figure><img src="{_png(_coloured(grids[tile]))}" width=91 height=91 alt="">'
        f"<figcaption>{tile}<br>{number(int((grids[tile] >= 0).sum()))} places</figcaption></figure>"
        for tile in sorted(order)
    )
    more = len(grids) - len(order)
    note = f"<p class=note>{number(more)} smaller tiles are not shown.</p>" if more else ""
    return f"<section><h2>Tile by tile</h2><div class=tiles>{figures}</div>{note}</section>"


def _distances(audit: Audit) -> str:
    plots = "".join(
        _histogram(relation) for relation in audit.leakage.relations if relation.patches and relation.histogram
    )
    if not plots:
        return ""
    return (
        "<section><h2>Distances</h2><p>From the centre of each patch to the nearest centre in the other split, in "
        f"steps of {BIN_METRES / 1000:g} km.</p><div class=trio>{plots}</div></section>"
    )


def _histogram(relation: Relation) -> str:
    counts = _fitted(relation.histogram)
    most = max(counts)
    width, height, base = 320, 150, 128
    step = (width - 8) / len(counts)
    bars = "".join(
        f'<rect class="{relation.of}" x="{4 + number * step:.2f}" y="{base - 110 * count / most:.2f}" '
        f'width="{max(step - 0.6, 0.6):.2f}" height="{110 * count / most:.2f}"><title>{number * 1.2:.1f} to '
        f"{(number + 1) * 1.2:.1f} km: {count:,}</title></rect>"
        for number, count in enumerate(counts)
        if count
    )
    farthest = len(counts) * BIN_METRES / 1000
    tick = next(tick for tick in (1, 2, 5, 10, 20, 50, 100) if farthest / tick <= 6 or tick == 100)
    ticks = "".join(
        f'<text x="{4 + kilometres / farthest * (width - 8):.1f}" y="144" text-anchor="middle">{kilometres}</text>'
        for kilometres in range(tick, int(farthest) + 1, tick)
    )
    more = sum(relation.histogram) - sum(counts)
    note = f"; {number(more)} are farther than {farthest:g} km" if more else ""
    median = "" if relation.median_metres is None else f"median {relation.median_metres / 1000:.1f} km"
    return (
        f"<article><h3>{relation.of} to {relation.to}</h3><svg viewBox='0 0 {width} {height}' role=img "
        f"aria-label='Distances of {relation.of} to {relation.to}'><path class=grid d='M4 {base}h{width - 8}'/>{bars}"
        f"{ticks}</svg><p class=note>{median}{note}. Kilometres.</p></article>"
    )


def _fitted(histogram: Sequence[int]) -> Sequence[int]:
    """The bins that are drawn: up to the last that counts, at least ten."""
    shown = list(histogram[:_FARTHEST])
    while len(shown) > 10 and shown[-1] * 1000 < max(shown):
        shown.pop()
    return shown + [0] * (10 - len(shown))
