"""Every workload in its full length: `python tests/monitor/matrix.py [--seeds 0,1,2]`.

Prints what each training was judged to be, and exits with 1 if a sick one is not judged by its own
verdict, or a healthy one has an alert of severity "error".
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import torch
from workloads import HEALTHY, SICK


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", default="0")
    options.add_argument("--filter", default="")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    for training in (*SICK, *HEALTHY):
        if arguments.filter not in training.name:
            continue
        for seed in map(int, arguments.seeds.split(",")):
            start = time.perf_counter()
            monitor, _ = training.run(seed)
            verdict = monitor.verdict()
            found = Counter(alert.severity for alert in monitor.alerts)
            right = verdict.kind == training.verdict and (
                verdict.cause.name == training.cause if training.cause else True
            )
            if training.verdict == "HEALTHY":
                right = right and not found["error"]
            wrong += not right
            past = monitor.judge.past
            print(
                f"{'ok   ' if right else 'WRONG'} {training.name}, seed {seed}: {verdict.kind}"
                f"{'/' + verdict.cause.name if verdict.cause.evidence else ''} since step "
                f"{verdict.since}; {found['error']} errors, {found['warning']} warnings, "
                f"{found['note']} notes; loss {past.first_loss:.3g} -> {past.recent_loss:.3g}; "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
    print(f"{wrong} wrong")
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
