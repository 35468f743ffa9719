"""How a patch becomes a picture, computed here a second time from the definition of each channel."""

import io

import numpy as np
import pytest
from PIL import Image

from landpatch.catalog.bands import S1, S2_10M
from landpatch.catalog.nomenclature import UNLABELLED, clc2018
from landpatch.catalog.renderings import RENDERINGS, legend, legend_svg, picture, png, renders


def _optical() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 9000, (4, 120, 120)).astype(np.uint16)


@pytest.mark.parametrize(
    ("name", "planes", "high"),
    [("true_colour", (2, 1, 0), (2000, 2000, 2000)), ("false_colour", (3, 2, 1), (5000, 2000, 2000))],
)
def test_optical_colours(name: str, planes: tuple[int, ...], high: tuple[int, ...]) -> None:
    pixels = _optical()
    drawn = picture(RENDERINGS[name], pixels)
    assert drawn.shape == (120, 120, 3)
    assert drawn.dtype == np.uint8
    for channel, (plane, top) in enumerate(zip(planes, high, strict=True)):
        exact = np.minimum(pixels[plane] / top, 1) * 255
        assert np.abs(drawn[..., channel] - exact).max() <= 1


def test_the_radar_composite_has_the_ratio_of_the_polarisations_for_its_blue() -> None:
    vv = np.linspace(-30, 5, 14400, dtype=np.float32).reshape(120, 120)
    vh = vv - 7
    drawn = picture(RENDERINGS["s1_composite"], np.stack([vv, vh]))
    assert np.abs(drawn[..., 0] - np.clip((vv + 21) / 18, 0, 1) * 255).max() <= 1
    assert np.abs(drawn[..., 1] - np.clip((vh + 27) / 18, 0, 1) * 255).max() <= 1
    assert set(np.unique(drawn[..., 2])) == {127}  # 7 dB are half of 2 to 12
    single = picture(RENDERINGS["s1_vv"], np.stack([vv, vh]))
    assert single.shape == (120, 120)
    assert np.abs(single - np.clip((vv + 25) / 25, 0, 1) * 255).max() <= 1


def test_what_is_no_number_is_grey() -> None:
    planes = np.full((2, 120, 120), -12, np.float32)
    planes[1, 5, 7] = np.nan
    drawn = picture(RENDERINGS["s1_composite"], planes)
    assert drawn[5, 7].tolist() == [0x80, 0x80, 0x80]
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 2


def test_the_reference_map_has_the_official_colours() -> None:
    nomenclature = clc2018()
    codes = [code.code for code in nomenclature.codes]
    planes = np.array([*codes, UNLABELLED, 4711], np.uint16)[None, None, :]
    drawn = picture(RENDERINGS["reference_map"], planes, nomenclature)
    assert drawn[0, : len(codes)].tolist() == [list(code.colour) for code in nomenclature.codes]
    official = dict(zip(codes, drawn[0].tolist(), strict=False))
    assert official[111] == [230, 0, 77]  # continuous urban fabric in the EEA's legend
    assert official[312] == [0, 166, 0]  # coniferous forest
    assert official[512] == [128, 242, 230]  # water bodies
    assert drawn[0, -2].tolist() != drawn[0, -1].tolist()  # unlabelled is not unknown


def test_pictures_are_enlarged_by_whole_pixels_and_keep_their_colours() -> None:
    drawn = picture(RENDERINGS["true_colour"], _optical())
    large = np.asarray(Image.open(io.BytesIO(png(drawn, 240))))
    assert (large == drawn.repeat(2, axis=0).repeat(2, axis=1)).all()
    assert (np.asarray(Image.open(io.BytesIO(png(drawn)))) == drawn).all()
    small = np.asarray(Image.open(io.BytesIO(png(drawn, 32)))).reshape(-1, 3)
    assert {tuple(colour) for colour in small.tolist()} <= {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()}


def test_the_collection_s_renders_say_what_is_drawn() -> None:
    """Read as titiler reads them, the definitions give the same picture."""
    planes = {S2_10M.key: _optical(), S1.key: np.random.default_rng(2).normal(-12, 6, (2, 120, 120)).astype("f4")}
    documents = renders(clc2018())
    assert list(documents) == list(RENDERINGS)
    for name, document in documents.items():
        (key,) = document["assets"]
        if name == "reference_map":
            assert document["colormap"]["111"] == [230, 0, 77]
            continue
        values = {f"{key}_b{number}": plane.astype(np.float64) for number, plane in enumerate(planes[key], 1)}
        terms = document["expression"].split(";") if "expression" in document else None
        terms = terms or [f"{key}_b{number}" for number in document["bidx"]]
        drawn = np.atleast_3d(picture(RENDERINGS[name], planes[key]))
        assert drawn.shape[2] == len(terms) == len(document["rescale"])
        for channel, (term, (low, high)) in enumerate(zip(terms, document["rescale"], strict=True)):
            value = eval(term, {}, values)
            assert np.abs(drawn[..., channel] - np.clip((value - low) / (high - low), 0, 1) * 255).max() <= 1
    assert "reference_map" not in renders(None)


def test_the_legend_names_every_colour_once() -> None:
    entries = legend(clc2018())
    assert [entry.code for entry in entries] == sorted({code.code for code in clc2018().codes} | {UNLABELLED})
    few = legend(clc2018(), {231, 211, UNLABELLED})
    assert [entry.name for entry in few] == ["Non-irrigated arable land", "Pastures", "Unlabelled"]
    assert [entry.class_name for entry in few] == ["Arable land", "Pastures", ""]
    drawn = legend_svg(few)
    assert drawn.count("<rect") == 3
    assert "231 Pastures" in drawn
    assert 'fill="rgb(230, 230, 77)"' in drawn


def test_a_name_cannot_break_out_of_the_legend() -> None:
    from dataclasses import replace

    (entry,) = legend(clc2018(), {231})
    drawn = legend_svg([replace(entry, name="<script>alert(1)</script> & co")])
    assert "<script" not in drawn
    assert "&lt;script&gt;" in drawn
