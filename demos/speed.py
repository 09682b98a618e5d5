"""How fast: tinydiff beside PyTorch, the same networks with the same weights, on the same cores, in one run.

    python -m pip install -e ".[bench]" && python demos/speed.py

The two take turns, step by step, and each ratio is the median over the pairs, for machines drift; between turns both
rest, for PyTorch's threads go on spinning after they are done. Before anything is timed, the gradients are compared.

    train-step : forward, loss, backward, Adam and moving average of a U-Net (28 x 28, widths 32/64/64)
    mlp-step   : the same of the network for points, batch 256
    sample     : 64 pictures, 50 DDIM steps
    import     : `import tinydiff.use`, all that a run needs, beside `import torch`
    memory     : peak of a training run at batch 128, all processes together
    scaling    : the training step over batch, width and image size, as a picture

With --device gpu the two training steps are measured, CuPy beside CUDA, at batch 32, 128 and 512, both in full float32.
It has been tried on a stand-in for CuPy only: no figure of a GPU is known yet.
"""
import argparse
import copy
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tinydiff import loss, plot, sampler, schedule, train, workers
from tinydiff.nn import embed, mlp, unet
from tinydiff.tensor import autodiff, fast, tree
from tinydiff.tensor.device import device

CPU = device("cpu")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
CHAIN = schedule.linear(1000)
REST = 0.3  # seconds


# The same networks in PyTorch


def torch_tree(params):
    """Our parameters in PyTorch's layouts: images with the channels first, w (out, in, k, k) and (out, in)."""
    import torch

    def leaf(name, p):
        p = p.transpose(3, 2, 0, 1) if p.ndim == 4 else p.T
        return torch.tensor(np.ascontiguousarray(p), requires_grad=True)

    return tree.unflatten({name: leaf(name, p) for name, p in tree.flatten(params).items()})


def numpy_tree(leaves):
    """And back, for comparing gradients."""
    return tree.map(lambda p: p.transpose(2, 3, 1, 0) if p.ndim == 4 else p.T, leaves)


def conv(p, x, stride=1):
    from torch.nn import functional as F

    return F.conv2d(x, p["w"], p["b"], stride=stride, padding=p["w"].shape[-1] // 2)


def linear(p, x):
    from torch.nn import functional as F

    return F.linear(x, p["w"], p["b"])


def torch_stage(p, x, e, groups):
    from torch.nn import functional as F

    def norm(p, x):
        return F.group_norm(x, groups, p["gamma"], p["beta"])

    q = p["block"]
    h = conv(q["conv1"], F.silu(norm(q["norm1"], x))) + linear(q["time"], e)[:, :, None, None]
    h = conv(q["conv2"], F.silu(norm(q["norm2"], h)))
    h = h + (conv(q["shortcut"], x) if "shortcut" in q else x)
    if "attention" not in p:
        return h
    b, c, height, width = h.shape
    tokens = norm(p["attention"]["norm"], h).flatten(2).transpose(1, 2)
    q, k, v = linear(p["attention"]["qkv"], tokens).split(c, -1)
    out = linear(p["attention"]["out"], F.scaled_dot_product_attention(q, k, v))
    return h + out.transpose(1, 2).reshape(b, c, height, width)


def torch_time(p, t, n):
    import torch
    from torch.nn import functional as F

    sines = torch.tensor(embed.sinusoidal(t, n, np.empty((len(t), 1), "f4")))
    return F.silu(linear(p["out"], F.silu(linear(p["in"], sines))))


def torch_unet(p, x, t, config):
    """unet.apply for patch 1, x (B, C, H, W)."""
    import torch
    from torch.nn import functional as F

    groups, e = config.groups, torch_time(p["time"], t, config.widths[0])
    h = conv(p["in"], x)
    skips = [h]
    for level in p["down"]:
        for q in level["stages"]:
            h = torch_stage(q, h, e, groups)
            skips.append(h)
        if "halve" in level:
            h = conv(level["halve"], h, stride=2)
            skips.append(h)
    h = torch_stage(p["middle"]["second"], torch_stage(p["middle"]["first"], h, e, groups), e, groups)
    for level in p["up"]:
        for q in level["stages"]:
            h = torch_stage(q, torch.cat([h, skips.pop()], 1), e, groups)
        if "double" in level:
            height, width = skips[-1].shape[2:]
            h = conv(level["double"], F.interpolate(h, scale_factor=2)[:, :, :height, :width])
    return conv(p["out"]["conv"], F.silu(F.group_norm(h, groups, p["out"]["norm"]["gamma"], p["out"]["norm"]["beta"])))


def torch_mlp(p, x, t, config):
    """mlp.apply."""
    import torch
    from torch.nn import functional as F

    angles = [x * 2.0**k for k in range(1, config.octaves + 1)]
    e, h = torch_time(p["time"], t, config.embed), torch.cat([x, *map(torch.sin, angles), *map(torch.cos, angles)], 1)
    for q in p["blocks"]:
        y = F.silu(linear(q["linear"], h) + linear(q["time"], e))
        h = h + y if h.shape == y.shape else y
    return linear(p["out"], h)


# Both sides of a training step


def problem(module, config, shape, batch):
    """(weights, batches): weights moved off their start, so that every gradient is alive; noise for examples."""
    rng = np.random.default_rng(0)
    params = tree.map(lambda p: p + (0.02 * rng.standard_normal(p.shape)).astype("f4"), module.init(rng, config))

    def batches(step):
        rng = np.random.default_rng([1, step])
        x0, eps = rng.standard_normal((2, batch, *shape), "f4")
        return {"x0": x0, "t": loss.draw_times(rng, batch, CHAIN.T), "eps": eps}

    return params, batches


def on(where, batches):
    """The same examples and noise on a device; times stay on the host."""
    return lambda step: {name: x if name == "t" else where.put(x) for name, x in batches(step).items()}


def our_loss(apply, config):
    """(params, batch) -> (L_simple, gradients)."""

    def l_simple(p, batch):
        return loss.l_simple(lambda x, t: apply(p, x, t, config), CHAIN, batch["x0"], batch["t"], batch["eps"])

    return autodiff.value_and_grad(l_simple)


def their_loss(apply, config, channels_last=False):
    """(params, batch) -> L_simple, in PyTorch, of a batch in our layout."""
    import torch

    def tensor(x):
        x = torch.as_tensor(x)  # where PyTorch makes its tensors
        return x if x.ndim == 2 else x.permute(0, 3, 1, 2).contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )

    def l_simple(p, batch):
        t, (x0, eps) = batch["t"], map(tensor, (batch["x0"], batch["eps"]))
        ab = torch.tensor(CHAIN.alpha_bar[t], dtype=torch.float32).reshape(-1, *(1,) * (x0.ndim - 1))
        return ((eps - apply(p, ab.sqrt() * x0 + (1 - ab).sqrt() * eps, t, config)) ** 2).mean()

    return l_simple


