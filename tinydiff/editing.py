"""Editing: a sampler that is held to a picture, with no training for it.

    SDEdit        : noise the picture part of the way, and come back
    inpainting    : come all the way; after each step put back the pixels that are known
    ILVR          : come all the way; after each step put back the low frequencies
    interpolation : mix two pictures where they are noise, and come back

What is put back after a step from t to s is noised to s, afresh, from the clean picture: it then fits what it meets.
The way down is DDIM's: η = 1 draws as DDPM with β̃ does, 0 draws nothing. Each loop is a generator, x_0 last.
"""
import math
from itertools import pairwise

import numpy as np

from . import forward, sampler
from .forward import coef
from .tensor import ops
from .tensor.autodiff import xp_of

# SDEdit


def sdedit(eps_fn, schedule, x0, strength, rng, steps=None, eta=1.0):
    """Noise x_0 to t = strength T, then sample down from that same t: yields x_t, then x_s after each step.

    strength = 0 gives x_0 back; at 1, √ᾱ_T x_0 is all that is left of it; between, detail is drawn anew.
    Source : Meng et al. 2022, arXiv:2108.01073, section 3 and its algorithm for VP.
    x0     : (B, ...); strength: in [0, 1]; t is rounded to a whole step.
    steps  : a number of steps for the whole way from T, of which the edit takes its share; T unless given.
    Raises : ValueError for a strength outside [0, 1].
    """
    t = _time(schedule, strength)
    eps = rng.standard_normal(x0.shape, dtype=x0.dtype)
    yield from _back(eps_fn, schedule, forward.q_sample(schedule, x0, t, eps), t, rng, steps, eta)


def _time(schedule, strength):
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], got {strength}; 0 keeps the picture, 1 forgets it")
    return round(strength * schedule.T)


def _back(eps_fn, schedule, x_t, t, rng, steps, eta):
    yield x_t
    if t > 0:
        share = steps and math.ceil(steps * t / schedule.T)
        yield from sampler.sample_ddim(eps_fn, schedule.first(t), x_t, rng, share, eta)


# Held on all the way


def inpaint(eps_fn, schedule, known, mask, x_T, rng, steps=None, eta=1.0, jump=1, repeats=1):
    """Sample the pixels where mask is False, given those where it is True: yields x_s after each step.

        x_s = mask · (√ᾱ_s known + √(1-ᾱ_s) ε) + (1 - mask) · (a step from x_t)

    x_0 has the known pixels exactly. But no step knows which of their noised versions will come: what is drawn leans
    too little on them, and more where each `jump` steps are walked `repeats` times (`resampling_times`).
    Source : Song et al. 2021, arXiv:2011.13456, appendix I.2; Lugmayr et al. 2022, arXiv:2201.09865, eq. (8) and
             Algorithm 1, whose line 5 has 1-ᾱ_t where √(1-ᾱ_s) belongs.
    known  : (B, ...) or (1, ...), any values where mask is False; mask: booleans that fit it, such as (H, W, 1).
    x_T    : (B, ...) ~ N(0, I). All three of one device, rng too.
    Raises : ValueError for a mask or a picture of another size.
    """
    _check_fits("mask", mask, x_T)

    def put_back(x_s, known_s):
        return xp_of(x_s).where(mask, known_s, x_s)

    path = resampling_times(sampler.timesteps(schedule.T, steps), jump, repeats)
    yield from _held(eps_fn, schedule, known, put_back, path, x_T, rng, eta)


def ilvr(eps_fn, schedule, reference, factor, x_T, rng, steps=None, eta=1.0):
    """Sample a picture whose low frequencies are the reference's: yields x_s after each step.

        x_s = x'_s + φ(√ᾱ_s reference + √(1-ᾱ_s) ε) - φ(x'_s),   x'_s a step from x_t, φ the `low_pass`

    Source : Choi et al. 2021, arXiv:2108.02938, Algorithm 1.
    reference: (B, H, W, C) or (1, H, W, C); factor: the side of φ's blocks; x_T: (B, H, W, C) ~ N(0, I).
    """
    path = sampler.timesteps(schedule.T, steps)

    def refine(x_s, reference_s):
        return x_s + low_pass(reference_s - x_s, factor)

    yield from _held(eps_fn, schedule, reference, refine, path, x_T, rng, eta)


def _held(eps_fn, schedule, given, join, path, x, rng, eta):
    """Along a path of times: down by DDIM, joined with `given` noised to the time that was reached; up by noise."""
    _check_fits("picture", given, x)
    for t, s in pairwise(path):
        noise = rng.standard_normal(x.shape, dtype=x.dtype) if s > t or eta > 0 else None
        if s > t:
            x = renoise(schedule, x, t, s, noise)
        else:
            step = sampler.ddim_step(schedule, x, t, s, eps_fn(x, t), eta, noise)
            fresh = rng.standard_normal(x.shape, dtype=x.dtype)
            x = join(step, forward.q_sample(schedule, given, s, fresh))
        yield x


def _check_fits(name, a, x):
    pairs = zip(reversed(a.shape), reversed(x.shape), strict=False)
    if len(a.shape) > x.ndim or not all(n in (1, m) for n, m in pairs):
        raise ValueError(f"a {name} of shape {a.shape} does not fit pictures of shape {x.shape[1:]}; crop or pad it")


