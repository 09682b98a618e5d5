"""Training: the loop and its curves, what stops it, and that a resumed run is the same run, bit for bit."""
import dataclasses
import inspect
import itertools
import json
import math
import os
import signal
import tracemalloc

import numpy as np
import pytest
import threadpoolctl

from tinydiff import model, objective, optim, recipes, runs, train
from tinydiff.tensor import tree
from tinydiff.tensor.device import device

CPU = device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """As in a real run: for such small products a second thread is a hindrance."""
    with threadpoolctl.threadpool_limits(1, "blas"):
        yield


def config_of(kind="mlp", steps=12, **settings):
    """A run small enough for a test: points, or pictures of 4 x 4."""
    network = {"kind": "mlp", "width": 8, "depth": 2, "embed": 4}
    name, shape, batch = "moons", (2,), 16
    if kind == "unet":
        network = {"kind": "unet", "size": 4, "channels": 1, "widths": [8], "groups": 4, "embed": 8}
        name, shape, batch = "images", (4, 4, 1), 4
    chosen = train.Settings(**{"steps": steps, "batch": batch, "lr": 0.01, "warmup": 4, "average": 0.9, **settings})
    place = {"name": name, "folder": None, "split": "train"}
    return model.Config(name, place, network, shape, dataclasses.asdict(chosen), "cosine", 10, "v")


def examples(config, n=50):
    return np.random.default_rng(9).uniform(-1, 1, (n, *config.shape)).astype("f4")


def loop(config, state=None, **replaced):
    """train.train on a Config: the generator."""
    batches = objective.batches(config, examples(config), CPU)
    parts = {"step_fn": objective.step_fn(config), "batches": batches, **replaced}
    return train.train(state=state or runs.start(config), settings=train.Settings(**config.settings), **parts)


def last(steps):
    *_, (state, _) = steps
    return state


def same(left, right):
    """Equal bit for bit in everything but the clock."""
    parts = [(s.params, s.average, s.moments["m"], s.moments["v"]) for s in (left, right)]
    flat = [tree.flatten(part) for part in parts]
    return left.step == right.step and all(
        list(flat[0]) == list(flat[1]) and flat[0][name].tobytes() == flat[1][name].tobytes() for name in flat[0]
    )


# The loop


def test_it_is_a_generator_and_does_nothing_unasked():
    asked = []
    steps = loop(config_of(), batches=lambda step: asked.append(step))
    assert inspect.isgenerator(steps) and asked == []


def test_it_yields_after_every_step_and_ends():
    config = config_of(steps=7)
    reports = [report for _, report in loop(config)]
    assert [r.step for r in reports] == list(range(1, 8))
    assert [r.progress for r in reports] == [pytest.approx(k / 7) for k in range(1, 8)] and reports[-1].progress == 1
    assert all(b.seconds > a.seconds >= 0 for a, b in itertools.pairwise(reports))
    assert list(loop(config, last(loop(config)))) == []  # a run that is done has no steps left


def test_each_batch_is_a_function_of_seed_and_step():
    config = config_of()
    batches, again = (objective.batches(config, examples(config), CPU) for _ in range(2))
    other = objective.batches(config_of(seed=1), examples(config), CPU)
    again(3)  # an order of asking that differs
    for step in (5, 0):
        first, second = tree.flatten(batches(step)), tree.flatten(again(step))
        assert all(np.array_equal(first[name], second[name]) for name in first)
        for name in first:
            assert not np.array_equal(first[name], batches(step + 1)[name])
            assert not np.array_equal(first[name], other(step)[name])
        assert first["t"].min() >= 1 and first["t"].max() <= 10 and first["eps"].dtype == np.float32


def test_the_state_that_was_yielded_is_never_written_to():
    states, copies = [], []
    for state, _ in loop(config_of(steps=6)):
        states.append(state)
        copies.append([leaf.copy() for leaf in tree.leaves([state.params, state.average, state.moments["m"]])])
    for state, copy in zip(states, copies, strict=True):
        now = tree.leaves([state.params, state.average, state.moments["m"]])
        assert all(map(np.array_equal, now, copy))


