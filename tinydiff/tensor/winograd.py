"""The 3 x 3 convolution with half the multiplications: Winograd's F(4, 3), down the rows.

Four outputs of a three-tap filter need twelve products done plainly, and six done cleverly:

    y = Aᵀ [(G w) ⊙ (Bᵀ d)],      d six inputs, w three taps, y four outputs

Here d, w, y are rows of an image: Bᵀ mixes six rows into six, each is convolved along the row with one row of G w, and
Aᵀ mixes the six answers into four rows. The gradient of w is the same three steps read backwards: Gᵀ [(Bᵀ d) ⊗ (A g)].

Along the row nothing is gathered. With one column of zeros between rows, the three neighbours of a pixel lie side by
side in memory, 3 C numbers starting one pixel to its left; so a matrix whose lines overlap would be wanted, and because
BLAS takes none, it is read as three, whose lines start at every third pixel.

Source : Lavin & Gray 2015, arXiv:1509.09308, section 4 (there in two dimensions).
Law    : equal to conv.plain_conv2d and its gradients (laws/tensor.py).
"""
import numpy as np
from numpy.lib.stride_tricks import as_strided

_BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_AT = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


class _Tiles:
    """A slice of k images of h x w pixels, cut down the rows into tiles of four; one zero column after each row."""

    def __init__(self, k, h, w, dtype):
        self.k, self.h, self.w, self.dtype = k, h, w, dtype
        self.tiles = -(-h // 4)
        self.row = w + 1
        self.thirds = -(-k * self.tiles * self.row // 3)
        self.bt, self.at = _BT.astype(dtype), _AT.astype(dtype)

    def _zeros(self, *shape):
        return np.zeros(shape, self.dtype)

    def _by_tile(self, mixed, c):
        """(6, pixels, c) seen as (k, tiles, 6, w c): what the mixing matrices read and write."""
        s, size = mixed.strides, mixed.itemsize
        shape = (self.k, self.tiles, 6, self.w * c)
        return as_strided(mixed, shape, (self.tiles * self.row * s[1], self.row * s[1], s[0], size))

    def inputs(self, c):
        """A function: images (n, h, w, c) -> windows (6, 3, thirds, 3 c) of Bᵀ d."""
        padded = self._zeros(self.k, 4 * self.tiles + 2, self.w * c)
        s, size = padded.strides, padded.itemsize
        rows = as_strided(padded, (self.k, self.tiles, 6, self.w * c), (s[0], 4 * s[1], s[1], s[2]))
        mixed = self._zeros(6, 3 * self.thirds + 3, c)
        by_tile = self._by_tile(mixed[:, 1:], c)
        third = (mixed.strides[0], c * size, 3 * c * size, size)
        windows = as_strided(mixed, (6, 3, self.thirds, 3 * c), third)

        def transform(x):
            padded[: len(x), 1 : self.h + 1] = x.reshape(len(x), self.h, -1)
            np.matmul(self.bt, rows, out=by_tile)
            return windows

        return transform

    def products(self, c):
        """An array (6, 3, thirds, c) to hold answers of windows, and the same seen by tile."""
        mixed = self._zeros(6, 3 * self.thirds, c)
        return mixed.reshape(6, self.thirds, 3, c).transpose(0, 2, 1, 3), self._by_tile(mixed, c)

    def outputs(self, c):
        """(answers, finish): finish() -> (k, h, w c), Aᵀ of what was put into answers (6, 3, thirds, c)."""
        answers, by_tile = self.products(c)
        y = self._zeros(self.k, self.tiles, 4, self.w * c)

        def finish():
            np.matmul(self.at, by_tile, out=y)
            return y.reshape(self.k, 4 * self.tiles, -1)[:, : self.h]

        return answers, finish

    def spread(self, c):
        """A function: images (n, h, w, c) -> (6, 3, thirds, c) of A y, what a gradient of w is made with."""
        answers, by_tile = self.products(c)
        padded = self._zeros(self.k, self.tiles, 4, self.w * c)
        lines, a = padded.reshape(self.k, 4 * self.tiles, -1), np.ascontiguousarray(self.at.T)

        def transform(y):
            lines[: len(y), : self.h] = y.reshape(len(y), self.h, -1)
            lines[len(y) :] = 0
            np.matmul(a, padded, out=by_tile)
            return answers

        return transform


def _mix_kernel(w):
    """(3, 3, c, o) -> (6, 1, 3 c, o): G w."""
    mixed = _G.astype(w.dtype) @ w.reshape(3, -1)
    return mixed.reshape(6, 1, 3 * w.shape[2], w.shape[3])


def turn(w):
    """The kernel of the gradient with respect to the image: turned half round, inputs and outputs exchanged."""
    return w[::-1, ::-1].transpose(0, 1, 3, 2)


def conv2d(x, w, b, slices):
    """x (B, h, w, c) * w (3, 3, c, o) + b, stride 1, a slice of the batch at a time."""
    (_, height, width, c), o = x.shape, w.shape[3]
    tiles = _Tiles(slices[0].stop, height, width, x.dtype)
    transform, (answers, finish) = tiles.inputs(c), tiles.outputs(o)
    kernel, out = _mix_kernel(w), np.empty((len(x), height, width * o), x.dtype)
    row = 0 if b is None else np.tile(b, width)
    for part in slices:
        np.matmul(transform(x[part]), kernel, out=answers)
        np.add(finish()[: len(out[part])], row, out=out[part])
    return out.reshape(len(x), height, width, o)


def gradients(g, x, w, slices):
    """(dx, dw) of g = dL/d(x * w): both read the same mixed rows of g."""
    (_, height, width, c), o = x.shape, w.shape[3]
    tiles = _Tiles(slices[0].stop, height, width, x.dtype)
    transform, (answers, finish), spread = tiles.inputs(o), tiles.outputs(c), tiles.spread(c)
    kernel, dx = _mix_kernel(turn(w)), np.empty((len(x), height, width * c), x.dtype)
    dmixed = np.zeros((6, 3 * o, c), x.dtype)
    for part in slices:
        windows = transform(g[part])
        np.matmul(windows, kernel, out=answers)
        dx[part] = finish()[: len(dx[part])]
        dmixed += np.matmul(windows.swapaxes(2, 3), spread(x[part])).sum(1)
    dw = turn((_G.T.astype(x.dtype) @ dmixed.reshape(6, -1)).reshape(3, 3, o, c))
    return dx.reshape(x.shape), np.ascontiguousarray(dw)
