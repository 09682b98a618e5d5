"""The command line: `tinydiff`, or `python -m tinydiff`."""
import argparse
import json
import math
import os
import secrets
import shlex
import sys
from pathlib import Path

import numpy as np

from . import __version__

FAILED, MISUSED = 1, 2


def main(arguments=None):
    """Run one command; returns its exit status. Bad input is one line on stderr, never a traceback."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except Exception as problem:
        expected = (ValueError, OSError, FloatingPointError, MemoryError, ImportError)
        ours = isinstance(problem, expected) or type(problem).__module__.startswith("cupy")
        if not ours or os.environ.get("TINYDIFF_TRACEBACK"):  # set it to see where a line came from
            raise
        print(f"tinydiff: {_one_line(problem)}", file=sys.stderr)
        _flush_or_drop()
        return MISUSED if isinstance(problem, ValueError) else FAILED
    except KeyboardInterrupt:
        print("tinydiff: interrupted", file=sys.stderr)
        return 130


def _one_line(problem):
    if isinstance(problem, OSError) and problem.strerror:
        where = f": {problem.filename}" if problem.filename else ""
        return f"{problem.strerror}{where}"
    return " ".join(str(problem).split()) or type(problem).__name__


def _flush_or_drop():
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = None  # a full disk or a closed pipe: else Python would try again on its way out, and complain


# Commands


def _train(options):
    from . import mpi

    return mpi.led(_train_on, options)


def _train_on(options):
    from . import recipes, runs
    from .tensor.device import device

    where, recipe = device(options.device), options.recipe or "spiral"
    folder = Path(options.out or (Path("runs") / recipe if options.resume else runs.free_folder(recipe)))
    first = folder / "first_stage"
    half_done = runs.is_one(first) and not runs.is_one(folder)
    if options.resume and not half_done:
        run = runs.load(folder)
        _same_run(run, {"recipe": options.recipe, **_changes(options)})
        x, shown = recipes.load(run.config.data)
        _same_shape(run, x.shape[1:])
        return _go_on(run, x, recipes.asked_of(run.config, shown), where, options)
    if not options.resume and (half_done or runs.is_one(folder)):
        raise ValueError(f"{folder} holds a run already; continue it with --resume, or name another --out")
    stage = runs.load(first) if half_done else None
    changes = _as_begun(stage, recipe, _changes(options)) if stage else _changes(options)
    config, x, asked = recipes.configure(recipe, changes.pop("data"), changes.pop("split") or "train", **changes)
    run = runs.Run(folder, config, runs.start(config))
    if config.first_stage:
        if stage is None:
            its = recipes.first_stage(config)
            stage = runs.Run(first, its, runs.start(its))
        _same_shape(stage, config.shape)
        said = {"out": folder, **_changes(options)}
        words = [[f"--{name}", str(value)] for name, value in said.items() if value is not None]
        again = shlex.join(["tinydiff", "train", recipe, "--resume", *sum(words, [])])
        stopped = _go_on(stage, x, None, where, options, again)
        if stopped:
            return stopped
        run = runs.after_first_stage(run, runs.load(first), x)
    return _go_on(run, x, asked, where, options)


def _changes(options):
    """What the command line asks to be other than the recipe has it; None where it asks nothing."""
    names = ("data", "split", "steps", "minutes", "batch", "lr", "seed", "schedule", "T", "target", "process")
    return {name: getattr(options, name) for name in names}


def _as_begun(stage, recipe, changes):
    """The changes, completed by what a run was begun with that got no further than its first stage."""
    from . import recipes

    config, minutes = stage.config, stage.config.settings["minutes"]
    if recipe not in recipes.RECIPES or recipes.RECIPES[recipe].first_stage != config.recipe:
        raise ValueError(f"{stage.folder} is no first stage of {recipe}; name the recipe that was begun there")
    begun = {"data": config.data["folder"], "split": config.data["split"], "seed": config.settings["seed"]}
    begun |= {"steps": config.settings["steps"], "minutes": minutes and round(minutes / recipes.FIRST_STAGE, 6)}
    for name, value in begun.items():
        _same_choice(stage.folder, name, value, changes[name])
    return {**changes, **begun}


def _same_run(run, wanted):
    """What was asked for on a resumed run must be what the run was started with."""
    from . import recipes

    config = run.config
    has = {"recipe": config.recipe, "schedule": config.schedule, "T": config.T, **config.settings, **config.data}
    has |= {"process": config.kind, "target": config.target, "data": config.data["folder"]}
    if config.first_stage and has["minutes"]:
        has["minutes"] = round(has["minutes"] / (1 - recipes.FIRST_STAGE), 6)
    for name, value in wanted.items():
        _same_choice(run.folder, name, has[name], value)


def _same_choice(folder, name, has, value):
    value = str(Path(value).resolve()) if name == "data" and value is not None else value
    if value is not None and value != has:
        raise ValueError(
            f"the run in {folder} was started with {name} {has}, got {value}; leave it out to resume, "
            "or train anew with another --out"
        )


def _same_shape(run, shape):
    if shape != run.config.shape:
        raise ValueError(f"the run in {run.folder} was trained on {run.config.shape}, its data are now {shape}")


def _go_on(run, x, asked, where, options, again=None):
    """Train a run from where it is, and draw its pictures; returns the exit status of a signal, or None."""
    from . import recipes, runs, train, use

    config, folder, settings = run.config, run.folder, train.Settings(**run.config.settings)
    ends = [f"{settings.steps:,} steps"] if settings.steps else []
    ends += [f"{settings.minutes:g} minutes"] if settings.minutes else []
    print(f"{config.recipe}, {recipes.RECIPES[config.recipe].about}: {len(x):,} examples, {' or '.join(ends)}, "
          f"on {where.name}; writing {folder}", flush=True)  # fmt: skip
    if run.state.step:
        print(f"resumed after step {run.state.step:,}", flush=True)
    among = {"n_workers": options.workers, "ranks": options.ranks}
    state, stopped = runs.train_run(folder, config, x, run.state, where, asked=asked, frozen=run.frozen, **among)
    if stopped:
        again = again or f"tinydiff train --resume --out {shlex.quote(str(folder))}"
        print(f"stopped after step {state.step:,}; saved. Continue with: {again}")
        return 128 + stopped
    names = use.pictures(runs.load(folder), x, asked, device=where, n_workers=options.workers)
    taken = f"{state.step:,} steps in {state.seconds / 60:.1f} minutes"
    seen = [str(folder / names[0]), *names[1:]]
    print(f"done: {taken}; look at {', '.join(seen[:-1])}{' and ' if seen[1:] else ''}{seen[-1]}")
    return None


def _sample(options):
    from . import files, model, plot, recipes, runs, use
    from .tensor.device import device

    run, out = runs.load(options.run_folder), Path(options.out)
    method, classifier = _method(options, run.config), _classifier_of(options)
    if options.v is not None and method != "ddpm":
        raise ValueError(f"--v is of ddpm, got --sampler {method}")
    if out.suffix not in (".png", ".gif", ".npz"):
        raise ValueError(f"--out must end in .png, .gif or .npz, got {out}")
    chosen = {name: getattr(options, name) for name in ("steps", "eta", "seed")}
    chosen |= {"v": 1.0 if options.v is None else options.v}
    chosen |= {"device": device(options.device), "n_workers": options.workers}
    understands = classifier.config if classifier else run.config
    asked = model.asked_for(understands, options.n, options.label, options.prompt)
    chosen |= {"asked": asked, "w": options.guidance, "classifier": classifier}
    x = use.draw(run, options.n, method, frames=60 if out.suffix == ".gif" else 0, **chosen)
    if out.suffix == ".gif":
        plot.reverse_gif(x, out)
    elif out.suffix == ".npz":
        with files.write_aside(out) as aside:
            name = "caption" if understands.captions else "label"
            np.savez_compressed(aside, x=x, **({} if asked is None else {name: np.asarray(asked)}))
    elif run.config.images:
        plot.image_grid(x, out)
    else:
        plot.scatter(x, out, data=recipes.load(run.config.data, n=len(x))[0])
    print(f"wrote {out}: {options.n} samples of {run.folder}, {method or 'decoded draws of p(z)'}")


def _method(options, config):
    """The sampler asked for, or the usual one; None for a VAE, which has no use for one."""
    from . import model

    if config.kind == "vae" and (options.sampler or options.steps or options.eta):
        raise ValueError("a VAE draws z once and decodes it: leave --sampler, --steps and --eta out")
    method = None if config.kind == "vae" else options.sampler or model.usual(config)
    if options.eta and method != "ddim":
        raise ValueError(f"--eta is of ddim, got --sampler {method}")
    return method


def _classifier_of(options):
    """The Run that --classifier names, or None."""
    from . import runs

    run = runs.load(options.classifier) if options.classifier else None
    if run and run.config.kind != "classifier":
        raise ValueError(f"{options.classifier} is no classifier but {run.config.kind}; train mnist-classifier")
    return run


def _edit(options):
    from . import data, files, plot, runs, use
    from .tensor.device import device

    run, out = runs.load(options.run_folder), Path(options.out)
    if out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {out}")
    shape = run.config.shape
    if len(shape) != 3:
        raise ValueError(f"editing is for runs of pictures; this one draws examples of shape {shape}")
    amounts = {"sdedit": options.sdedit, "ilvr": options.ilvr, "blend": options.blend, "inpaint": options.inpaint}
    how = next((name for name, amount in amounts.items() if amount is not None), "between")
    given = np.stack([data.picture(file, shape) for file in options.image])
    mask = data.picture(options.inpaint, (*shape[:2], 1)) < 0 if how == "inpaint" else None
    chosen = {name: getattr(options, name) for name in ("n", "steps", "seed")}
    x = use.edit(run, how, given, amount=amounts.get(how), mask=mask, device=device(options.device), **chosen)
    if out.suffix == ".npz":
        with files.write_aside(out) as aside:
            np.savez_compressed(aside, x=x)
    else:
        plot.image_grid(np.concatenate([given[:1], x, given[1:]]), out, columns=len(x) + len(given))
    print(f"wrote {out}: {how}, {len(x)} pictures, what was given beside them")


def _evaluate(options):
    from . import data, evaluate, glyphs, model, recipes, runs, use
    from .tensor.device import device

    source = Path(options.source)
    run = None if source.suffix == ".npz" else runs.load(source)
    x, asked = (None, None) if run else _samples_in(source)
    of_a_run = {name: getattr(options, name) for name in ("n", "sampler", "steps", "eta", "guidance", "classifier")}
    if not run and any(of_a_run.values()):
        named = " and ".join(f"--{name}" for name, value in of_a_run.items() if value)
        raise ValueError(f"{named}: for drawing from a run; the samples of a file are taken as they are")
    images, captions = (run.config.images, run.config.captions) if run else (x.ndim == 4, isinstance(asked, list))
    place = run.config.data if run else {"name": "mnist" if images else "spiral", "folder": None, "split": "train"}
    wanted = {"name": options.recipe, "folder": options.data, "split": options.split}
    if options.recipe and options.recipe != place["name"]:
        place = {**place, "folder": None}  # the run's folder holds other data
    place = {**place, **{name: value for name, value in wanted.items() if value}}
    if captions and (options.recipe or options.data or options.split):
        raise ValueError("captions are read off the pictures: leave --recipe, --data and --split out")
    if images and not captions:
        real, labels = recipes.load(place)
        if labels is None:
            raise ValueError("a judge learns from labels, and these images have none; try mnist or fashion-mnist")
        labels = glyphs.labels(map(glyphs.parse, labels)) if place["name"] == "glyphs" else labels
    elif not images and place["name"] not in data.TOYS:
        raise ValueError(f"points need a toy set beside them, got {place['name']!r}; --recipe {' or '.join(data.TOYS)}")
    if run:
        usual, method, classifier = 1000 if images else 2000, _method(options, run.config), _classifier_of(options)
        usual = len(glyphs.split("test")) if captions else usual
        chosen = {"steps": options.steps, "seed": options.seed, "n_workers": options.workers}
        chosen |= {"device": device(options.device), "classifier": classifier}
        chosen |= {"w": options.guidance, "eta": options.eta}
        asked = model.asked_for(classifier.config if classifier else run.config, options.n or usual)
        x = use.draw(run, options.n or usual, method, asked=asked, **chosen)
    if captions:
        report = evaluate.read_glyphs(x, asked)
    elif images:
        judge = evaluate.train_judge(real, labels, seed=options.seed)
        seen, held_out = evaluate.shares(len(real), options.seed)
        report = evaluate.judge_digits(judge, x, real[seen], real[held_out], options.seed, asked)
    else:
        rng = np.random.default_rng([options.seed, model.EVALUATION])
        report = evaluate.energy_report(x, data.TOYS[place["name"]], rng)
    print("\n".join(report.lines()))


def _samples_in(path):
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            x, asked = arrays["x"], next((arrays[name] for name in ("label", "caption") if name in arrays), None)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except Exception as problem:  # a zip, header or pickle error, each with its own exception
        raise ValueError(f"{path} holds no samples ({_one_line(problem)}); `tinydiff sample` writes them") from None
    if x.dtype.kind != "f" or x.ndim not in (2, 4) or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"{path}: x must be finite floats (N, 2) or (N, H, W, C), got {x.dtype} {x.shape}")
    if asked is not None and (asked.shape != x.shape[:1] or asked.dtype.kind not in "iuU"):
        wanted = f"{len(x)} whole numbers, or captions"
        raise ValueError(f"{path}: label must be {wanted}, got {asked.dtype} {asked.shape}")
    return x, asked.tolist() if asked is not None and asked.dtype.kind == "U" else asked


def _examples(options, config, n):
    """n examples that a likelihood is asked of: pictures of the run's data, or those named; points freshly drawn."""
    from . import data, model, recipes

    asked = {"folder": options.data, "split": options.split}
    place = {**config.data, **{name: value for name, value in asked.items() if value}}
    if options.data and place["name"] == "glyphs":
        raise ValueError("glyphs are drawn here: --data is for images from files; leave it out")
    if config.images:
        x, _ = recipes.load(place)
        if x.shape[1:] != config.shape:
            raise ValueError(f"the run was trained on examples of {config.shape}, these are {x.shape[1:]}")
        chosen = np.random.default_rng([options.seed, model.EXAMPLES]).permutation(len(x))[:n]
        return x[np.sort(chosen)], f"{len(chosen):,} images of {place['name']}, {place['split']} split"
    if options.data or options.split:
        raise ValueError("points are drawn from their formula: --data and --split are for images")
    x = data.TOYS[place["name"]](n, np.random.default_rng([options.seed, model.EXAMPLES]))
    return x, f"{n:,} fresh points of {place['name']}"