def their_steps(l_simple, params, batches):
    """A generator of training steps: backward, Adam, moving average."""
    import torch

    leaves = tree.leaves(params)
    average = copy.deepcopy([p.detach() for p in leaves])
    adam = torch.optim.Adam(leaves, 1e-3)
    step = 0
    while True:
        value = l_simple(params, batches(step))
        adam.zero_grad()
        value.backward()
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in leaves], 1 - min(0.999, (1 + step) / (10 + step)))
        step += 1
        yield value.item()


def our_steps(spread, params, batches, batch, where=CPU):
    """The same, by the loop that trains every run; each waits for its device, for it looks at loss and weights."""
    settings = train.Settings(steps=10**9, batch=batch, clip=1e9)
    return train.train(spread, on(where, batches), train.State.start(where.put(params)), settings)


def difference(module, apply, config, shape, where=CPU):
    """The largest difference in any gradient or in the loss, relative to the largest entry of its tensor."""
    params, batches = problem(module, config, shape, 16)
    value, grads = our_loss(module.apply, config)(where.put(params), on(where, batches)(0))
    grads = where.get(grads)
    theirs = torch_tree(params)
    their_value = their_loss(apply, config)(theirs, batches(0))
    their_value.backward()
    wanted = tree.leaves(numpy_tree(tree.map(lambda p: p.grad.cpu().numpy(), theirs)))
    gaps = [np.abs(g - w).max() / np.abs(w).max() for g, w in zip(tree.leaves(grads), wanted, strict=True)]
    return float(max(*gaps, abs(float(value) / their_value.item() - 1)))


# Timing


def alternate(sides, pairs, warm=2):
    """Seconds of each side, (pairs, sides), taking turns."""
    seconds = []
    for k in range(-warm, pairs):
        row = []
        for side in sides:
            time.sleep(REST)
            began = time.perf_counter()
            side()
            row.append(time.perf_counter() - began)
        if k >= 0:
            seconds.append(row)
    return np.array(seconds)


def row(name, batch, seconds, max_rel_diff=None):
    """One measure: medians, and the median of the ratios of the pairs."""
    ours, theirs = np.median(seconds, axis=0)
    ratio = float(np.median(seconds[:, 0] / seconds[:, 1]))
    return {
        "name": name, "batch": batch, "tinydiff_s": float(ours), "torch_s": float(theirs), "ratio": ratio,
        "max_rel_diff": max_rel_diff,
    }  # fmt: skip


