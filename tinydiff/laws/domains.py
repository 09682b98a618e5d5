"""The legal inputs of laws. A domain is a function (choose, got): `choose` draws, `got` holds what was drawn before."""
from fractions import Fraction

import numpy as np

from .. import schedule as schedules
from .. import sde


def Schedule(choose, got):
    """Any schedule: a named family or betas of all sizes; on Fractions, one whose √α are rational too."""
    if choose.exact:
        roots = [Fraction(choose.integer(1, 99), 100) for _ in range(choose.integer(1, 8))]
        return schedules.Schedule([1 - root**2 for root in roots])
    T = choose.integer(1, 40)
    kind = choose.one_of(["betas", "linear", "cosine", "quadratic", "constant"])
    if kind == "betas":
        return schedules.Schedule([10 ** choose.real(-4.0, -0.02) for _ in range(T)])
    return schedules.named(kind, T + 24)


def GentleSchedule(choose, got):
    """A schedule whose every ᾱ_t leaves room on both sides: differences of densities stay above rounding."""
    return schedules.Schedule([choose.real(0.2, 0.4) for _ in range(choose.integer(1, 4))])


def ShortSchedule(choose, got):
    """1..12 betas in [0.01, 0.6]: a chain whose ᾱ_T is not so small that every digit is lost on the way back."""
    return schedules.Schedule([choose.real(0.01, 0.6) for _ in range(choose.integer(1, 12))])


def Skips(choose, got):
    """A number of steps, 1..1000."""
    return choose.integer(1, 1000)


def SampledAs(choose, got):
    """A sampler and its parameter: ("ddpm", v) or ("ddim", eta)."""
    return choose.one_of([("ddpm", 1.0), ("ddpm", 0.0), ("ddpm", 0.5), ("ddim", 0.0), ("ddim", 1.0), ("ddim", 0.5)])


def Kind(choose, got):
    """What a network guesses: eps, x0, v or mu."""
    return choose.one_of(["eps", "x0", "v", "mu"])


def Batches(choose, got):
    """A whole number, 1..20."""
    return choose.integer(1, 20)


def Steps(choose, got):
    """A number of steps, 30..300."""
    return choose.integer(30, 300)


def Time(choose, got):
    """t in 1..T."""
    return choose.integer(1, got["schedule"].T)


def Earlier(choose, got):
    """s in 0..t-1."""
    return choose.integer(0, got["t"] - 1)


def Unit(choose, got):
    """A number in [0, 1]."""
    return Fraction(choose.integer(0, 50), 50) if choose.exact else choose.real(0.0, 1.0)


def Number(choose, got):
    """A number in [-3, 3]."""
    return Fraction(choose.integer(-150, 150), 50) if choose.exact else choose.real(-3.0, 3.0)


def Variance(choose, got):
    """A number in [0.05, 4]."""
    return Fraction(choose.integer(1, 80), 20) if choose.exact else choose.real(0.05, 4.0)


def Points(choose, got):
    """(4, 2) numbers in [-3, 3]: data, noise, or anything else of that shape."""
    return choose.array((4, 2), -3.0, 3.0)


def Times(choose, got):
    """(4,) times in 1..T, one for each of the Points."""
    return np.array([choose.integer(1, got["schedule"].T) for _ in range(4)])


def Mixture(choose, got):
    """weights (3,), means (3, 1), at least 1/2 apart, variances (3,) of one-dimensional data: never one Gaussian."""
    weights = choose.array((3,), 0.2, 1.0)
    means = choose.array((3, 1), -0.5, 0.5) + [[-1.5], [0.0], [1.5]]
    return weights / weights.sum(), means, choose.array((3,), 0.05, 1.0)


def Images(choose, got):
    """(B, H, W, 4), small and of any parity."""
    b, h, w = (choose.integer(1, 3), choose.integer(1, 7), choose.integer(1, 7))
    return choose.array((b, h, w, 4), -2.0, 2.0)


def Kernel(choose, got):
    """(k, k, 4, o), k 1 or 3; o 2 or 5, which decides whether Winograd does a 3 x 3."""
    k, o = choose.one_of([1, 3]), choose.one_of([2, 5])
    return choose.array((k, k, 4, o), -1.0, 1.0)


def Stride(choose, got):
    """1 or 2."""
    return choose.one_of([1, 2])


def Flag(choose, got):
    """True or False."""
    return choose.one_of([True, False])


def Process(choose, got):
    """A process in continuous time, of any of the kinds and of moderate range."""
    kind = choose.one_of(["vp", "subvp", "ve", "edm"])
    if kind == "edm":
        return sde.EDM(choose.real(2.0, 50.0))
    if kind == "ve":
        return sde.VE(choose.real(0.01, 0.5), choose.real(2.0, 50.0))
    return sde.PROCESSES[kind](choose.real(0.1, 1.0), choose.real(2.0, 20.0))


def Layers(choose, got):
    """A (2, 3), b (3,), C (3, 2): the smooth field tanh(x A + b) C of the plane, whose Jacobian has no symmetry."""
    return choose.array((2, 3), -1.0, 1.0), choose.array((3,), -1.0, 1.0), choose.array((3, 2), -1.0, 1.0)


def Ladder(choose, got):
    """σ_1, σ_L, L of noise levels: falling to between 0.02 and 2, by a factor of 1.1 to 50, in 1..8 of them."""
    smallest, L = choose.real(0.02, 2.0), choose.integer(1, 8)
    return smallest * (choose.real(1.1, 50.0) if L > 1 else 1), smallest, L


def Chain(choose, got):
    """2..12 betas in [0.01, 0.6]: at least one reverse step besides the last."""
    return schedules.Schedule([choose.real(0.01, 0.6) for _ in range(choose.integer(2, 12))])


def Later(choose, got):
    """(4,) times in 2..T of the chain."""
    return np.array([choose.integer(2, got["chain"].T) for _ in range(4)])


def Levels(choose, got):
    """How many values a pixel may have."""
    return choose.one_of([2, 5, 16, 256])


def Spread(choose, got):
    """A variance from a thousandth of an 8-bit bin's width, squared, to 10."""
    return 10 ** choose.real(-9.0, 1.0)


def Costs(choose, got):
    """(10, 5) numbers in [0.1, 3]: ten costs of each of five times."""
    return choose.array((10, 5), 0.1, 3.0)


def Triple(choose, got):
    """(3,) numbers in [-3, 3]: a point of space, or three angles."""
    return choose.array((3,), -3.0, 3.0)


def Loadings(choose, got):
    """(3, 2) numbers in [-2, 2]: a linear decoder from the plane to space."""
    return choose.array((3, 2), -2.0, 2.0)


def Label(choose, got):
    """0, 1 or 2: a component of the Mixture, or another small number."""
    return choose.integer(0, 2)


def Pictures(choose, got):
    """(2, 6, 12, 2) numbers in [-3, 3]."""
    return choose.array((2, 6, 12, 2), -3.0, 3.0)


def Factor(choose, got):
    """What divides the height and width of Pictures."""
    return choose.one_of([1, 2, 3, 6])


def Seen(choose, got):
    """How many of four keys may be looked at, 0..4."""
    return choose.integer(0, 4)
