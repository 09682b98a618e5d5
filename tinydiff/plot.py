"""Pictures: NumPy arrays in, files out. No display, no pyplot, nothing remembered between calls.

    points : (n, 2) arrays, any range
    images : (N, H, W, C) arrays, C = 1 (grey) or 3 (RGB); -1 and below is black, +1 and above white

Every function checks what it is given (ValueError: one line), writes one whole file (see `files.write_aside`)
and returns None.
"""

import io
from pathlib import Path

import numpy as np

from .data import to_uint8
from .files import write_aside

# Okabe & Ito's colours: told apart by colour-blind readers too.
_COLOURS = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
_BLUE, _VERMILLION, *_, _SKY = _COLOURS
_ON_ARROWS = _COLOURS[1:5]
_GREY, _INK = "#8A8A8A", "#333333"

_GUTTER = 160  # a grey that shows beside black and beside white
_GIF_FRAMES, _GIF_BYTES, _GIF_SIDE = 60, 2_000_000, 360


def image_grid(x, path, columns=None, scale=2):
    """Images row by row, each pixel a square of `scale` pixels, one scaled pixel of grey between images.

    x: (N, H, W, C). columns: about √N unless given. path: .png.
    """
    _check_suffix(path, ".png")
    x = _images(x)
    _check_count(columns, "columns")
    _check_count(scale, "scale")
    with write_aside(path) as aside:
        _pillow(_grid(x, columns, scale)).save(aside, format="PNG")


def scatter(x, path, data=None, title=None):
    """Samples x (n, 2), beside the data (m, 2) on the same axes if given."""
    _check_suffix(path, ".png")
    x = _points(x)
    sets = [("samples", x, _BLUE)]
    if data is not None:
        sets.insert(0, ("data", _points(data, "data"), _GREY))
        title = title or "Samples should fall where the data fall, and as densely"
    view = _view([points for _, points, _ in sets])
    figure, axes = _figure(1, len(sets), (3.6, 3.6), title)
    for axis, (name, points, colour) in zip(axes, sets, strict=True):
        _draw_points(axis, points, view, colour)
        axis.set_title(f"{name} (n = {len(points):,})", fontsize=10, color=_INK)
        axis.set_xlabel("$x_1$")
    axes[0].set_ylabel("$x_2$")
    _save(figure, path)