def test_a_step_is_its_parts_one_after_the_other():
    """Against the same step put together by hand from the optimiser's functions, on trees."""
    config = config_of(steps=8, clip=0.2)
    step_fn, batches = objective.step_fn(config), objective.batches(config, examples(config), CPU)
    params = average = runs.start(config).params
    moments = optim.adam_init(params)
    for k, (state, report) in enumerate(loop(config)):
        value, grads = step_fn(params, batches(k))
        norm = optim.global_norm(grads)
        rate = 0.01 * min(1, (k + 1) / 4) * 0.5 * (1 + math.cos(math.pi * k / 8))
        params, moments = optim.adam(params, optim.clip(grads, norm, 0.2), moments, rate)
        average = optim.ema(average, params, k, 0.9)
        assert report.lr == pytest.approx(rate, rel=1e-12)
        assert report.loss == pytest.approx(float(value), rel=1e-5)  # the norm is summed in another order
        assert report.norm == pytest.approx(norm, rel=1e-5)
        np.testing.assert_allclose(tree.pack(state.params), tree.pack(params), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(tree.pack(state.average), tree.pack(average), rtol=1e-4, atol=1e-6)
    assert report.norm > 0.2  # the clip was at work


def test_minutes_end_a_run_by_the_clock(monkeypatch):
    """A clock that goes on by a second at each look: half a minute is 30 steps, and the rate follows it."""
    ticks = itertools.count()
    monkeypatch.setattr(train.time, "perf_counter", lambda: float(next(ticks)))
    reports = [report for _, report in loop(config_of(steps=None, minutes=0.5, warmup=1))]
    assert len(reports) == 30
    assert [r.seconds for r in reports] == list(range(1, 31))
    for r, done in zip(reports, range(30), strict=True):
        assert r.lr == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * done / 30)))


