"""Every demo, quick: it runs, draws what it promises, and measures what its formula predicts.

A row is (name, predicted, measured, standard error); 1,500 to 100,000 draws stand behind each (400 pictures
of 784 pixels behind the roughness, 400 probes behind a point's density), enough for errors as good as normal.
So a right demo strays by over BOUND = 6.5 standard errors with probability 8e-11 a row, 8e-9 for all 96. The
seeds are fixed, so a pass stays a pass. In seven more rows nothing is random; their error is how much the number
changed when the steps were doubled, which is no less than what it still lacks, or hardly. One row is the share of 60
pictures that stay as they are, which should be all.
"""
import runpy
import struct
import sys
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tinydiff import editing, forward, guidance, recipes, score, sde, solver, use
from tinydiff.__main__ import main as command_line
from tinydiff.nn import attention

FOLDER = Path(__file__).parent.parent / "demos"
PICTURES = {
    "01_gaussians_add": ["01_histograms", "01_not_a_blur"],
    "02_one_jump": ["02_one_jump"],
    "03_perfect_denoiser": ["03_perfect_denoiser"],
    "04_ddpm_and_ddim": ["04_few_steps", "04_paths"],
    "05_guess_and_renoise": ["05_chain", "05_error"],
    "06_score_field": ["06_score_field", "06_step_size"],
    "07_three_ways_into_noise": ["07_noise", "07_paths"],
    "08_one_noise_four_samplers": ["08_eighth", "08_paths"],
    "09_order_of_each_solver": ["09_guesses", "09_steps"],
    "10_the_flows_density": ["10_the_flows_density"],
    "11_guidance_in_the_plane": ["11_gap", "11_samples", "11_trade"],
    "12_a_tone_for_each_digit": ["12_digits", "12_left_open"],
}
OF_A_RUN = {
    "13_guidance_in_digits": ["13_digits", "13_frechet", "13_trade"],
    "14_a_mask_five_ways": ["14_a_mask_five_ways"],
    "15_between_two_digits": ["15_between_two_digits"],
    "16_what_a_code_knows": ["16_between", "16_codes", "16_noise"],
    "17_word_by_word": ["17_word_by_word"],
    "18_when_it_is_decided": ["18_there_and_back", "18_when"],
}
BOUND = 6.5


def demo(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]


def strayed(rows):
    """How many standard errors each measured number lies from the predicted one."""
    return np.array([abs(measured - predicted) / error for _, predicted, measured, error in rows])


def test_every_demo_is_here():
    assert {path.stem for path in FOLDER.glob("[0-9]*.py")} == {*PICTURES, *OF_A_RUN}


@pytest.mark.parametrize("name", PICTURES)
def test_the_numbers_are_those_predicted_and_the_pictures_are_drawn(name, tmp_path):
    rows = demo(name)(tmp_path, quick=True)
    predicted, error = (np.array([row[i] for row in rows]) for i in (1, 3))
    assert np.all(error > 0) and np.all(error < 0.06 * predicted), "too few samples to tell"
    assert np.all(strayed(rows) < BOUND)
    assert drawn_in(tmp_path) == PICTURES[name]


def drawn_in(folder):
    """The names of the pictures there, none of them blank."""
    for path in folder.iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 200 and pixels.std() > 5, "blank"
    return sorted(path.stem for path in folder.glob("*.png"))


@pytest.mark.parametrize("name", ["01_gaussians_add", "02_one_jump", "03_perfect_denoiser"])
def test_a_variance_in_the_place_of_a_deviation_is_noticed(name, tmp_path, monkeypatch):
    def wrong(schedule, x0, t, eps):
        ab = schedule.alpha_bar[t]
        return np.sqrt(ab) * x0 + (1 - ab) * eps

    monkeypatch.setattr(forward, "q_sample", wrong)
    assert strayed(demo(name)(tmp_path, quick=True)).max() > 2 * BOUND


@pytest.mark.parametrize("name", ["04_ddpm_and_ddim", "05_guess_and_renoise"])
def test_a_clean_guess_that_forgets_to_rescale_is_noticed(name, tmp_path, monkeypatch):
    def wrong(schedule, x_t, t, eps):
        return x_t - schedule.noise_scale[t] * eps

    monkeypatch.setattr(forward, "x0_from_eps", wrong)
    assert strayed(demo(name)(tmp_path, quick=True)).min() > 2 * BOUND


