"""The 3 x 3 convolution with half the multiplications: Winograd's F(4, 3), down the rows.

Four outputs of a three-tap filter need twelve products done plainly, and six done cleverly:

    y = Aᵀ [(G w) ⊙ (Bᵀ d)],      d six inputs, w three taps, y four outputs

Here d, w, y are rows of an image: Bᵀ mixes six rows into six, each is convolved along the row with one row of G w, and
Aᵀ mixes the six answers into four rows. The gradient of w is the same three steps read backwards: Gᵀ [(Bᵀ d) ⊗ (A g)].

Along the row nothing is gathered. With one column of zeros between rows, the three neighbours of a pixel lie side by
side in memory, 3 C numbers starting one pixel to its left; so a matrix whose lines overlap would be wanted, and because
BLAS takes none, it is read as three, whose lines start at every third pixel.

An image that is to be doubled first (nearest neighbour) need not be. Six rows of the double are E d, d four rows of the
image, so Bᵀ E mixes those. The double's two pixels in a pixel's place see two pixels each: the left one with the taps
w₀, w₁ + w₂, and the right one with w₀ + w₁, w₂. Backwards, a pixel hears from four: w₀, w₀ + w₁, w₁ + w₂, w₂.

Source : Lavin & Gray 2015, arXiv:1509.09308, section 4 (there in two dimensions).
Law    : equal to conv.plain_conv2d and its gradients, of conv.upsample(x) where it is doubled (laws/tensor.py).
"""
import numpy as np

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
_E = np.repeat(np.eye(4), [1, 2, 2, 1], axis=0)
_PAIRS = np.repeat(np.eye(2), 2, axis=1)  # the adjoint of doubling: rows of the double are added in pairs
_FOUR = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])  # three taps -> the four that a pixel hears with


