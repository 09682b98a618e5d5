"""The rooms and who may enter which: read from the imports themselves, against one drawn order."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tinydiff"

# From the ground up: a room imports only what is drawn above it. Sub-packages are rooms like the others.
MATHS = "gaussian schedule forward loss elbo oracle sampler score sde solver guidance editing vae latent"
ABOVE = "nn laws optim data glyphs checkpoint workers mpi train evaluate plot model objective recipes runs use"
MATHS, ABOVE = MATHS.split(), ABOVE.split()
ROOMS = ["files", "tensor", *MATHS, *ABOVE, "__init__", "__main__"]
DRAWS = {"plot", "glyphs"}  # the only rooms that know matplotlib
HEAVY = ["matplotlib", "cupy", "pooch", "PIL", "tqdm", "safetensors"]


def modules():
    """Every module of the package, as a path relative to it: ("tensor", "ops"), ("schedule",)."""
    return sorted(path.relative_to(PACKAGE).with_suffix("").parts for path in PACKAGE.rglob("*.py"))


def imports(module):
    """What a module imports, anywhere in it, as dotted names; those within the package start with tinydiff."""
    tree = ast.parse(PACKAGE.joinpath(*module).with_suffix(".py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            base = ["tinydiff", *module[: len(module) - node.level], *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def within(module):
    """The package's modules that a module imports, as paths; `from .forward import coef` is ("forward",)."""
    for name in imports(module):
        parts = tuple(name.split(".")[1:]) if name.split(".")[0] == "tinydiff" else None
        while parts and parts not in modules() and (*parts, "__init__") not in modules():
            parts = parts[:-1]
        if parts is not None:
            yield parts or ("__init__",)


EDGES = {module: sorted(set(within(module))) for module in modules()}


def test_every_room_is_drawn():
    assert {module[0] for module in EDGES} <= set(ROOMS)


@pytest.mark.parametrize("module", EDGES, ids=".".join)
def test_a_room_imports_only_rooms_drawn_above_it(module):
    below = [other for other in EDGES[module] if ROOMS.index(other[0]) > ROOMS.index(module[0])]
    assert not below, f"{'.'.join(module)} imports {below}"


def test_mathematics_and_networks_have_not_met():
    met = [(a, b) for a in EDGES for b in EDGES[a] if "nn" in (a[0], b[0]) and {a[0], b[0]} & set(MATHS)]
    assert not met


def test_the_ground_floor_stands_alone():
    """tensor/ never heard of diffusion; files.py needs the standard library only, and so may be used by anyone."""
    assert {b[0] for a in EDGES for b in EDGES[a] if a[0] == "tensor"} == {"tensor"}
    assert {name.split(".")[0] for name in imports(("files",))} <= sys.stdlib_module_names


def test_nothing_imports_itself_round_a_circle():
    left = {module: {b if b in EDGES else (*b, "__init__") for b in EDGES[module]} - {module} for module in EDGES}
    while free := [module for module in left if not left[module] & set(left)]:
        for module in free:
            del left[module]
    assert not left, f"a circle among {sorted(left)}"


def test_only_the_pictures_know_matplotlib():
    knows = {module[0] for module in EDGES for name in imports(module) if name.split(".")[0] == "matplotlib"}
    assert knows <= DRAWS


def test_importing_the_package_is_light():
    code = f"import sys, tinydiff; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