def test_a_langevin_step_of_mixed_conventions_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(score, "langevin_step", lambda x, s, step, noise: x + step * s + np.sqrt(step) * noise)
    rows = demo("06_score_field")(tmp_path, quick=True)
    assert strayed(rows)[2:].min() > 2 * BOUND, "the variances"


def test_a_drift_that_is_not_halved_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(sde.VP, "drift", lambda self, u: -self.beta(u))
    rows = demo("07_three_ways_into_noise")(tmp_path, quick=True)
    assert strayed([row for row in rows if "VP, variance at u = 1.0" in row[0]]).min() > 2 * BOUND


@pytest.mark.parametrize("name, row", [("08_one_noise_four_samplers", "covariance of DDIM and flow"),
                                       ("10_the_flows_density", "cross-entropy, all draws")])
def test_a_flow_with_the_drift_of_the_sde_is_noticed(name, row, tmp_path, monkeypatch):
    monkeypatch.setattr(sde, "probability_flow", sde.reverse_drift)
    rows = demo(name)(tmp_path, quick=True)
    assert strayed([found for found in rows if found[0] == row]) > 2 * BOUND


def test_a_step_that_forgets_its_first_slope_is_noticed(tmp_path, monkeypatch):
    def wrong(velocity, x, times):
        for u, w in pairwise(times):
            x = x + (w - u) * velocity(x + (w - u) * velocity(x, u), w)
            yield x

    monkeypatch.setattr(solver, "heun", wrong)
    rows = demo("09_order_of_each_solver")(tmp_path, quick=True)
    assert strayed([row for row in rows if row[0] in ("order of Heun", "order of EDM")]).min() > 2 * BOUND


def test_a_weight_that_is_counted_from_one_is_noticed(tmp_path, monkeypatch):
    right = guidance.classifier_free
    monkeypatch.setattr(guidance, "classifier_free", lambda cond, uncond, w: right(cond, uncond, w - 1))
    rows = demo("11_guidance_in_the_plane")(tmp_path, quick=True)
    assert strayed([row for row in rows if "variance" in row[0]]).min() > 2 * BOUND


def test_a_network_that_knows_the_order_of_what_it_hears_is_noticed(tmp_path, monkeypatch):
    right = attention.cross_attention

    def wrong(p, x, context, mask, groups):
        rising = np.linspace(-9, 9, context.shape[1], dtype="f4")[:, None]
        loud = np.random.default_rng(0).standard_normal(p["out"]["w"].shape, "f4")  # a small one might go unread
        return right({**p, "out": {**p["out"], "w": p["out"]["w"] + loud}}, x, context * rising, mask, groups)

    monkeypatch.setattr(attention, "cross_attention", wrong)
    rows = demo("12_a_tone_for_each_digit")(tmp_path, quick=True)
    assert strayed([row for row in rows if "backwards" in row[0]]) > BOUND


# Of a run


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """{recipe: a run} of a few steps on pictures of 8 x 8, one bright column for each of eight labels."""
    root, rng = tmp_path_factory.mktemp("bars"), np.random.default_rng(0)
    labels = np.arange(200, dtype=np.uint8) % 8
    images = rng.integers(0, 90, (200, 8, 8)).astype(np.uint8)
    images[np.arange(200), :, labels] = 230
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = b"\0\0\x08" + struct.pack(f">B{array.ndim}I", array.ndim, *array.shape)
        (root / f"train-{name}-ubyte").write_bytes(header + array.tobytes())
    of_digits = ["--data", root, "--T", 12]
    for recipe in ("mnist", "mnist-class", "mnist-latent", "glyphs-text"):
        line = ["train", recipe, "--out", root / recipe, "--steps", 5, "--batch", 8, "--workers", 1]
        line += [] if recipe == "glyphs-text" else of_digits
        with mock.patch.object(use, "pictures", return_value=["a", "b"]), mock.patch.object(recipes, "GLYPHS", 99):
            assert command_line(list(map(str, line))) == 0
    recipe = {"13": "mnist-class", "16": "mnist-latent", "17": "glyphs-text"}
    return {name: root / recipe.get(name[:2], "mnist") for name in OF_A_RUN}


@pytest.fixture
def of_bars(bars, tmp_path):
    """name -> the rows of that demo on its run, {name: (reference, measured, error)}."""
    return lambda name: {row[0]: row[1:] for row in demo(name)(tmp_path, quick=True, run=bars[name])}


@pytest.mark.parametrize("name", OF_A_RUN)
def test_a_demo_of_a_run_draws_what_it_promises(name, of_bars, tmp_path):
    assert np.isfinite(list(of_bars(name).values())).all()
    assert drawn_in(tmp_path) == OF_A_RUN[name]