def _mean(numbers, form):
    """mean ± its standard error, which one number has not got."""
    error = f" ± {np.std(numbers, ddof=1) / math.sqrt(len(numbers)):{form}}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):{form}}{error}"


def _elbo(options):
    from . import elbo, plot, runs, use
    from .tensor.device import device

    run = runs.load(options.run_folder)
    config, out = run.config, Path(options.out) if options.out else run.folder / "elbo.png"
    if out.suffix != ".png":
        raise ValueError(f"--out must end in .png, got {out}")
    x, named = _examples(options, config, options.n or (1000 if config.images else 2000))
    where = device(options.device)
    found = use.bound(run, x, options.times, options.v, options.seed, where, options.workers)
    bits = elbo.bits_per_dim(1.0, config.shape)
    print(f"-ln p(x_0) <= L_T + the sum of L_(t-1) + L_0, on {named}; step variance v = {options.v:g}")
    print(f"{'term':<24}{'nats':>12}{'bits/dim':>12}{'rms error of x0':>18}")
    T = config.T
    edges = sorted({0, 1, *(round(T ** (k / 6)) for k in range(1, 7)), T})
    for low, high in reversed(list(zip(edges, edges[1:], strict=False))):
        nats, rms = found.by_t[low + 1 : high + 1].sum(), math.sqrt(found.error[low + 1 : high + 1].mean())
        name = f"L_{low}" if high == low + 1 else f"L_{low} .. L_{high - 1}"
        print(f"{name:<24}{nats:>12.4f}{nats * bits:>12.4f}{rms:>18.4f}")
    print(f"{f'L_{T}, the prior':<24}{found.prior.mean():>12.4f}{found.prior.mean() * bits:>12.4f}")
    unit = "bits/dim" if config.images else "bits a coordinate, of a density in data units"
    print(f"the bound: {_mean(found.total, '.3f')} nats, {_mean(found.total * bits, '.4f')} {unit}")
    coding = elbo.rate_distortion(found.prior, found.by_t, found.error, config.shape) if config.images else None
    plot.bound(np.arange(1, T + 1), found.by_t[1:] * bits, out, unit.split(",")[0], coding)
    print(f"picture: {out}")