def panels(items, titles, path, columns=None, title=None, image_columns=None):
    """A grid of panels, each with its title: point sets, all in one view, or arrays of images.

    items: list of (n, 2) and (k, H, W, C) arrays. columns: panels in a row, 4 at most unless given.
    image_columns: images in a row within a panel, about √k unless given.
    """
    _check_suffix(path, ".png")
    _check_count(columns, "columns")
    _check_count(image_columns, "image_columns")
    items = [_points_or_images(item, f"panel {i}") for i, item in enumerate(items)]
    if not items or len(titles) != len(items):
        raise ValueError(f"each of 1 or more panels needs a title, got {len(items)} and {len(titles)} titles")
    sets = [item for item in items if item.ndim == 2]
    view = _view(sets) if sets else None
    columns = min(columns or 4, len(items))
    rows = -(-len(items) // columns)
    figure, axes = _figure(rows, columns, (2.3, _panel_height(items, image_columns)), title)
    for axis, item, heading in zip(axes, items, titles, strict=False):
        axis.set_title(heading, fontsize=10, color=_INK)
        if item.ndim == 2:
            _draw_points(axis, item, view, _BLUE)
        else:
            _draw_images(axis, item, image_columns)
    for axis in axes[len(items):]:
        axis.set_axis_off()
    _save(figure, path)


def image_table(rows, names, path, title=None, headings=None):
    """A row of images for each name, which stands to its left; headings, if given, above the first row's images.

    rows: list of (k, H, W, C) arrays; the same k for all where there are headings, k of them.
    """
    _check_suffix(path, ".png")
    rows = [_images(row, f"row {i}") for i, row in enumerate(rows)]
    if not rows or len(names) != len(rows):
        raise ValueError(f"each of 1 or more rows needs a name, got {len(rows)} and {len(names)} names")
    if headings is not None and {len(row) for row in rows} != {len(headings)}:
        counts = sorted({len(row) for row in rows})
        raise ValueError(f"each image of a row needs a heading, got {len(headings)} for rows of {counts}")
    sheets = [_grid(row, len(row), scale=4) for row in rows]
    heights = [sheet.shape[0] / sheet.shape[1] for sheet in sheets]
    width = min(8.0, 0.8 * max(len(row) for row in rows))
    beside = 0.1 + 0.085 * max(len(line) for name in names for line in name.split("\n"))
    figure, axes = _figure(len(rows), 1, (width + beside, 0.08 + width * np.mean(heights)), title, heights)
    for axis, sheet, name in zip(axes, sheets, names, strict=True):
        axis.imshow(sheet, cmap="gray", vmin=0, vmax=255)
        axis.set_anchor("E")  # what room is left over is the names'
        axis.spines[:].set_visible(False)
        axis.grid(False)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_ylabel(name, rotation=0, ha="right", va="center", color=_INK)
    if headings:
        middles = (np.arange(len(headings)) + 0.5) * sheets[0].shape[1] / len(headings)
        axes[0].set_xticks(middles, headings, fontsize=10)
        axes[0].tick_params(top=False, bottom=False, labeltop=True, labelbottom=False)
    _save(figure, path)


def forward_process(frames, labels, path):
    """The data at a few times, left to right, as noise takes it.

    frames: list of (n, 2) point sets, or of (k, H, W, C) images, shown as a column. labels: like "t = 250".
    """
    panels(frames, labels, path, columns=len(frames) or None, image_columns=1,
           title="Forward process: left to right, noise drowns the data")


def reverse_gif(frames, path, fps=20):
    """The reverse process as a moving picture: the line below fills up as noise turns into samples.

    frames: list of (n, 2) point sets, or of (N, H, W, C) images, all of one shape. Of a long list at most 60
    are shown, evenly spread, the first and the last always, and fewer where the file would be over 2 MB.
    fps: frames a second, 1..50; the last frame stays for 1.5 seconds. path: .gif.
    """
    _check_suffix(path, ".gif")
    if not 1 <= fps <= 50:
        raise ValueError(f"fps must be in 1..50, got {fps}; viewers slow down anything quicker")
    frames = list(frames)
    if not frames:
        raise ValueError("a GIF needs 1 or more frames, got none")
    frames = [_points_or_images(frame, "a frame") for frame in _evenly(frames, _GIF_FRAMES)]
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) > 1:
        raise ValueError(f"the frames of a GIF must be of one shape, got {shapes[0]} and {shapes[1]}")
    if frames[0].ndim == 2:
        view, ink = _view(frames), _BLUE
        pictures = [_dots(frame, view) for frame in frames]
    else:
        ink, side = "#000000", max(_grid(frames[0]).shape[:2])
        pictures = [_grid(frame, scale=max(1, round(_GIF_SIDE / side))) for frame in frames]
    pictures = [_with_progress(p, i / max(1, len(frames) - 1)) for i, p in enumerate(pictures)]
    seconds = len(pictures) / fps
    blob = _gif(pictures, ink, seconds)
    while len(blob) > _GIF_BYTES and len(pictures) > 2:
        pictures = _evenly(pictures, (len(pictures) + 1) // 2)
        blob = _gif(pictures, ink, seconds)
    with write_aside(path) as aside:
        aside.write_bytes(blob)


def loss_curve(steps, losses, path):
    """The loss at each step, faint, and its median over each hundredth of the run; log axis if tenfold apart.

    steps, losses: (n,), n >= 1.
    """
    _check_suffix(path, ".png")
    steps, losses = _curve(steps, losses, "losses")
    stretch = max(1, len(steps) // 100)
    starts = range(0, len(steps), stretch)
    x, y = ([np.median(values[i:i + stretch]) for i in starts] for values in (steps, losses))
    figure, (axis,) = _figure(1, 1, (6.4, 3.6), f"Training loss: from {y[0]:.3g} to {y[-1]:.3g}")
    axis.plot(steps, losses, ".", color=_SKY, markersize=4, alpha=np.clip(2000 / len(steps), 0.05, 0.5),
              markeredgewidth=0)
    axis.plot(x, y, color=_BLUE, linewidth=1.8)
    if losses.min() > 0 and max(y) > 10 * min(y):
        axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("loss" if stretch == 1 else f"loss (line: median of each {stretch} steps)")
    _save(figure, path)


def schedule(t, beta, alpha_bar, snr, path, title=None):
    """A noise schedule in three panels: β_t; ᾱ_t with √ᾱ_t and √(1-ᾱ_t); SNR_t = ᾱ_t/(1-ᾱ_t) on a log axis.

    t, beta, alpha_bar, snr: (T,), for t = 1..T: at t = 0 the SNR is infinite. alpha_bar in [0, 1], snr >= 0.
    """
    _check_suffix(path, ".png")
    if np.isinf(snr).any():
        raise ValueError("snr must be finite, got infinity; leave t = 0 out, it is the clean data")
    (t, beta), (_, alpha_bar), (_, snr) = (
        _curve(t, y, name) for y, name in ((beta, "beta"), (alpha_bar, "alpha_bar"), (snr, "snr")))
    if alpha_bar.min() < 0 or alpha_bar.max() > 1:
        raise ValueError(f"alpha_bar must be in [0, 1], got {alpha_bar.min():.3g}..{alpha_bar.max():.3g}")
    if snr.min() < 0:
        raise ValueError(f"snr must be 0 or more, got {snr.min():.3g}")
    figure, (left, middle, right) = _figure(1, 3, (3.4, 3.0), title)
    left.plot(t, beta, color=_BLUE)
    left.set_title("Noise added at each step", fontsize=10, color=_INK)
    left.set_ylabel(r"$\beta_t$")
    left.set_ylim(bottom=0)
    for y, label, colour in ((np.sqrt(alpha_bar), r"$\sqrt{\bar\alpha_t}$: signal", _BLUE),
                             (np.sqrt(1 - alpha_bar), r"$\sqrt{1-\bar\alpha_t}$: noise", _VERMILLION),
                             (alpha_bar, r"$\bar\alpha_t$", _GREY)):
        middle.plot(t, y, color=colour, label=label)
    left_over = rf"Signal left at the end: $\bar\alpha_T$ = {alpha_bar[-1]:.2g}"
    middle.set_title(left_over, fontsize=10, color=_INK)
    middle.set_ylabel("scale")
    middle.legend(frameon=False, fontsize=9)
    right.plot(t, snr, color=_BLUE)
    right.axhline(1, color=_INK, linewidth=1, linestyle=":")
    right.set_yscale("log")
    right.minorticks_off()
    right.set_title("Dotted: as much signal as noise", fontsize=10, color=_INK)
    right.set_ylabel(r"SNR$_t$ = $\bar\alpha_t/(1-\bar\alpha_t)$")
    for axis in (left, middle, right):
        axis.set_xlabel("$t$")
    _save(figure, path)


def lines(series, path, title, xlabel, ylabel, logx=False, logy=False):
    """Curves on one pair of axes; short ones get a marker at each point.

    series: {label: (x, y)}, x and y (n,); positive where the axis is logarithmic.
    """
    _check_suffix(path, ".png")
    if not series:
        raise ValueError("lines needs 1 or more curves, got none")
    curves = {label: _curve(x, y, f"curve {label!r}") for label, (x, y) in series.items()}
    for label, (x, y) in curves.items():
        if (logx and x.min() <= 0) or (logy and y.min() <= 0):
            raise ValueError(f"curve {label!r} must be positive on a logarithmic axis, got 0 or less")
    figure, (axis,) = _figure(1, 1, (6.0, 3.8), title)
    for i, (label, (x, y)) in enumerate(curves.items()):
        marker, style = "osD^vX"[i % 6] if len(x) <= 30 else None, ("-", "--", ":")[i // 6 % 3]
        axis.plot(x, y, color=_COLOURS[i % 6], linestyle=style, marker=marker, markersize=5, label=label)
    axis.set_xscale("log" if logx else "linear")
    axis.set_yscale("log" if logy else "linear")
    axis.set_xlabel(xlabel)
    axis.set_ylabel(ylabel)
    if len(curves) > 1:
        axis.legend(frameon=False, fontsize=9)
    _save(figure, path)


def bound(t, costs, path, unit, coding=None):
    """A variational bound: what each t costs, and beside it, if given, the rate-distortion curve of progressive coding.

    t, costs: (T,), t = 1..T, in `unit` (words); costs below 0, of a density, are left off the logarithmic axis.
    coding: rate and distortion, (T+1,) each, by t, in bits a coordinate and on the scale 0..255.
    """
    _check_suffix(path, ".png")
    t, costs = _curve(t, costs, "costs")
    panels_wanted = 1 if coding is None else 2
    figure, (left, *right) = _figure(1, panels_wanted, (4.4, 3.4), "-ln p is no more than the sum of these")
    shown = costs > 0
    left.plot(t[shown], costs[shown], ".", color=_BLUE, markersize=4, alpha=0.7, markeredgewidth=0)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_xlabel("$t$")
    left.set_ylabel(f"cost of the step from $t$, {unit}")
    left.set_title("What each reverse step costs", fontsize=10, color=_INK)
    for axis in right:
        rate, distortion = _curve(*coding, "distortion")
        axis.plot(rate, distortion, color=_BLUE, marker="o", markevery=[0, -1], markersize=5)
        ends = (0, "$t = 0$: all", (-4, 8), "right"), (-1, "$t = T$: nothing yet", (8, -3), "left")
        for i, name, place, side in ends:
            axis.annotate(name, (rate[i], distortion[i]), place, textcoords="offset points", ha=side, fontsize=8)
        axis.set_xlabel("bits a coordinate, received so far")
        axis.set_ylabel("RMSE of the guess of $x_0$, of 255")
        axis.set_title("Most bits buy what nobody sees", fontsize=10, color=_INK)
    _save(figure, path)


def fields(items, titles, path, title=None):
    """Vector fields side by side, all in one view, over points and under paths.

    items: list of (where, arrows, points, paths). where, arrows: (n, 2), the places of a grid and the field there;
           points: (m, 2), m >= 0; paths: (k, steps, 2), k >= 0, each from a ring to a dot.
    An arrow is longer where the field is stronger, but never as long as the grid's spacing: a strong one would hide
    the others.
    """
    _check_suffix(path, ".png")
    if not items or len(titles) != len(items):
        raise ValueError(f"each of 1 or more fields needs a title, got {len(items)} and {len(titles)} titles")
    view = _view([_points(where, "where") for where, *_ in items])
    figure, axes = _figure(1, len(items), (3.7, 3.9), title)
    for axis, (where, arrows, points, paths), heading in zip(axes, items, titles, strict=True):
        _frame(axis, view)
        if len(points):
            _draw_points(axis, _points(points, "points"), view, _SKY)
        _draw_arrows(axis, *_field(where, arrows))
        _draw_paths(axis, _paths(paths))
        axis.set_title(heading, fontsize=10, color=_INK)
        axis.set_xlabel("$x_1$")
    axes[0].set_ylabel("$x_2$")
    _save(figure, path)


def densities(items, titles, path, title=None, labels=("$x_1$", "$x_2$"), guides=None, points=None):
    """Heat maps side by side, darker where the density is larger, on one scale for all, under points and paths.

    items : list of (x, y, p, paths). x (n,), y (m,): even grids, rising; p (m, n): 0 or more, at (x_j, y_i);
            paths: (k, steps, 2), k >= 0, each from a ring to a dot.
    labels: of the two axes. guides: for each panel, (k, steps, 2), k >= 0: dashed lines; none unless given.
    points: for each panel, (m, 2), m >= 0; none unless given.
    """
    _check_suffix(path, ".png")
    guides = [np.zeros((0, 1, 2))] * len(items) if guides is None else guides
    points = [np.zeros((0, 2))] * len(items) if points is None else points
    if not items or not len(items) == len(titles) == len(guides) == len(points):
        raise ValueError(f"each of 1 or more densities needs a title, got {len(items)} and {len(titles)} titles")
    items = [(*_heights(x, y, p), _paths(paths), _paths(dashed))
             for (x, y, p, paths), dashed in zip(items, guides, strict=True)]
    top = max(p.max() for _, _, p, *_ in items)
    figure, axes = _figure(1, len(items), (3.4, 3.5), title)
    for axis, (x, y, p, paths, dashed), dots, heading in zip(axes, items, points, titles, strict=True):
        _draw_heights(axis, x, y, p, top)
        if len(dots):
            axis.scatter(*_points(dots, "points").T, s=4, color=_VERMILLION, alpha=0.6, linewidths=0)
        for steps in dashed:
            axis.plot(*steps.T, color=_INK, linewidth=1, linestyle=(0, (4, 3)))
        _draw_paths(axis, paths)
        axis.set_title(heading, fontsize=10, color=_INK)
        axis.set_xlabel(labels[0])
    axes[0].set_ylabel(labels[1])
    _save(figure, path)


# What is let in.

def _check_suffix(path, suffix):
    if Path(path).suffix.lower() != suffix:
        raise ValueError(f"this picture must be written to a {suffix} file, got {path}")


def _check_count(value, name):
    if value is not None and (value != int(value) or value < 1):
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value}")


def _finite(x, name):
    x = np.asarray(x, np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got {np.sum(~np.isfinite(x))} of {x.size} NaN or infinite")
    return x


def _points(x, name="x"):
    if np.ndim(x) != 2 or np.shape(x)[1] != 2 or not len(x):
        raise ValueError(f"{name} must be points (n, 2), n >= 1, got {np.shape(x)}")
    return _finite(x, name)


def _images(x, name="x"):
    if np.ndim(x) != 4 or np.shape(x)[3] not in (1, 3) or not np.size(x):
        raise ValueError(f"{name} must be images (N, H, W, C), C = 1 or 3, none of them 0, got {np.shape(x)}")
    return _finite(x, name)


def _points_or_images(x, name):
    if np.ndim(x) not in (2, 4):
        raise ValueError(f"{name} must be points (n, 2) or images (N, H, W, C), got {np.shape(x)}")
    return _points(x, name) if np.ndim(x) == 2 else _images(x, name)


def _field(where, arrows):
    if np.shape(where) != np.shape(arrows):
        raise ValueError(f"a field needs an arrow for each place, got {np.shape(arrows)} for {np.shape(where)}")
    return _points(where, "where"), _points(arrows, "arrows")


def _paths(x):
    if np.ndim(x) != 3 or np.shape(x)[2] != 2:
        raise ValueError(f"paths must be (k, steps, 2), got {np.shape(x)}")
    return _finite(x, "paths")


def _heights(x, y, p):
    if np.ndim(x) != 1 or np.ndim(y) != 1 or np.shape(p) != (len(y), len(x)) or min(len(x), len(y)) < 2:
        raise ValueError(f"a density needs p (m, n) on y (m,) and x (n,), 2 or more each, got {np.shape(p)}, "
                         f"{np.shape(y)} and {np.shape(x)}")
    p = _finite(p, "a density")
    if p.min() < 0:
        raise ValueError(f"a density must be 0 or more, got {p.min():.3g}")
    return _finite(x, "x"), _finite(y, "y"), p


def _curve(x, y, name):
    if np.ndim(x) != 1 or np.shape(x) != np.shape(y) or not len(x):
        raise ValueError(f"{name} must be x (n,) and y (n,), n >= 1, got {np.shape(x)} and {np.shape(y)}")
    return _finite(x, f"x of {name}"), _finite(y, name)


# How a picture is drawn.

def _figure(rows, columns, size, title, heights=None):
    """A figure of rows x columns axes, each `size` inches, in the house look; and its axes, row by row.

    heights: of the rows, in proportion; all alike unless given.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = columns * size[0], rows * size[1] + (0.35 if title else 0)
    figure = Figure((width, height), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=11, color=_INK)
    axes = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(_GREY)
        axis.tick_params(colors=_INK, labelsize=8, color=_GREY)
        axis.grid(True, color="#E6E6E6", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def _save(figure, path):
    with write_aside(path) as aside:
        figure.savefig(aside, format="png")


def _view(sets):
    """Centre and half-width of a square around all points, but never over twice the bulk of the usual set.

    A sampler that diverges throws points far away; a view that held them all would show the rest as a dot.
    The usual set is the one of middle size; of two, the first.
    """
    centres = [np.percentile(points, [1, 99], axis=0).mean(0) for points in sets]
    bulks = [np.percentile(_reach(points, centre), 99) for points, centre in zip(sets, centres, strict=True)]
    usual = np.argsort(bulks)[(len(sets) - 1) // 2:len(sets) // 2 + 1].min()
    furthest = max(_reach(points, centres[usual]).max() for points in sets)
    half = min(furthest, 2 * bulks[usual]) or furthest or 1.0
    return centres[usual], 1.08 * half


def _reach(points, centre):
    """Half the side of the square about `centre` that just holds each point."""
    return np.abs(points - centre).max(1)


def _frame(axis, view):
    from matplotlib.ticker import MaxNLocator

    centre, half = view
    axis.set_xlim(centre[0] - half, centre[0] + half)
    axis.set_ylim(centre[1] - half, centre[1] + half)
    axis.set_aspect("equal")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.yaxis.set_major_locator(MaxNLocator(5))


def _draw_points(axis, points, view, colour):
    centre, half = view
    size = np.clip(4000 / len(points), 2, 12)
    axis.scatter(*points.T, s=size, color=colour, alpha=np.clip(1000 / len(points), 0.2, 0.8), linewidths=0)
    _frame(axis, view)
    outside = np.sum(_reach(points, centre) > half)
    if outside:
        axis.text(0.98, 0.02, f"{outside:,} outside", transform=axis.transAxes, ha="right", fontsize=8,
                  color=_VERMILLION)


def _draw_arrows(axis, where, arrows):
    """Arrows whose length is the spacing of a square grid times r/(1+r), r the field's strength over its median."""
    strength = np.linalg.norm(arrows, axis=1)
    spacing = np.ptp(where, axis=0).max() / max(np.sqrt(len(where)) - 1, 1) or 1.0
    arrows = arrows * (spacing / (strength + np.median(strength) + 1e-12))[:, None]
    axis.quiver(*where.T, *arrows.T, angles="xy", scale_units="xy", scale=1, pivot="mid", color=_INK, alpha=0.6,
                width=0.005, headwidth=3.5, headlength=4, headaxislength=3.5, minlength=0.5)


def _draw_paths(axis, paths):
    for i, steps in enumerate(paths):
        colour = _ON_ARROWS[i % len(_ON_ARROWS)]
        axis.plot(*steps.T, color=colour, linewidth=1.1, alpha=0.8)
        axis.plot(*steps[0], "o", color=colour, markersize=7, markerfacecolor="white", markeredgewidth=1.6,
                  zorder=3)
        axis.plot(*steps[-1], "o", color=colour, markersize=8, markeredgecolor="white", zorder=3)


def _draw_heights(axis, x, y, p, top):
    """p as colours from white to blue, each cell about its place, in a square frame with room for a dot's edge."""
    from matplotlib.colors import LinearSegmentedColormap

    (left, right), (bottom, up) = (
        (u[0] - step, u[-1] + step) for u, step in ((x, (x[1] - x[0]) / 2), (y, (y[1] - y[0]) / 2)))
    axis.imshow(p, cmap=LinearSegmentedColormap.from_list("density", ["white", _SKY, _BLUE]), vmin=0, vmax=top,
                extent=(left, right, bottom, up), origin="lower", aspect="auto", interpolation="bilinear")
    margin = 0.02
    axis.set_xlim(left - margin * (right - left), right + margin * (right - left))
    axis.set_ylim(bottom - margin * (up - bottom), up + margin * (up - bottom))
    axis.set_box_aspect(1)
    axis.grid(False)


def _draw_images(axis, x, columns):
    axis.imshow(_grid(x, columns, scale=4), cmap="gray", vmin=0, vmax=255)
    axis.set_axis_off()


def _panel_height(items, image_columns):
    """Inches that a panel 2.3 inches wide needs for the tallest item, with room for its title."""
    shapes = [_grid(item, image_columns).shape if item.ndim == 4 else (0.95, 1) for item in items]
    return 0.3 + 2.2 * max(shape[0] / shape[1] for shape in shapes)


def _pillow(pixels):
    from PIL import Image

    return Image.fromarray(pixels)


def _grid(x, columns=None, scale=1):
    """Images (N, H, W, C) as one uint8 picture, (height, width) grey or (height, width, 3)."""
    n, height, width, channels = x.shape
    columns = min(n, int(columns or np.ceil(np.sqrt(n))))
    rows = -(-n // columns)
    sheet = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), _GUTTER, np.uint8)
    pixels = to_uint8(x)
    for k in range(n):
        top, left = k // columns * (height + 1), k % columns * (width + 1)
        sheet[top:top + height, left:left + width] = pixels[k]
    sheet = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    return sheet[..., 0] if channels == 1 else sheet


def _evenly(items, most):
    """At most `most` of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.rint(np.linspace(0, len(items) - 1, most)).astype(int)]


def _dots(points, view):
    """Points as one uint8 picture: round dots, see-through if they are many, 255 where there are none.

    A histogram and a few shifts: much quicker than a figure for each frame.
    """
    centre, half = view
    edges = [np.linspace(c - half, c + half, _GIF_SIDE + 1) for c in centre]
    count = np.histogram2d(*points.T, bins=edges)[0].T[::-1]
    radius = 2
    padded, cover = np.pad(count, radius), np.zeros_like(count)
    for i in range(-radius, radius + 1):
        for j in range(-radius, radius + 1):
            if i * i + j * j <= radius * radius + 1:
                cover += padded[radius + i:radius + i + _GIF_SIDE, radius + j:radius + j + _GIF_SIDE]
    alpha = np.clip(1000 / len(points), 0.2, 0.8)
    return np.rint(255 * (1 - alpha) ** cover).astype(np.uint8)


def _with_progress(picture, done):
    """The picture with a line below it, `done` of it dark."""
    line = np.full((4, *picture.shape[1:]), 224, np.uint8)
    line[:, :round(done * picture.shape[1])] = 64
    return np.concatenate([picture, line])


def _gif(pictures, ink, seconds):
    """The bytes of a GIF of uint8 pictures, `seconds` long, 1.5 more on the last; grey runs from `ink`."""
    from PIL import Image

    if pictures[0].ndim == 2:
        # 32 levels pack far better than 256, and nobody sees the difference on screen.
        colour = [int(ink[i:i + 2], 16) for i in (1, 3, 5)]
        ramp = [round(c + (255 - c) * level / 31) for level in range(32) for c in colour]
        images = [_pillow(picture >> 3) for picture in pictures]
        for image in images:
            image.putpalette(ramp)
    else:
        # One palette for all frames, chosen from both ends of the process; the samples weigh most.
        palette = _pillow(np.concatenate([pictures[0], pictures[-1], pictures[-1]])).quantize(64)
        plain = Image.Dither.NONE
        images = [_pillow(picture).quantize(palette=palette, dither=plain) for picture in pictures]
    duration = round(1000 * seconds / len(images))
    with io.BytesIO() as file:
        images[0].save(file, format="GIF", save_all=True, append_images=images[1:], loop=0,
                       duration=[duration] * (len(images) - 1) + [1500])
        return file.getvalue()
