import json
from pathlib import Path

import geopandas
import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from pyproj import Transformer

from landpatch.catalog.areas import Area, tile_outline, tiles_of, touches
from landpatch.catalog.errors import InvalidName, InvalidParameter
from landpatch.catalog.grid import TILE_METRES, TileGrid
from landpatch.catalog.names import SceneId


def _holds(tile: str, longitude: float, latitude: float, margin: float = 0.0) -> bool:
    """Whether a tile's square holds a point, by projecting the point alone."""
    grid = TileGrid.from_tile(tile)
    x, y = Transformer.from_crs(4326, grid.epsg, always_xy=True).transform(longitude, latitude)
    inside_x = grid.ulx - margin <= x <= grid.ulx + TILE_METRES + margin
    return inside_x and grid.uly - TILE_METRES - margin <= y <= grid.uly + margin


def test_tiles_by_name() -> None:
    area = Area.from_tiles(["T33UUP", "MGRS-32UQU", "33UUP", "1ccv"])
    assert area == Area(("01CCV", "32UQU", "33UUP"), None)
    with pytest.raises(InvalidParameter, match="no tile is named"):
        Area.from_tiles([])
    for wrong in ("33UUPP", "33IUP", "33UAA"):
        with pytest.raises(InvalidName, match=wrong):
            Area.from_tiles([wrong])


def test_the_tiles_of_a_place() -> None:
    # Salzburg: zones 32 and 33 overlap there, and so do rows.
    assert Area.from_bbox((12, 47.5, 13, 48.5)).tiles == ("32TQT", "32UQU", "33TTN", "33TUN", "33UTP", "33UUP")
    # A point in the middle of one tile, in nobody's margin.
    middle = (13.4, 48.2)
    assert Area.from_bbox((*middle, *middle)).tiles == ("33UUP",)
    # Norway: zone 32 reaches to 3 E, and there is no zone 32 on Svalbard.
    assert {tile[:3] for tile in Area.from_bbox((4.5, 60.3, 5.5, 60.5)).tiles} == {"32V"}
    assert {tile[:3] for tile in Area.from_bbox((15, 78, 17, 78.5)).tiles} == {"33X"}
    # A square is of the band in which its middle lies: Taroko, 24 N, is in Q.
    assert "51QUG" in Area.from_bbox((121.5, 24.05, 121.6, 24.15)).tiles


def test_known_tiles_are_all_found(shared_data: Path) -> None:
    """Every tile of BigEarthNet v2.0 and of the public items, from a point in its middle."""
    table = (shared_data / "bigearthnet-v2/tile_summary_115.csv").read_text().splitlines()[1:]
    names = {SceneId.parse(line.split(",")[0]).tile for line in table}
    for path in (shared_data / "stac-items/planetary-computer").glob("*sentinel-2*.parquet"):
        names |= set(pq.read_table(path, columns=["s2:mgrs_tile"]).column(0).to_pylist())
    assert len(names) > 100
    for name in names:
        centre = shapely.union_all([tile_outline(name)]).centroid
        assert name in tiles_of(centre), name


def test_across_the_antimeridian() -> None:
    area = Area.from_bbox((178, -18, -178, -16))
    assert area.geometry is not None
    assert area.geometry["type"] == "MultiPolygon"
    assert shapely.geometry.shape(area.geometry).bounds == (-180, -18, 180, -16)
    assert {tile[:2] for tile in area.tiles} == {"01", "60"}
    west, east = Area.from_bbox((178, -18, 180, -16)), Area.from_bbox((-180, -18, -178, -16))
    assert set(area.tiles) == set(west.tiles) | set(east.tiles)
    # A tile of zone 1 that begins west of the line is found from either side.
    assert "01KAB" in west.tiles
    outline = tile_outline("01KAB")
    assert outline.geom_type == "MultiPolygon"
    assert outline.bounds[0] == -180
    assert outline.bounds[2] == 180


@pytest.mark.parametrize(
    ("bbox", "says"),
    [
        ((0, 86, 1, 87), "no Sentinel-2 tile lies there; tiles reach from 84 S to 84 N"),
        ((0, -90, 360, -85), "longitudes must lie within -180..180"),
        ((0, 50, 1, 40), "south must not lie north of north"),
        ((0, 0, float("nan"), 1), "expected four numbers"),
        ((0, 0, 1), "expected four numbers"),
        ((170, 0, 190, 1), "across the antimeridian west is greater than east"),
        ((0, -91, 1, 1), "within -90..90"),
    ],
)
def test_boxes_that_are_none(bbox: tuple[float, ...], says: str) -> None:
    with pytest.raises(InvalidParameter, match=says):
        Area.from_bbox(bbox)