def _likelihood(options):
    from . import data, elbo, model, oracle, runs, use
    from .tensor.device import device

    run = runs.load(options.run_folder)
    config = run.config
    model.check_density(config)
    x, named = _examples(options, config, options.n or (64 if config.images else 2000))
    edm, _, sigma = model.flow_of(config, None)
    rng = np.random.default_rng([options.seed, model.EXAMPLES, 1])
    if config.images:
        x = x + np.float32(2 / 255) * (rng.random(x.shape, "f4") - np.float32(0.5))
    else:
        x = x + sigma * rng.standard_normal(x.shape)
    where = device(options.device)
    log_p = use.log_likelihood(run, x, options.steps, options.seed, where, options.workers)
    start = f"t = 1, noise {sigma:.3g}" if config.kind == "ddpm" else f"noise {sigma:.3g}"
    print(f"ln p of {named}, along the probability flow from {start} (the least it knows) to {edm.sigma_max:g}")
    print(f"-ln p  {_mean(-log_p, '.4f')} nats an example; RK4, {options.steps} steps")
    if config.images:
        bits = elbo.bits_per_dim(-log_p, config.shape, unit=2 / 255)
        print(f"       {_mean(bits, '.4f')} bits/dim, pixels dequantised evenly, Hutchinson's divergence")
    elif config.data["name"] in data.NOISE:
        weights, means, var = data.mixture(config.data["name"])
        log_q = oracle.noised_log_density(x, 1.0, sigma**2, weights, means, np.full(len(weights), var))
        print(f"-ln q  {_mean(-log_q, '.4f')} of the data themselves, with the same noise")
        print(f"KL(data || model) = {_mean(log_q - log_p, '.4f')} nats")


