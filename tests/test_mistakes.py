"""Famous mistakes of public diffusion code, planted one by one: each breaks the law that guards its line.

Every entry was a real bug in a public codebase (its thread is named; lucidrains is
lucidrains/denoising-diffusion-pytorch). `mistake` says where it goes; the function
below it gets the right one and returns the wrong one, and its name says what was wrong.
"""
import math
from typing import NamedTuple

import numpy as np
import pytest

from tinydiff import (
    editing,
    elbo,
    forward,
    gaussian,
    guidance,
    latent,
    laws,
    loss,
    oracle,
    sampler,
    schedule,
    score,
    sde,
    solver,
    vae,
)
from tinydiff.forward import coef
from tinydiff.nn import embed
from tinydiff.schedule import Schedule


class Mistake(NamedTuple):
    number: int
    thread: str
    where: object  # a module or class, or a dict
    name: str
    law: str
    given: dict  # inputs of the law that are taken, not drawn
    wrong: object


MISTAKES = []


def mistake(number, thread, where, name, law, **given):
    def register(wrong):
        MISTAKES.append(Mistake(number, thread, where, name, law, given, wrong))
        return wrong

    return register


def problem(of):
    """What the law says, None where it holds."""
    [(_, _, _, said)] = laws.run([of.law], **of.given)
    return said


# Schedules and indexing


@mistake(1, "lucidrains#19", schedule.SCHEDULES, "cosine", "cosine_betas_give_back_the_cosine")
def cosine_on_a_grid_one_point_short(right):
    def cosine(T, s=0.008):
        steps = T + 1
        f = np.cos((np.linspace(0, steps, steps) / steps + s) / (1 + s) * np.pi / 2) ** 2
        return Schedule(np.clip(1 - f[1:] / f[:-1], 0, 0.999), "cosine", lambda n, fraction: 1.0)

    return cosine


@mistake(3, "diffusers PR#12341", schedule.SCHEDULES, "linear", "total_noise_does_not_depend_on_T")
def betas_meant_for_a_thousand_steps(right):
    return lambda T: Schedule(np.linspace(1e-4, 0.02, T), "linear")


@mistake(4, "minDiffusion", loss, "draw_times", "every_time_is_as_likely", T=5)
def the_last_time_is_never_trained(right):
    return lambda rng, batch, T: right(rng, batch, T - 1)


@mistake(4, "minDiffusion", sampler, "timesteps", "visited_times_are_even")
def the_sampler_stops_at_one(right):
    return lambda T, steps=None: right(T, steps)[:-1]


@mistake(5, "diffusers PR#2076", sampler, "ddim_step", "ddim_keeps_every_marginal")
def a_skipping_step_lands_one_below(right):
    return lambda schedule, x_t, t, s, *rest: right(schedule, x_t, t, t - 1, *rest)


@mistake(5, "diffusers PR#3006", sampler, "ddpm_step", "eta_one_is_the_posterior_sampler")
def a_skipping_step_adds_the_noise_of_one(right):
    def ddpm_step(schedule, x_t, t, s, eps_hat, v=1.0, noise=None):
        var = sampler.reverse_var(*schedule.pair(t), v)
        return right(schedule, x_t, t, s, eps_hat) + coef(np.sqrt(var), x_t) * noise

    return ddpm_step