def step_seconds(module, apply, config, shape, batch, variants, pairs=7, n=CORES, where=CPU):
    """Seconds of our step and of PyTorch's in each variant, (pairs, 1 + variants)."""
    params, batches = problem(module, config, shape, batch)
    n = n if where is CPU else 1
    with workers.Workers(functools.partial(our_loss, module.apply, config), params, n) as spread:
        ours = our_steps(spread, params, batches, batch, where)
        theirs = [their_steps(_variant(apply, config, v), torch_tree(params), batches) for v in variants]
        return alternate([functools.partial(next, side) for side in (ours, *theirs)], pairs)


def _variant(apply, config, variant):
    import torch

    if variant == "compiled":
        apply = torch.compile(apply)
    return their_loss(apply, config, variant == "channels last")


def train_step(batch=None, pairs=7, where=CPU):
    """The U-Net's step against PyTorch's default, channels_last, and compiled where a compiler is there."""
    config = unet.Config()
    gap = difference(unet, torch_unet, config, (28, 28, 1), where)
    for size in [batch] if batch else (32, 128) if where is CPU else (32, 128, 512):
        variants = ["eager", "channels last", *(["compiled"] if compiler() else [])]
        seconds = step_seconds(unet, torch_unet, config, (28, 28, 1), size, variants, pairs, where=where)
        for i, variant in enumerate(variants, 1):
            yield row("train-step" if i == 1 else f"train-step, {variant}", size, seconds[:, [0, i]], gap)


def compiler():
    """Can torch.compile build for this processor?"""
    from shutil import which

    return any(map(which, ("c++", "g++", "clang++")))


def mlp_step(batch=None, pairs=31, where=CPU):
    """The step of the network for points: one process, for it is too short to share."""
    config, size = mlp.Config(), batch or 256
    gap = difference(mlp, torch_mlp, config, (2,), where)
    seconds = step_seconds(mlp, torch_mlp, config, (2,), size, ["eager"], pairs, n=1, where=where)
    yield row("mlp-step", size, seconds, gap)