def _schedule(options):
    from . import plot, schedule

    chain = _chain(options)
    rows = sorted({round(t) for t in np.linspace(0, chain.T, min(chain.T, 10) + 1)})
    print(f"{'t':>7} {'beta':>10} {'alpha_bar':>12} {'SNR':>12}")
    for t in rows:
        print(f"{t:>7} {chain.beta[t]:>10.4g} {chain.alpha_bar[t]:>12.4g} {chain.snr[t]:>12.4g}")
    print(*schedule.verdict(chain), sep="\n")
    out = Path(options.out or f"schedule-{options.name}-{options.T}.png")
    title = f"the {chain.name} schedule, T = {chain.T}"
    t = np.arange(1, chain.T + 1)
    plot.schedule(t, chain.beta[1:], chain.alpha_bar[1:], chain.snr[1:], out, title)
    print(f"picture: {out}")


def _chain(options):
    """The schedule asked for; betas given on the command line are taken as they are, not scaled to T."""
    from . import schedule

    ends = [options.beta_1, options.beta_T]
    if ends == [None, None]:
        return schedule.named(options.name, options.T)
    if options.name not in ("linear", "quadratic") or None in ends:
        raise ValueError("--beta-1 and --beta-T go together, and with the linear or the quadratic schedule")
    return schedule.SCHEDULES[options.name](options.T, *(beta * options.T / 1000 for beta in ends))


