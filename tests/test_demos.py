"""Every demo, quick: it runs, draws what it promises, and measures what its formula predicts.

A row is (name, predicted, measured, standard error); 1,500 to 100,000 draws stand behind each (400 pictures
of 784 pixels behind the roughness), enough for errors as good as normal. So a right demo strays by over
BOUND = 6.5 standard errors with probability 8e-11 a row, 5e-9 for all 55. The seeds are fixed, so a pass
stays a pass.
"""
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinydiff import forward, score

FOLDER = Path(__file__).parent.parent / "demos"
PICTURES = {
    "01_gaussians_add": ["01_histograms", "01_not_a_blur"],
    "02_one_jump": ["02_one_jump"],
    "03_perfect_denoiser": ["03_perfect_denoiser"],
    "04_ddpm_and_ddim": ["04_few_steps", "04_paths"],
    "05_guess_and_renoise": ["05_chain", "05_error"],
    "06_score_field": ["06_score_field", "06_step_size"],
}
BOUND = 6.5


def demo(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]


def strayed(rows):
    """How many standard errors each measured number lies from the predicted one."""
    return np.array([abs(measured - predicted) / error for _, predicted, measured, error in rows])


def test_every_demo_is_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(PICTURES)


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


def test_from_the_shell_a_demo_prints_its_rows(tmp_path, monkeypatch, capsys):
    path = str(FOLDER / "02_one_jump.py")
    monkeypatch.setattr(sys, "argv", [path, "--quick", "--out", str(tmp_path / "new folder")])
    runpy.run_path(path, run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(" predicted " in line and " measured " in line for line in lines)
    assert (tmp_path / "new folder" / "02_one_jump.png").is_file()