class _Tiles:
    """A slice of k images, w pixels wide, cut down the rows into tiles; one pixel of zeros after each row.

    What is mixed is kept as (6, numbers): row after row of every tile, `size` numbers to a pixel, and a few to spare.
    """

    def __init__(self, k, tiles, w, dtype):
        self.k, self.tiles, self.w, self.dtype = k, tiles, w, dtype
        self.pixels = k * tiles * (w + 1)

    def _mixed(self, size, skip=0):
        """An array, zeros between rows and at both ends, and its rows: (k, tiles, 6, w size), as mixing matrices go."""
        mixed, row = np.empty((6, (self.pixels + 8) * size), self.dtype), (self.w + 1) * size
        whole = _view(mixed, (self.k, self.tiles, 6, row), (self.tiles * row, row, mixed.shape[1], 1), skip)
        mixed[:, :skip] = mixed[:, skip + self.pixels * size :] = whole[..., self.w * size :] = 0
        return mixed, whole[..., : self.w * size]

    def mixer(self, matrix, h, size, skip=0):
        """(mixed, mix): mix(images) puts `matrix` (6, m) times m rows of each tile into mixed.

        h: height of the images. skip: zeros before the first row; where there are any, a tile begins with the last row
        of the tile above and ends with the first of the one below. Rows beyond the image are left out of the product.
        """
        mixed, by_tile = self._mixed(size, skip)
        matrix, m, margin, row = matrix.astype(self.dtype), matrix.shape[1], 1 if skip else 0, self.w * size
        step = m - 2 * margin
        first = [step * t - margin for t in range(self.tiles)]
        whole = [t for t in range(self.tiles) if 0 <= first[t] <= h - m]
        edges = [(t, max(0, first[t]), min(h, first[t] + m)) for t in range(self.tiles) if t not in whole]
        edges = [(t, slice(a, b), matrix[:, a - first[t] : b - first[t]]) for t, a, b in edges]

        def mix(x):
            x = np.ascontiguousarray(x).reshape(len(x), h, row)
            if whole:
                rows = _view(x, (len(x), len(whole), m, row), (h * row, step * row, row, 1), first[whole[0]] * row)
                np.matmul(matrix, rows, out=by_tile[: len(x), whole[0] : whole[-1] + 1])
            for t, rows, part in edges:
                np.matmul(part, x[:, rows], out=by_tile[: len(x), t])
            by_tile[len(x) :] = 0

        return mixed, mix

    def unmixer(self, matrix, h, size):
        """(mixed, unmix): unmix(images) fills images (n, h, w size) with `matrix` (m, 6) times what is in mixed."""
        mixed, by_tile = self._mixed(size)
        matrix, m, row = matrix.astype(self.dtype), len(matrix), self.w * size
        whole, left = divmod(h, m)

        def unmix(y):
            rows = _view(y, (len(y), whole, m, row), (h * row, m * row, row, 1))
            np.matmul(matrix, by_tile[: len(y), :whole], out=rows)
            if left:
                np.matmul(matrix[:left], by_tile[: len(y), whole], out=y[:, m * whole :])

        return mixed, unmix

    def windows(self, mixed, size, length, r, skip=0):
        """(6, r, pixels / r, length): `length` numbers from each pixel on, taken at every r-th so that none overlap."""
        shape = (6, r, -(-self.pixels // r), length)
        return _view(mixed, shape, (mixed.shape[1], size, r * size, 1), skip)

    def taps(self, mixed, size, c, n):
        """(6, n, c, pixels): n times c numbers from each pixel on."""
        return _view(mixed, (6, n, c, self.pixels), (mixed.shape[1], c, 1, size))


def _view(x, shape, strides, skip=0):
    """The numbers of a contiguous array in another order, strides counted in numbers."""
    return np.ndarray(shape, x.dtype, x, skip * x.itemsize, [s * x.itemsize for s in strides])


def _mix_kernel(w):
    """(3, taps, c, o) -> (6, 1, taps c, o): G w."""
    return (_G.astype(w.dtype) @ w.reshape(3, -1)).reshape(6, 1, -1, w.shape[3])


def turn(w):
    """The kernel of the gradient with respect to the image: turned half round, inputs and outputs exchanged."""
    return w[::-1, ::-1].transpose(0, 1, 3, 2)


def conv2d(x, w, b, slices, doubled=False):
    """x (B, h, w, c) * w (3, 3, c, o) + b, stride 1, a slice of the batch at a time; x doubled before it, if asked."""
    (_, h, width, c), o = x.shape, w.shape[3]
    times, matrix, kernels = 1, _BT, [w]
    if doubled:
        times, matrix, (w0, w1, w2) = 2, _BT @ _E, w.swapaxes(0, 1)
        kernels = [np.stack([w0, w1 + w2], 1), np.stack([w0 + w1, w2], 1)]
    tiles = _Tiles(slices[0].stop, -(-times * h // 4), width, x.dtype)
    mixed, mix = tiles.mixer(matrix, h, c, skip=c)
    answers, unmix = tiles.unmixer(_AT, times * h, times * o)
    products = []
    for i, kernel in enumerate(kernels):
        r = kernel.shape[1]
        windows = tiles.windows(mixed, c, r * c, r, skip=i * c)
        products.append((windows, _mix_kernel(kernel), tiles.windows(answers, times * o, o, r, skip=i * o)))
    out = np.empty((len(x), times * h, times * width * o), x.dtype)
    row = None if b is None else np.tile(b, times * width)
    for part in slices:
        mix(x[part])
        for windows, kernel, answer in products:
            np.matmul(windows, kernel, out=answer)
        unmix(out[part])
        if b is not None:
            out[part] += row
    return out.reshape(len(x), times * h, times * width, o)


def gradients(g, x, w, slices, doubled=False):
    """(dx, dw) of g = dL/d(x * w): both read the same mixed rows of g."""
    (_, h, width, c), o = x.shape, w.shape[3]
    times, at, n, r, kernel = 1, _AT, 3, 3, turn(w)  # g is so many times as large; n taps; every r-th window is apart
    if doubled:
        times, at, n, r, four = 2, _PAIRS @ _AT, 4, 2, _FOUR.astype(x.dtype)
        kernel = np.einsum("tv,uvoc->utoc", four, kernel)
    tiles = _Tiles(slices[0].stop, -(-times * h // 4), width, x.dtype)
    mixed, mix = tiles.mixer(_BT, times * h, times * o, skip=o)
    spread, mix_x = tiles.mixer(at.T, h, c)
    answers, unmix = tiles.unmixer(at, h, c)
    windows, answer = tiles.windows(mixed, times * o, n * o, r), tiles.windows(answers, c, c, r)
    taps, pixels = tiles.taps(mixed, times * o, o, n), tiles.windows(spread, c, c, 1)
    kernel = _mix_kernel(kernel)
    dx, dmixed = np.empty((len(x), h, width * c), x.dtype), np.zeros((6, n, o, c), x.dtype)
    for part in slices:
        mix(g[part])
        mix_x(x[part])
        np.matmul(windows, kernel, out=answer)
        dmixed += np.matmul(taps, pixels)
        unmix(dx[part])
    dw = (_G.T.astype(x.dtype) @ dmixed.reshape(6, -1)).reshape(3, n, o, c)
    if doubled:
        dw = np.einsum("tv,utoc->uvoc", four, dw)
    return dx.reshape(x.shape), np.ascontiguousarray(turn(dw))