def _check(options):
    from . import laws, schedule

    given = {}
    if options.schedule or options.T is not None:
        T = 1000 if options.T is None else options.T
        given["schedule"] = schedule.named(options.schedule or "linear", T)
    seed = secrets.randbelow(10**6) if options.seed is None else options.seed
    print(f"{'law':<46}{'equation':<40}{'cases':>6}{'error':>10}{'tolerance':>11}")
    broken = []
    for law, cases, worst, problem in laws.run(options.laws or None, seed, **given):
        mark = "BROKEN" if problem else "holds"
        print(f"{law.name:<46}{law.equation:<40}{cases:>6}{worst:>10.1e}{law.tol:>11.1e}  {mark}", flush=True)
        broken += [problem] if problem else []
    print(f"{'no law is broken' if not broken else f'{len(broken)} broken'}; seed {seed}")
    for problem in broken:
        print(f"  {_one_line(problem)[:1000]}")
    return FAILED if broken else 0


def _info(options):
    from . import runs

    run = runs.load(options.run_folder)
    config, state = run.config, run.state
    where = f" from {config.data['folder']}" if config.data["folder"] else ""
    split = f", {config.data['split']} split" if config.images else ""
    print(f"run        {run.folder}")
    print(f"trained on {config.data['name']}{where}{split}: examples of shape {tuple(config.shape)}")
    print(f"for        {state.step:,} steps, {state.seconds / 60:.1f} minutes")
    if config.process:
        chain = f", {config.schedule} schedule, T = {config.T}" if config.kind == "classifier" else ""
        print(f"process    {json.dumps(config.process)}{chain}")
    else:
        print(f"guesses    {config.target}, weighting {config.weighting}, {config.schedule} schedule, T = {config.T}")
        noise = "ln sigma ~ N({}, {}^2)".format(*config.ln_sigma) if config.ln_sigma else "all t alike"
        print(f"noise      {noise}")
    print(f"network    {json.dumps(config.network)}")
    if config.first_stage:
        network, scale = json.dumps(config.first_stage["network"]), config.first_stage["scale"]
        print(f"of codes   {config.z_shape}, scaled by {scale:.4g}, of {network}")
    print(f"settings   {json.dumps({k: v for k, v in config.settings.items() if v is not None})}")
    blocks = runs.parameters_by_block(run)
    print(f"parameters {sum(blocks.values()):,}")
    for name, count in blocks.items():
        print(f"  {name:<9}{count:>10,}")