@settings(max_examples=25)
@given(
    west=st.floats(-180, 180),
    south=st.floats(-83.5, 83),
    width=st.floats(0, 8),
    height=st.floats(0, 4),
    places=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12),
)
def test_tiles_cover_the_area_and_touch_it(
    west: float, south: float, width: float, height: float, places: list[tuple[float, float]]
) -> None:
    north, east = min(south + height, 83.9), west + width
    area = Area.from_bbox((west, south, east - 360 if east > 180 else east, north))
    assert list(area.tiles) == sorted(set(area.tiles))
    for right, up in places:
        longitude, latitude = west + right * width, south + up * (north - south)
        assert any(_holds(tile, longitude, latitude, margin=3) for tile in area.tiles)
    geometry = shapely.geometry.shape(area.geometry)
    for tile in area.tiles:
        # Edges of outlines are drawn in 20 pieces: within 0.001 degrees of the square up to 84 degrees.
        assert shapely.distance(tile_outline(tile), geometry) < 1e-3, tile
    assert touches(tile_outline(area.tiles[0]).__geo_interface__, shapely.buffer(geometry, 1e-3))


def test_files_in_any_crs(tmp_path: Path) -> None:
    expected = Area.from_bbox((12, 47.5, 13, 48.5))
    frame = geopandas.GeoDataFrame(
        geometry=[shapely.box(12, 47.5, 12.6, 48.5), shapely.box(12.5, 47.5, 13, 48.5)], crs=4326
    )
    for name, crs in (("a.geojson", 4326), ("a.gpkg", 3035), ("a.shp", 32633), ("b.gpkg", 3857)):
        frame.to_crs(crs).to_file(tmp_path / name)
        area = Area.from_file(tmp_path / name)
        assert area.tiles == expected.tiles, name
        shape = shapely.geometry.shape(area.geometry)
        assert shapely.symmetric_difference(shape, shapely.box(12, 47.5, 13, 48.5)).area < 0.01


def test_only_tiles_that_the_shape_itself_meets(tmp_path: Path) -> None:
    """Not those of its box."""
    ring = shapely.Point(13, 48).buffer(3).difference(shapely.Point(13, 48).buffer(2.6))
    geopandas.GeoDataFrame(geometry=[ring], crs=4326).to_file(tmp_path / "ring.gpkg")
    tiles = Area.from_file(tmp_path / "ring.gpkg").tiles
    inside = Area.from_bbox((12.8, 47.8, 13.2, 48.2)).tiles
    assert not set(inside) & set(tiles)
    assert tiles


def test_a_projected_file_across_the_antimeridian(tmp_path: Path) -> None:
    fiji = shapely.box(
        TileGrid.from_tile("01KAB").ulx, 8_100_000, TileGrid.from_tile("01KAB").ulx + 200_000, 8_190_000
    )
    geopandas.GeoDataFrame(geometry=[fiji], crs=32701).to_file(tmp_path / "fiji.gpkg")
    area = Area.from_file(tmp_path / "fiji.gpkg")
    assert "01KAB" in area.tiles
    assert {tile[:2] for tile in area.tiles} == {"01", "60"}
    assert shapely.geometry.shape(area.geometry).area < 3


def test_files_that_are_no_area(tmp_path: Path) -> None:
    def refused(name: str, says: str, **options: str) -> None:
        with pytest.raises(InvalidParameter, match=says):
            Area.from_file(tmp_path / name, **options)

    refused("none.gpkg", "cannot be read as an area")
    (tmp_path / "broken.geojson").write_text('{"type": "FeatureCollection", "features": [')
    refused("broken.geojson", "cannot be read as an area")
    (tmp_path / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    refused("empty.geojson", "holds no geometry|cannot be read")
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(12, 47, 13, 48)], crs=4326)
    frame.to_file(tmp_path / "unknown.shp")
    (tmp_path / "unknown.prj").unlink()
    refused("unknown.shp", "does not say its CRS")
    frame.to_file(tmp_path / "two.gpkg", layer="north")
    frame.translate(0, -5).to_frame("geometry").to_file(tmp_path / "two.gpkg", layer="south")
    refused("two.gpkg", r"has several layers \(north, south\): say which one")
    refused("two.gpkg", "cannot be read as an area", layer="west")
    assert Area.from_file(tmp_path / "two.gpkg", layer="south").tiles == Area.from_bbox((12, 42, 13, 43)).tiles
    # Metres that claim to be degrees.
    metres = {"type": "Polygon", "coordinates": [[[3e5, 5e6], [4e5, 5e6], [4e5, 6e6], [3e5, 5e6]]]}
    (tmp_path / "metres.geojson").write_text(json.dumps(metres))
    refused("metres.geojson", "are no degrees of WGS 84; is its CRS right")


def test_footprints_that_jump_or_are_missing() -> None:
    fiji = shapely.geometry.shape(Area.from_bbox((178, -18, -178, -16)).geometry)
    jumping = {
        "type": "Polygon",
        "coordinates": [[[179.5, -17], [-179.5, -17], [-179.5, -16.5], [179.5, -16.5], [179.5, -17]]],
    }
    assert touches(jumping, fiji)
    assert not touches(jumping, shapely.box(0, -18, 10, -16))
    beyond = shapely.box(179.5, -17, 180.5, -16.5).__geo_interface__
    assert touches(beyond, shapely.box(-180, -18, -179.9, -16))
    for unknown in (None, {}, {"type": "Polygon"}, {"type": "Polygon", "coordinates": "x"}, []):
        assert touches(unknown, fiji)
    assert np.isclose(shapely.geometry.shape(Area.from_tiles(["33UUP"]).search_geometry()).area, 1.46, atol=0.1)
