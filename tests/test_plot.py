"""Pictures are checked by their pixels: the right thing at the right place, and one-line refusals."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydiff import plot

rng = np.random.default_rng(0)
POINTS = rng.normal(size=(300, 2))
IMAGES = rng.uniform(-1, 1, (5, 6, 4, 1))
T = np.arange(1, 101)
BETA = np.linspace(1e-3, 0.2, 100)
ALPHA_BAR = np.cumprod(1 - BETA)
SNR = ALPHA_BAR / (1 - ALPHA_BAR)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), int)


def ink(picture):
    """How dark each pixel is."""
    return 255 - picture.mean(-1)


def colour_share(path, colour):
    """The share of the pixels that are of one colour, "#rrggbb", or nearly."""
    wanted = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
    return np.mean(np.abs(pixels(path) - wanted).max(-1) < 30)


# image_grid

@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("columns, scale", [(None, 2), (2, 1), (5, 3), (9, 1)])
def test_image_grid_puts_every_image_at_its_place(tmp_path, channels, columns, scale):
    x = rng.uniform(-1, 1, (5, 6, 4, channels))
    plot.image_grid(x, tmp_path / "grid.png", columns=columns, scale=scale)
    got = pixels(tmp_path / "grid.png")
    columns = min(columns or 3, 5)
    rows = -(-5 // columns)
    assert got.shape == ((7 * rows - 1) * scale, (5 * columns - 1) * scale, 3)
    seen = np.zeros(got.shape[:2], bool)
    for k in range(5):
        top, left = 7 * scale * (k // columns), 5 * scale * (k % columns)
        cell = np.s_[top:top + 6 * scale, left:left + 4 * scale]
        expected = np.rint((x[k] + 1) * 127.5).repeat(scale, 0).repeat(scale, 1)
        assert (got[cell] == expected).all()
        seen[cell] = True
    assert (got[~seen] == 160).all()


def test_minus_one_is_black_and_one_is_white_and_beyond_is_the_same(tmp_path):
    plot.image_grid(np.array([-1, 1, -1.5, 7, 0]).reshape(1, 1, 5, 1), tmp_path / "a.png", scale=1)
    assert pixels(tmp_path / "a.png")[0, :, 0].tolist() == [0, 255, 0, 255, 128]


@pytest.mark.parametrize("shape", [(6, 4, 1), (5, 6, 4, 2), (0, 6, 4, 1), (5, 0, 4, 1), (5, 6, 4, 4), ()])
def test_image_grid_refuses_other_shapes(tmp_path, shape):
    with pytest.raises(ValueError, match=r"\(N, H, W, C\).*got \("):
        plot.image_grid(np.zeros(shape), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["columns", "scale"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_image_grid_refuses_broken_counts(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        plot.image_grid(IMAGES, tmp_path / "a.png", **{name: value})


# scatter

def test_scatter_has_its_ink_where_the_points_are(tmp_path):
    corners = [[-1, -1], [1, 1], [-1, 1], [1, -1]] * 25
    for name, centre in (("a.png", [-0.6, 0.6]), ("b.png", [0.6, -0.6])):
        plot.scatter(np.concatenate([corners, centre + 0.1 * POINTS]), tmp_path / name)
    difference = ink(pixels(tmp_path / "a.png")) - ink(pixels(tmp_path / "b.png"))
    height, width = (n // 2 for n in difference.shape)
    assert difference[:height, :width].sum() > 10_000
    assert difference[height:, width:].sum() < -10_000
    assert abs(difference[:height, width:].sum()) < 1000


def test_scatter_beside_the_data_shares_its_axes(tmp_path):
    plot.scatter(POINTS[:100], tmp_path / "alone.png")
    plot.scatter(POINTS, tmp_path / "pair.png", data=POINTS)
    alone, pair = pixels(tmp_path / "alone.png"), pixels(tmp_path / "pair.png")
    assert pair.shape[1] == 2 * alone.shape[1]
    blue = (pair[..., 2] > pair[..., 0] + 60)
    grey = (np.ptp(pair, axis=-1) < 8) & (pair[..., 0] > 100) & (pair[..., 0] < 215)
    middle = pair.shape[1] // 2
    assert blue[:, middle:].sum() > 500 and not blue[:, :middle].any()
    assert grey[:, :middle].sum() > grey[:, middle:].sum() + 500


@pytest.mark.parametrize("draw", [
    lambda x, path: plot.scatter(x, path, data=POINTS),
    lambda x, path: plot.panels([POINTS, x], ["data", "samples"], path),
    lambda x, path: plot.panels([POINTS, POINTS, x], ["data", "good", "bad"], path, columns=2),
])
def test_points_that_fly_off_do_not_shrink_the_rest_but_are_counted(tmp_path, draw):
    wild = POINTS.copy()
    wild[:150] += [1e6, 2e6]
    draw(wild, tmp_path / "wild.png")
    draw(POINTS, tmp_path / "tame.png")
    assert colour_share(tmp_path / "wild.png", "#D55E00") > 0  # the words "150 outside"
    assert colour_share(tmp_path / "tame.png", "#D55E00") == 0
    wild, tame = (ink(pixels(tmp_path / name)) for name in ("wild.png", "tame.png"))
    data = np.s_[:tame.shape[0] // 2, :tame.shape[1] // 2]
    assert np.sum(wild[data] > 60) > 0.5 * np.sum(tame[data] > 60)


@pytest.mark.parametrize("x", [np.zeros((1, 2)), np.ones((50, 2)), np.array([[0, 0], [1e-9, 0]])])
@pytest.mark.filterwarnings("error")
def test_scatter_of_a_collapsed_set(monkeypatch, x):
    (axis, _) = drawn(monkeypatch, plot.scatter, x, "a.png", data=x)
    (low, high), points = axis.get_xlim(), x[:, 0]
    assert low < points.min() and points.max() < high and high - low < 3


@pytest.mark.parametrize("shape", [(2,), (5, 3), (0, 2), (5, 2, 1)])
def test_scatter_refuses_other_shapes(tmp_path, shape):
    with pytest.raises(ValueError, match=r"x must be points \(n, 2\), n >= 1, got \("):
        plot.scatter(np.zeros(shape), tmp_path / "a.png")
    with pytest.raises(ValueError, match="data must be points"):
        plot.scatter(POINTS, tmp_path / "a.png", data=np.zeros(shape))


# panels and forward_process

def test_panels_draw_points_and_images_in_order(tmp_path):
    black, white = -np.ones((1, 8, 8, 1)), np.ones((1, 8, 8, 3))
    plot.panels([black, POINTS, white, black], list("abcd"), tmp_path / "a.png", columns=2, title="four")
    picture = pixels(tmp_path / "a.png")
    height, width = (n // 2 for n in picture.shape[:2])
    quarters = [half[:, part] for half in (picture[:height], picture[height:])
                for part in (np.s_[:width], np.s_[width:])]
    dark = [np.mean(ink(quarter) > 250) for quarter in quarters]
    blue = [np.sum(quarter[..., 2] > quarter[..., 0] + 60) for quarter in quarters]
    assert dark[0] > 0.5 and dark[3] > 0.5 and max(dark[1:3]) < 0.01
    assert blue[1] > 500 and blue[0] == blue[2] == blue[3] == 0


def test_forward_process_is_one_row_and_images_one_column(tmp_path):
    labels = ["t = 0", "t = 5", "t = 9"]
    plot.forward_process([POINTS, POINTS, POINTS], labels, tmp_path / "points.png")
    plot.forward_process([IMAGES, IMAGES, IMAGES], labels, tmp_path / "images.png")
    points, images = pixels(tmp_path / "points.png"), pixels(tmp_path / "images.png")
    assert points.shape[1] == images.shape[1] == 3 * 276
    assert points.shape[0] < points.shape[1] / 2 < images.shape[0]


@pytest.mark.parametrize("items, titles, words", [
    ([], [], "needs a title, got 0 and 0"),
    ([POINTS], ["a", "b"], "needs a title, got 1 and 2"),
    ([POINTS, np.zeros(3)], ["a", "b"], "panel 1 must be points"),
    ([np.zeros((3, 3))], ["a"], "panel 0 must be points"),
])
def test_panels_refuse(tmp_path, items, titles, words):
    for draw in (plot.panels, plot.forward_process):
        with pytest.raises(ValueError, match=words):
            draw(items, titles, tmp_path / "a.png")


# image_table

def test_image_table_has_a_row_for_each_name_and_a_heading_above_each_image(monkeypatch):
    rows = [np.full((3, 6, 4, 1), -1.0), np.full((3, 6, 8, 1), 1.0)]
    upper, lower = drawn(monkeypatch, plot.image_table, rows, ["dark", "light"], "a.png", headings=list("abc"))
    assert [axis.get_ylabel() for axis in (upper, lower)] == ["dark", "light"]
    for axis, grey, width in ((upper, 0, 4), (lower, 255, 8)):
        (image,) = axis.images
        pixels = image.get_array()
        assert pixels.shape == (24, 4 * (3 * width + 2)) and set(np.unique(pixels)) == {grey, 160}
    assert [text.get_text() for text in upper.get_xticklabels()] == list("abc")
    assert upper.get_xticks() == pytest.approx(np.array([0.5, 1.5, 2.5]) * 56 / 3)  # the middle of each third
    assert not lower.get_xticklabels()


def test_image_table_shows_all_of_its_words(tmp_path):
    names = ["one row of images that has a very long name", "another"]
    plot.image_table([IMAGES] * 2, names, tmp_path / "a.png", headings=list("abcde"))
    dark = ink(pixels(tmp_path / "a.png"))
    assert dark[[0, -1]].max() < 30 and dark[:, [0, -1]].max() < 30


def test_image_table_refuses(tmp_path):
    for rows, names, headings, words in (
        ([], [], None, "1 or more rows"), ([IMAGES], [], None, "needs a name, got 1"),
        ([IMAGES[0]], ["a"], None, "row 0 must be images"),
        ([IMAGES, IMAGES[:2]], ["a", "b"], list("abcde"), r"got 5 for rows of \[2, 5\]"),
    ):
        with pytest.raises(ValueError, match=words):
            plot.image_table(rows, names, tmp_path / "a.png", headings=headings)


# reverse_gif

def gif(path):
    with Image.open(path) as picture:
        frames, durations = [], []
        for i in range(picture.n_frames):
            picture.seek(i)
            frames.append(np.asarray(picture.convert("RGB"), int))
            durations.append(picture.info["duration"])
        return frames, durations


@pytest.mark.parametrize("given, shown", [(1, 1), (2, 2), (12, 12), (60, 60), (61, 60), (1000, 60)])
def test_gif_has_the_frames_and_the_times_it_should(tmp_path, given, shown):
    plot.reverse_gif([POINTS[:20] * (1 + i) for i in range(given)], tmp_path / "a.gif", fps=25)
    frames, durations = gif(tmp_path / "a.gif")
    assert durations == [40] * (shown - 1) + [1500]
    assert len(frames) == shown


def test_gif_keeps_the_first_and_the_last_frame(tmp_path):
    levels = [-1, *np.linspace(-0.5, 0.5, 99), 1]
    plot.reverse_gif([np.full((1, 4, 4, 1), level) for level in levels], tmp_path / "a.gif")
    frames, _ = gif(tmp_path / "a.gif")
    shown = [frame[0, 0, 0] for frame in frames]
    assert shown[0] == 0 and shown[-1] == 255 and (np.diff(shown) >= 0).all()


def test_gif_points_are_where_they_should_be_in_a_view_that_stays(tmp_path):
    points = np.array([[-1, 0.4], [1, -0.4]])
    given = [points * 0.5, points, points * [1, -1]]
    plot.reverse_gif(given, tmp_path / "a.gif")
    frames, _ = gif(tmp_path / "a.gif")
    side = frames[0].shape[1]
    for i, (frame, points) in enumerate(zip(frames, given, strict=True)):
        assert frame.shape == (side + 4, side, 3)  # the four rows below are the line that fills up
        rows, columns = np.nonzero(ink(frame[:side]) > 50)
        for half, (x, y) in zip((columns < side / 2, columns > side / 2), points, strict=True):
            assert columns[half].mean() / side == pytest.approx(0.5 + 0.5 * x / 1.08, abs=0.01)
            assert rows[half].mean() / side == pytest.approx(0.5 - 0.5 * y / 1.08, abs=0.01)
        assert np.mean(ink(frame[side:]) > 80) == pytest.approx(i / 2, abs=0.01)


def test_gif_of_colour_images_keeps_their_colours(tmp_path):
    x = -np.ones((1, 8, 8, 3))
    x[:, :, :4, 0], x[:, :, 4:, 2] = 1, 1  # left red, right blue
    plot.reverse_gif([rng.uniform(-1, 1, x.shape), x], tmp_path / "a.gif")
    frames, _ = gif(tmp_path / "a.gif")
    side = frames[-1].shape[1]
    assert np.abs(frames[-1][:side, :side // 2] - [255, 0, 0]).max() < 40
    assert np.abs(frames[-1][:side, side // 2:] - [0, 0, 255]).max() < 40


def test_gif_is_quick_and_small_even_of_pure_noise(tmp_path):
    start = time.process_time()
    plot.reverse_gif(rng.normal(size=(60, 2000, 2)), tmp_path / "points.gif")
    assert time.process_time() - start < 5
    plot.reverse_gif(rng.normal(size=(60, 64, 28, 28, 1)), tmp_path / "images.gif", fps=20)
    for name in ("points.gif", "images.gif"):
        assert (tmp_path / name).stat().st_size < 2_000_000
    frames, durations = gif(tmp_path / "images.gif")
    assert 2 <= len(frames) < 60
    assert sum(durations[:-1]) == pytest.approx(3000 * (1 - 1 / len(frames)), rel=0.1)  # fewer, so slower


def test_gif_refuses(tmp_path):
    path = tmp_path / "a.gif"
    for frames, words in (([], "1 or more frames"), ([POINTS, POINTS[:5]], "of one shape"),
                          ([POINTS, IMAGES], "of one shape"), ([np.zeros(3)], "must be points")):
        with pytest.raises(ValueError, match=words):
            plot.reverse_gif(frames, path)
    for fps in (0, 51):
        with pytest.raises(ValueError, match="fps"):
            plot.reverse_gif([POINTS], path, fps=fps)
    assert not path.exists()


# curves

def drawn(monkeypatch, draw, *args, **kwargs):
    """The figure that a function was about to save: axes say what pixels do not."""
    figures = []
    monkeypatch.setattr(plot, "_save", lambda figure, path: figures.append(figure))
    draw(*args, **kwargs)
    return figures[0].axes


def test_loss_curve_line_is_the_median_and_spikes_do_not_move_it(monkeypatch):
    losses = np.ones(1000)
    losses[::7] = 50
    (axis,) = drawn(monkeypatch, plot.loss_curve, np.arange(1000), losses, "a.png")
    raw, middle = axis.lines
    assert (raw.get_ydata() == losses).all()
    assert (np.asarray(middle.get_ydata()) == 1).all() and len(middle.get_ydata()) == 100
    assert middle.get_xdata()[0] == 4.5 and axis.get_yscale() == "linear"


@pytest.mark.parametrize("end, floor, scale", [(0.5, 0, "linear"), (0.05, 0, "log"), (0.05, -0.06, "linear")])
def test_loss_curve_takes_a_log_axis_for_more_than_a_decade(monkeypatch, end, floor, scale):
    losses = np.geomspace(1, end, 500) + floor
    (axis,) = drawn(monkeypatch, plot.loss_curve, np.arange(500), losses, "a.png")
    assert axis.get_yscale() == scale


def test_schedule_draws_what_it_is_given(monkeypatch):
    left, middle, right = drawn(monkeypatch, plot.schedule, T, BETA, ALPHA_BAR, SNR, "a.png", "Linear")
    assert (left.lines[0].get_ydata() == BETA).all()
    expected_lines = np.sqrt(ALPHA_BAR), np.sqrt(1 - ALPHA_BAR), ALPHA_BAR
    for line, expected in zip(middle.lines, expected_lines, strict=True):
        assert (line.get_ydata() == expected).all()
    assert (right.lines[0].get_ydata() == SNR).all() and right.get_yscale() == "log"
    assert f"{ALPHA_BAR[-1]:.2g}" in middle.get_title()


def test_schedule_refuses_t_0_and_impossible_tables(tmp_path):
    with pytest.raises(ValueError, match="leave t = 0 out"):
        plot.schedule([0, 1], [0, 0.1], [1, 0.9], [np.inf, 9], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"alpha_bar must be in \[0, 1\]"):
        plot.schedule(T, BETA, ALPHA_BAR + 1, SNR, tmp_path / "a.png")
    with pytest.raises(ValueError, match="snr must be 0 or more"):
        plot.schedule(T, BETA, ALPHA_BAR, -SNR, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"beta must be x \(n,\) and y \(n,\)"):
        plot.schedule(T, BETA[1:], ALPHA_BAR, SNR, tmp_path / "a.png")


def test_lines_draws_each_curve_with_its_label_and_scale(monkeypatch):
    x = np.array([1, 10, 100])
    series = {"first": (x, 1 / x), "second": (np.arange(1, 50), np.arange(1, 50))}
    (axis,) = drawn(monkeypatch, plot.lines, series, "a.png", "", "steps", "error", logx=True, logy=True)
    assert [line.get_label() for line in axis.lines] == list(series)
    for line, (x, y) in zip(axis.lines, series.values(), strict=True):
        assert (line.get_xdata() == x).all() and (line.get_ydata() == y).all()
    assert axis.lines[0].get_marker() == "o" and axis.lines[1].get_marker() == "None"
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("steps", "error")


def test_many_curves_all_look_different(monkeypatch):
    series = {str(i): (T, T + i) for i in range(18)}
    (axis,) = drawn(monkeypatch, plot.lines, series, "a.png", "", "", "")
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == 18


def test_lines_refuses(tmp_path):
    for series, words in (({}, "1 or more curves"), ({"a": (T, BETA[:3])}, "curve 'a' must be"),
                          ({"a": (T, T * np.nan)}, "curve 'a' must be finite"), ({"a": ([], [])}, "n >= 1")):
        with pytest.raises(ValueError, match=words):
            plot.lines(series, tmp_path / "a.png", "", "", "")
    for kwargs in ({"logx": True}, {"logy": True}):
        with pytest.raises(ValueError, match="positive on a logarithmic axis"):
            plot.lines({"a": (T - 1, T - 1)}, tmp_path / "a.png", "", "", "", **kwargs)


# fields

GRID = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), -1).reshape(-1, 2)
FIELD = np.where(GRID[:, :1] < 2, [[1.0, 0.0]], [[0.0, -50.0]])
PATHS = rng.normal(size=(2, 7, 2))


def test_fields_point_where_the_field_points_and_never_reach_the_next_arrow(monkeypatch):
    (axis,) = drawn(monkeypatch, plot.fields, [(GRID, FIELD, POINTS, PATHS)], ["a"], "a.png")
    (arrows,) = [part for part in axis.collections if hasattr(part, "U")]
    left = GRID[:, 0] < 2
    assert (arrows.U[left] > 0).all() and (arrows.V[left] == 0).all()
    assert (arrows.U[~left] == 0).all() and (arrows.V[~left] < 0).all()
    assert 0 < arrows.U[left].max() < -arrows.V[~left].max() < 1
    lines = [line.get_xydata() for line in axis.lines]
    for k, path in enumerate(PATHS):
        whole, ring, dot = lines[3 * k : 3 * k + 3]
        assert (whole == path).all() and (ring == path[:1]).all() and (dot == path[-1:]).all()


def test_fields_without_points_paths_or_strength(tmp_path):
    nothing = np.zeros((0, 2)), np.zeros((0, 1, 2))
    plot.fields([(GRID, 0 * FIELD, *nothing), (GRID, FIELD, *nothing)], ["a", "b"], tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").size


def test_fields_refuses(tmp_path):
    item = GRID, FIELD, POINTS, PATHS
    for items, titles, words in (([], [], "1 or more fields"), ([item], [], "needs a title"),
                                 ([(GRID, FIELD[:3], POINTS, PATHS)], ["a"], "an arrow for each place"),
                                 ([(GRID, FIELD, POINTS, PATHS[0])], ["a"], r"paths must be \(k, steps, 2\)")):
        with pytest.raises(ValueError, match=words):
            plot.fields(items, titles, tmp_path / "a.png")


# densities

ACROSS, UP = np.linspace(0, 1, 5), np.linspace(-2, 2, 9)
HEIGHTS = np.arange(45.0).reshape(9, 5)


def test_densities_are_where_they_should_be_on_one_scale_under_their_paths(monkeypatch):
    items = [(ACROSS, UP, HEIGHTS, PATHS), (ACROSS, UP, HEIGHTS / 2, PATHS[:0])]
    how = {"guides": [PATHS[:0], PATHS], "points": [POINTS[:0], POINTS]}
    left, right = drawn(monkeypatch, plot.densities, items, ["a", "b"], "a.png", **how)
    assert not left.collections and (right.collections[0].get_offsets() == POINTS).all()
    for axis, p in ((left, HEIGHTS), (right, HEIGHTS / 2)):
        (image,) = axis.images
        assert (image.get_array() == p).all() and image.origin == "lower"
        assert image.get_extent() == pytest.approx((-0.125, 1.125, -2.25, 2.25))  # each cell about its place
        assert image.get_clim() == (0, 44)
    assert [line.get_xydata().tolist() for line in left.lines[::3]] == PATHS.tolist()
    assert [line.get_xydata().tolist() for line in right.lines] == PATHS.tolist()
    assert {line.get_linestyle() for line in right.lines} == {"--"}


def test_densities_are_darker_where_they_are_larger(tmp_path):
    p = np.zeros((9, 5))
    p[7, 3] = 1
    plot.densities([(ACROSS, UP, p, PATHS[:0])], [""], tmp_path / "a.png")
    rows, columns = np.nonzero(pixels(tmp_path / "a.png")[..., 2] > pixels(tmp_path / "a.png")[..., 0] + 60)
    height, width = pixels(tmp_path / "a.png").shape[:2]
    assert len(rows) > 100 and rows.mean() < 0.4 * height and columns.mean() > 0.6 * width


def test_densities_refuses(tmp_path):
    for item, words in (((ACROSS, UP, HEIGHTS.T, PATHS), r"a density needs p \(m, n\)"),
                        ((ACROSS[:1], UP, HEIGHTS[:, :1], PATHS), "2 or more each"),
                        ((ACROSS, UP, HEIGHTS - 1, PATHS), "a density must be 0 or more, got -1"),
                        ((ACROSS, UP, HEIGHTS, PATHS[0]), r"paths must be \(k, steps, 2\)")):
        with pytest.raises(ValueError, match=words):
            plot.densities([item], ["a"], tmp_path / "a.png")
    with pytest.raises(ValueError, match="needs a title, got 0 and 1"):
        plot.densities([], ["a"], tmp_path / "a.png")


# What they all share.

T_AXIS = np.arange(1.0, 6.0)
EVERY = {
    "bound": lambda path, bad=1: plot.bound(T_AXIS, T_AXIS, path, "bits", (np.arange(1.0, 7.0) * bad, np.arange(6.0))),
    "image_grid": lambda path, bad=1: plot.image_grid(IMAGES * bad, path),
    "scatter": lambda path, bad=1: plot.scatter(POINTS, path, data=POINTS * bad),
    "panels": lambda path, bad=1: plot.panels([POINTS, IMAGES * bad], ["a", "b"], path),
    "image_table": lambda path, bad=1: plot.image_table([IMAGES, IMAGES * bad], ["a", "b"], path),
    "forward_process": lambda path, bad=1: plot.forward_process([POINTS, POINTS * bad], ["a", "b"], path),
    "reverse_gif": lambda path, bad=1: plot.reverse_gif([IMAGES, IMAGES * bad], path),
    "loss_curve": lambda path, bad=1: plot.loss_curve(T, BETA * bad, path),
    "schedule": lambda path, bad=1: plot.schedule(T, BETA * bad, ALPHA_BAR, SNR, path),
    "densities": lambda path, bad=1: plot.densities([(ACROSS, UP, (1 + HEIGHTS) * bad, PATHS)], ["a"], path),
    "fields": lambda path, bad=1: plot.fields([(GRID, FIELD, POINTS, PATHS * bad)], ["a"], path),
    "lines": lambda path, bad=1: plot.lines({"a": (T, BETA), "b": (T, SNR * bad)}, path, "title", "x", "y"),
}


def path_for(name, folder):
    return folder / f"{name}{'.gif' if name == 'reverse_gif' else '.png'}"


def test_every_public_function_is_listed_here():
    public = {name for name, value in vars(plot).items() if callable(value) and not name.startswith("_")
              and value.__module__ == plot.__name__}
    assert public == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_every_picture_is_whole_has_ink_and_is_the_same_each_time(tmp_path, name):
    path = path_for(name, tmp_path)
    EVERY[name](path)
    first = path.read_bytes()
    assert ink(pixels(path)).max() > 100
    EVERY[name](path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_finite_is_refused_in_one_line_and_the_old_file_stays(tmp_path, name, bad):
    path = path_for(name, tmp_path)
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="must be finite, got") as refusal:
        EVERY[name](path, bad)
    assert "\n" not in str(refusal.value)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", EVERY)
def test_a_full_disk_leaves_the_old_file(tmp_path, name, monkeypatch):
    def refuse(handle):
        raise OSError(28, "No space left on device")

    path = path_for(name, tmp_path)
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        EVERY[name](path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", EVERY)
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must be written to a \.(png|gif) file, got"):
        EVERY[name](tmp_path / "a.jpg")


def test_drawing_needs_no_display_no_pyplot_and_importing_no_matplotlib(tmp_path):
    code = ("import sys; from tinydiff import plot\n"
            "assert not {'matplotlib', 'PIL'} & set(sys.modules)\n"
            f"plot.loss_curve([1, 2], [3, 4], {str(tmp_path / 'a.png')!r})\n"
            "assert 'matplotlib.pyplot' not in sys.modules\n")
    root = str(Path(__file__).resolve().parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root,
                   env={"PYTHONPATH": root, "MPLBACKEND": "TkAgg", "HOME": str(tmp_path)})
    assert pixels(tmp_path / "a.png").size


def test_drawing_leaves_matplotlibs_settings_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    for name, draw in EVERY.items():
        draw(path_for(name, tmp_path))
    assert dict(matplotlib.rcParams) == before
