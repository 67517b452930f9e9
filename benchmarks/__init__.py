"""Paired benchmarks of gradkern against native PyTorch: one shared harness, one module per family.

`python -m benchmarks` runs every family, `python -m benchmarks.clip` one of them. A family is a
module with a function `rows(device, quick)` that yields `benchmarks.rows.Row`s; everything else
(pairing, bandwidth, table, JSON, plot, command line) is shared.
"""
