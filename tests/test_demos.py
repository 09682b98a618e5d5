"""Every demo, quick: it runs, draws what it promises, and measures what its formula predicts.

A row is (name, predicted, measured, standard error); 1,500 to 100,000 draws stand behind each (400 pictures
of 784 pixels behind the roughness, 400 probes behind a point's density), enough for errors as good as normal.
So a right demo strays by over BOUND = 6.5 standard errors with probability 8e-11 a row, 7e-9 for all 81. The
seeds are fixed, so a pass stays a pass. In seven more rows nothing is random; their error is how much the number
changed when the steps were doubled, which is no less than what it still lacks, or hardly.
"""
import runpy
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydiff import forward, score, sde, solver

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
}
BOUND = 6.5


def demo(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]


def strayed(rows):
    """How many standard errors each measured number lies from the predicted one."""
    return np.array([abs(measured - predicted) / error for _, predicted, measured, error in rows])


def test_every_demo_is_here():
    assert {path.stem for path in FOLDER.glob("[0-9]*.py")} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_the_numbers_are_those_predicted_and_the_pictures_are_drawn(name, tmp_path):
    rows = demo(name)(tmp_path, quick=True)
    predicted, error = (np.array([row[i] for row in rows]) for i in (1, 3))
    assert np.all(error > 0) and np.all(error < 0.06 * predicted), "too few samples to tell"
    assert np.all(strayed(rows) < BOUND)
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == PICTURES[name]
    for path in tmp_path.iterdir():
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 200 and pixels.std() > 5, "blank"


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


def test_from_the_shell_a_demo_prints_its_rows(tmp_path, monkeypatch, capsys):
    path = str(FOLDER / "02_one_jump.py")
    monkeypatch.setattr(sys, "argv", [path, "--quick", "--out", str(tmp_path / "new folder")])
    runpy.run_path(path, run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(" predicted " in line and " measured " in line for line in lines)
    assert (tmp_path / "new folder" / "02_one_jump.png").is_file()