def sample(batch=None, pairs=3):
    """DDIM from one noise on both sides; the pictures are compared."""
    import torch

    config, n = unet.Config(), batch or 64
    params, _ = problem(unet, config, (28, 28, 1), 1)
    theirs, z = torch_tree(params), np.random.default_rng(2).standard_normal((n, 28, 28, 1), "f4")
    parts = [slice(n * i // CORES, n * (i + 1) // CORES) for i in range(CORES)]

    def walk(eps_fn, x):
        *_, x0 = sampler.sample_ddim(eps_fn, CHAIN, x, steps=50)
        return x0

    def ours():
        def work(part):
            return walk(lambda x, t: unet.apply(params, x, t, config), z[part])

        return np.concatenate(list(workers.spread(work, parts, CORES)))

    def eps_fn(x, t):
        with torch.no_grad():
            found = torch_unet(theirs, torch.from_numpy(x), np.full(len(x), t), config)
        return found.numpy()

    channels_first = np.ascontiguousarray(z.transpose(0, 3, 1, 2))
    wanted = walk(eps_fn, channels_first).transpose(0, 2, 3, 1)
    gap = float(np.abs(ours() - wanted).max() / np.abs(wanted).max())
    yield row("sample", n, alternate([ours, lambda: walk(eps_fn, channels_first)], pairs, warm=1), gap)


def imports(batch=None, pairs=5):
    """A fresh Python each."""

    def fresh(line):
        return lambda: subprocess.run([sys.executable, "-c", line], check=True)

    nothing, ours, theirs = (fresh(line) for line in ("pass", "import tinydiff.use", "import torch"))
    seconds = alternate([nothing, ours, theirs], pairs, warm=1)
    yield row("import", None, seconds[:, 1:] - seconds[:, :1])


def memory(batch=None, pairs=1):
    """Peak of the proportional set sizes of a run's processes: shared pages count once."""
    size = batch or 128
    peaks = [_peak(side, size) for side in ("ours", "theirs")]
    yield {**row("memory, MB", size, np.array([peaks]) / 1e6)}


def _peak(side, batch):
    command = [sys.executable, __file__, "--run", side, "--batch", str(batch)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"the {side} run ended with {process.returncode}")
    return peak


def _resident(pid):
    """Bytes of a process and its children, Linux only."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += 1024 * int(line.split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return total
    return total + sum(_resident(int(child)) for child in children)


def run_alone(side, batch, steps=4):
    """Some training steps by one side: what `memory` watches."""
    config = unet.Config()
    params, batches = problem(unet, config, (28, 28, 1), batch)
    if side == "ours":
        fast.keep_memory()
        with workers.Workers(functools.partial(our_loss, unet.apply, config), params, CORES) as spread:
            going = our_steps(spread, params, batches, batch)
            for _ in range(steps):
                next(going)
    else:
        import torch

        torch.set_num_threads(CORES)
        going = their_steps(their_loss(torch_unet, config), torch_tree(params), batches)
        for _ in range(steps):
            next(going)


def scaling(batch=None, pairs=3, out="runs/demos"):
    """Seconds of a step, both sides, over batch, width and image size; and a picture of the three."""
    curves = {}
    cases = [("batch", n, unet.Config(), n) for n in (8, 16, 32, 64, 128)]
    cases += [("width", n, unet.Config(widths=(n, 2 * n, 2 * n)), 32) for n in (16, 32, 64)]
    cases += [("image size", n, unet.Config(size=n), 32) for n in (14, 28, 56)]
    for name, value, config, size in cases:
        seconds = step_seconds(unet, torch_unet, config, (config.size, config.size, 1), size, ["eager"], pairs)
        found = row(f"scaling, {name} {value}", size, seconds)
        curves.setdefault(name, []).append((value, found["ratio"]))
        yield found
    Path(out).mkdir(parents=True, exist_ok=True)
    series = {name: tuple(map(list, zip(*points, strict=True))) for name, points in curves.items()}
    title, below = "Time of a U-Net training step over PyTorch's", "ratio: below 1, tinydiff is faster"
    plot.lines(series, Path(out) / "speed_scaling.png", title, "batch, width, image size", below, logx=True)


MEASURES = {
    "train-step": train_step, "mlp-step": mlp_step, "sample": sample, "import": imports, "memory": memory,
    "scaling": scaling,
}  # fmt: skip
ON_A_GPU = "train-step", "mlp-step"


def main(only=None, batch=None, as_json=False, out="runs/demos", device_name="cpu"):
    """Print the measures as a table, or as a line of JSON each."""
    import torch
    from threadpoolctl import threadpool_limits

    where = CPU if device_name == "cpu" else device(device_name)
    measures = MEASURES if where is CPU else ON_A_GPU
    if only and only not in measures:
        raise ValueError(f"{only} is measured on a CPU; on a GPU there are {', '.join(ON_A_GPU)}")
    if where is not CPU:
        if not torch.cuda.is_available():
            raise ValueError("CuPy has found a GPU, PyTorch has not; install a PyTorch that is built for CUDA")
        torch.set_default_device("cuda")
        torch.backends.cudnn.allow_tf32 = False  # it is what CuPy does not use
    torch.set_num_threads(CORES)
    fast.keep_memory()
    if not as_json:
        print(f"{'':<30}{'batch':>6}{'tinydiff':>12}{'PyTorch':>12}{'ratio':>8}   largest difference")
    with threadpool_limits(1, "blas"):
        for name in [only] if only else measures:
            options = {"out": out} if name == "scaling" else {"where": where} if name in ON_A_GPU else {}
            for found in MEASURES[name](batch, **options):
                if as_json:
                    print(json.dumps(found), flush=True)
                    continue
                gap = "" if found["max_rel_diff"] is None else f"{found['max_rel_diff']:.0e}"
                unit = 1 if "MB" in found["name"] else 1000
                times = f"{unit * found['tinydiff_s']:>12.1f}{unit * found['torch_s']:>12.1f}"
                print(f"{found['name']:<30}{found['batch'] or '':>6}{times}{found['ratio']:>8.2f}   {gap}", flush=True)
    if not as_json:
        machine = f"{CORES} cores" if where is CPU else torch.cuda.get_device_name()
        print(f"milliseconds, medians of pairs, {machine}, PyTorch {torch.__version__}, NumPy {np.__version__}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=MEASURES, help="this measure alone")
    parser.add_argument("--batch", type=int, help="at this batch alone")
    parser.add_argument("--json", action="store_true", dest="as_json", help="a line of JSON a measure")
    parser.add_argument("--out", default="runs/demos", help="folder for the picture of `scaling`")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", dest="device_name", help="where to measure")
    parser.add_argument("--run", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    alone = options.pop("run")
    if alone:
        run_alone(alone, options["batch"])
    else:
        try:
            main(**options)
        except ModuleNotFoundError as problem:
            sys.exit(f"speed: {problem}; python -m pip install -e '.[bench]'")
        except ValueError as problem:
            sys.exit(f"speed: {problem}")
