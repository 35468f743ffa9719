"""The nearest country of a patch (the published column: test_published_tables)."""

import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from landpatch.catalog.countries import Countries
from landpatch.catalog.errors import InvalidParameter
from landpatch.catalog.grid import TileGrid
from landpatch.catalog.squares import Squares

GRID = TileGrid.from_tile("33UUP")


def squares(tile: str, *places: tuple[int, int]) -> Squares:
    xs, ys = np.array(places).T
    return Squares((TileGrid.from_tile(tile),), np.zeros(len(places), np.int64), xs, ys)


def write(path: Path, shapes: list[shapely.Geometry], names: list[str | None], epsg: int = 32633) -> Path:
    words = np.array(names, object)
    wkb = shapely.to_wkb(np.array(shapes, object))
    pyogrio.raw.write(path, wkb, [words], ["land"], geometry_type="Unknown", crs=f"EPSG:{epsg}")
    return path


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=30))
def test_it_is_the_one_at_the_smallest_distance(places: list[tuple[int, int]]) -> None:
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True)
    shapes = {
        name: shapely.segmentize(shapely.Point(GRID.ulx + east, GRID.uly - south).buffer(radius), 500)
        for name, east, south, radius in (
            ("A", 20_000, 30_000, 9_000),
            ("B", 60_000, 60_000, 20_000),
            ("C", 130_000, 10_000, 30_000),
        )
    }
    features = [
        {
            "type": "Feature",
            "properties": {"name": name},
            "geometry": shapely.transform(shape, to_degrees.transform, interleaved=False).__geo_interface__,
        }
        for name, shape in shapes.items()
    ]
    countries = Countries.from_geojson(json.dumps({"type": "FeatureCollection", "features": features}).encode())
    found = countries.nearest(squares("33UUP", *places))
    for (x, y), name in zip(places, found, strict=True):
        apart = {key: shapely.box(*GRID.bounds(x, y)).distance(shape) for key, shape in shapes.items()}
        assert apart[name or ""] <= min(apart.values()) + 0.01


def test_of_those_that_a_patch_touches_it_is_the_largest(tmp_path: Path) -> None:
    west, _, east, north = GRID.bounds(45, 45)
    middle = (west + east) / 2 + 500  # nine tenths of the patch lie in the small one
    small = shapely.box(middle - 20_000, north - 20_000, middle, north + 20_000)
    large = shapely.box(middle, north - 50_000, middle + 50_000, north + 50_000)
    path = write(tmp_path / "lands.gpkg", [small, large, small.centroid.buffer(10)], ["small", "large", None])
    countries = Countries.read(path, column="land")
    assert countries.names == ("large", "small")
    assert countries.nearest(squares("33UUP", (44, 45), (45, 45), (46, 45))) == ["small", "large", "large"]
    assert Countries.read(path, column="land", only=["small"]).nearest(squares("33UUP", (46, 45))) == ["small"]
    assert Countries.from_geojson(countries.to_geojson()) == countries
    for options, what in (
        ({"column": "name"}, "it has land"),
        ({"column": "land", "only": ["Atlantis"]}, "Atlantis"),
    ):
        with pytest.raises(InvalidParameter, match=what):
            Countries.read(path, **options)  # type: ignore[arg-type]


def test_on_both_sides_of_the_antimeridian_and_where_no_land_is_near() -> None:
    countries = Countries.read()
    assert len(countries.names) == 177
    assert set(countries.nearest(squares("60KZG", (0, 0), (90, 90)))) == {"Fiji"}
    assert set(countries.nearest(squares("01KAB", (0, 0), (90, 90)))) == {"Fiji"}
    assert countries.nearest(squares("60WWT", (0, 0))) == ["Russia"]
    only = Countries.read(only=["Fiji"])
    assert only.nearest(squares("33UUP", (0, 0))) == [None]