# Words


def _parser():
    parser = argparse.ArgumentParser(
        prog="tinydiff", description="Diffusion models from scratch: train, sample, and check every formula by its law."
    )
    parser.add_argument("--version", action="version", version=f"tinydiff {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name, run, about, epilog=None):
        sub = commands.add_parser(name, help=about, description=about, epilog=epilog)
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "train", _train, "train a model and write a run folder: checkpoint, metrics, pictures",
        "recipes: spiral (the default), moons, gaussians, checkerboard, circles: points in the plane, a minute; "
        "mnist, fashion-mnist: downloaded, or read from --data; images: your own, --data a folder or a .npy array; "
        "mnist-class, gaussians-class: by their labels, for sample --label; ncsn, ncsn-mnist: by score matching at a "
        "ladder of noise levels; sde: in continuous time, --process; mnist-classifier: for sample --classifier; "
        "mnist-vae, glyphs-vae: autoencoders; mnist-latent: a diffusion of its codes, the two trained in turn; glyphs: "
        "characters of a font, drawn here; glyphs-text: the same from captions, in codes, for sample --prompt. Of two "
        "stages, --steps is for each and --minutes for both; --batch and --lr are for the second.",
    )  # fmt: skip
    sub.add_argument("recipe", nargs="?", metavar="RECIPE", help="what to train (default: spiral)")
    sub.add_argument("--out", metavar="RUN", help="the run folder (default: runs/RECIPE, or the next free name)")
    sub.add_argument("--steps", type=_whole, help="end after so many steps")
    sub.add_argument("--minutes", type=_positive, help="end after so many minutes")
    sub.add_argument("--batch", type=_whole, help="examples a step")
    sub.add_argument("--lr", type=_positive, help="peak learning rate")
    sub.add_argument("--schedule", help="linear, cosine, quadratic or constant")
    sub.add_argument("--T", type=int, help="steps of the forward process (default: 1000)")
    sub.add_argument("--target", help="what it guesses, at all t alike: eps, x0, v or mu (default: the recipe's own)")
    sub.add_argument("--process", help="of the recipe sde: vp, subvp or ve (default: vp)")
    sub.add_argument("--data", metavar="PATH", help="folder of IDX files or of pictures, or a .npy array")
    sub.add_argument("--split", choices=("train", "test"), help="which IDX files (default: train)")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out, as if it had not stopped")
    _workers(sub)
    _common(sub, seed=None)

    sub = command("sample", _sample, "draw samples from a run")
    sub.add_argument("run_folder", metavar="RUN")
    _sampler(sub, "ddim, langevin for ncsn runs, heun for sde runs")
    _eta(sub)
    sub.add_argument("--v", type=float, help="variance of ddpm: 1 for beta, 0 for beta tilde (default: 1)")
    sub.add_argument("--label", type=int, help="of a run with labels: what to draw (default: each in turn)")
    sub.add_argument("--prompt", metavar="WORDS", help='of a run that reads: "a small seven at the top left"')
    _guidance(sub)
    sub.add_argument("--n", type=_whole, default=64, help="how many (default: 64)")
    sub.add_argument("--out", default="samples.png", metavar="FILE", help=".png, .gif or .npz (default: samples.png)")
    _workers(sub)
    _common(sub)

    sub = command(
        "edit", _edit, "change pictures with a run of pictures: fill a mask, redraw, keep the coarse, go between two",
        "what to do: one of --inpaint, --sdedit, --ilvr with one --image; --between or --blend with two.",
    )  # fmt: skip
    sub.add_argument("run_folder", metavar="RUN")
    sub.add_argument("--image", nargs="+", required=True, metavar="IN.png", help="the picture, or the two")
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--inpaint", metavar="MASK.png", help="draw anew where the mask is white, keep the rest exactly")
    what.add_argument("--sdedit", type=float, metavar="STRENGTH", help="noise and redraw: 0 keeps it, 1 forgets it")
    what.add_argument("--ilvr", type=_whole, metavar="FACTOR", help="keep the means of squares, so many pixels a side")
    what.add_argument("--between", action="store_true", help="from the first to the second, through their DDIM noise")
    what.add_argument("--blend", type=float, metavar="STRENGTH", help="the same, through one noise added to both")
    sub.add_argument("--steps", type=_whole, default=50, help="(default: 50)")
    sub.add_argument("--n", type=_whole, default=8, help="how many (default: 8)")
    sub.add_argument("--out", default="edited.png", metavar="FILE", help=".png or .npz (default: edited.png)")
    _common(sub)

    sub = command("evaluate", _evaluate, "measure samples against the data, beside the data against themselves")
    sub.add_argument("source", metavar="RUN|FILE.npz")
    usual = "1000 images, 2000 points, every held-out caption"
    sub.add_argument("--n", type=_whole, help=f"samples to draw from a run (default: {usual})")
    _sampler(sub, "as for sample")
    _eta(sub)
    _guidance(sub)
    sub.add_argument("--recipe", help="the data to compare with (default: the run's; mnist or spiral for a file)")
    sub.add_argument("--data", metavar="PATH", help="folder of IDX files")
    sub.add_argument("--split", choices=("train", "test"), help="which IDX files")
    _workers(sub)
    _common(sub)

    sub = command("elbo", _elbo, "the variational bound of a DDPM run, term by term: a table and a picture")
    sub.add_argument("run_folder", metavar="RUN")
    sub.add_argument("--times", type=_whole, default=20, help="times at which each example is asked (default: 20)")
    sub.add_argument("--v", type=float, default=1.0, help="variance of the steps: 1 beta, 0 beta tilde (default: 1)")
    sub.add_argument("--out", metavar="FILE.png", help="(default: elbo.png in the run)")
    _asked(sub, "1000 images, 2000 points")

    sub = command("likelihood", _likelihood, "ln p of data by the probability flow, and the KL divergence where known")
    sub.add_argument("run_folder", metavar="RUN")
    sub.add_argument("--steps", type=_whole, default=100, help="steps of RK4 (default: 100)")
    _asked(sub, "64 images, 2000 points")

    sub = command("schedule", _schedule, "a table, a picture and a plain verdict on a noise schedule")
    sub.add_argument("name", metavar="NAME", help="linear, cosine, quadratic or constant")
    sub.add_argument("--T", type=int, default=1000, help="(default: 1000)")
    sub.add_argument("--beta-1", type=_positive, dest="beta_1", help="first beta, as it is (with --beta-T)")
    sub.add_argument("--beta-T", type=_positive, dest="beta_T", help="last beta, as it is: 0.02 in DDPM, for T = 1000")
    sub.add_argument("--out", metavar="FILE.png", help="(default: schedule-NAME-T.png)")

    sub = command("check", _check, "check the laws on freshly drawn inputs, in seconds")
    sub.add_argument("laws", nargs="*", metavar="LAW", help="(default: all)")
    sub.add_argument("--schedule", help="check on this schedule rather than on drawn ones")
    sub.add_argument("--T", type=int, help="its steps (default: 1000; the schedule: linear)")
    sub.add_argument("--seed", type=_seed, help="draw the same inputs again (default: new ones)")

    sub = command("info", _info, "what a run is: data, network, how long, parameters by block")
    sub.add_argument("run_folder", metavar="RUN")
    return parser


