"""A step's event as named numbers, as experiment loggers take them."""

from __future__ import annotations

from gradkern.monitor.events import Event

_OF_THE_STEP = (
    "loss",
    "learning_rate",
    "total_norm_before_clipping",
    "total_norm_after_clipping",
    "clip_coefficient",
)
_PER_PARAMETER = ("gradient_norm", "weight_rms", "update_ratio")
_PER_OUTPUT = ("output_mean", "output_std", "saturated", "dead")


def scalars(run: Event, step: Event) -> dict[str, float]:
    """The numbers of a step, as ``quantity`` and ``quantity/name``.

    What was not measured (NaN in the event's arrays) is left out; a loss or a norm that is NaN or
    infinite is not: it must be seen.

    Args:
        run: the run event with the names; step: the step event.
    """
    named = {name: float(step[name]) for name in _OF_THE_STEP}
    for quantities, names in ((_PER_PARAMETER, "parameters"), (_PER_OUTPUT, "outputs")):
        for quantity in quantities:
            for name, value in zip(run[names], step[quantity], strict=True):
                number = float(value)
                if number == number or quantity == "gradient_norm":
                    named[f"{quantity}/{name}"] = number
    return named
