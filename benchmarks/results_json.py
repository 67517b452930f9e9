"""A run as JSON: machine, bandwidth, and every row with its raw times."""

from __future__ import annotations

import datetime
from typing import Any

from benchmarks.measurement import Measurement, Run
from benchmarks.paired_timing import Spread

SCHEMA = 1


def rounded(value: float | None) -> float | None:
    """Six significant digits."""
    return None if value is None else float(f"{value:.6g}")


def spread(values: Spread, scale: float = 1.0) -> dict[str, float | None]:
    return {
        "median": rounded(values.median * scale),
        "lower_quartile": rounded(values.lower * scale),
        "upper_quartile": rounded(values.upper * scale),
    }


def row(measurement: Measurement) -> dict[str, Any]:
    described, workload = measurement.row, measurement.row.workload
    bar, times = described.bar, measurement.times
    return {
        "device": workload.device.type,
        "workload": workload.name,
        "dtype": str(workload.dtype).removeprefix("torch."),
        "tensors": workload.tensors,
        "elements": workload.elements,
        "operation": described.operation,
        "against": described.against,
        "ours_ms": spread(measurement.ours, 1e3),
        "theirs_ms": spread(measurement.theirs, 1e3),
        "speedup": spread(times.speedup()),
        "bytes": measurement.traffic.total,
        "gb_per_s": rounded(measurement.bytes_per_second / 1e9),
        "bandwidth_share": rounded(measurement.bandwidth_share),
        "difference": rounded(measurement.difference),
        "bar": bar
        and {
            "quantity": bar.quantity,
            "limit": bar.limit,
            "text": str(bar),
            "value": rounded(measurement.judged_value),
            "verdict": measurement.verdict,
        },
        "pairs_ms": [
            [rounded(1e3 * ours), rounded(1e3 * theirs)]
            for ours, theirs in zip(times.ours, times.theirs, strict=True)
        ],
    }


def document(run: Run) -> dict[str, Any]:
    """The run as a JSON-ready dictionary; times in milliseconds, bandwidths in 1e9 bytes/s."""
    verdicts = [measurement.verdict for measurement in run.measurements]
    return {
        "schema": SCHEMA,
        "measured_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "quick": not run.judge,
        "machine": run.machine,
        "bandwidth": {
            meter.device.type: {
                "read_gb_per_s": rounded(meter.read / 1e9),
                "copy_gb_per_s": rounded(meter.copy / 1e9),
                "read_rounds_gb_per_s": [rounded(value / 1e9) for value in meter.reads],
                "copy_rounds_gb_per_s": [rounded(value / 1e9) for value in meter.copies],
            }
            for meter in run.bandwidths
        },
        "bars": {
            "met": len(run.judged) - len(run.missed),
            "missed": len(run.missed),
            "not judged": verdicts.count("not judged"),
        },
        "rows": [row(measurement) for measurement in run.measurements],
    }