def _eta(sub):
    sub.add_argument("--eta", type=float, default=0.0, help="noise of ddim, 0..1 (default: 0, none; try 1)")


def _guidance(sub):
    lean = "lean on what is asked for: (1+W) with - W without (default: 0)"
    sub.add_argument("--guidance", type=_finite, default=0.0, metavar="W", help=lean)
    sub.add_argument("--classifier", metavar="RUN", help="leads a run without labels to those asked for")


def _sampler(sub, usual):
    from .model import METHODS, STEPS

    steps = ", ".join(f"{method} {n}" for method, n in STEPS.items())
    sub.add_argument("--sampler", choices=METHODS, metavar="NAME", help=f"{', '.join(METHODS)} (default: {usual})")
    sub.add_argument("--steps", type=_whole, help=f"(default: ddpm T, ddim 50, {steps}; langevin: at each level)")


def _asked(sub, usual):
    sub.add_argument("--n", type=_whole, help=f"examples (default: {usual})")
    sub.add_argument("--data", metavar="PATH", help="folder of IDX files (default: the run's)")
    sub.add_argument("--split", choices=("train", "test"), help="which IDX files (default: the run's)")
    _workers(sub)
    _common(sub)


def _workers(sub):
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sub.add_argument("--workers", type=_whole, default=allowed, help="processes on the CPU (default: one a core)")


def _common(sub, seed=0):
    sub.add_argument("--seed", type=_seed, default=seed, help="of weights, batches, noise, samples (default: 0)")
    sub.add_argument("--device", choices=("cpu", "gpu"), help="(default: a usable GPU, else the CPU)")


def _number(kind, good, wanted):
    def parse(text):
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not good(number):
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
        return number

    return parse


_whole = _number(int, lambda n: n >= 1, "a whole number, at least 1")
_seed = _number(int, lambda n: n >= 0, "a whole number, at least 0")
_finite = _number(float, math.isfinite, "a number")
_positive = _number(float, lambda x: x > 0 and math.isfinite(x), "a number above 0")

if __name__ == "__main__":
    sys.exit(main())
