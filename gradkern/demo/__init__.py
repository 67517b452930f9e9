"""What `gradkern demo` trains and shows: sick networks, the monitor's verdict, remedies, recovery.

`digits` is the data, `networks` the networks, `training` the training, `side_by_side` what trains
several at a time, `profile` the measurement. Each section of the demo is one module with a
`SECTION` (`vanishing`, `learning_rate`, `exploding`); a new one joins by being listed in
`show.SECTIONS`. `activations` is a table of one network with different activations. `terminal` and
`plot` present what sections there are.
"""
