"""tinydiff: diffusion models from scratch, in the papers' own symbols, with the laws that prove them.

Read in this order: gaussian, schedule, forward, loss; then a network (nn/mlp, nn/unet, on tensor/); then sampler. What
the loss is a bound on: elbo. The same from the other side: score, sde, solver. What one does with it: guidance,
editing, vae, latent. Beside them oracle (perfect denoisers) and laws (what must hold). data, train, model, recipes,
runs, use and the command line put them to work.
"""
from importlib import import_module

__version__ = "0.1.0"

_ROOMS = (
    "checkpoint", "data", "editing", "elbo", "evaluate", "files", "forward", "gaussian", "glyphs", "guidance", "latent",
    "laws", "loss", "model", "mpi", "nn", "optim", "oracle", "plot", "recipes", "runs", "sampler", "schedule", "score",
    "sde", "solver", "tensor", "train", "use", "vae", "workers",
)  # fmt: skip
__all__ = ["device", *_ROOMS]


def __getattr__(name):
    """Rooms are imported when they are first asked for."""
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name == "device":
        return import_module(f"{__name__}.tensor.device").device
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*globals(), *__all__]
