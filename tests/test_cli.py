"""The command line: every command does what it says, and whatever is wrong is one line, with nothing spoilt."""
import dataclasses
import errno
import functools
import gzip
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import requests
import safetensors.numpy
from PIL import Image

import tinydiff
from tinydiff import checkpoint, data, evaluate, model, objective, oracle, recipes, runs, schedule, sde, use, workers
from tinydiff.__main__ import main
from tinydiff.tensor import device, tree

T = 24
POINTS = ["train", "moons", "--steps", 6, "--batch", 16, "--T", T, "--schedule", "cosine"]
DIGITS = ["train", "mnist", "--steps", 3, "--batch", 4, "--T", 5, "--schedule", "cosine", "--workers", 1]


def tinydiff_(*arguments):
    """Run a command in this process; its exit status. A warning would be a line on stderr too: let it be an error."""
    with warnings.catch_warnings():
        for kind in (RuntimeWarning, UserWarning, ResourceWarning):
            warnings.simplefilter("error", kind)
        return main([str(argument) for argument in arguments])


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys, here):
    """Run a command that must fail: returns its one line on stderr. What was there before must be there after."""

    def run(*arguments, says="", status=None):
        before = contents(here)
        capsys.readouterr()
        got = tinydiff_(*arguments)
        err = capsys.readouterr().err
        assert re.fullmatch(r"tinydiff: .+\n", err), err
        assert got == status if status else got in (1, 2)
        assert says in err, err
        after = contents(here)
        for path, content in before.items():  # a record may grow, and is cut when the run is resumed
            assert after[path] == content or path.name == "metrics.jsonl" and after[path].startswith(content), path
        assert not [path for path in after if path.name.startswith(".tinydiff-")]
        return err

    return run


def idx(array):
    return b"\0\0\x08" + struct.pack(f">B{array.ndim}I", array.ndim, *array.shape) + array.tobytes()


def digits(folder, n=60, side=8):
    """A folder of IDX files: a bright column for each class, the same class again every ten images."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, prefix in data.PREFIX.items():
        rng = np.random.default_rng(len(split))
        labels = (np.arange(n) % 4).astype(np.uint8)
        images = rng.integers(0, 90, (n, side, side)).astype(np.uint8)
        images[np.arange(n), :, 2 * labels] = 230
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Two finished runs, made by the command line: of points and of digits."""
    root = tmp_path_factory.mktemp("runs")
    assert tinydiff_(*POINTS, "--out", root / "points") == 0
    digits(root / "idx")
    assert tinydiff_(*DIGITS, "--data", root / "idx", "--out", root / "digits") == 0
    return root


@pytest.fixture
def points(kept, here):
    """A copy of the run of points."""
    return Path(shutil.copytree(kept / "points", here / "points")).relative_to(here)


@pytest.fixture
def images(kept, here):
    """A copy of the run of digits, whose data lie where they lay."""
    return Path(shutil.copytree(kept / "digits", here / "digits")).relative_to(here)


@pytest.fixture(scope="module")
def kinds(kept):
    """A run of each kind that is no DDPM, as it was before its first step; two of pictures; DDPMs of 1 and 2 steps."""
    made = [("ncsn", "ncsn", {}), ("one", "spiral", {"T": 1}), ("two", "spiral", {"T": 2})]
    made += [(kind, "sde", {"process": kind}) for kind in sde.PROCESSES]
    made += [("ncsn-digits", "ncsn-mnist", {"folder": kept / "idx"})]
    for name, recipe, changes in made:
        config, *_ = recipes.configure(recipe, steps=2, batch=4, **changes)
        (kept / name).mkdir()
        runs.save(kept / name, config, runs.start(config))
    return kept


@pytest.fixture
def labelled(kept, here):
    """Runs that know labels, of digits and of points, as they are before their first step but for their last layer."""
    for name, recipe, folder in (("digits", "mnist-class", kept / "idx"), ("points", "gaussians-class", None)):
        config, *_ = recipes.configure(recipe, folder, steps=2, batch=4, T=6)
        state = runs.start(config)
        params = tree.map(lambda p: p + 0.1 * np.cos(np.arange(p.size, dtype="f4")).reshape(p.shape), state.params)
        (here / f"labelled-{name}").mkdir()
        runs.save(here / f"labelled-{name}", config, dataclasses.replace(state, params=params, average=params))
    return here


