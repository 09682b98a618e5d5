"""The identities that pin the formulas down, each a function that returns its two sides.

`tinydiff check` draws their inputs from a seed, tests/test_laws.py lets hypothesis draw them. law.py says what a law
is; then, in the order of the subject: chain.py (Gaussians, schedules, the forward process), denoising.py (exact
denoisers and losses), reverse.py (the samplers), likelihood.py (the bound), matching.py (scores and Langevin
dynamics), continuous.py (SDEs and ODEs), steering.py (guidance and editing), latents.py (autoencoders), tensor.py (the
fast primitives).
"""
from . import chain, continuous, denoising, latents, likelihood, matching, reverse, steering, tensor
from .law import LAWS, Chooser, Law, LawBroken, compare, law, run

__all__ = [
    "LAWS", "Chooser", "Law", "LawBroken", "chain", "compare", "continuous", "denoising", "latents", "law",
    "likelihood", "matching", "reverse", "run", "steering", "tensor",
]  # fmt: skip
