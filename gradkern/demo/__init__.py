"""What `gradkern demo` trains and shows: gradients that vanish, explode, and arrive.

`digits` is the data, `networks` the networks, `training` the training, `profile` the measurement.
Each section of the demo is one module with a `SECTION` (`vanishing`, `healthy`, `exploding`); a new
one joins by being listed in `show.SECTIONS`. `terminal` and `plot` present what sections there are.
"""
