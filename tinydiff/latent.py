"""A diffusion in the latent space of an autoencoder: small arrays to denoise, and pixels only at the end.

    x --encode--> z_0 = scale · E(x) --the same q, loss and samplers--> ẑ_0 --decode--> D(ẑ_0 / scale)

Nothing of the diffusion changes but what it is of: z takes the place of x in the forward process, the loss and every
sampler. The autoencoder is trained first (vae.py) and stands still; latents may be made once and kept. With the
identity for an autoencoder and scale 1, this is the diffusion of pixels.
"""
import numpy as np

from . import loss, vae


def latent_scale(z):
    """1/σ̂, σ̂² = mean of (z - mean of z)² over all examples, positions and channels together: one number.

    A diffusion expects data about as large as its noise; the latents of a weak KL are as large as they like.
    Source : Rombach et al. 2022, arXiv:2112.10752, appendix G (there from the first batch).
    z      : (B, ...), draws from the posterior as in the paper, not its means: `encode` with scale 1 and an ε.
    Returns: a float, to be kept with the weights: `decode` needs it.
    Raises : ValueError for latents that are all the same or not finite.
    """
    std = float(z.std(dtype=np.float64))
    if not 0 < std < float("inf"):
        raise ValueError(f"latents must differ and be finite to have a scale, got a standard deviation of {std}")
    return 1 / std


def encode(encoder, scale, x, eps=None):
    """z_0 = scale · (μ(x) + σ(x) ε), or of μ(x) alone where no ε is given.

    Source : Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G.
    encoder: x -> (μ, ln σ²); eps: of μ's shape, ~ N(0, I).
    """
    mu, log_var = encoder(x)
    return scale * (mu if eps is None else vae.reparameterise(mu, log_var, eps))


def decode(decoder, scale, z):
    """D(z / scale): from a latent of the diffusion to an image.

    Source : Rombach et al. 2022, arXiv:2112.10752, sections 3.1, 3.2 and appendix G.
    """
    return decoder(z / scale)


def l_latent(predict, schedule, encoder, scale, x, t, eps, z_eps=None, kind="eps", weighting="simple"):
    """L_LDM = E ‖ε - ε_θ(z_t, t)‖², z_0 = scale · E(x): `loss.l_simple`, the loss of pixels, on latents.

    A condition y reaches it through `predict`, which may close over τ(y): eq. (3). For latents that were made before,
    take `loss.l_simple` itself.
    Source : Rombach et al. 2022, arXiv:2112.10752, eqs. (2)-(3).
    predict: f(z_t, t), a network with its parameters; t: (B,) ints in 1..T; eps: of z's shape; z_eps: see `encode`.
    """
    return loss.l_simple(predict, schedule, encode(encoder, scale, x, z_eps), t, eps, kind, weighting)
