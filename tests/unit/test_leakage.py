"""How far apart splits are: against brute force on drawn patches, and the published figures on the real tables."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from landpatch.catalog.auditing.auditor import audit
from landpatch.catalog.leakage import Patches, leakage
from landpatch.catalog.names import SceneId
from landpatch.catalog.splits import SPLITS, Split

SCENES = tuple(
    SceneId.parse(name)
    for name in (
        "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP",
        "S2B_MSIL2A_20180613T101031_N9999_R022_T33UUP",
    )
)

places = st.sets(st.tuples(st.integers(0, 1), st.integers(30, 37), st.integers(30, 37)), min_size=2, max_size=40)


@settings(max_examples=40)
@given(places, st.randoms(use_true_random=False))
def test_touching_and_nearness_are_those_of_brute_force(found: set[tuple[int, int, int]], draw: object) -> None:
    rows = sorted(found)
    split = np.array([draw.randrange(3) for _ in rows], np.int8)  # type: ignore[attr-defined]
    scene, x, y = (np.array(column) for column in zip(*rows, strict=True))
    patches = Patches(SCENES, scene.astype(np.int32), x.astype(np.int16), y.astype(np.int16), split)
    measured = leakage(patches, (0, 1200, 5000))
    for of, to in ((Split.TEST, Split.TRAIN), (Split.VALIDATION, Split.TRAIN), (Split.VALIDATION, Split.TEST)):
        relation = measured.relation(of, to)
        ours, theirs = (np.flatnonzero(split == SPLITS.index(word)) for word in (of, to))
        kinds = {"overlap": 0, "edge": 0, "corner": 0}
        within, nearest = {0.0: 0, 1200.0: 0, 5000.0: 0}, np.inf
        for row in ours:
            dx, dy = np.abs(x[theirs] - x[row]), np.abs(y[theirs] - y[row])
            if not len(theirs):
                continue
            nearest = min(nearest, float(1200 * np.hypot(dx, dy).min()))
            if ((dx == 0) & (dy == 0)).any():
                kinds["overlap"] += 1
            elif (dx + dy == 1).any():
                kinds["edge"] += 1
            elif ((dx == 1) & (dy == 1)).any():
                kinds["corner"] += 1
            gap = 1200 * np.hypot(np.maximum(dx - 1, 0), np.maximum(dy - 1, 0)).min()
            for metres in within:
                within[metres] += int(gap <= metres)
        assert {name: getattr(relation, name) for name in kinds} == kinds
        assert {metres: relation.within[metres] for metres in within} == within
        if relation.nearest is None:
            assert not np.isfinite(nearest)
        else:
            assert relation.nearest.grid_metres == pytest.approx(nearest, abs=0.01)


def test_v2_keeps_train_and_test_twelve_kilometres_apart(shared_data: Path) -> None:
    """All 549,488 rows: none touches; 12.0 km on the grid, from centre to centre."""
    relation = audit(shared_data / "bigearthnet-v2").leakage.relation(Split.TEST, Split.TRAIN)
    assert relation.patches == 137_367
    assert (relation.overlap, relation.edge, relation.corner) == (0, 0, 0)
    assert relation.within[10_000] == 0
    assert relation.nearest is not None
    assert 11_900 < relation.nearest.ground_metres < relation.nearest.grid_metres == pytest.approx(12_000, abs=1)


def test_v1_s_rule_has_nearly_every_test_patch_beside_a_train_patch(shared_data: Path) -> None:
    """98.6 % of the clean patches share an edge with a train patch of their scene."""
    found = audit(shared_data / "bigearthnet-v2/metadata.parquet", split_rule="bigearthnet-v1")
    relation = found.leakage.relation(Split.TEST, Split.TRAIN)
    assert round(100 * relation.edge_same_scene / relation.patches, 1) == 98.6
    assert [finding.kind for finding in found.findings.kept] == ["leakage"]


def test_a_zone_is_one_across_the_equator() -> None:
    """Two tiles whose northings count from different ends: their patches meet along an edge, and share no ground."""
    scenes = tuple(SceneId.parse(f"S2A_MSIL2A_20170613T101031_N0205_R022_T{tile}") for tile in ("33NUA", "33MUV"))
    scene, x, y = np.array([0, 1], np.int32), np.array([10, 11], np.int16), np.array([85, 1], np.int16)
    found = leakage(Patches(scenes, scene, x, y, np.array([2, 0], np.int8)))
    relation = found.relation(Split.TEST, Split.TRAIN)
    assert (relation.overlap, relation.edge, relation.corner) == (0, 1, 0)
    assert (found.same_ground.two_tiles, found.same_ground.square_km) == (0, 0)
    # Centres: 1200 m east; 100,020 - 85.5 x 1200 = -2,580 m and -1.5 x 1200 = -1,800 m north.
    assert relation.nearest is not None
    assert relation.nearest.grid_metres == pytest.approx(np.hypot(1200, 780), abs=0.001)
