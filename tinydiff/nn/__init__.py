"""Networks: pure functions of a parameter tree, `init(rng, config) -> params` and `apply(params, x, t, config)`.

Nothing in here has heard of diffusion. A network guesses an array of its input's shape from an array and a time.
"""