@mistake(5, "diffusers#9261, #11347", sampler, "timesteps", "visited_times_are_even")
def the_previous_time_is_a_fixed_stride_below(right):
    return lambda T, steps: [*range(T, 0, -(T // steps)), 0]


@mistake(6, "latent-diffusion#136", Schedule, "pair", "posterior_is_bayes_over_the_whole_chain")
def alpha_bar_before_the_first_step_is_the_first(right):
    def pair(self, t, s=None):
        ab_s, ab_t = right(self, t, s)
        return np.where(ab_s == 1, self.alpha_bar[1], ab_s), ab_t

    return pair


@mistake(6, "latent-diffusion#136", Schedule, "at", "steps_compose_to_the_jump")
def the_table_starts_at_one_and_is_read_from_zero(right):
    return lambda self, t, lowest=1: right(self, np.maximum(np.asarray(t) - 1, 0), 0)


@mistake(7, "diffusers PR#3005, #9004", Schedule, "__init__", "tables_lose_nothing")
def alpha_bar_in_half_precision(right):
    def init(self, *args, **named):
        right(self, *args, **named)
        self.alpha_bar = np.cumprod(self.alpha.astype(np.float16)).astype(float)

    return init


@mistake(7, "diffusers PR#3005, #9004", Schedule, "__init__", "tables_lose_nothing")
def alpha_bar_in_single_precision(right):
    def init(self, *args, **named):
        right(self, *args, **named)
        self.alpha_bar = np.cumprod(self.alpha.astype(np.float32)).astype(float)

    return init


@mistake(7, "diffusers PR#3005, #9004", forward, "coef", "one_rounding_at_the_door")
def numbers_rounded_to_half_on_their_way(right):
    return lambda numbers, like: right(np.asarray(numbers, np.float16), like)


# Posterior, variance, losses


@mistake(10, "lucidrains#135; tiny-diffusion", sampler, "ddpm_step", "ddpm_mean_as_published")
def the_variance_is_taken_for_the_std(right):
    def ddpm_step(schedule, x_t, t, s, eps_hat, v=1.0, noise=None):
        var = sampler.reverse_var(*schedule.pair(t, s), v)
        return right(schedule, x_t, t, s, eps_hat) + coef(var, x_t) * noise

    return ddpm_step


@mistake(11, "labml", sampler, "sample_ddpm", "no_noise_on_the_last_step")
def noise_is_added_on_the_last_step(right):
    return lambda *args, **named: right(*args, **{**named, "final_noise": True})


@mistake(12, "guided-diffusion#69", sampler, "ddpm_step", "ddpm_mean_as_published")
def the_first_beta_is_the_second_posterior_variance(right):
    def ddpm_step(schedule, x_t, t, s, eps_hat, v=1.0, noise=None):
        fixed_large = np.append(forward.posterior_var(*schedule.pair(min(2, schedule.T))), schedule.beta[2:])
        return right(schedule, x_t, t, s, eps_hat) + coef(np.sqrt(fixed_large[t - 1]), x_t) * noise

    return ddpm_step


@mistake(12, "diffusers#14569", sampler, "reverse_var", "ddpm_mean_as_published")
def the_root_of_a_logarithm(right):
    return lambda ab_s, ab_t, v=1.0: np.log(forward.step_var(ab_s, ab_t))


@mistake(13, "diffusers PR#2090", sampler, "reverse_var", "variances_interpolate_in_logarithms")
def variances_interpolated_without_logarithms(right):
    return lambda s, t, v=1.0: v * forward.step_var(s, t) + (1 - v) * forward.posterior_var(s, t)


@mistake(14, "ddpm-torch#9", forward, "q_marginal", "a_jump_has_the_marginal")
def the_variance_left_is_one_less_the_signal_scale(right):
    def q_marginal(schedule, x0, t):
        mean, _ = right(schedule, x0, t)
        return mean, coef(1 - np.sqrt(schedule.at(t, lowest=0)), x0)

    return q_marginal


# The bound


@mistake(10, "lucidrains#135", elbo, "decoder_log_prob", "a_bin_has_the_mass_of_its_density")
def the_decoder_takes_the_variance_for_the_std(right):
    return lambda x0, mu, var, bins=256: right(x0, mu, var**2, bins)


@mistake(12, "guided-diffusion#69", elbo, "model_var", "learned_variance_between_its_ends")
def the_first_variance_is_the_second_posterior_one(right):
    def model_var(schedule, t, v, var_1=None):
        return right(schedule, t, v, forward.posterior_var(*schedule.pair(2)))

    return model_var


@mistake(12, "diffusers#14569", elbo, "model_var", "learned_variance_between_its_ends")
def the_first_variance_is_that_of_a_point(right):
    def model_var(schedule, t, v, var_1=None):
        return coef(forward.posterior_var(*schedule.pair(t)), v) + 0 * right(schedule, t, v)

    return model_var


@mistake(13, "diffusers PR#2090", elbo, "model_var", "learned_variance_between_its_ends")
def a_learned_variance_interpolated_without_logarithms(right):
    def model_var(schedule, t, v, var_1=None):
        high, low = (right(schedule, t, 0 * v + end, var_1) for end in (1, 0))
        return v * high + (1 - v) * low

    return model_var


@mistake(13, "improved-diffusion#114, #153", elbo, "l_vlb", "the_mean_learns_from_one_loss_the_variance_from_the_other")
def the_hybrid_loss_forgets_how_many_steps_there_are(right):
    return lambda schedule, *rest: right(schedule, *rest) * (1 / schedule.T)


@mistake(14, "latent-diffusion PR#404", elbo, "eps_weight", "a_step_costs_the_error_of_its_noise")
def twice_one_less_alpha_bar(right):
    def eps_weight(schedule, t, var):
        alpha_bar = schedule.at(t)
        return right(schedule, t, var) * (1 - alpha_bar) / (2.0 * 1 - alpha_bar)

    return eps_weight


@mistake(14, "latent-diffusion PR#404", elbo, "variance_cost", "a_step_costs_the_error_of_its_noise")
def the_cost_of_a_variance_is_left_out(right):
    return lambda schedule, t, var: 0 * right(schedule, t, var)


@mistake(15, "improved-diffusion#33", elbo, "bits_per_dim", "even_pixels_cost_all_their_bits")
def nats_are_called_bits(right):
    return lambda nats, shape, unit=1.0: math.log(2) * right(nats, shape, unit)


@mistake(15, "lucidrains#72", elbo, "decoder_log_prob", "the_bins_share_all_the_mass")
def bins_of_a_256th_are_laid_on_255_steps(right):
    def decoder_log_prob(x0, mu, var, bins=256):
        edges = [(x0 + side / bins - mu) / math.sqrt(2 * var) for side in (-1, 1)]
        low, high = (0.5 * np.vectorize(math.erfc)(-edge) for edge in edges)
        mass = np.where(x0 >= 1, 1 - low, np.where(x0 <= -1, high, high - low))
        return np.log(np.maximum(mass, 1e-12))

    return decoder_log_prob


@mistake(16, "grammarVAE#2", elbo, "prior_kl", "prior_term_keeps_its_digits")
def the_kl_is_averaged_where_it_is_summed(right):
    return lambda schedule, x0: right(schedule, x0) / math.prod(x0.shape[1:])


@mistake(17, "improved-diffusion, read in its source", elbo, "decoder_log_prob", "a_bin_has_the_mass_of_its_density")
def the_normal_distribution_by_a_tanh(right):
    def cdf(x):
        return 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def decoder_log_prob(x0, mu, var, bins=256):
        low, high = (cdf((x0 + side / (bins - 1) - mu) / math.sqrt(var)) for side in (-1, 1))
        mass = np.where(x0 >= 0.999, 1 - low, np.where(x0 <= -0.999, high, high - low))
        return np.log(np.maximum(mass, 1e-12))

    return decoder_log_prob


@mistake(17, "improved-diffusion, read in its source", elbo, "decoder_log_prob", "a_bin_has_the_mass_of_its_density")
def a_small_mass_is_called_a_millionth_of_a_millionth(right):
    return lambda *args: np.maximum(right(*args), math.log(1e-12))


# DDIM


@mistake(18, "lucidrains#81", sampler, "ddim_step", "ddim_keeps_every_marginal")
def x0_is_read_with_the_earlier_alpha_bar(right):
    def ddim_step(schedule, x_t, t, s, eps_hat, eta=0.0, noise=None):
        ab_s, ab_t = schedule.pair(t, s)
        sigma = sampler.ddim_sigma(ab_s, ab_t, eta)
        x0_hat = (x_t - np.sqrt(1 - ab_s) * eps_hat) / np.sqrt(ab_s)
        return np.sqrt(ab_s) * x0_hat + np.sqrt(1 - ab_s - sigma**2) * eps_hat + sigma * noise

    return ddim_step


@mistake(18, "lucidrains PR#83", sampler, "timesteps", "visited_times_are_even")
def the_times_end_in_zero_and_zero(right):
    return lambda T, steps=None: [*right(T, steps), 0]


@mistake(19, "lucidrains PR#84", loss, "clip_x0", "clipping_keeps_one_guess")
def eps_is_not_derived_again_after_the_clip(right):
    return lambda eps_fn, schedule, bound=1.0: eps_fn


@mistake(19, "diffusers PR#2094", loss, "eps_fn", "a_perfect_guess_is_the_noise", kind="x0")
def a_guess_of_x0_is_used_as_eps(right):
    return lambda predict, schedule, kind="eps", clip=False: right(predict, schedule, "eps", clip)


@mistake(20, "CoursIA PR#16158", sampler, "ddim_step", "ddim_keeps_every_marginal")
def a_negative_radicand_behind_a_clamp(right):
    def ddim_step(schedule, x_t, t, s, eps_hat, eta=0.0, noise=None):
        ab_s, ab_t = schedule.pair(t, s)
        var = eta**2 * (1 - ab_t) / (1 - ab_s) * forward.step_var(ab_s, ab_t) if s else 0.0
        x0_hat, direction = forward.x0_from_eps(schedule, x_t, t, eps_hat), np.sqrt(max(1 - ab_s - var, 0.0))
        return np.sqrt(ab_s) * x0_hat + direction * eps_hat + np.sqrt(var) * noise

    return ddim_step


@mistake(21, "diffusers PR#5145", sampler, "ddim_invert_step", "eta_zero_is_eulers_step")
def inversion_reads_x0_with_the_alpha_of_the_wrong_end(right):
    def ddim_invert_step(schedule, x_s, s, t, eps_hat):
        ab_s, ab_t = schedule.pair(t, s)
        x0_hat = (x_s - np.sqrt(1 - ab_t) * eps_hat) / np.sqrt(ab_t)
        return np.sqrt(ab_t) * x0_hat + np.sqrt(1 - ab_t) * eps_hat

    return ddim_invert_step


@mistake(21, "diffusers#10920", sampler, "invert_ddim", "inversion_of_a_point_keeps_its_noise")
def inversion_asks_at_the_time_of_the_wrong_end(right):
    def invert_ddim(eps_fn, schedule, x0, steps=None):
        times = sampler.timesteps(schedule.T, steps)[::-1]
        for s, t in zip(times, times[1:], strict=False):
            x0 = sampler.ddim_invert_step(schedule, x0, s, t, eps_fn(x0, t))
            yield x0

    return invert_ddim


# Score, networks


@mistake(22, "torchebm#318", forward, "score_from_eps", "score_points_against_the_noise")
def the_score_points_with_the_noise(right):
    return lambda schedule, t, eps: -right(schedule, t, eps)


@mistake(22, "torchebm#318", score, "from_eps", "denoising_and_implicit_differ_by_a_constant")
def the_target_of_denoising_points_with_the_noise(right):
    return lambda eps, sigma: -right(eps, sigma)


@mistake(22, "Wz-2024/Diffusion", score, "ncsn_loss", "ncsn_weighs_each_level_by_its_variance")
def the_square_is_of_the_noise_alone(right):
    def ncsn_loss(score_fn, x0, sigma, eps):
        sigma_s = -score.to_eps(score_fn(x0 + coef(sigma, x0) * eps, sigma), sigma)
        return 0.5 * np.mean(np.sum(sigma_s + eps**2, axis=1))

    return ncsn_loss


@mistake(23, "NCSN's and score_sde's steps, mixed", score, "langevin_step", "langevin_settles_a_little_wide")
def the_drift_of_one_convention_and_the_noise_of_the_other(right):
    return lambda x, s, step, noise: x + step * s + np.sqrt(step) * noise


@mistake(31, "VictorinTurnel/Score-based-method", score, "sliced", "sliced_over_all_signs_is_implicit")
def the_directions_of_a_slice_have_length_one(right):
    return lambda score_fn, x, v: right(score_fn, x, v / np.linalg.norm(v, axis=1, keepdims=True))


@mistake(30, "diffusers#5654", loss, "weight", "weights_translate_between_targets")
def min_snr_for_v_as_if_for_eps(right):
    return lambda schedule, t, kind="eps", *rest: right(schedule, t, "eps" if kind == "v" else kind, *rest)


# The autoencoder and its latents


@mistake(10, "BVAE-tf#7; keras PR#9972", vae, "reparameterise", "the_gap_is_the_kl_to_the_posterior")
def the_log_variance_of_a_code_is_not_halved(right):
    return lambda mu, log_var, eps: right(mu, 2 * log_var, eps)


@mistake(10, "vgae_pytorch#2", vae, "kl", "the_kl_is_the_gaussians")
def a_code_is_as_wide_as_it_should_vary(right):
    def kl(mu, log_var):
        return -0.5 * np.sum(1 + log_var - mu**2 - np.exp(log_var / 2), axis=1)

    return kl


@mistake(16, "grammarVAE#2; keras-molecules#59", vae, "kl", "the_kl_is_summed_over_coordinates")
def the_kl_of_a_code_is_averaged_where_it_is_summed(right):
    return lambda mu, log_var: right(mu, log_var) / math.prod(mu.shape[1:])


@mistake(32, "keras PR#4211", vae, "reparameterise", "the_gap_is_the_kl_to_the_posterior")
def codes_are_drawn_a_hundred_times_too_near(right):
    return lambda mu, log_var, eps: right(mu, log_var, 0.01 * eps)


@mistake(33, "diffusers#5166", latent, "decode", "a_point_comes_back_through_its_latent")
def latents_are_decoded_at_the_scale_of_the_diffusion(right):
    return lambda decoder, scale, z: right(decoder, 1.0, z)


@mistake(33, "MONAI GenerativeModels PR#214", latent, "decode", "a_point_comes_back_through_its_latent")
def latents_are_scaled_twice_and_never_back(right):
    return lambda decoder, scale, z: right(decoder, 1 / scale, z)


@mistake(33, "PyTorch-Adventures#4", latent, "decode", "a_point_comes_back_through_its_latent")
def the_image_is_scaled_instead_of_its_latent(right):
    return lambda decoder, scale, z: right(decoder, 1.0, z) / scale


# Guidance, editing


def _held(time, noised):
    """The loop of inpainting, with what is put back after a step from t to s noised to time(t, s) by `noised`."""

    def held(eps_fn, schedule, given, join, path, x, rng, eta):
        for t, s in zip(path, path[1:], strict=False):
            noise = rng.standard_normal(x.shape) if eta > 0 else None
            step = sampler.ddim_step(schedule, x, t, s, eps_fn(x, t), eta, noise)
            x = join(step, noised(schedule, given, time(t, s), rng.standard_normal(x.shape)))
            yield x

    return held


@mistake(25, "score_sde", editing, "_held", "what_is_put_back_is_noised_afresh")
def noise_is_added_to_what_is_already_noised(right):
    def noised(schedule, given, s, eps):
        return forward.q_sample(schedule, given, s, eps) + schedule.noise_scale[s] * np.roll(eps, 1)

    return _held(lambda t, s: s, noised)


@mistake(26, "study notes", guidance, "mean_shift", "the_mean_moves_by_the_variance_times_the_gradient")
def the_gradient_is_scaled_by_the_std(right):
    def mean_shift(eps_fn, schedule, *rest):
        guided = right(eps_fn, schedule, *rest)
        return lambda x, t: eps_fn(x, t) + (guided(x, t) - eps_fn(x, t)) / np.sqrt(schedule.beta[t])

    return mean_shift


@mistake(26, "guided-diffusion#51", guidance, "mean_shift", "the_mean_moves_by_the_variance_times_the_gradient")
def the_classifier_is_asked_at_a_time_too_noisy(right):
    def mean_shift(eps_fn, schedule, log_prob_grad, *rest):
        return right(eps_fn, schedule, lambda x, t: log_prob_grad(x, t + 1), *rest)

    return mean_shift


@mistake(26, "guided-diffusion#51", guidance, "log_prob_grad", "each_example_gets_its_own_gradient")
def the_gradient_is_of_the_mean_over_the_batch(right):
    def log_prob_grad(logits_fn, y):
        return lambda x, t: right(logits_fn, y)(x, t) / len(x)

    return log_prob_grad


@mistake(27, "lucidrains#155, #207; diffusers#5882", guidance, "classifier_free", "no_weight_no_guidance")
def the_weight_is_counted_from_one(right):
    return lambda cond_fn, uncond_fn, w: right(cond_fn, uncond_fn, w - 1)


@mistake(28, "stable-diffusion PR#533", editing, "_back", "an_edit_comes_down_from_where_it_was_noised")
def an_edit_is_denoised_from_the_step_below(right):
    def back(eps_fn, schedule, x_t, t, rng, steps, eta):
        return right(eps_fn, schedule, x_t, max(t - 1, 0), rng, steps, eta)

    return back


@mistake(28, "ilvr_adm#13; RePaint#17", editing, "_held", "each_step_is_as_published")
def what_is_put_back_has_the_noise_of_the_step_before(right):
    return _held(lambda t, s: t if s else 0, forward.q_sample)


@mistake(28, "diffusers PR#10185, reverted by PR#10644", forward, "q_sample", "inpainting_keeps_every_marginal")
def the_noise_of_known_pixels_has_the_root_missing_as_in_the_paper(right):
    def q_sample(schedule, x0, t, eps):
        alpha_bar = schedule.at(t, lowest=0)
        return coef(np.sqrt(alpha_bar), x0) * x0 + coef(1 - alpha_bar, x0) * eps

    return q_sample


@mistake(28, "lucidrains PR#322", editing, "_held", "known_pixels_are_kept")
def the_last_step_does_not_put_the_known_pixels_back(right):
    def held(eps_fn, schedule, given, join, path, x, rng, eta):
        *_, x_1 = x, *right(eps_fn, schedule, given, join, path[:-1], x, rng, eta)
        yield sampler.ddim_step(schedule, x_1, path[-2], 0, eps_fn(x_1, path[-2]))

    return held


@mistake(28, "ilvr_adm, its resizer", editing, "low_pass", "the_low_pass_is_a_projection")
def a_low_pass_that_lets_less_through_each_time(right):
    def low_pass(x, factor):
        return (right(x, factor) + right(np.roll(x, 1, axis=1), factor)) / 2

    return low_pass


@mistake(28, "diffusers PR#3782", editing, "blend", "a_blend_with_itself_is_an_edit")
def each_picture_between_has_noise_of_its_own(right):
    def blend(eps_fn, schedule, ends, fractions, strength, rng, steps=None):
        u = coef(fractions, ends)
        return editing.sdedit(eps_fn, schedule, (1 - u) * ends[:1] + u * ends[1:], strength, rng, steps, 0.0)

    return blend


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda m: f"{m.number} {m.wrong.__name__} [{m.thread}]")
def test_a_mistake_breaks_its_law(planted, monkeypatch):
    assert problem(planted) is None
    table = isinstance(planted.where, dict)
    right = planted.where[planted.name] if table else getattr(planted.where, planted.name)
    (monkeypatch.setitem if table else monkeypatch.setattr)(planted.where, planted.name, planted.wrong(right))
    with np.errstate(all="ignore"):
        assert problem(planted) is not None


# What the door refuses


DOORS = {
    "2 alpha_bar_1 = 1, then 0/0 [MONAI PR#8427]": (lambda: Schedule([0.0, 0.1]), "got beta_1 = 0"),
    "3 betas that leave (0, 1) when scaled": (lambda: schedule.linear(20), "more steps"),
    "4 a sampler that does not start at T": (lambda: sampler.timesteps(30, [1, 29]), "end at 30"),
    "5 a step that goes nowhere": (lambda: schedule.linear(30).pair(3, 3), "to a smaller s"),
    "6 one beyond the table": (lambda: schedule.linear(30).at(31), "in 1..30, got 31"),
    "6 t counted from 0": (lambda: schedule.linear(30).at(0), "t = 0 is the clean data"),
    "6 a negative index, which wraps round": (lambda: schedule.linear(30).at(-1), "in 1..30, got -1"),
    "6 a mean that wraps round": (lambda: forward.q_marginal(schedule.linear(30), np.ones(1), -1), "in 0..30"),
    "6 a sample that wraps round": (lambda: forward.q_sample(schedule.linear(30), np.ones(1), -1, 0), "in 0..30"),
    "6 a time that is no index": (lambda: schedule.linear(30).at(1.5), "alpha_bar_at takes real t"),
    "8 no signal at T, infinite x_0 [diffusers#3851]": (lambda: Schedule([0.1, 1.0]), "got beta_2 = 1"),
    "a sampler of no steps": (lambda: sampler.timesteps(30, 0), "in 1..30"),
    "a sampler of more steps than T": (lambda: sampler.timesteps(30, 31), "in 1..30"),
    "a sampler that visits 0 twice": (lambda: sampler.timesteps(30, [0, 30]), "within 1..30"),
    "a sampler without times": (lambda: sampler.timesteps(30, []), "end at 30"),
    "no steps": (lambda: schedule.linear(0), "T must be a whole number"),
    "a fraction of a step": (lambda: schedule.cosine(2.5), "T must be a whole number"),
    "True steps": (lambda: schedule.constant(True), "T must be a whole number"),
    "no betas": (lambda: Schedule([]), "at least one beta"),
    "a table of betas": (lambda: Schedule([[0.1]]), "got shape (1, 1)"),
    "a time beyond the closed form": (lambda: schedule.cosine(30).alpha_bar_at(30.5), "in [0, 30]"),
    "less signal than the schedule leaves": (lambda: schedule.cosine(30).time_of(1e-40), "must be in ["),
    "a mixture of another dimension": (
        lambda: oracle.noised_score(np.ones((2, 3)), 1, 1, [1], [[0, 0]], [1]), "mixture's 2 dimensions"),
    "a grid that ends where there is no noise": (lambda: solver.uniform_in_lambda(sde.VP(), 1.0, 0.0, 5), "need noise"),
    "a fraction of a solver's step": (lambda: solver.uniform(0, 1, 1.5), "whole number"),
    "a path of one end": (lambda: solver.uniform(1.0, 1.0, 3), "two ends"),
    "sigmas that rise": (lambda: solver.edm_sigmas(80, 0.002, 5), "sigma_min < sigma_max"),
    "24 a ladder upside down": (lambda: sde.VE(5, 1), "sigma_min < sigma_max"),
    "betas that fall": (lambda: sde.VP(20, 0.1), "beta_min <= beta_max"),
    "an EDM without noise": (lambda: sde.EDM(0), "above 0"),
    "sub-VP taken for a chain": (lambda: sde.discretise(sde.SubVP(), 100), "only VP"),
    "the reverse SDE upstream": (
        lambda: [*solver.euler_maruyama(sde.VP(), None, np.ones((1, 1)), [0.1, 0.9], None)], "must fall"),
    "a corrector without a step": (
        lambda: [*solver.predictor_corrector(sde.VP(), None, np.ones((1, 1)), [0.9, 0.1], None, snr=0)], "above 0"),
    "an unknown schedule": (lambda: schedule.named("sigmoid", 30), "one of linear, cosine"),
    "an unknown target": (lambda: loss.eps_fn(None, None, "score"), "one of eps, x0, v"),
    "15 pixels of another scale": (lambda: elbo.decoder_log_prob(np.ones(1) / 128, 0.0, 0.1), "k * 2/255 - 1"),
    "15 pixels 0..255": (lambda: elbo.decoder_log_prob(np.full(1, 255.0), 0.0, 0.1), "give a density"),
    "a bound's middle term at t = 1": (lambda: elbo.reverse_kl(schedule.linear(30), *[0] * 2, 1, 0, 1), "in 2..30"),
    "12 the cost of a variance at t = 1": (lambda: elbo.variance_cost(schedule.linear(30), 1, 0.1), "in 2..30"),
    "an unknown weighting": (lambda: loss.weight(schedule.linear(30), 1, "v", "snr"), "simple or min_snr"),
    "a point's denoiser at t = 0": (lambda: oracle.finite(schedule.linear(30), [[1]])(np.ones((1, 1)), 0), "in 1..30"),
    "weights that do not sum to 1": (lambda: oracle.mixture(None, [0.5, 0.4], [[0], [1]], [1, 1]), "sum to 1"),
    "a weight of 0": (lambda: oracle.mixture(None, [1, 0], [[0], [1]], [1, 1]), "positive weights"),
    "a variance below 0": (lambda: oracle.mixture(None, [1], [[0]], [-1]), "variances >= 0"),
    "a variance for each coordinate": (lambda: oracle.mixture(None, [1], [[0, 0]], [1, 1]), "variances (K,)"),
    "DDIM with noise and no generator": (lambda: [*sampler.sample_ddim(None, None, None, eta=1)], "give an rng"),
    "no noise levels": (lambda: score.noise_levels(1.0, 0.1, 0), "at least 1, got 0"),
    "noise levels that rise, as score_sde's do": (lambda: score.noise_levels(0.01, 50.0, 10), "from large to small"),
    "a noise level of 0": (lambda: score.noise_levels(1.0, 0.0, 10), "sigma_L > 0"),
    "one noise level with two ends": (lambda: score.noise_levels(1.0, 0.1, 1), "for a single one"),
    "Langevin through levels that rise": (lambda: [*score.annealed_langevin(None, None, [1, 2], None)], "must fall"),
    "a Langevin step that diverges": (lambda: [*score.annealed_langevin(0, 0, [1, 0.1], 0, 9, 0.05)], "diverges"),
    "no Langevin steps": (lambda: [*score.annealed_langevin(0, 0, [1, 0.1], 0, 0)], "at least 1"),
    "a decoder without noise": (lambda: vae.bound(*[np.ones((1, 1))] * 5, noise_var=0.0), "must be positive"),
    "latents that are all the same": (lambda: latent.latent_scale(np.ones((2, 2))), "must differ"),
    "latents that are not finite": (lambda: latent.latent_scale(np.array([1.0, np.nan])), "be finite"),
    "28 a strength of more than all": (
        lambda: [*editing.sdedit(0, schedule.linear(30), np.ones((1, 1)), 1.1, None)], "must be in [0, 1], got 1.1"),
    "a mask of another size": (
        lambda: [*editing.inpaint(0, schedule.linear(30), *[np.ones((1, 4, 4, 1)), np.ones((4, 4))] * 2, None)],
        "mask of shape (4, 4) does not fit"),
    "a picture of another size": (
        lambda: [*editing.ilvr(0, schedule.linear(30), np.ones((1, 6, 6, 1)), 2, np.ones((1, 4, 4, 1)), None)],
        "picture of shape (1, 6, 6, 1) does not fit"),
    "blocks that do not fill the picture": (lambda: editing.low_pass(np.ones((1, 28, 28, 1)), 5), "got 5 for 28 x 28"),
    "going back no steps": (lambda: editing.resampling_times([2, 1, 0], jump=0), "at least 1, got 0 and 1"),
    "a label that the classifier has not got": (
        lambda: guidance.log_prob_grad(lambda x, t: x, 3)(np.ones((1, 3)), 1), "must be in 0..2, got 3"),
    "a mean shifted for other steps": (
        lambda: guidance.mean_shift(None, schedule.linear(30), None, steps=3)(None, 15), "the sampler's steps"),
    "18 a time visited twice": (lambda: sampler.timesteps(30, [1, 30, 30]), "must rise"),
}


@pytest.mark.parametrize("name", DOORS)
def test_the_door_refuses(name):
    ask, remedy = DOORS[name]
    with pytest.raises(ValueError) as refused:
        ask()
    assert remedy in str(refused.value)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_the_door_refuses_an_eta_that_could_make_the_radicand_negative(eta):
    x = np.zeros((1, 1))
    with pytest.raises(ValueError, match="eta must be in"):
        sampler.ddim_step(schedule.linear(30), x, 2, 1, x, eta, x)


# Two right answers that people mix up: ours, and the way to the other


def test_2_the_clipped_cosine_leaves_a_signal_and_the_guess_can_be_clipped():
    """1/√ᾱ_T is 20,000 at T = 1000, so a small error of ε̂ is a large one of x̂_0, unless clipped."""
    cosine, x = schedule.cosine(1000), np.ones((1, 1))
    assert cosine.beta[-1] == 0.999 and 1e4 < 1 / cosine.signal_scale[-1] < 1e5
    eps_fn = loss.clip_x0(lambda x, t: 0.9 * x, cosine)
    assert abs(forward.x0_from_eps(cosine, x, 1000, eps_fn(x, 1000)).item()) <= 1 + 1e-9


@pytest.mark.parametrize("t", [2, 20, 1000])
def test_13_dropping_both_T_and_lambda_is_our_hybrid_loss_at_a_thousand_steps(t):
    """The released code adds (T/1000) L_t, in bits a coordinate, to L_simple; λ T = 1 at T = 1000."""
    chain, x0, eps = schedule.linear(1000), np.full((1, 3), 0.5), np.full((1, 3), -0.4)
    ours = elbo.l_hybrid(lambda x, t: (0 * x, 0 * x + 0.3), chain, x0, np.array([t]), eps)
    ab_s, ab_t = chain.pair(t)
    x_t = forward.q_sample(chain, x0, t, eps)
    sigma_sq = sampler.reverse_var(ab_s, ab_t, 0.3)
    mean, var = forward.q_posterior(chain, x0, x_t, t)
    guess, _ = forward.q_posterior(chain, x_t / chain.signal_scale[t], x_t, t)
    bits = np.mean(gaussian.kl(mean, var, guess, sigma_sq)) / math.log(2)
    assert ours == pytest.approx(np.mean(eps**2) + bits * 1000 / 1000, rel=1e-9)


def test_15_from_nats_an_image_to_bits_a_dimension_and_from_a_density_to_pixels():
    """784 ln 2 nats are a bit a pixel; a density on [-1, 1] counts 2/255 as one, which adds log₂ 127.5 = 6.99 bits."""
    assert elbo.bits_per_dim(784 * math.log(2), (28, 28, 1)) == pytest.approx(1)
    even = elbo.bits_per_dim(784 * math.log(2 * 256 / 255), (28, 28, 1), unit=2 / 255)  # even over all 256 bins
    assert even == pytest.approx(8) and elbo.bits_per_dim(0.0, (1,), 2 / 255) == pytest.approx(6.994, abs=1e-3)


def test_17_the_tanh_errs_by_two_ten_thousandths():
    x = np.linspace(-4, 4, 8001)
    exact = 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2))
    by_tanh = 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert 1.5e-4 < abs(by_tanh - exact).max() < 2e-4


