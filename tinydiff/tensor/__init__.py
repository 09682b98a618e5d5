"""Arrays and their derivatives. Nothing in here has heard of diffusion.

Read ops.py first (each primitive with its derivative beside it), then conv.py, then autodiff.py (the tape).
"""
