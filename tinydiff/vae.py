"""The variational autoencoder: an encoder that says where an image lies in a small space, and how sure it is.

    q(z | x) = N(z; μ(x), σ²(x)),     p(z) = N(0, I),     p(x | z) = N(x; decode(z), noise_var)

    ln p(x) >= E_q[ln p(x | z)] - KL(q(z | x) || p(z))

An encoder returns (μ, ln σ²), a decoder an image; both come in as arguments. The noise of z comes as a value, so that
the bound is a function that can be differentiated, checked and repeated. Nothing is clamped.

With a small weight on the KL it is the first stage of latent diffusion (latent.py): little is asked of q but that z
stays near the origin, and what p(z) really is a diffusion learns afterwards.
"""
import numpy as np

from . import gaussian
from .forward import coef
from .tensor import ops


def reparameterise(mu, log_var, eps):
    """z = μ + σ ε, σ = exp(½ ln σ²): a draw from N(μ, σ²) that is a smooth function of μ and ln σ².

    Source : Kingma & Welling 2013, arXiv:1312.6114, section 2.4 and eq. (10).
    mu, log_var, eps: (B, ...), eps ~ N(0, I).
    """
    return mu + ops.exp(0.5 * log_var) * eps


def kl(mu, log_var):
    """KL(N(μ, σ²) || N(0, I)) = -½ Σ [1 + ln σ² - μ² - σ²]: (B,) nats, summed over all latent coordinates.

    Source : Kingma & Welling 2013, arXiv:1312.6114, eq. (10) and appendix B.
    """
    return ops.per_example(gaussian.kl(mu, ops.exp(log_var), 0.0, 1.0))


def bound(x, decode, mu, log_var, eps, noise_var, beta=1.0):
    """ln p(x | z) - β KL(q(z | x) || N(0, I)), z = μ + σ ε: (B,) nats; with β = 1 its mean over ε is <= ln p(x).

    β is a noise variance in disguise: the gradient is that of β = 1 with the variance β noise_var, times β.
    Source : Kingma & Welling 2013, arXiv:1312.6114, eq. (10), one draw; β: Higgins et al. 2017, ICLR, section 2.
             LDM's KL-reg. (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G) has β ~ 1e-6, beside a
             perceptual and an adversarial loss that we do without.
    x      : (B, ...); decode: z -> the mean of p(x | z), of x's shape; noise_var: its variance, one or (B,), > 0.
    mu, log_var: q(z | x), of the encoder; eps: of their shape.
    Raises : ValueError for a variance that is not positive.
    """
    if not np.all(np.asarray(noise_var) > 0):
        raise ValueError(f"noise_var, the variance of the decoder, must be positive, got {noise_var}")
    mean = decode(reparameterise(mu, log_var, eps))
    return ops.per_example(gaussian.log_density(x, mean, coef(noise_var, x))) - beta * kl(mu, log_var)


def negative_bound(x, decode, mu, log_var, eps, noise_var, beta=1.0):
    """-E[bound], the mean over examples, in nats an example: what a VAE learns by.

    Source : Kingma & Welling 2013, arXiv:1312.6114, eqs. (8), (10). Arguments: see `bound`.
    """
    return -ops.mean(bound(x, decode, mu, log_var, eps, noise_var, beta))