def renoise(schedule, x_s, s, t, noise):
    """x_t = √α_{t|s} x_s + √(1-α_{t|s}) z, from s up to t > s: a draw from q(x_t | x_s).

    Source : Ho et al. 2020, arXiv:2006.11239, eq. (2), over several steps; Lugmayr et al. 2022, Algorithm 1, line 9.
    """
    alpha_bar_s, alpha_bar_t = schedule.pair(t, s)
    signal = np.sqrt(alpha_bar_t / alpha_bar_s)
    return coef(signal, x_s) * x_s + coef(np.sqrt(forward.step_var(alpha_bar_s, alpha_bar_t)), x_s) * noise


def resampling_times(times, jump=1, repeats=1):
    """Falling times, each `jump` steps of them walked `repeats` times: down, up again in one leap, down.

    The last stretch, which ends at 0, is walked once: nothing is noised that is finished.
    Source : Lugmayr et al. 2022, arXiv:2201.09865, section 4.2 and Algorithm 1 (there jump = 1, repeats is U).
    Raises : ValueError for a jump or repeats below 1.
    """
    if jump < 1 or repeats < 1:
        raise ValueError(f"jump and repeats must be at least 1, got {jump} and {repeats}; 1 does not go back")
    path = list(times[:1])
    for i in range(0, len(times) - 1, jump):
        down = list(times[i + 1 : i + 1 + jump])
        path += down + [times[i], *down] * (repeats - 1 if down[-1] else 0)
    return path


def low_pass(x, factor):
    """Each factor x factor block of pixels becomes its mean: φ, with φ(φ(x)) = φ(x).

    Source : Choi et al. 2021, arXiv:2108.02938, section 3 (φ_N: down by N and up again); a mean, then nearest
             neighbours, since only a projection leaves the low frequencies as they were put.
    x      : (B, H, W, C). Raises ValueError unless factor divides H and W.
    """
    b, h, w, c = x.shape
    if factor < 1 or h % factor or w % factor:
        raise ValueError(f"factor must divide the picture's height and width, got {factor} for {h} x {w}")
    blocks = ops.reshape(x, (b, h // factor, factor, w // factor, factor, c))
    means = ops.mean(blocks, axis=(2, 4), keepdims=True)
    return ops.reshape(ops.broadcast_to(means, blocks.shape), x.shape)


# Between two pictures


def slerp(a, b, fractions):
    """Along the great circle from a to b: lengths stay what lengths of noise are, where a straight line is too short.

        sin((1-u)θ)/sin θ · a + sin(uθ)/sin θ · b,   θ the angle between a and b

    With sin(uθ) = uθ sinc(uθ), parallel vectors are no special case.
    Source : Shoemake 1985, Animating rotation with quaternion curves; Song, Meng & Ermon 2020, arXiv:2010.02502,
             section 5.3 and appendix D.5.
    a, b   : (...), neither zero nor opposite to each other; fractions: u, (n,). Returns (n, ...).
    """
    xp, u = xp_of(a), coef(fractions, a[None])
    a_hat, b_hat = (x / xp.sqrt((x * x).sum()) for x in (a, b))
    far, near = (xp.sqrt((x * x).sum()) for x in (a_hat - b_hat, a_hat + b_hat))
    turns = 2 / math.pi * xp.arctan2(far, near)  # θ/π; arccos would lose half the digits of a small angle
    return ((1 - u) * xp.sinc((1 - u) * turns) * a + u * xp.sinc(u * turns) * b) / xp.sinc(turns)


def interpolate(eps_fn, schedule, ends, fractions, steps=None):
    """Encode two pictures by DDIM's inverse, `slerp` their noise, decode: yields x_s after each step of decoding.

    The ends come back as pictures, up to the error of inversion, which falls like 1/steps.
    Source : Song, Meng & Ermon 2020, arXiv:2010.02502, sections 5.3 and 5.4.
    ends   : (2, ...); fractions: (n,), 0 the first picture and 1 the second. Yields (n, ...).
    """
    *_, x_T = sampler.invert_ddim(eps_fn, schedule, ends, steps)
    yield from sampler.sample_ddim(eps_fn, schedule, slerp(x_T[0], x_T[1], fractions), steps=steps)


def blend(eps_fn, schedule, ends, fractions, strength, rng, steps=None, eta=0.0):
    """Noise two pictures to t = strength T with one noise, mix, sample down: yields x_t, then x_s after each step.

        x_t = (1-u) x_t^a + u x_t^b = √ᾱ_t ((1-u) a + u b) + √(1-ᾱ_t) ε

    The noise is shared, so it stays at full strength in the middle, and is the same for every u.
    Source : Ho et al. 2020, arXiv:2006.11239, section 4.3 (which prints x_0 where it means x_t).
    ends, fractions: as for `interpolate`; strength, steps: as for `sdedit`.
    """
    t, u = _time(schedule, strength), coef(fractions, ends)
    eps = rng.standard_normal(ends[:1].shape, dtype=ends.dtype)
    x_t = forward.q_sample(schedule, ends, t, eps)
    yield from _back(eps_fn, schedule, (1 - u) * x_t[:1] + u * x_t[1:], t, rng, steps, eta)