def png(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


# Labels


@pytest.mark.parametrize("name", ["digits", "points"])
def test_a_label_and_its_weight_matter(labelled, name):
    run = f"labelled-{name}"
    ways = [[], ["--label", 1], ["--label", 2], ["--label", 1, "--guidance", 2], ["--label", 1, "--sampler", "heun"]]
    drawn = []
    for i, way in enumerate(ways):
        assert tinydiff_("sample", run, "--n", 3, "--steps", 4, *way, "--out", f"{i}.npz") == 0
        with np.load(f"{i}.npz") as arrays:
            drawn.append(arrays["x"])
            assert arrays["label"].tolist() == ([0, 1, 2] if not way else [way[1]] * 3)
    assert len({x.tobytes() for x in drawn}) == len(ways)
    assert np.allclose(drawn[0][1], drawn[1][1], atol=1e-5)  # the same noise, the same label
    assert tinydiff_("sample", run, "--label", 0, "--n", 2, "--steps", 2, "--out", "a.png") == 0


def test_labels_are_learned_and_hidden_now_and_then(kept):
    """One in ten: of 4000 draws, 400 ± 19 are hidden; six standard deviations are missed once in 5e8."""
    config, x, asked = recipes.configure("mnist-class", kept / "idx", steps=2, batch=4000)
    batch = objective.batches(config, x, device.device("cpu"), asked)(0)
    hidden = batch["given"] == 10
    assert abs(hidden.sum() - 400) < 6 * 19 and (batch["given"][~hidden] < 4).all()
    bright = batch["x0"][..., 0].mean(1).argmax(1) // 2
    assert (bright == batch["given"])[~hidden].all()


@pytest.mark.parametrize(
    "options, says",
    [
        (["sample", "labelled-digits", "--label", 10], "label must be in 0..9, got 10"),
        (["sample", "labelled-digits", "--label", -1], "label must be in 0..9, got -1"),
        (["sample", "points", "--label", 1], "knows no labels"),
        (["sample", "points", "--guidance", 1], "this run knows none"),
        (["train", "images", "--data", "labelled-digits"], "no images"),
    ],
)
def test_a_label_that_means_nothing_is_one_line(labelled, points, refused, options, says):
    refused(*options, says=says)


def test_the_judge_is_told_what_was_asked_for(labelled, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "train_judge", functools.partial(evaluate.train_judge, steps=2))
    assert tinydiff_("evaluate", "labelled-digits", "--n", 8, "--steps", 2) == 0
    assert re.search(r"the judge sees in [\d.]+% of samples the label asked for", capsys.readouterr().out)


# Editing


@pytest.fixture
def painted(images):
    """The run of digits, and beside it two pictures of its size and a mask whose left half is white."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        png(name, rng.integers(0, 256, (8, 8)).astype(np.uint8))
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    png("mask.png", mask)
    return images


EDITS = {
    "inpaint": ["--inpaint", "mask.png", "--image", "a.png"],
    "sdedit": ["--sdedit", 0.6, "--image", "a.png"],
    "ilvr": ["--ilvr", 4, "--image", "a.png"],
    "between": ["--between", "--image", "a.png", "b.png"],
    "blend": ["--blend", 0.6, "--image", "a.png", "b.png"],
}


@pytest.mark.parametrize("how", EDITS)
def test_each_edit_draws(painted, how):
    assert tinydiff_("edit", painted, *EDITS[how], "--n", 3, "--out", "e.npz") == 0
    assert tinydiff_("edit", painted, *EDITS[how], "--n", 3, "--out", "e.png") == 0
    with np.load("e.npz") as arrays:
        x = arrays["x"]
    assert x.shape == (3, 8, 8, 1) and x.dtype == np.float32 and np.isfinite(x).all()
    given = data.picture("a.png", (8, 8, 1))
    if how == "inpaint":
        assert np.array_equal(x[:, :, 4:], np.broadcast_to(given[:, 4:], (3, 8, 4, 1)))
        assert len({sample[:, :4].tobytes() for sample in x}) == 3
    if how == "ilvr":
        blocks = x.reshape(3, 2, 4, 2, 4).mean((2, 4))
        assert np.allclose(blocks, given.reshape(2, 4, 2, 4).mean((1, 3)), atol=1e-5)
    given_and_drawn = 3 + (2 if how in ("between", "blend") else 1)
    assert Image.open("e.png").size[0] == given_and_drawn * 18 - 2


def test_an_edit_of_no_strength_changes_nothing(painted):
    assert tinydiff_("edit", painted, "--sdedit", 0, "--image", "a.png", "--n", 2, "--out", "e.npz") == 0
    with np.load("e.npz") as arrays:
        assert np.array_equal(arrays["x"], np.stack([data.picture("a.png", (8, 8, 1))] * 2))


@pytest.mark.parametrize(
    "options, says",
    [
        (["--sdedit", 1.5, "--image", "a.png"], "strength must be in [0, 1], got 1.5"),
        (["--sdedit", 0.5, "--image", "a.png", "b.png"], "sdedit takes 1 picture, got 2"),
        (["--between", "--image", "a.png"], "between takes 2 pictures, got 1"),
        (["--ilvr", 3, "--image", "a.png"], "factor must divide"),
        (["--inpaint", "small.png", "--image", "a.png"], "small.png: got 4x4 of 1 channels, wanted 8x8 of 1"),
        (["--inpaint", "nowhere.png", "--image", "a.png"], "no file nowhere.png"),
        (["--sdedit", 0.5, "--image", "text.png"], "not a readable image"),
        (["--sdedit", 0.5, "--image", "a.png", "--out", "e.gif"], "must end in .png or .npz"),
    ],
)
def test_a_bad_edit_is_one_line(painted, refused, options, says):
    png("small.png", np.zeros((4, 4), np.uint8))
    Path("text.png").write_text("no picture")
    refused("edit", painted, *options, says=says)


def test_points_and_other_processes_are_not_edited(painted, points, kinds, refused):
    png("a.png", np.zeros((8, 8), np.uint8))
    refused("edit", points, *EDITS["sdedit"], says="runs of pictures")
    refused("edit", kinds / "ncsn-digits", *EDITS["sdedit"], says="editing is for DDPM runs")


# Training


def test_a_run_of_points_is_a_folder(kept):
    folder = kept / "points"
    names = {"checkpoint.safetensors", "metrics.jsonl", "forward.png", "samples.png", "reverse.gif", "loss.png"}
    assert {path.name for path in folder.iterdir()} == names
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    run = runs.load(folder)
    assert (run.config.schedule, run.config.T, run.config.settings["batch"], run.state.step) == ("cosine", T, 16, 6)
    assert run.config.settings["minutes"] is None  # --steps alone is the end


def test_a_run_of_digits_draws_samples_on_its_way(kept):
    drawn = sorted(path.name for path in (kept / "digits" / "samples").iterdir())
    assert drawn == ["step_000001.png", "step_000002.png", "step_000003.png"]
    assert runs.load(kept / "digits").config.shape == (8, 8, 1)


def test_what_it_says_while_it_trains(here, capsys):
    assert tinydiff_(*POINTS) == 0
    out, err = capsys.readouterr()
    begun = "moons, two half moons: 100,000 examples, 6 steps, on cpu; writing"
    assert out.splitlines()[0] == f"{begun} {Path('runs/moons')}"
    assert out.splitlines()[-1].startswith("done: 6 steps in ")
    assert re.search(r"^ *\d+%  step \d+  loss \d\.\d+  [\d,]+ points/s$", out, re.M)
    assert err == ""


def test_runs_without_a_name_take_the_next_free_one(here):
    for wanted in ("moons", "moons-2", "moons-3"):
        assert tinydiff_("train", "moons", "--steps", 1, "--batch", 4, "--T", 2, "--schedule", "cosine") == 0
        assert (here / "runs" / wanted / "checkpoint.safetensors").exists()


def test_one_step_of_noise_will_do_for_cosine(here, capsys):
    assert tinydiff_("train", "spiral", "--steps", 2, "--batch", 4, "--T", 1, "--schedule", "cosine", "--out", "r") == 0
    assert tinydiff_("sample", "r", "--n", 3, "--sampler", "ddpm", "--out", "x.npz") == 0


def test_own_images(here):
    np.save("mine.npy", np.random.default_rng(0).integers(0, 255, (6, 4, 4, 3), np.uint8))
    arguments = ["images" if argument == "mnist" else argument for argument in DIGITS]
    assert tinydiff_(*arguments, "--data", "mine.npy", "--out", "r") == 0
    config = runs.load("r").config
    assert config.shape == (4, 4, 3) and config.data["folder"] == str(here / "mine.npy")
    assert tinydiff_("sample", "r", "--n", 2, "--out", "x.png") == 0


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["train", "unheard-of"], "unknown recipe 'unheard-of'; choose one of spiral"),
        (["train", "--T", "0"], "T must be a whole number of steps, at least 1, got 0"),
        (["train", "--T", "-3"], "at least 1, got -3"),
        (["train", "--T", "1", "--schedule", "linear"], "beta must lie in (0, 1), got beta_1 = 20"),
        (["train", "--T", "2", "--schedule", "linear"], "beta must lie in (0, 1), got beta_2 = 10"),
        (["train", "--T", "20", "--schedule", "linear"], "beta must lie in (0, 1)"),
        (["train", "--T", "5", "--schedule", "constant"], "beta must lie in (0, 1), got beta_1 = 2"),
        (["train", "--schedule", "sigmoid"], "unknown schedule 'sigmoid'"),
        (["train", "--data", "."], "leave it out"),
        (["train", "sde", "--data", "."], "leave it out"),
        (["train", "sde", "--process", "bogus"], "of the recipe sde: vp, subvp, ve; got 'bogus' for sde"),
        (["train", "sde", "--process", "ncsn"], "got 'ncsn' for sde"),
        (["train", "moons", "--process", "vp"], "got 'vp' for moons"),
        (["train", "ncsn", "--process", "vp"], "got 'vp' for ncsn"),
        (["train", "ncsn", "--schedule", "linear"], "ncsn has no use for schedule, for it is no DDPM; leave it out"),
        (["train", "sde", "--T", "10"], "sde has no use for T, for it is no DDPM; leave it out"),
        (["train", "ncsn-mnist", "--data", "nowhere"], "nowhere is no folder"),
        (["train", "images"], "give --data a folder"),
        (["train", "mnist", "--data", "nowhere"], "nowhere is no folder"),
        (["train", "images", "--data", "nowhere"], "nowhere does not exist"),
        (["train", "--out", "a-file"], "a-file"),
        (["train", "--out", "a-file/below"], "a-file"),
        (["train", "--resume", "--out", "nowhere"], "no run at nowhere"),
        (["train", "moons", "--resume"], f"no run at {Path('runs/moons')}"),
        (["train", "--resume", "--out", "a-file"], "a-file is not a whole checkpoint"),
        (["sample", "nowhere"], "no run at nowhere"),
        (["info", "nowhere"], "no run at nowhere"),
        (["info", "."], "no run at ."),
        (["evaluate", "nowhere"], "no run at nowhere"),
        (["elbo", "nowhere"], "no run at nowhere"),
        (["likelihood", "nowhere"], "no run at nowhere"),
        (["evaluate", "nowhere.npz"], "no file nowhere.npz"),
        (["schedule", "sigmoid"], "unknown schedule 'sigmoid'; choose one of linear"),
        (["schedule", "linear", "--T", "0"], "got 0"),
        (["schedule", "linear", "--out", "a-file/x.png"], "a-file"),
        (["check", "no_such_law"], "unknown law 'no_such_law'"),
        (["check", "--schedule", "sigmoid"], "unknown schedule"),
        (["check", "--T", "0"], "got 0"),
        (["check", "--T", "20"], "beta must lie in (0, 1)"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_bad_argument_is_one_line(here, refused, arguments, says):
    (here / "a-file").write_text("of mine")
    refused(*arguments, says=says)


@pytest.mark.parametrize(
    "arguments",
    [["train", "--steps", "0"], ["train", "--steps", "1.5"], ["train", "--minutes", "0"], ["train", "--lr", "nan"]]
    + [["train", "--batch", "-1"], ["train", "--seed", "-1"], ["train", "--workers", "0"], ["train", "--lr", "inf"]]
    + [["train", "--device", "abacus"], ["train", "--split", "both"], ["sample"], ["sample", "r", "--n", "0"]]
    + [["sample", "r", "--steps", "0"], ["elbo", "r", "--times", "0"], ["elbo", "r", "--n", "0"], ["elbo"]]
    + [["likelihood", "r", "--steps", "0"], ["likelihood", "r", "--n", "-1"], ["elbo", "r", "--v", "large"]]
    + [["sample", "r", "--sampler", "magic"], ["nonsense"], ["schedule"], ["train", "--unheard-of"]],
    ids=" ".join,
)
def test_a_misused_option_is_a_usage_error(here, capsys, arguments):
    with pytest.raises(SystemExit) as info:
        main(arguments)
    assert info.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("tinydiff")
    assert not list(here.iterdir())


def test_a_gpu_that_is_not_there_is_one_line(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    refused("train", "--device", "gpu", says="no usable GPU", status=2)


# Two stages, captions, and a classifier that leads

CHAIN = ["--T", 5, "--schedule", "cosine"]  # of the run of digits, which the classifier is to lead
STAGED = {"mnist-latent": CHAIN, "mnist-vae": [], "mnist-classifier": CHAIN, "glyphs-text": CHAIN, "glyphs": CHAIN}
CAPTION = "a small bold seven at the top left"


def few_glyphs(patch):
    """Sixty of them, and not 20,000."""
    load = recipes.load
    patch.setattr(recipes, "load", lambda source, n=60, seed=0: load(source, min(n, 60), seed))


def staged_command(recipe, kept):
    data_of = ["--data", kept / "idx"] if recipe.startswith("mnist") else []
    return ["train", recipe, *STAGED[recipe], *data_of, "--steps", 2, "--batch", 4]


@pytest.fixture(scope="module")
def staged(kinds):
    """A finished run of each recipe that is more, or less, than a diffusion of pictures, beside `kinds`."""
    with pytest.MonkeyPatch.context() as patch:
        few_glyphs(patch)
        for recipe in STAGED:
            assert tinydiff_(*staged_command(recipe, kinds), "--workers", 1, "--out", kinds / recipe) == 0
    config, *_ = recipes.configure("mnist-classifier", kinds / "idx", steps=2, batch=4, T=6)
    (kinds / "other-classifier").mkdir()
    runs.save(kinds / "other-classifier", config, runs.start(config))
    return kinds


RECORD = {"checkpoint.safetensors", "metrics.jsonl", "loss.png"}
DREW = RECORD | {"forward.png", "samples.png", "reverse.gif", "samples"}
CODED = RECORD | {"there_and_back.png", "samples.png", "samples"}
FILES = {
    "mnist-latent": DREW | {"first_stage"}, "mnist-latent/first_stage": CODED, "mnist-vae": CODED, "glyphs": DREW,
    "mnist-classifier": RECORD | {"accuracy.png"}, "glyphs-text": DREW | {"first_stage"},
    "glyphs-text/first_stage": CODED,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_run_of_each_new_kind_is_a_folder(staged, name, capsys):
    folder = staged / name
    assert {path.name for path in folder.iterdir()} == FILES[name]
    if "samples" in FILES[name]:
        assert {path.name for path in (folder / "samples").iterdir()} == {"step_000001.png", "step_000002.png"}
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert min(picture.size) > 8
    run = runs.load(folder)
    side = 28 if "glyphs" in name else 8
    assert run.state.step == 2 and run.config.shape == (side, side, 1)
    assert tinydiff_("info", folder) == 0
    out, err = capsys.readouterr()
    assert f"parameters {tree.count(run.state.params):,}\n" in out and err == ""
    if run.config.first_stage:
        assert f"of codes   {(side // 4, side // 4, 4)}, scaled by {run.config.first_stage['scale']:.4g}" in out


@pytest.mark.parametrize("name", ["mnist-latent", "glyphs-text"])
def test_the_second_stage_keeps_the_averaged_weights_of_the_first_and_the_size_of_its_codes(staged, name):
    run, first = runs.load(staged / name), runs.load(staged / name / "first_stage")
    kept_there, wanted = tree.flatten(run.frozen), tree.flatten(first.state.average)
    assert set(kept_there) == set(wanted)
    assert all(kept_there[path].tobytes() == leaf.tobytes() for path, leaf in wanted.items())
    assert run.config.first_stage["network"] == first.config.network
    assert first.config.recipe == recipes.RECIPES[name].first_stage and first.config.kind == "vae"
    x, _ = recipes.load(run.config.data, 60)
    assert runs.codes(run.config, run.frozen, x[:60]).std() == pytest.approx(1, abs=1e-4)


def the_same(run, other):
    """Bit for bit, but for the time that it took."""
    found = []
    for folder in (run, other):
        loaded = runs.load(folder)
        trees = dict(vars(loaded.state), seconds=0, **({"frozen": loaded.frozen} if loaded.frozen else {}))
        found.append((loaded.config, {name: np.asarray(leaf).tobytes() for name, leaf in tree.flatten(trees).items()}))
    return found[0] == found[1]


def test_a_run_stopped_in_its_first_stage_goes_on_as_it_says(staged, here, capsys, interrupt_at, refused):
    line = staged_command("mnist-latent", staged)
    interrupt_at(1)
    assert tinydiff_(*line, "--workers", 1, "--out", "a run") == 130
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("stopped after step 1; saved. Continue with: tinydiff train mnist-latent --resume --out ")
    assert not Path("a run/checkpoint.safetensors").exists() and runs.load("a run/first_stage").state.step == 1
    interrupt_at(None)
    refused(*line, "--out", "a run", says="holds a run already; continue it with --resume", status=2)
    refused("train", "--resume", "--out", "a run", says="is no first stage of spiral", status=2)
    refused("train", "glyphs-text", "--resume", "--out", "a run", says="is no first stage of glyphs-text", status=2)
    for change in (["--seed", 1], ["--steps", 3], ["--split", "test"]):
        refused(*line, *change, "--resume", "--out", "a run", says=f"started with {change[0][2:]} ", status=2)
    assert tinydiff_(*shlex.split(said.split("with: ")[1])[1:], "--workers", 1) == 0
    assert "resumed after step 1" in capsys.readouterr().out
    for part in (".", "first_stage"):
        assert the_same(Path("a run") / part, staged / "mnist-latent" / part)
        assert len((Path("a run") / part / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_first_stage_remembers_the_data_the_seed_and_the_end(staged, here):
    """Only what is of the second stage has to be said again."""
    shutil.copytree(staged / "mnist-latent" / "first_stage", "a run/first_stage")
    again = ["train", "mnist-latent", *STAGED["mnist-latent"], "--batch", 4, "--resume", "--out", "a run"]
    assert tinydiff_(*again, "--workers", 1) == 0
    assert the_same(Path("a run"), staged / "mnist-latent")


def test_samples_of_a_vae_are_said_to_be_what_they_are(staged, here, capsys):
    assert tinydiff_("sample", staged / "mnist-vae", "--n", 3, "--out", "x.npz") == 0
    assert "3 samples of" in (said := capsys.readouterr().out) and said.endswith("decoded draws of p(z)\n")


def test_a_file_is_not_drawn_from(here, refused):
    np.savez("x.npz", x=np.zeros((4, 2), "f4"))
    refused("evaluate", "x.npz", "--guidance", 2, "--eta", 1, says="--eta and --guidance: for drawing from", status=2)
    refused("evaluate", "x.npz", "--n", 2, says="--n: for drawing from a run", status=2)


def test_a_run_stopped_in_its_second_stage_goes_on_too(staged, here, capsys, interrupt_at, refused):
    """Begun where the first stage is done and nothing else is, as it is if the computer stopped there."""
    shutil.copytree(staged / "mnist-latent" / "first_stage", here / "r" / "first_stage")
    interrupt_at(1)
    line = [*staged_command("mnist-latent", staged), "--workers", 1, "--out", "r"]
    assert tinydiff_(*line, "--resume") == 130
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith("Continue with: tinydiff train --resume --out r") and runs.load("r").state.step == 1
    interrupt_at(None)
    refused(*line, says="holds a run already; continue it with --resume", status=2)
    assert tinydiff_(*shlex.split(said.split("with: ")[1])[1:], "--workers", 1) == 0
    assert the_same("r", staged / "mnist-latent")


def test_the_minutes_of_two_stages_are_those_asked_for_in_all(staged, here, refused):
    line = ["train", "mnist-latent", *CHAIN, "--data", staged / "idx", "--batch", 4, "--workers", 1, "--out", "r"]
    assert tinydiff_(*line, "--minutes", 0.002) == 0
    first, second = (runs.load(folder).config.settings for folder in ("r/first_stage", "r"))
    assert first["minutes"] + second["minutes"] == pytest.approx(0.002) and first["steps"] is second["steps"] is None
    assert first["minutes"] == pytest.approx(recipes.FIRST_STAGE * 0.002)
    assert tinydiff_(*line, "--minutes", 0.002, "--resume") == 0
    refused(*line, "--minutes", 0.003, "--resume", says="was started with minutes ", status=2)


# Captions


def test_what_is_asked_in_words_is_drawn_kept_and_marked(staged, here, capsys):
    run, few = staged / "glyphs-text", ["--n", 3, "--steps", 2]
    ways = [[], ["--prompt", CAPTION], ["--prompt", "a large four"], ["--prompt", CAPTION, "--guidance", 2]]
    x = []
    for i, way in enumerate(ways):
        assert tinydiff_("sample", run, *few, *way, "--out", f"{i}.npz") == 0
        with np.load(f"{i}.npz") as arrays:
            assert set(arrays.files) == {"x", "caption"} and arrays["x"].shape == (3, 28, 28, 1)
            x.append(arrays["x"])
            said = model.asked_for(runs.load(run).config, 3) if not way else [way[1]] * 3
            assert arrays["caption"].tolist() == said
    assert len({one.tobytes() for one in x}) == len(ways)
    assert tinydiff_("sample", run, *few, "--prompt", CAPTION, "--out", "a.png") == 0
    with Image.open("a.png") as picture:
        assert picture.format == "PNG"
    capsys.readouterr()
    assert tinydiff_("evaluate", "1.npz") == 0
    assert capsys.readouterr().out.splitlines() == evaluate.read_glyphs(x[1], [CAPTION] * 3).lines()
    assert tinydiff_("evaluate", run, *few) == 0  # of held-out captions, as `sample` without a prompt
    wanted = evaluate.read_glyphs(x[0], model.asked_for(runs.load(run).config, 3)).lines()
    assert capsys.readouterr().out.splitlines() == wanted


def test_right_pictures_in_a_file_are_all_right_and_wrong_captions_are_one_line(here, refused, capsys):
    x, shown = tinydiff.glyphs.sample(5, np.random.default_rng(0))
    captions = np.array([tinydiff.glyphs.caption(glyph) for glyph in shown])
    np.savez("right.npz", x=x, caption=captions)
    assert tinydiff_("evaluate", "right.npz") == 0
    assert capsys.readouterr().out.count("100.0%") == 6
    for arrays, says in (
        ({"x": x, "caption": captions[:4]}, "label must be 5 whole numbers, or captions, got <U"),
        ({"x": x, "caption": np.zeros(5)}, "got float64 (5,)"),
        ({"x": x, "caption": np.array(["a purple seven"] * 5)}, "the word 'purple'"),
        ({"x": x[:, ::2, ::2], "caption": captions}, "glyphs are (28, 28, 1), got the shape (5, 14, 14, 1)"),
        ({"x": np.zeros((5, 2)), "caption": captions}, "got the shape (5, 2)"),
    ):
        Path("wrong.npz").write_bytes(npz(**arrays))
        refused("evaluate", "wrong.npz", says=says, status=2)


def test_glyphs_without_captions_are_judged_as_digits_are(staged, capsys, quick_judge, monkeypatch):
    few_glyphs(monkeypatch)
    assert tinydiff_("evaluate", staged / "glyphs", "--n", 4, "--steps", 2) == 0
    out = capsys.readouterr().out
    assert "Fréchet" in out and "at most 5.17" in out  # log2 of 36 characters


# A classifier


def test_a_classifier_leads_to_a_label(staged, here, capsys, quick_judge):
    led = ["--classifier", staged / "mnist-classifier"]
    ways = [[], led, [*led, "--label", 1], [*led, "--label", 2], [*led, "--label", 1, "--guidance", 9]]
    ways += [[*led, "--label", 1, "--sampler", "heun"]]
    x = []
    for i, way in enumerate(ways):
        assert tinydiff_("sample", staged / "digits", "--n", 3, "--steps", 4, *way, "--out", f"{i}.npz") == 0
        with np.load(f"{i}.npz") as arrays:
            assert ("label" in arrays.files) == bool(way)
            assert not way or arrays["label"].tolist() == ([0, 1, 2] if way == led else [way[3]] * 3)
            x.append(arrays["x"])
    assert len({one.tobytes() for one in x}) == len(ways)
    assert np.allclose(x[1][1], x[2][1], atol=1e-5)  # the same noise, the same label
    assert np.array_equal(*(use_of(staged, w) for w in (-1, None)))  # a scale of 0 leads nowhere
    assert tinydiff_("sample", staged / "digits", "--n", 2, *led, "--label", 0, "--out", "a.png") == 0
    capsys.readouterr()
    assert tinydiff_("evaluate", staged / "digits", "--n", 8, "--steps", 2, *led) == 0
    assert re.search(r"the judge sees in [\d.]+% of samples the label asked for", capsys.readouterr().out)


def use_of(staged, w):
    """Samples of the digits, led with scale 1 + w, or not at all."""
    led = {} if w is None else {"classifier": runs.load(staged / "mnist-classifier"), "w": w}
    return use.draw(runs.load(staged / "digits"), 3, steps=4, **led)


LED = ["--classifier", "mnist-classifier"]
EDITED = ["--sdedit", 0.5, "--image", "a.png"]


@pytest.mark.parametrize(
    "command, name, options, says",
    [
        ("sample", "glyphs-text", ["--prompt", "a small purple seven"], "no caption has the word 'purple'"),
        ("sample", "glyphs-text", ["--prompt", "a " * 11], "a caption has at most 10 words, got 11"),
        ("sample", "glyphs-text", ["--label", 1], "knows no labels, got 1"),
        ("sample", "mnist-latent", ["--prompt", "seven"], "this run does not read, got 'seven'; train glyphs-text"),
        ("sample", "mnist-latent", ["--guidance", 1], "this run knows none"),
        ("sample", "points", ["--prompt", ""], "this run does not read"),
        ("sample", "digits", [*LED, "--label", 10], "label must be in 0..9, got 10"),
        ("sample", "digits", [*LED, "--label", -1], "label must be in 0..9, got -1"),
        ("sample", "digits", [*LED, "--prompt", "seven"], "does not read"),
        ("sample", "digits", ["--classifier", "digits"], "is no classifier but ddpm; train mnist-classifier"),
        ("sample", "digits", ["--classifier", "mnist-vae"], "is no classifier but vae"),
        ("sample", "digits", ["--classifier", "nowhere"], "no run at "),
        ("sample", "digits", ["--classifier", "other-classifier"], "the classifier's T must be 5, got 6; train"),
        ("sample", "points", LED, "the classifier's shape must be (2,), got (8, 8, 1)"),
        ("sample", "ncsn-digits", LED, "a classifier leads DDPM runs of pictures as they are; this one is ncsn"),
        ("sample", "mnist-latent", LED, "this one is of codes"),
        ("sample", "glyphs-text", LED, "this one is of codes"),
        ("sample", "mnist-vae", LED, "this one is vae"),
        ("sample", "mnist-vae", ["--sampler", "ddim"], "a VAE draws z once and decodes it: leave --sampler"),
        ("evaluate", "mnist-vae", ["--steps", 3], "a VAE draws z once"),
        ("evaluate", "glyphs-text", ["--split", "test"], "captions are read off the pictures"),
        ("elbo", "glyphs-text", ["--n", 2, "--data", "nowhere"], "glyphs are drawn here: --data is"),
        ("sample", "mnist-classifier", [], "is a classifier and draws nothing; give it to --classifier"),
        ("sample", "mnist-classifier", LED, "is a classifier and draws nothing"),
        ("evaluate", "mnist-classifier", ["--n", 4], "is a classifier and draws nothing"),
        ("evaluate", "digits", ["--n", 4, "--classifier", "digits"], "is no classifier but ddpm"),
        ("elbo", "mnist-latent", ["--n", 2], "the bound is of data as they are, this run is of their codes"),
        ("elbo", "mnist-vae", ["--n", 2], "this run is a vae; take another"),
        ("elbo", "mnist-classifier", ["--n", 2], "this run is a classifier; take another"),
        ("likelihood", "mnist-latent", ["--n", 2], "the data themselves, this run is of codes; take another"),
        ("likelihood", "mnist-vae", ["--n", 2], "the data themselves, this run is a vae; take"),
        ("likelihood", "mnist-classifier", ["--n", 2], "the data themselves, this run is a classifier; take"),
        ("edit", "mnist-latent", EDITED, "pictures as they are; this one is ddpm, of codes"),
        ("edit", "mnist-vae", EDITED, "this one is vae"),
        ("edit", "mnist-classifier", EDITED, "this one is classifier"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_what_a_run_of_a_new_kind_cannot_do_is_one_line(staged, here, refused, command, name, options, says):
    png("a.png", np.zeros((8, 8), np.uint8))
    runs_there = {"mnist-classifier", "mnist-vae", "other-classifier", "digits", "nowhere"}
    options = [staged / word if word in runs_there else word for word in options]
    before = contents(staged)
    refused(command, staged / name, *options, says=says)
    assert contents(staged) == before and {path.name for path in here.iterdir()} == {"a.png"}


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["mnist-vae", "--T", 5], "mnist-vae has no use for T, for it is no DDPM"),
        (["mnist-vae", "--target", "v"], "mnist-vae has no use for target"),
        (["mnist-classifier", "--target", "v"], "mnist-classifier has no use for target"),
        (["mnist-latent", "--process", "vp"], "got 'vp' for mnist-latent"),
        (["glyphs-text", "--data", "."], "leave it out"),
        (["glyphs-vae", "--data", "."], "leave it out"),
        (["mnist-vae", "--data", "ten"], "image size must be a multiple of 4 (patch 2, 2 widths), got 10"),
        (["mnist-latent", "--data", "ten"], "image size must be a multiple of 4"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_bad_argument_of_a_new_recipe_is_one_line(here, refused, arguments, says):
    digits(here / "ten", side=10)
    refused("train", *arguments, "--steps", 1, "--out", "r", says=says, status=2)
    assert not Path("r").exists()


# Data that are no good


def spoil(name, change):
    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"
BOMB = gzip.compress(idx(np.zeros((60, 8, 8), np.uint8)) + bytes(50_000_000))
BAD_DIGITS = {
    "wrong magic": (spoil(IMAGES, lambda b: b"\0\0\x0d" + b[3:]), "not IDX bytes"),
    "text": (spoil(IMAGES, lambda b: b"<html>"), "not IDX bytes"),
    "truncated": (spoil(IMAGES, lambda b: b[:-1]), "declares 3840 bytes but holds only 3839"),
    "truncated gzip": (spoil(LABELS, lambda b: b[:-9]), "damaged gzip"),
    "flipped bit in a gzip": (spoil(LABELS, lambda b: b[:30] + bytes([b[30] ^ 4]) + b[31:]), LABELS),
    "gzip bomb": (spoil(IMAGES, lambda b: BOMB), "holds more"),
    "labels of other images": (spoil(LABELS, lambda b: idx(np.zeros(59, np.uint8))), "wanted one per image, 60"),
    "labels that are no digits": (spoil(LABELS, lambda b: idx(np.full(60, 10, np.uint8))), "wanted 0..9"),
    "no labels": (lambda folder: (folder / LABELS).unlink(), "no train-labels"),
    "nothing": (lambda folder: [path.unlink() for path in folder.iterdir()], "give another folder"),
    "odd sides": (spoil(IMAGES, lambda b: idx(np.zeros((60, 7, 8), np.uint8))), "got 8x7"),
    "not square": (spoil(IMAGES, lambda b: idx(np.zeros((60, 6, 8), np.uint8))), "square images, got 6 x 8"),
}


@pytest.mark.parametrize("kind", BAD_DIGITS)
def test_bad_digits_are_one_line(here, refused, kind):
    damage, says = BAD_DIGITS[kind]
    damage(digits(here / "idx"))
    refused(*DIGITS, "--data", "idx", "--out", "r", says=says)
    assert not Path("r").exists()


BAD_ARRAYS = {
    "NaN": (np.full((4, 4, 4), np.nan), "finite"),
    "too large": (np.full((4, 4, 4), 2.0), "in [-1, 1]"),
    "whole numbers": (np.zeros((4, 4, 4), int), "int64"),
    "one picture": (np.zeros((4, 4), np.uint8), "wanted (N, H, W)"),
    "five channels": (np.zeros((4, 4, 4, 5), np.uint8), "wanted (N, H, W)"),
    "none": (np.zeros((0, 4, 4), np.uint8), "wanted (N, H, W)"),
    "objects": (np.array([None]), "not a readable .npy"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_bad_arrays_are_one_line(here, refused, kind):
    array, says = BAD_ARRAYS[kind]
    np.save("x.npy", array, allow_pickle=True)
    refused("train", "images", "--steps", 1, "--data", "x.npy", "--out", "r", says=says)
    Path("x.npy").write_bytes(Path("x.npy").read_bytes()[:40])
    refused("train", "images", "--steps", 1, "--data", "x.npy", "--out", "r", says="not a readable .npy")


def test_without_a_network_it_is_one_line(here, refused, monkeypatch):
    import pooch

    def unreachable(*_, **__):
        raise requests.exceptions.ConnectionError("Max retries exceeded\nwith url: ...")

    monkeypatch.setattr(pooch, "retrieve", unreachable)
    monkeypatch.setattr(pooch, "os_cache", lambda name: here / name)
    refused("train", "mnist", says="could not download train-images-idx3-ubyte.gz; tried https://", status=1)
    refused("train", "fashion-mnist", says="give a folder with --data", status=1)
    Path("x.npz").write_bytes(npz(x=np.zeros((4, 28, 28, 1), "f4")))
    refused("evaluate", "x.npz", says="could not download", status=1)


# A full disk


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def no_room_for(monkeypatch):
    """Files of these suffixes meet a full disk when they are put in place."""

    def fill(suffix):
        replace = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: full() if str(b).endswith(suffix) else replace(a, b))

    return fill


FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize("suffix", ["checkpoint.safetensors", "forward.png", "samples.png", "reverse.gif", "loss.png"])
def test_a_full_disk_ends_a_run_with_one_line(points, refused, no_room_for, suffix):
    no_room_for(suffix)
    refused(*POINTS, "--out", "other", says=FULL, status=1)
    assert Path("other/checkpoint.safetensors").exists() == (suffix != "checkpoint.safetensors")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_the_record_ends_a_run_with_one_line(points, refused, monkeypatch):
    def to_full(path, mode="r"):
        return open("/dev/full" if Path(path).name == "metrics.jsonl" else path, mode)

    monkeypatch.setattr(runs, "open", to_full, raising=False)
    refused(*POINTS, "--out", "other", says=FULL, status=1)
    refused("train", "--resume", "--out", half_done(points), says=FULL, status=1)


@pytest.mark.parametrize("suffix", ["checkpoint.safetensors", "metrics.jsonl"])
def test_a_full_disk_leaves_a_run_that_is_resumed_as_it_was(points, refused, no_room_for, suffix):
    half_done(points)
    no_room_for(suffix)
    refused("train", "--resume", "--out", points, says=FULL, status=1)


def half_done(run):
    """The run as it was after three of its six steps."""
    loaded = runs.load(run)
    moments = {**loaded.state.moments, "step": 3}
    runs.save(run, loaded.config, dataclasses.replace(loaded.state, moments=moments))
    lines = (run / "metrics.jsonl").read_text().splitlines(True)
    (run / "metrics.jsonl").write_text("".join(lines[:3]))
    return run


@pytest.mark.parametrize("name", ["x.png", "x.gif", "x.npz", "s.png"])
def test_a_full_disk_leaves_the_old_samples(points, refused, no_room_for, name):
    Path(name).write_text("old")
    no_room_for(name)
    command = ["schedule", "linear"] if name == "s.png" else ["sample", points, "--n", 4]
    refused(*command, "--out", name, says=FULL, status=1)


def test_a_full_disk_leaves_the_old_picture_of_the_bound(points, refused, no_room_for):
    (points / "elbo.png").write_text("old")
    no_room_for("elbo.png")
    refused("elbo", points, "--n", 4, "--times", 1, says=FULL, status=1)


# Resuming


def test_an_existing_run_is_not_overwritten(points, refused):
    refused(*POINTS, "--out", points, says="continue it with --resume", status=2)


OTHERWISE = [
    ["spiral"], ["--steps", 7], ["--minutes", 1], ["--batch", 8], ["--lr", 0.5], ["--seed", 1],
    ["--schedule", "linear"], ["--T", T + 1], ["--process", "vp"],
]  # fmt: skip


@pytest.mark.parametrize("change", OTHERWISE, ids=lambda change: str(change[0]))
def test_a_run_is_resumed_as_it_was_or_not_at_all(points, refused, change):
    name = change[0].strip("-") if len(change) == 2 else "recipe"
    refused("train", *change, "--resume", "--out", points, says=f"was started with {name} ", status=2)


@pytest.mark.parametrize("change", [["--data", "elsewhere"], ["--split", "test"]], ids=lambda change: change[0])
def test_a_run_is_resumed_on_its_own_data(images, refused, change):
    refused("train", *change, "--resume", "--out", images, says=f"was started with {change[0].strip('-')} ", status=2)


def test_a_run_whose_data_have_changed_shape_is_refused(here, kept, images, refused):
    idx_folder = digits(here / "idx")
    run = runs.load(images)
    place = {**run.config.data, "folder": str(idx_folder)}
    runs.save(images, dataclasses.replace(run.config, data=place), run.state)
    digits(idx_folder, side=10)
    refused("train", "--resume", "--out", images, says="its data are now (10, 10, 1)", status=2)


def test_a_run_of_one_process_is_not_resumed_with_another(kinds, refused):
    for kind, wanted in (("vp", "ve"), ("ncsn", "vp"), ("subvp", "ddpm")):
        refused("train", "--resume", "--out", kinds / kind, "--process", wanted, says=f"with process {kind}, got")


def test_saying_again_what_a_run_is_does_no_harm(points, capsys):
    assert tinydiff_(*POINTS, "--seed", 0, "--resume", "--out", points) == 0
    assert "resumed after step 6" in capsys.readouterr().out


# Damaged checkpoints


def rewrite(path, change_flat=None, change_words=None, **metadata):
    """Write a checkpoint anew with something changed, whatever tinydiff would say to that."""
    trees, words = checkpoint.load(path)
    flat = tree.flatten(trees)
    if change_flat:
        change_flat(flat)
    if change_words:
        change_words(words)
    sums = json.dumps({name: zlib.crc32(leaf) for name, leaf in flat.items()})
    header = {"format": checkpoint.FORMAT, "words": json.dumps(words), "crc32": sums, **metadata}
    path.write_bytes(safetensors.numpy.save(flat, header))


def reshaped(flat):
    flat["average.out.w"] = flat["average.out.w"].T.copy()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def reworded(change):
    return lambda path: rewrite(path, None, change)


def with_process(**process):
    return reworded(lambda words: words["config"].update(process=process))


DAMAGES = {
    "empty": (lambda path: path.write_bytes(b""), "not a whole checkpoint"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not a whole checkpoint"),
    "a flipped bit": (flip_a_bit, "is not what was saved"),
    "garbage": (lambda path: path.write_bytes(bytes(range(256)) * 40), "not a whole checkpoint"),
    "another format": (lambda path: rewrite(path, format="tinydiff 99"), "'tinydiff 99', this version reads"),
    "missing weight": (lambda path: rewrite(path, lambda f: f.pop("params.out.b")), "tensor params.out.b is missing"),
    "missing moments": (lambda path: rewrite(path, lambda f: f.pop("v")), "tensor v is missing"),
    "misshapen": (lambda path: rewrite(path, reshaped), "tensor average.out.w is float32[2, 128]"),
    "superfluous": (lambda path: rewrite(path, lambda f: f.update({"params.x": f["m"]})), "x does not belong"),
    "a name that is none": (lambda path: rewrite(path, lambda f: f.update({"m.x": f["m"]})), "the file is damaged"),
    "no weights": (lambda path: rewrite(path, lambda f: f.clear()), "the file is damaged"),
    "no config": (reworded(lambda words: words.pop("config")), "description is damaged"),
    "no step": (reworded(lambda words: words.pop("step")), "description is damaged"),
    "no folder": (reworded(lambda words: words["config"]["data"].pop("folder")), "description is damaged"),
    "unknown setting": (reworded(lambda words: words["config"]["settings"].update(x=1)), "description is damaged"),
    "bad setting": (reworded(lambda words: words["config"]["settings"].update(lr=-1)), "lr must be more than 0"),
    "unknown network": (reworded(lambda words: words["config"]["network"].update(kind="x")), "description is damaged"),
    "unknown schedule": (reworded(lambda words: words["config"].update(schedule="x")), "unknown schedule 'x'"),
    "one ln sigma": (reworded(lambda words: words["config"].update(ln_sigma=[1.0])), "description is damaged"),
    "no ln sigma": (reworded(lambda words: words["config"].update(ln_sigma=[1, -1])), "std more than 0"),
    "unknown points": (reworded(lambda words: words["config"]["data"].update(name="x")), "description is damaged"),
    "a process without kind": (reworded(lambda words: words["config"].update(process={})), "description is damaged"),
    "a process of a word": (reworded(lambda words: words["config"].update(process="vp")), "description is damaged"),
    "a DDPM with numbers": (with_process(kind="ddpm", levels=3), "got 'ddpm'"),
    "unknown process": (with_process(kind="x"), "got 'x'"),
    "superfluous number": (with_process(kind="vp", sigma_min=1.0), "description is damaged"),
    "no sigma_max": (with_process(kind="ncsn", sigma_min=0.1, levels=3), "damaged ('sigma_max')"),
    "a level for two": (with_process(kind="ncsn", sigma_max=2.0, sigma_min=0.1, levels=1), "for a single one"),
    "levels that rise": (with_process(kind="ncsn", sigma_max=0.1, sigma_min=2.0, levels=3), "from large to small"),
    "half a level": (with_process(kind="ncsn", sigma_max=2.0, sigma_min=0.1, levels=2.5), "a whole number"),
    "noise that is a word": (with_process(kind="ve", sigma_max="much"), "description is damaged"),
    "noise that falls": (with_process(kind="ve", sigma_min=60.0), "need 0 < sigma_min < sigma_max"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), ""),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line(points, refused, damage):
    change, says = DAMAGES[damage]
    change(points / "checkpoint.safetensors")
    for command in (["info"], ["sample"], ["evaluate"], ["elbo"], ["likelihood"], ["train", "--resume", "--out"]):
        refused(*command, points, says=says)


def of_codes(change):
    return reworded(lambda words: change(words["config"]["first_stage"]))


FIRST = "first_stage.decoder.in.b"
FIRST_STAGE_DAMAGES = {
    "missing": (lambda path: rewrite(path, lambda f: f.pop(FIRST)), f"tensor {FIRST} is missing"),
    "misshapen": (lambda path: rewrite(path, lambda f: f.update({FIRST: f[FIRST][:2]})), f"{FIRST} is float32[2]"),
    "superfluous": (lambda path: rewrite(path, lambda f: f.update({"first_stage.x": f[FIRST]})), "x does not belong"),
    "not said": (reworded(lambda words: words["config"].update(first_stage=None)), ""),
    "not there": (
        lambda path: rewrite(path, lambda f: [f.pop(name) for name in list(f) if name.startswith("first")]),
        " is missing",
    ),
    "no scale": (of_codes(lambda stage: stage.pop("scale")), "description is damaged ('scale')"),
    "no size": (of_codes(lambda stage: stage.update(scale=0.0)), "the scale of codes must be more than 0, got 0"),
    "a word": (of_codes(lambda stage: stage.update(scale="large")), "description is damaged"),
    "no network": (of_codes(lambda stage: stage.pop("network")), "description is damaged ('network')"),
    "another": (of_codes(lambda stage: stage["network"].update(latent=2)), "this network has "),
    "a name": (reworded(lambda words: words["config"].update(first_stage="mnist-vae")), "description is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("damage", FIRST_STAGE_DAMAGES)
def test_a_damaged_first_stage_in_a_checkpoint_is_one_line(staged, here, refused, damage):
    shutil.copytree(staged / "mnist-latent", here / "r")
    change, says = FIRST_STAGE_DAMAGES[damage]
    change(Path("r/checkpoint.safetensors"))
    for command in (["info"], ["sample"], ["evaluate"], ["elbo"], ["train", "--resume", "--out"]):
        refused(*command, "r", says=says)


# Sampling


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def x_of(path):
    with np.load(path) as file:
        assert file.files == ["x"]
        return file["x"]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_of_points(points, sampler):
    assert tinydiff_("sample", points, "--n", 7, "--sampler", sampler, "--out", "x.npz") == 0
    x = x_of("x.npz")
    assert x.dtype == np.float32 and x.shape == (7, 2) and np.isfinite(x).all() and x.std() > 0


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_samples_of_images_keep_within_the_grey_values(images, sampler):
    assert tinydiff_("sample", images, "--n", 5, "--sampler", sampler, "--out", "x.npz") == 0
    x = x_of("x.npz")
    assert x.dtype == np.float32 and x.shape == (5, 8, 8, 1)
    assert abs(x).max() <= 1 + 1e-5  # x_0 is clipped, and then rounded once more


@pytest.mark.parametrize("run", ["points", "images"])
def test_pictures_of_samples(run, request, capsys):
    run = request.getfixturevalue(run)
    assert tinydiff_("sample", run, "--n", 5, "--out", "x.png") == 0
    assert capsys.readouterr().out == f"wrote x.png: 5 samples of {run}, ddim\n"
    assert tinydiff_("sample", run, "--n", 5, "--steps", 3, "--out", "x.gif") == 0
    with Image.open("x.png") as picture, Image.open("x.gif") as film:
        assert (picture.format, film.format) == ("PNG", "GIF")
        assert min(picture.size) > 8 and film.n_frames > 1


def drawn(run, name, *options):
    assert tinydiff_("sample", run, "--n", 6, *options, "--out", name) == 0
    return Path(name).read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".png", ".gif"])
def test_the_same_seed_gives_the_same_bytes(points, suffix):
    options = ["--sampler", "ddpm", "--steps", 5]
    first = drawn(points, f"a{suffix}", *options, "--seed", 3)
    assert drawn(points, f"b{suffix}", *options, "--seed", 3) == first
    if suffix != ".png":  # where samples of an untrained model may lie off the page
        assert drawn(points, f"c{suffix}", *options, "--seed", 4) != first


def test_every_option_of_a_sampler_matters(points):
    ways = [[], ["--eta", 1], ["--eta", 0.5], ["--steps", 3], ["--sampler", "ddpm"], ["--sampler", "ddpm", "--v", 0]]
    assert len({drawn(points, f"{i}.npz", *way) for i, way in enumerate(ways)}) == len(ways)
    assert drawn(points, "all.npz", "--steps", T) == drawn(points, "default.npz")  # 50 steps, but no more than T


def test_samples_do_not_depend_on_how_many_are_asked_for(kept):
    """Chunks have noise of their own: the first chunk is the same whether or not others follow."""
    run = runs.load(kept / "points")
    few, more = (use.draw(run, n, "ddpm", steps=4, chunk=4) for n in (4, 11))
    assert np.array_equal(more[:4], few) and more.shape == (11, 2)
    assert len(np.unique(more[:, 0])) == 11
    assert np.array_equal(use.draw(run, 11, "ddpm", steps=4, chunk=4, n_workers=2), more)


def test_a_film_is_every_step_from_noise_to_sample(kept):
    run = runs.load(kept / "points")
    film = use.draw(run, 5, steps=3, chunk=2, frames=4)
    assert [frame.shape for frame in film] == [(5, 2)] * 4
    assert np.array_equal(film[-1], use.draw(run, 5, steps=3, chunk=2))


@pytest.mark.parametrize(
    "options, says",
    [
        (["--steps", T + 1], f"steps must be in 1..{T} (the schedule's T), got {T + 1}"),
        (["--sampler", "ddpm", "--steps", 1000], "got 1000"),
        (["--sampler", "ddpm", "--eta", 0.5], "--eta is of ddim"),
        (["--v", 0.5], "--v is of ddpm"),
        (["--eta", 1.5], "eta must be in [0, 1], got 1.5"),
        (["--eta", -0.1], "eta must be in [0, 1]"),
        (["--eta", "nan"], "eta must be in [0, 1], got nan"),
        (["--sampler", "ddpm", "--v", 2], "v must be in [0, 1], got 2"),
        (["--sampler", "ddpm", "--v", "nan"], "v must be in [0, 1], got nan"),
        (["--out", "x.jpg"], "--out must end in .png, .gif or .npz, got x.jpg"),
        (["--out", "x"], "got x"),
        (["--out", "a-file/x.npz"], "a-file"),
        (["--out", "a-folder.npz"], "must be a file"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_bad_wish_for_samples_is_one_line(here, points, refused, options, says):
    (here / "a-file").write_text("of mine")
    (here / "a-folder.npz").mkdir()
    refused("sample", points, "--n", 2, *options, says=says)


SAMPLED = {"points": "heun --steps 3", "digits": "pc --steps 2", "ncsn": "langevin --steps 1", "vp": "rk4 --steps 2",
           "subvp": "euler-maruyama --steps 4", "ve": "dpm++ --steps 4", "ncsn-digits": "euler --steps 2"}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLED)
def test_samplers_by_name(kinds, name, capsys):
    way = SAMPLED[name].split()
    shape = (8, 8, 1) if "digits" in name else (2,)
    assert tinydiff_("sample", kinds / name, "--n", 3, "--sampler", *way, "--out", "x.npz") == 0
    assert capsys.readouterr().out == f"wrote x.npz: 3 samples of {kinds / name}, {way[0]}\n"
    x = x_of("x.npz")
    assert x.dtype == np.float32 and x.shape == (3, *shape) and np.isfinite(x).all()
    assert drawn(kinds / name, "a.npz", "--sampler", *way) == drawn(kinds / name, "b.npz", "--sampler", *way)


def test_each_run_has_its_usual_sampler(kinds, capsys):
    for name, usual, options in (("ncsn", "langevin", ["--steps", 1]), ("vp", "heun", []), ("one", "ddim", [])):
        assert tinydiff_("sample", kinds / name, "--n", 2, *options, "--out", "x.gif") == 0
        assert capsys.readouterr().out.endswith(f", {usual}\n")


@pytest.mark.parametrize(
    "name, options, says",
    [
        ("ncsn", ["--sampler", "ddim"], "ddim is for ddpm runs, this one is ncsn; try euler, heun, dpm++ or pc"),
        ("ve", ["--sampler", "ddpm"], "ddpm is for ddpm runs, this one is ve"),
        ("points", ["--sampler", "langevin"], "langevin is for ncsn runs, this one is ddpm"),
        ("ncsn", ["--eta", 0.5], "--eta is of ddim, got --sampler langevin"),
        ("points", ["--sampler", "heun", "--v", 0.5], "--v is of ddpm, got --sampler heun"),
        ("one", ["--sampler", "heun", "--steps", 2], "this run knows only one: steps must be 1, got 2"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_sampler_that_a_run_has_not_got_is_one_line(kinds, refused, name, options, says):
    refused("sample", kinds / name, "--n", 2, *options, says=says, status=2)


# Likelihood


def number(pattern, text):
    return float(re.search(pattern, text)[1])


def asked_of(run, n):
    """The examples that a likelihood is asked of, seed 0: some of the pictures, or fresh points."""
    rng = np.random.default_rng([0, model.EXAMPLES])
    if not run.config.images:
        return data.TOYS[run.config.data["name"]](n, rng)
    x, _ = recipes.load(run.config.data)
    return x[np.sort(rng.permutation(len(x))[:n])]


@pytest.mark.parametrize("name", ["points", "digits", "one", "two"])
def test_elbo_is_a_table_and_a_picture(kinds, name, capsys):
    run = runs.load(kinds / name)
    assert tinydiff_("elbo", kinds / name, "--n", 6, "--times", 2, "--out", "e.png") == 0
    out, err = capsys.readouterr()
    with Image.open("e.png") as picture:
        assert picture.format == "PNG"
    found = use.bound(run, asked_of(run, 6), 2)
    assert number(r"the bound: ([-\d.]+) ±", out) == pytest.approx(found.total.mean(), abs=1e-3)
    per_dim = math.prod(run.config.shape) * math.log(2)
    assert number(r"nats, ([-\d.]+) ±", out) == pytest.approx(found.total.mean() / per_dim, abs=1e-4)
    rows = re.findall(r"^L_(\S+)(?: \.\. L_(\d+))?,?.{,18}? {2,}([-\d.]+) ", out, re.M)
    steps = [t for first, last, _ in rows for t in range(int(first.strip(",")), int(last or first.strip(",")) + 1)]
    assert sorted(steps) == list(range(run.config.T + 1))  # each term once
    whole = found.by_t.sum() + found.prior.mean()
    assert sum(float(nats) for *_, nats in rows) == pytest.approx(whole, abs=1e-3)
    assert err == "" and "nan" not in out


def test_elbo_writes_into_the_run(points, capsys):
    assert tinydiff_("elbo", points, "--n", 3, "--times", 1, "--v", 0) == 0
    assert f"picture: {points / 'elbo.png'}\n" in capsys.readouterr().out and (points / "elbo.png").exists()


@pytest.mark.parametrize("name", ["points", "digits", "ncsn", "vp", "subvp", "ve", "two", "ncsn-digits"])
def test_likelihood(kinds, name, capsys):
    """What is printed is the mean of use.log_likelihood, of the examples with their noise; and the KL is of it."""
    run = runs.load(kinds / name)
    seen = []

    def spy(run, x, *options):
        seen.append((x, spied(run, x, *options)))
        return seen[-1][1]

    spied = use.log_likelihood
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(use, "log_likelihood", spy)
        assert tinydiff_("likelihood", kinds / name, "--n", 5, "--steps", 2) == 0
    out, err = capsys.readouterr()
    [(x, log_p)] = seen
    assert number(r"-ln p +([-\d.]+) ±", out) == pytest.approx(-log_p.mean(), abs=1e-4) and err == ""
    path, low = model.process(run.config)
    assert ("from t = 1, noise" if run.config.kind == "ddpm" else "from noise") in out
    assert number(r"noise ([\d.]+) \(", out) == pytest.approx(sde.ratio(path, low), rel=1e-2)
    assert number(r"\) to ([\d.]+)", out) == pytest.approx(min(80, sde.ratio(path, path.end)), rel=1e-4)
    n, sigma = len(x), float(sde.ratio(path, low))
    if run.config.images:
        bits = -log_p.mean() / (64 * math.log(2)) + math.log2(127.5)
        assert number(r"([-\d.]+) ± [\d.]+ bits/dim", out) == pytest.approx(bits, abs=1e-4)
        spread = abs(x - asked_of(run, n)).max() * 127.5  # dequantised: by half a level at most
        assert x.dtype == np.float32 and 0.4 < spread < 0.501
    else:
        noise = np.random.default_rng([0, model.EXAMPLES, 1]).standard_normal((n, 2))
        np.testing.assert_allclose(x, asked_of(run, n) + sigma * noise, rtol=1e-12)
        weights, means, var = data.mixture(run.config.data["name"])
        log_q = oracle.noised_log_density(x, 1.0, sigma**2, weights, means, np.full(len(weights), var))
        assert number(r"-ln q +([-\d.]+) ±", out) == pytest.approx(-log_q.mean(), abs=1e-4)
        assert number(r"KL\(data \|\| model\) = ([-\d.]+) ±", out) == pytest.approx(
            number(r"-ln p +([-\d.]+)", out) - number(r"-ln q +([-\d.]+)", out), abs=2e-4
        )


def test_one_example_has_no_standard_error(kept, capsys):
    for command in (["elbo", "--times", 1, "--out", "x.png"], ["likelihood", "--steps", 2]):
        assert tinydiff_(*command, kept / "points", "--n", 1) == 0
        out = capsys.readouterr().out
        assert "nan" not in out and "±" not in out


@pytest.mark.parametrize(
    "command, says",
    [
        (["elbo", "vp"], "the bound is of DDPM runs, this one is vp; try `tinydiff likelihood`"),
        (["elbo", "ncsn"], "this one is ncsn"),
        (["elbo", "points", "--v", 2], "v must be in [0, 1]"),
        (["elbo", "points", "--v", "nan"], "v must be in [0, 1]"),
        (["elbo", "points", "--out", "x.jpg"], "--out must end in .png, got x.jpg"),
        (["elbo", "points", "--data", "idx"], "--data and --split are for images"),
        (["likelihood", "points", "--split", "test"], "--data and --split are for images"),
        (["elbo", "digits", "--data", "nowhere"], "nowhere"),
        (["likelihood", "digits", "--data", "nowhere"], "nowhere"),
        (["elbo", "digits", "--data", "ten"], "trained on examples of (8, 8, 1), these are (10, 10, 1)"),
        (["likelihood", "digits", "--data", "ten"], "these are (10, 10, 1)"),
        (["likelihood", "one"], "this run knows only one; train with more, a larger T"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_a_likelihood_that_cannot_be_is_one_line(here, kinds, refused, capsys, command, says):
    digits(here / "ten", side=10)
    command, name, *options = command
    refused(command, kinds / name, *options, says=says)
    assert capsys.readouterr().out == ""  # it is known before the work


# Judging


def test_evaluate_points(points, capsys):
    assert tinydiff_("evaluate", points, "--n", 100) == 0
    first = capsys.readouterr().out
    assert "energy distance to the data" in first and "between two draws of the data" in first
    assert tinydiff_("evaluate", points, "--n", 100) == 0
    assert capsys.readouterr().out == first
    assert tinydiff_("evaluate", points, "--n", 100, "--seed", 1, "--steps", 3) == 0
    assert capsys.readouterr().out != first


def test_evaluate_samples_in_a_file(here, capsys):
    np.savez("x.npz", x=data.moons(300, np.random.default_rng(5)))
    ratios = {}
    for recipe in ("moons", "circles"):
        assert tinydiff_("evaluate", "x.npz", "--recipe", recipe) == 0
        ratios[recipe] = float(re.search(r"([\d.]+) times", capsys.readouterr().out)[1])
    assert ratios["moons"] < 4 < ratios["circles"]


@pytest.fixture
def quick_judge(monkeypatch):
    train_judge = evaluate.train_judge
    monkeypatch.setattr(evaluate, "train_judge", lambda x, labels, seed: train_judge(x, labels, seed, steps=3))


def test_evaluate_digits(kept, images, capsys, quick_judge):
    assert tinydiff_("evaluate", images, "--n", 8, "--steps", 2) == 0
    out = capsys.readouterr().out
    assert "judge over 90 % sure" in out and "Fréchet" in out and "images against" in out
    assert tinydiff_("sample", images, "--n", 8, "--steps", 2, "--out", "x.npz") == 0
    capsys.readouterr()
    assert tinydiff_("evaluate", "x.npz", "--data", kept / "idx") == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    "arrays, says",
    [
        ({"y": np.zeros((3, 2), "f4")}, "holds no samples"),
        ({"x": np.zeros((3, 2), int)}, "got int64 (3, 2)"),
        ({"x": np.zeros((3, 2, 2))}, "got float64 (3, 2, 2)"),
        ({"x": np.zeros((0, 2))}, "got float64 (0, 2)"),
        ({"x": np.full((3, 2), np.nan)}, "finite"),
        ({"x": np.zeros((3, 3))}, "coordinates"),
        ({"x": np.array([None])}, "holds no samples"),
    ],
    ids=str,
)
def test_a_file_without_samples_is_one_line(here, refused, arrays, says):
    Path("x.npz").write_bytes(npz(**arrays))
    refused("evaluate", "x.npz", says=says)


GARBAGE = [b"", b"garbage", b"PK\x03\x04garbage", npz(x=np.zeros((9, 2)))[:-30]]


@pytest.mark.parametrize("content", GARBAGE, ids=range(4))
def test_garbage_named_npz_is_one_line(here, refused, content):
    Path("x.npz").write_bytes(content)
    refused("evaluate", "x.npz", says="holds no samples", status=2)


def test_what_cannot_be_judged_is_one_line(here, kept, points, images, refused):
    np.save("mine.npy", np.zeros((4, 8, 8), np.uint8))
    refused("evaluate", images, "--recipe", "images", "--data", "mine.npy", says="these images have none", status=2)
    refused("evaluate", points, "--recipe", "mnist", says="points need a toy set", status=2)
    refused("evaluate", points, "--steps", T + 1, says="steps must be in", status=2)


def test_samples_of_another_size_than_the_digits_are_one_line(here, kept, refused, quick_judge):
    Path("x.npz").write_bytes(npz(x=np.zeros((6, 10, 10, 1), "f4")))
    refused("evaluate", "x.npz", "--data", kept / "idx", says="samples: got the shape (6, 10, 10, 1)", status=2)


# Looking


def test_another_target_is_learned_at_all_times_alike(here, capsys):
    folder = digits(here / "idx")
    for target, noise in (("x0", "ln sigma ~ N(0.65, 0.65^2)"), ("v", "all t alike")):
        line = ["train", "mnist", "--data", folder, "--steps", "1", "--batch", "4", "--T", "20", "--workers", "1"]
        assert tinydiff_(*line, "--target", target, "--out", here / target) == 0
        assert tinydiff_("info", here / target) == 0
        out = capsys.readouterr().out
        assert f"guesses    {target}, " in out and f"noise      {noise}\n" in out


def test_info(images, points, capsys):
    assert tinydiff_("info", points) == 0
    out = capsys.readouterr().out
    assert "trained on moons: examples of shape (2,)" in out and f"cosine schedule, T = {T}" in out
    assert "for        6 steps" in out
    run = runs.load(points)
    total = tree.count(run.state.params)
    blocks = [int(n.replace(",", "")) for n in re.findall(r"^  \w+ +([\d,]+)$", out, re.M)]
    assert f"parameters {total:,}\n" in out and sum(blocks) == total and len(blocks) == len(run.state.params)
    assert tinydiff_("info", images / "checkpoint.safetensors") == 0
    assert ", train split: examples of shape (8, 8, 1)" in capsys.readouterr().out


@pytest.mark.parametrize("name", schedule.SCHEDULES)
def test_schedule(here, capsys, name):
    assert tinydiff_("schedule", name, "--T", 100) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()[1:12]]
    chain = schedule.named(name, 100)
    assert [int(row[0]) for row in rows] == list(range(0, 101, 10))
    assert [float(row[2]) for row in rows] == [pytest.approx(a, rel=1e-3) for a in chain.alpha_bar[::10]]
    assert "verdict: noise" in out
    with Image.open(f"schedule-{name}-100.png") as picture:
        assert picture.format == "PNG"


TOO_QUIET = [schedule.constant(1000, 1e-4), schedule.constant(50, 0.01), schedule.Schedule(np.linspace(1e-4, 0.02, 50))]


@pytest.mark.parametrize("chain", TOO_QUIET, ids=repr)
def test_the_verdict_on_too_little_noise(chain):
    """Betas that are too small, too few steps, and a thousand steps' betas cut to fifty."""
    lines = "\n".join(schedule.verdict(chain))
    assert "verdict: NOT noise" in lines and f"alpha_bar_T = {chain.alpha_bar[-1]:.3g}" in lines


def test_the_command_says_so_too(here, capsys, refused):
    """Betas meant for 1000 steps, on 50: taken as they are."""
    assert tinydiff_("schedule", "linear", "--T", 50, "--beta-1", 1e-4, "--beta-T", 0.02) == 0
    out = capsys.readouterr().out
    assert "verdict: NOT noise yet" in out and "alpha_bar_T = 0.603" in out
    refused("schedule", "cosine", "--beta-1", 1e-4, "--beta-T", 0.02, says="with the linear or the quadratic", status=2)
    refused("schedule", "linear", "--beta-T", 0.02, says="go together", status=2)


def test_check_one_law(capsys):
    assert tinydiff_("check", "one_jump_is_many_steps", "--seed", 5) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("one_jump_is_many_steps") and lines[1].endswith("holds")
    assert lines[2:] == ["no law is broken; seed 5"]
    drawn = {tinydiff_("check", "root_squares_back") or capsys.readouterr().out.split()[-1] for _ in range(3)}
    assert len(drawn) > 1  # inputs are new each time: three equal seeds of a million, once in 10^12


def test_check_all_laws_on_a_schedule(capsys):
    assert tinydiff_("check", "--schedule", "cosine", "--T", 50) == 0
    assert "no law is broken" in capsys.readouterr().out


def test_check_finds_a_broken_formula(capsys, monkeypatch):
    from tinydiff import forward

    right = forward.posterior_var
    monkeypatch.setattr(forward, "posterior_var", lambda ab_s, ab_t: 1.01 * right(ab_s, ab_t))
    assert main(["check", "--seed", "0"]) == 1
    out = capsys.readouterr().out
    assert "BROKEN" in out and re.search(r"^\d+ broken; seed 0$", out, re.M)


OPTIONS = {
    "train": "--out --steps --minutes --batch --lr --schedule --T --target --process --data --split --resume "
    "--workers --seed --device",
    "elbo": "--times --v --out --n --data --split --workers --seed --device",
    "likelihood": "--steps --n --data --split --workers --seed --device",
    "sample": "--sampler --steps --eta --v --label --prompt --guidance --classifier --n --out --workers --seed "
    "--device",
    "edit": "--image --inpaint --sdedit --ilvr --between --blend --steps --n --out --seed --device",
    "evaluate": "--n --sampler --steps --eta --guidance --classifier --recipe --data --split --workers --seed --device",
    "schedule": "--T --beta-1 --beta-T --out",
    "check": "--schedule --T --seed",
    "info": "",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(capsys, command):
    with pytest.raises(SystemExit) as info:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert info.value.code == 0
    named = set(re.findall(r"(?<![\w-])--?\w[\w-]*", out.split("options:")[1]))
    assert set(OPTIONS[command].split()) | {"--help", "-h"} <= named
    assert set(re.findall(r"^  (--[\w-]+)", out, re.M)) == set(OPTIONS[command].split())


def test_help_names_every_command_and_train_every_recipe(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(re.search(rf"^ +{command}( |$)", out, re.M) for command in OPTIONS)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    words = re.sub(r"-\s+", "-", capsys.readouterr().out)  # argparse breaks lines at hyphens
    assert all(recipe in words for recipe in recipes.RECIPES)


def test_version(capsys):
    with pytest.raises(SystemExit) as info:
        main(["--version"])
    assert info.value.code == 0 and capsys.readouterr().out == f"tinydiff {tinydiff.__version__}\n"


def test_a_traceback_for_those_who_ask(monkeypatch, here):
    monkeypatch.setenv("TINYDIFF_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["info", "nowhere"])


# Real processes


def command(*arguments, **options):
    """`python -m tinydiff`, in a process and a group of its own."""
    line = [sys.executable, "-m", "tinydiff", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(line, start_new_session=True, env=buffered, **pipes)


def test_as_a_module_and_a_real_exit(here):
    with command("info", "nowhere") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("tinydiff: no run at nowhere") and err.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_output_that_cannot_be_written_is_one_line(kept):
    with open("/dev/full", "w") as full_disk, command("info", kept / "points", stdout=full_disk) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, f"tinydiff: {FULL}\n")


def test_weights_thrown_away_are_one_line_and_no_warnings(here, points):
    with command(*POINTS, "--lr", "1e38", "--out", "r") as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.count("\n") == 1, err
    assert err.startswith("tinydiff: step 1 has the loss ") and "smaller --lr" in err
    assert not Path("r/checkpoint.safetensors").exists()


posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@posix
@pytest.mark.parametrize("number, n_workers", [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(here, kept, number, n_workers):
    """To the whole group, as a terminal sends Ctrl-C; the workers, too, must take it in good part."""
    long = [100_000 if argument == 3 else argument for argument in DIGITS[:-1]]
    with command(*long, n_workers, "--data", kept / "idx", "--out", "a run") as process:
        wait_for(Path("a run/metrics.jsonl"), process)
        time.sleep(0.3)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number and err == ""
    last = out.splitlines()[-1]
    step = runs.load("a run").state.step
    assert last.startswith(f"stopped after step {step:,}; saved. Continue with: tinydiff train --resume --out ")
    assert shlex.split(last.split("with: ")[1]) == ["tinydiff", "train", "--resume", "--out", "a run"]
    assert len(Path("a run/metrics.jsonl").read_text().splitlines()) == step >= 1


def wait_for(path, process):
    for _ in range(600):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no {path}")


LONG = {
    "likelihood": ["likelihood", "points", "--n", 4000, "--steps", 9999],
    "elbo": ["elbo", "points", "--n", 40_000, "--times", 9999, "--out", "out/x.png"],
    "sample": ["sample", "points", "--n", 8000, "--sampler", "pc", "--steps", 9999, "--out", "out/x.npz"],
}
AT_WORK = """
import sys, tqdm
from tinydiff.__main__ import main
class Bar(tqdm.tqdm):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        open("at-work", "w").close()
tqdm.tqdm = Bar
sys.exit(main(sys.argv[1:]))
"""


@posix
@pytest.mark.parametrize("name, n_workers", [("likelihood", 1), ("likelihood", 2), ("elbo", 1), ("sample", 2)])
def test_ctrl_c_at_long_work_is_one_line_and_nothing_half_written(here, points, name, n_workers):
    arguments = list(map(str, [*LONG[name], "--workers", n_workers]))
    line, pipes = [sys.executable, "-c", AT_WORK, *arguments], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    before = set(contents(here))
    with subprocess.Popen(line, start_new_session=True, text=True, **pipes) as process:
        wait_for(Path("at-work"), process)
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "tinydiff: interrupted\n")
    assert set(contents(here)) - before == {here / "at-work"}


@pytest.fixture
def interrupt_at(monkeypatch):
    """Send this process `times` signals during a step, given its number from 1."""
    real = objective.batches

    def arrange(at, times=1, number=signal.SIGINT):
        def batches(*arguments):
            batch = real(*arguments)

            def interrupted(step):
                for _ in range(times if step + 1 == at else 0):
                    signal.raise_signal(number)
                return batch(step)

            return interrupted

        monkeypatch.setattr(objective, "batches", batches)

    return arrange


def test_what_it_says_when_stopped_is_how_to_go_on(here, points, capsys, interrupt_at):
    interrupt_at(2)
    assert tinydiff_(*POINTS, "--out", "stopped") == 130
    said = capsys.readouterr().out.splitlines()[-1]
    interrupt_at(None)
    assert tinydiff_(*shlex.split(said.split("with: ")[1])[1:]) == 0
    assert "resumed after step 2" in capsys.readouterr().out
    flat = [tree.flatten(dict(vars(runs.load(run).state), seconds=0)) for run in ("stopped", points)]
    assert all(np.array_equal(flat[0][name], flat[1][name]) for name in flat[0])


def test_a_second_ctrl_c_stops_at_once(here, points, refused, capsys, interrupt_at):
    half_done(points)
    interrupt_at(5, times=2)
    refused("train", "--resume", "--out", points, says="interrupted", status=130)
    assert runs.load(points).state.step == 3


def test_a_terminated_run_has_its_own_status(here, interrupt_at):
    interrupt_at(3, number=signal.SIGTERM)
    assert tinydiff_(*POINTS, "--out", "r") == 143
    assert runs.load("r").state.step == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_that_is_killed_ends_the_run_with_one_line(images, refused, monkeypatch):
    half = runs.load(images)
    runs.save(images, half.config, runs.start(half.config))
    (images / "metrics.jsonl").write_text("")
    started = []

    class Doomed(workers.Workers):
        def __call__(self, params, batch):
            started.extend(child.pid for child in self.children)
            os.kill(started[0], signal.SIGKILL)
            return super().__call__(params, batch)

    monkeypatch.setattr(workers, "Workers", Doomed)
    refused("train", "--resume", "--workers", 2, "--out", images, says="a worker process died", status=1)
    assert runs.load(images).state.step == 0
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


KILLED = """
import os, signal, sys
from tinydiff import recipes, runs
replace, saves = os.replace, []
def killed(a, b):
    saves.append(b) if str(b).endswith("checkpoint.safetensors") else None
    os.kill(os.getpid(), signal.SIGKILL) if len(saves) == 4 else replace(a, b)
os.replace = killed
config, x, _ = recipes.configure("moons", steps=6, batch=16, T=24, schedule="cosine")
runs.train_run("r", config, x, every=0.0)
"""


@posix
def test_killed_while_it_saves_a_run_goes_on_from_the_last_checkpoint(here, points, capsys):
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    stale = [path for path in Path("r").iterdir() if path.name.startswith(".tinydiff-")]
    assert len(stale) == 1 and runs.load("r").state.step == 3
    assert tinydiff_("train", "--resume", "--out", "r") == 0
    assert not stale[0].exists()
    flat = [tree.flatten(dict(vars(runs.load(run).state), seconds=0)) for run in ("r", points)]
    assert all(np.array_equal(flat[0][name], flat[1][name]) for name in flat[0])
    assert len(Path("r/metrics.jsonl").read_text().splitlines()) == 6
