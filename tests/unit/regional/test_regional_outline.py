"""Outlines of what was found: the polygon covers the cells it was made from."""

import numpy as np
import pytest
import torch
from mos_pack.mixofshow_core.regional.outline import found_regions, largest_piece, outline
from mos_pack.mixofshow_core.regional.raster import rasterize_shape
from mos_pack.mixofshow_core.regional.schema import Polygon, dump_regions, parse_regions


def disc(rows, columns, row, column, radius):
    ys, xs = np.indices((rows, columns))
    return (ys - row) ** 2 + (xs - column) ** 2 <= radius**2


@pytest.mark.parametrize(
    "cells",
    [disc(16, 24, 7, 10, 5), np.ones((4, 4), bool), disc(20, 20, 0, 0, 9), np.eye(1, dtype=bool)],
    ids=("disc", "everything", "corner", "cell"),
)
def test_the_outline_covers_its_cells(cells):
    rows, columns = cells.shape
    shape = Polygon(tuple((x / columns, y / rows) for x, y in outline(cells)))
    drawn = rasterize_shape(shape, 8 * columns, 8 * rows) >= 128
    wanted = cells.repeat(8, 0).repeat(8, 1)
    assert (drawn & wanted).sum() / (drawn | wanted).sum() > 0.85


def test_any_cells_have_an_outline_that_ends():
    draw = np.random.default_rng(3)
    for _ in range(50):
        piece = largest_piece(draw.random((9, 11)) > 0.45)
        if piece.any():
            assert len(outline(piece)) >= 3


def test_only_the_largest_piece_counts():
    two = disc(16, 24, 7, 5, 4) | disc(16, 24, 7, 20, 1)
    assert np.array_equal(largest_piece(two), disc(16, 24, 7, 5, 4))


def test_regions_of_what_was_found_are_read_back_and_nobody_is_left_out():
    gates = torch.zeros(3, 8, 16)
    gates[0, :, :8] = 1
    gates[2, 2:6, 10:14] = 0.9
    spec = found_regions(gates, ("mara", "tom", "finn"), 128, 64)
    assert parse_regions(dump_regions(spec)) == spec
    assert [region.concept for region in spec.regions] == ["mara", "finn"]
    left = rasterize_shape(spec.regions[0].shape, 128, 64)
    assert left[:, :64].min() == 255 and left[:, 64:].max() == 0
