"""A drawn body: each point and limb in OpenPose's colour, and nothing where a point is not seen."""

import numpy as np
from mos_pack.mixofshow_core.regional.skeleton import COLOURS, LIMBS, POINTS, draw_skeleton


def test_points_and_limbs_have_their_colours():
    points = {"neck": (0.5, 0.25), "right shoulder": (0.25, 0.25), "nose": (0.5, 0.1)}
    found = np.asarray(draw_skeleton(points, 400, 200))
    assert tuple(found[50, 200]) == COLOURS[1] and tuple(found[50, 100]) == COLOURS[2]
    assert tuple(found[50, 150]) == (153, 0, 0), "limb 1 is darkened red"
    assert tuple(found[35, 200]) == (0, 0, 153), "neck to nose is limb 13"
    assert not found[70:].any() and not found[:, :90].any()


def test_nobody_is_black_and_every_limb_joins_two_points():
    assert not np.asarray(draw_skeleton({}, 8, 8)).any()
    assert {number for limb in LIMBS for number in limb} == set(range(len(POINTS)))
    assert len(COLOURS) == len(POINTS) and len(LIMBS) == 17