def test_of_steps_and_minutes_the_first_ends_it(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(train.time, "perf_counter", lambda: float(next(ticks)))
    assert len(list(loop(config_of(steps=5, minutes=0.5)))) == 5
    assert len(list(loop(config_of(steps=100, minutes=0.25)))) == 15


@pytest.mark.parametrize(
    "wrong",
    [{"steps": None}, {"steps": 0}, {"minutes": -1.0}, {"minutes": math.inf}, {"lr": math.nan}, {"lr": 0.0}]
    + [{"batch": 0}, {"clip": 0.0}, {"average": 1.0}, {"average": -0.1}, {"average": math.nan}, {"seed": -1}],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError) as info:
        train.Settings(**{"steps": 10, **wrong})
    assert "\n" not in str(info.value) and list(wrong)[0] in str(info.value)


def test_the_loss_of_the_spiral_falls():
    """From 1, which guessing no noise costs, to below 0.6 within 200 steps; it ends near 0.35."""
    config, x, _ = recipes.configure("spiral", steps=200, batch=128)
    losses = [report.loss for _, report in loop(config, batches=objective.batches(config, x, CPU))]
    assert abs(losses[0] - 1) < 0.53  # the mean of 256 squares of N(0, 1): six standard deviations, 2e-9
    assert np.mean(losses[-50:]) < 0.6


def test_memory_does_not_grow_over_a_thousand_steps():
    config, peaks = config_of(steps=1100), []
    tracemalloc.start()
    try:
        for _, report in loop(config):
            if report.step in (100, 1100):
                peaks.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 20_000  # twenty bytes a step would be seen; the parameters are 3 kB


# What is not finite


def planted(config, at, spoil_batch=None, spoil_gradient=None):
    """The reports before the error, and the error, of a run in which something is spoilt at one step."""
    step_fn, good = objective.step_fn(config), objective.batches(config, examples(config), CPU)
    seen = []

    def batches(step):
        seen.append(step)
        return spoil_batch(good(step)) if spoil_batch and step == at else good(step)

    def spoilt_step(params, batch):
        value, grads = step_fn(params, batch)
        return value, spoil_gradient(grads) if spoil_gradient and seen[-1] == at else grads

    reports = []
    with pytest.raises(FloatingPointError) as info, np.errstate(invalid="ignore", over="ignore"):
        for _, report in loop(config, batches=batches, step_fn=spoilt_step):
            reports.append(report)
    assert seen[-1] == at, "it went on"
    message = str(info.value)
    assert f"step {at + 1} " in message and "\n" not in message
    return reports, message


def with_nan(batch):
    batch["eps"][3, 1] = np.nan
    return batch


def with_inf(grads):
    grads["blocks"][1]["linear"]["b"] = np.full_like(grads["blocks"][1]["linear"]["b"], np.inf)
    return grads


def with_huge(grads):
    return {**grads, "out": tree.map(lambda g: np.full_like(g, 1e30), grads["out"])}


@pytest.mark.parametrize(
    "spoilt, name",
    [
        ({"spoil_batch": with_nan}, "finite: batch.eps;"),
        ({"spoil_gradient": with_inf}, "finite: gradient.blocks.1.linear.b;"),
        ({"spoil_gradient": with_huge}, "finite: none, but"),  # the sum of their squares is infinite in float32
    ],
)
def test_what_is_not_finite_stops_that_step_and_is_named(spoilt, name):
    reports, message = planted(config_of(), 4, **spoilt)
    assert len(reports) == 4 and name in message


def test_a_rate_that_throws_the_weights_away_is_noticed_in_the_same_step():
    """So that no state with infinite weights is ever yielded, or saved."""
    states = []
    with pytest.raises(FloatingPointError, match="new weight|weight"), np.errstate(all="ignore"):
        for state, _ in loop(config_of(lr=1e38, warmup=1)):
            states.append(state)
    assert all(np.isfinite(tree.pack(state.params)).all() for state in states)


def test_first_not_finite_goes_in_order():
    trees = {"a": {"x": np.array([1, 2])}, "b": [np.array([np.inf]), np.array([np.nan])]}
    assert train.first_not_finite(trees) == "b.0"
    assert train.first_not_finite({"a": np.ones(3)}).startswith("none")


# Resuming


def run_in(folder, config, stop_at=None, monkeypatch=None, **options):
    """runs.train_run in a folder, with a Ctrl-C during step number `stop_at` (from 1)."""
    real = objective.batches

    def interrupted(*args):
        batch = real(*args)

        def wrapped(step):
            if step + 1 == stop_at:
                signal.raise_signal(signal.SIGINT)
            return batch(step)

        return wrapped

    state = runs.load(folder).state if (folder / "checkpoint.safetensors").exists() else None
    if stop_at:
        monkeypatch.setattr(objective, "batches", interrupted)
    try:
        return runs.train_run(folder, config, examples(config), state, CPU, **options)
    finally:
        if stop_at:
            monkeypatch.setattr(objective, "batches", real)


def record(folder):
    """metrics.jsonl without the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


@pytest.mark.parametrize("kind, n_workers", [("mlp", 1), ("unet", 1), ("unet", 2)])
def test_a_resumed_run_is_the_same_run_bit_for_bit(tmp_path, monkeypatch, kind, n_workers):
    if n_workers > 1 and not hasattr(os, "fork"):
        pytest.skip("needs fork")
    config, straight, parts = config_of(kind), tmp_path / "straight", tmp_path / "parts"
    _, stopped = run_in(straight, config, n_workers=n_workers)
    assert stopped is None
    for stop_at, step in ((3, 3), (4, 4), (9, 9)):
        state, stopped = run_in(parts, config, stop_at, monkeypatch, n_workers=n_workers)
        assert (stopped, state.step) == (signal.SIGINT, step)  # the step in hand was finished
    run_in(parts, config, n_workers=n_workers)
    assert same(runs.load(straight).state, runs.load(parts).state)
    assert record(straight) == record(parts) and len(record(parts)) == 12
    assert runs.load(straight).config == runs.load(parts).config == config


def test_loading_gives_what_was_saved_in_the_same_order(tmp_path):
    """Adam's moments are vectors in the network's order, so the weights must come back in that order too."""
    config = config_of()
    state = last(loop(config))
    runs.save(tmp_path, config, state)
    assert same(runs.load(tmp_path).state, state)


FORGET = {
    "nothing": lambda state, config: (state, config),
    "the moments": lambda state, config: (
        dataclasses.replace(
            state, moments={**optim.adam_init(state.moments["m"]), "step": state.step}
        ), config
    ),
    "the first moment": lambda state, config: (
        dataclasses.replace(state, moments={**state.moments, "m": 0 * state.moments["m"]}), config
    ),
    "the second moment": lambda state, config: (
        dataclasses.replace(state, moments={**state.moments, "v": 0 * state.moments["v"]}), config
    ),
    "the step": lambda state, config: (dataclasses.replace(state, moments={**state.moments, "step": 0}), config),
    "the average": lambda state, config: (dataclasses.replace(state, average=state.params), config),
    "the seed": lambda state, config: (state, config_of(seed=1)),
    "the weights": lambda state, config: (dataclasses.replace(state, params=state.average), config),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGET)
def test_forgetting_anything_is_noticed(tmp_path, what):
    """The control, which forgets nothing, is the same run; each of the others is another."""
    config = config_of()
    states = [state for state, _ in loop(config)]
    runs.save(tmp_path, config, states[4])
    state, config = FORGET[what](runs.load(tmp_path).state, config)
    resumed = [state for state, _ in itertools.islice(loop(config, state), 7)][-1]
    parts = [[tree.pack(s.params), tree.pack(s.average)] for s in (resumed, states[-1])]
    weights_agree, averages_agree = map(np.array_equal, *parts)
    assert averages_agree == (what == "nothing")
    assert weights_agree == (what in ("nothing", "the average"))


def test_lines_after_the_checkpoint_are_cut_when_it_is_resumed(tmp_path):
    """As kill -9 leaves them: a few steps ahead of the checkpoint, the last line half written."""
    config = config_of()
    run_in(tmp_path, config)
    whole = record(tmp_path)
    runs.save(tmp_path, config, [state for state, _ in loop(config)][5])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "lo')
    run_in(tmp_path, config)
    assert record(tmp_path) == whole


@pytest.mark.parametrize("damage", ["not json\n", "[]\n", '{"loss": 1}\n', '{"step": "three"}\n', "\udcff\n"], ids=repr)
def test_a_damaged_record_is_refused_and_left(tmp_path, damage):
    config = config_of()
    run_in(tmp_path, config)
    (tmp_path / "metrics.jsonl").write_bytes(damage.encode("utf8", "surrogateescape"))
    with pytest.raises(ValueError, match="metrics.jsonl is damaged") as info:
        run_in(tmp_path, config)
    assert "\n" not in str(info.value)
    assert (tmp_path / "metrics.jsonl").read_bytes() == damage.encode("utf8", "surrogateescape")


def test_a_run_saves_as_it_goes_and_draws_at_each_tenth(tmp_path, monkeypatch):
    saves, save = [], runs.save

    def noted(folder, config, state, frozen):
        saves.append(state.step)
        save(folder, config, state, frozen)

    monkeypatch.setattr(runs, "save", noted)
    run_in(tmp_path, config_of("unet", steps=20), every=0.0)
    assert saves == [*range(1, 21), 20]
    assert [p.name for p in sorted((tmp_path / "samples").iterdir())] == [f"step_{k:06d}.png" for k in range(2, 21, 2)]


def test_what_killed_runs_left_is_swept_in_both_folders(tmp_path):
    names = [".tinydiff-999999999-01234567.safetensors", "samples/.tinydiff-999999999-abcdef01.png"]
    stale = [tmp_path / name for name in names]
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    run_in(tmp_path, config_of())
    assert not any(path.exists() for path in stale)


def test_more_workers_than_examples_are_not_started(tmp_path, monkeypatch):
    """They could have no share, and the batch would be left to one process."""
    made = []

    class Counted(runs.workers.Workers):
        def __init__(self, step_fn, params, n):
            made.append(n)
            super().__init__(step_fn, params, 1)

    monkeypatch.setattr(runs.workers, "Workers", Counted)
    run_in(tmp_path / "unet", config_of("unet", steps=1), n_workers=64)
    run_in(tmp_path / "mlp", config_of("mlp", steps=1), n_workers=64)
    assert made == [4, 1]


# Interrupts


def test_the_first_signal_is_noted_and_the_second_stops():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with train.interrupts() as stop:
        assert stop.signal is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_old_handlers_come_back_after_an_exception():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), train.interrupts():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) == before
