"""The picture of the QI-Box."""

import pytest

from saferflow.evaluation.box import draw_box

POINTS = [(0.1, 0.0, False), (0.5, 0.2, True), (0.6, 0.3, True), (0.95, 0.1, False)]


def texts(path):
    """SVG keeps a text as a comment beside its glyphs."""
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("points", [POINTS, POINTS[:1], []])
def test_it_is_a_picture_whatever_there_is(tmp_path, points):
    draw_box(tmp_path / "new" / "box.svg", points, (0.2, 0.8), 0.05)
    assert "</svg>" in texts(tmp_path / "new" / "box.svg")


def test_it_says_how_many_were_kept(tmp_path):
    draw_box(tmp_path / "box.svg", POINTS, (0.2, 0.8), 0.05)
    assert "kept (2)" in texts(tmp_path / "box.svg")
    assert "left out (2)" in texts(tmp_path / "box.svg")


def test_equal_points_give_equal_bytes(tmp_path):
    for name in ("one.svg", "two.svg"):
        draw_box(tmp_path / name, POINTS, (0.2, 0.8), 0.05)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