def test_who_does_not_hear_the_label_draws_it_by_chance(of_bars):
    """Of 40 draws 32 are asked for a label that there is; 16 or more hits by chance, an eighth: once in a million."""
    rows = of_bars("13_guidance_in_digits")
    chance, share, _ = rows["w = -1: are what was asked"]
    assert chance == 0.1 and share < 0.4
    assert len(rows) == 14


def test_known_pixels_do_not_move_and_others_do(of_bars):
    rows = of_bars("14_a_mask_five_ways")
    for hole in ("a square", "the lower half"):
        assert rows[f"{hole}: change of known pixels"] == (0.0, 0.0, 0.0)
        assert rows[f"{hole}: fillings apart"][1] > 0


def test_a_filling_that_touches_known_pixels_is_noticed(of_bars, monkeypatch):
    right = editing.inpaint
    monkeypatch.setattr(editing, "inpaint", lambda *a, **k: (np.nextafter(x, 9) for x in right(*a, **k)))
    assert of_bars("14_a_mask_five_ways")["a square: change of known pixels"][1] > 0


def test_ghosts_are_as_grey_as_the_formula_says(of_bars):
    rows = of_bars("15_between_two_digits")
    predicted, measured, _ = rows["pixels: grey halfway"]
    assert measured == pytest.approx(predicted, rel=1e-5) and predicted > 1.2 * rows["inversion: grey halfway"][0]
    assert rows["pixels: ends miss by"][1] == 0 and rows["inversion: ends miss by"][1] > 0


def test_codes_have_the_size_of_their_noise_and_cost_less(of_bars):
    """The scale is measured on the very pictures: the same to rounding but for other draws of q(z|x), 64 of them."""
    rows = of_bars("16_what_a_code_knows")
    predicted, size, error = rows["size of a code"]
    assert predicted == 1 and error < 0.1 and abs(size - 1) < 6 * error
    wanted, measured, _ = rows["time of a step, of one on pictures"]
    assert wanted == 1 / 16 and 1 / 16 < measured < 1


def test_who_has_not_learned_to_read_draws_what_was_said_by_chance(of_bars):
    rows = of_bars("17_word_by_word")
    assert list(rows) == ["character", "weight", "slant", "size", "place", "all of them"]
    assert rows["all of them"][0] == pytest.approx(1 / 2592) and rows["all of them"][1] < 0.2


def test_what_is_remembered_is_lost_to_noise(of_bars):
    """Bright columns are told apart in little noise; in much, the other 24 of a label are left, of 199 bars."""
    (little, *_), *_, (much, *_) = of_bars("18_when_it_is_decided").values()
    assert little == pytest.approx(1) and much == pytest.approx(24 / 199, abs=0.02)


def test_who_gives_a_digit_back_is_seen_to_know_it(of_bars, monkeypatch):
    """Whatever the noise: as often as the judge reads the digit itself, so the same for every row."""
    monkeypatch.setattr(editing, "sdedit", lambda eps_fn, chain, x0, *rest: [x0])
    measured = {row[1] for row in of_bars("18_when_it_is_decided").values()}
    assert len(measured) == 1 and measured.pop() > 0.2


@pytest.mark.parametrize("name, of, says", [("16_what_a_code_knows", "14_a_mask_five_ways", "no run of codes"),
                                            ("17_word_by_word", "14_a_mask_five_ways", "not read"),
                                            ("18_when_it_is_decided", "16_what_a_code_knows", "no DDPM of pictures")])
def test_a_run_of_another_kind_is_one_line(name, of, says, bars, tmp_path):
    with pytest.raises(SystemExit, match=says):
        demo(name)(tmp_path, run=bars[of])


@pytest.mark.parametrize("name", OF_A_RUN)
def test_without_its_run_a_demo_says_how_to_make_it(name, tmp_path):
    with pytest.raises(SystemExit, match=r"^no run at .*nowhere; make one: tinydiff train [a-z-]+ --out .*nowhere$"):
        demo(name)(tmp_path, run=tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_from_the_shell_a_demo_prints_its_rows(tmp_path, monkeypatch, capsys):
    path = str(FOLDER / "02_one_jump.py")
    monkeypatch.setattr(sys, "argv", [path, "--quick", "--out", str(tmp_path / "new folder")])
    runpy.run_path(path, run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(" predicted " in line and " measured " in line for line in lines)
    assert (tmp_path / "new folder" / "02_one_jump.png").is_file()