def test_9_the_continuous_process_is_close_to_the_discrete_one_not_equal():
    """∫ β(u) du from 0.1 to 20 is 10.05: exp(-10.05) is 7 % above ᾱ_1000 of the linear schedule."""
    assert math.exp(-(0.1 + 20) / 2) / schedule.linear(1000).alpha_bar[-1] == pytest.approx(1.07, abs=0.002)


def test_23_a_step_of_ncsn_is_twice_that_of_score_sde():
    """NCSN's a multiplies s by a/2, score_sde's e by e; both add noise of the variance, a or 2e [score_sde]."""
    x, s, z = np.ones((1, 1)), np.full((1, 1), -3.0), np.full((1, 1), 2.0)
    assert score.langevin_step(x, s, 2 * 0.125, z).item() == 1 - 0.125 * 3 + math.sqrt(0.25) * 2


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_26_at_the_mean_or_at_x_t_agrees_to_first_order(scale):
    """The authors' code asks at x_t, their derivation at the mean: shifts of ε̂ differ like β [guided-diffusion#51]."""
    gaps, x = [], np.linspace(-2, 2, 5)[:, None]
    for T in (200, 400):
        ways = [guidance.mean_shift(lambda x, t: 0.3 * x, schedule.linear(T), lambda x, t: np.cos(x), scale, at_mean=at)
                for at in (True, False)]
        gaps.append(abs(ways[0](x, T // 2) - ways[1](x, T // 2)).max())
    assert gaps[0] / gaps[1] == pytest.approx(2, abs=0.05) and gaps[0] < 0.1


def test_27_guidance_scales_of_others_are_ours_plus_one():
    """uncond + g (cond - uncond) with g = 7.5 is w = 6.5; g = 0, not g = 1, is unconditional [diffusers#5882]."""
    cond, uncond = np.array([[2.0]]), np.array([[-1.0]])
    for g in (0.0, 1.0, 7.5):
        ours = guidance.classifier_free(lambda x, t: cond, lambda x, t: uncond, g - 1)
        assert ours(cond, 1).item() == pytest.approx(-1 + g * 3)


@pytest.mark.parametrize("dim", [2, 4, 64])
def test_29_sines_first_then_cosines_at_half_dim_frequencies(dim):
    """ω_i = 10000^(-i/(dim/2)) [hojonathanho#15, diffusers#3981]; finite at dim = 2 [PyHealth PR#1216]."""
    t, half = np.array([0.0, 1.0, 999.0]), dim // 2
    ours = embed.sinusoidal(t, dim, np.zeros((3, 1)))
    omega = [10_000 ** (-i / half) for i in range(half)]
    assert ours.shape == (3, dim)
    np.testing.assert_allclose(ours[:, :half], np.sin(np.outer(t, omega)), atol=1e-12)
    np.testing.assert_allclose(ours[:, half:], np.cos(np.outer(t, omega)), atol=1e-12)


def test_29_the_frequencies_of_the_other_convention():
    """With half_dim - 1 they reach 1/10,000 itself: those of ours with 10,000 raised to half/(half - 1)."""
    half, t = 8, np.array([7.0])
    theirs = np.exp(-math.log(10_000) * np.arange(half) / (half - 1))
    ours = np.arctan2(*np.split(embed.sinusoidal(t / 7, 2 * half, np.zeros((1, 1)))[0], 2))
    np.testing.assert_allclose(ours ** (half / (half - 1)), theirs, rtol=1e-12)
