"""What every test shares: array libraries to run on, hypothesis's settings, caches kept out of the tree."""
import os
import tempfile

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("MPLCONFIGDIR", os.path.join(tempfile.gettempdir(), "tinydiff-matplotlib"))

import hypothesis
import hypothesis.configuration
import numpy as np
import pytest
import strict_device

from tinydiff.tensor import autodiff, device, ops

hypothesis.configuration.set_hypothesis_home_dir(os.path.join(tempfile.gettempdir(), "tinydiff-hypothesis"))
hypothesis.settings.register_profile(
    "tinydiff", derandomize=True, deadline=None, max_examples=40, database=None
)
hypothesis.settings.load_profile("tinydiff")


class Backend:
    """An array library, and the way to it and back."""

    def __init__(self, name, xp):
        self.name, self.xp = name, xp
        autodiff.register(xp)

    def put(self, host):
        return self.xp.asarray(host)

    def get(self, array):
        return array.get() if hasattr(array, "get") else np.asarray(array)


def _gpu():
    try:
        return device.device("gpu").xp
    except ValueError:
        return None


@pytest.fixture(scope="session", params=["numpy", "double", "cupy"])
def backend(request):
    xp = {"numpy": lambda: np, "double": lambda: strict_device, "cupy": _gpu}[request.param]()
    if xp is None:
        pytest.skip("needs CuPy and a GPU")
    with pytest.MonkeyPatch.context() as patch:
        if xp is strict_device:
            patch.setattr(ops, "_device_erfc", strict_device.erfc)
        yield Backend(request.param, xp)
