"""What can be done, each with the call that does it, and what it is known to help against."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Remedy:
    """Something to change.

    Attributes:
        name: in a few words.
        call: the code that applies it.
        note: what was measured, or what to look out for.
        fits: the verdicts and causes (``"VANISHING/sigmoid"``) that it removes.
        helps: the verdicts that it eases, whatever the cause.
    """

    name: str
    call: str
    note: str = ""
    fits: frozenset[str] = field(default_factory=frozenset)
    helps: frozenset[str] = field(default_factory=frozenset)


def _remedy(name: str, call: str, note: str = "", fits: str = "", helps: str = "") -> Remedy:
    return Remedy(name, call, note, frozenset(_split(fits)), frozenset(_split(helps)))


def _split(keys: str) -> list[str]:
    return [key.strip() for key in keys.split(",") if key.strip()]


# Remedies are offered in this order where they fit equally well. The first six are ranked as the
# usual explainers rank them: activation, batch norm, learning rate, skip connections,
# initialisation, clipping. The figures in the notes: handwritten digits, width 64, Adam 1e-3.
REMEDIES: tuple[Remedy, ...] = (
    _remedy(
        "ReLU with He initialisation",
        "torch.nn.ReLU(); torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='relu'); "
        "torch.nn.init.zeros_(layer.bias)",
        "30 layers: accuracy .10 with sigmoid, .89-.94 with ReLU and He",
        fits="VANISHING/sigmoid, VANISHING/saturation, SATURATED/sigmoid, SATURATED/initial scale",
        helps="SATURATED",
    ),
    _remedy(
        "SELU, ELU or leaky ReLU",
        "torch.nn.SELU() with torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='linear'); "
        "torch.nn.LeakyReLU(0.01) with torch.nn.init.kaiming_normal_(layer.weight, a=0.01)",
        "30 layers: .90-.93 with any of them",
        fits="DEAD UNITS/learning rate",
        helps="VANISHING",
    ),
    _remedy(
        "batch norm",
        "torch.nn.BatchNorm1d(features) or BatchNorm2d(channels) before each activation; "
        "sigmoid: with torch.nn.init.xavier_normal_(layer.weight)",
        "30 sigmoid layers: .94-.97; 10 ReLU layers at lr 1: .96-.98. Not for 30 plain ReLU layers "
        "without skip connections, where it makes gradients explode",
        fits="VANISHING/sigmoid, VANISHING/initial scale, VANISHING/saturation, "
        "VANISHING/missing normalisation, EXPLODING/learning rate, EXPLODING/initial scale, "
        "DEAD UNITS/negative bias, SATURATED/initial scale, EXPLODING/missing normalisation",
    ),
    _remedy(
        "a smaller learning rate",
        "for group in optimizer.param_groups: group['lr'] *= 0.1; or a warm-up: "
        "torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=500)",
        "10 ReLU layers, SGD: .10 at lr 1, .94 at .05",
        fits="EXPLODING/learning rate, DEAD UNITS/learning rate, NON-FINITE/unknown",
        helps="EXPLODING, SATURATED",
    ),
    _remedy(
        "a larger learning rate",
        "for group in optimizer.param_groups: group['lr'] *= 10",
        fits="NOT LEARNING/learning rate",
        helps="NOT LEARNING",
    ),
    _remedy(
        "skip connections",
        "x = x + block(x)",
        "30 sigmoid layers with Xavier: .95-.96; 30 ReLU layers with batch norm: .95",
        fits="VANISHING/sigmoid, VANISHING/missing normalisation, EXPLODING/batch norm at depth",
        helps="VANISHING",
    ),
    _remedy(
        "initialisation that fits the activation",
        "ReLU: torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='relu'); tanh, sigmoid: "
        "torch.nn.init.xavier_normal_(layer.weight); SELU: "
        "torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='linear'); all: "
        "torch.nn.init.zeros_(layer.bias)",
        "30 ReLU layers: .10 with PyTorch's default, .89-.94 with He",
        fits="VANISHING/initial scale, EXPLODING/initial scale, SATURATED/initial scale, "
        "DEAD UNITS/negative bias, DEAD UNITS/initial scale",
        helps="VANISHING, EXPLODING",
    ),
    _remedy(
        "orthogonal recurrent weights",
        "torch.nn.init.orthogonal_(rnn.weight_hh_l0)",
        "keeps a gradient's length from time step to time step at the start",
        fits="EXPLODING/recurrence, VANISHING/recurrence",
    ),
    _remedy(
        "gradient clipping",
        "monitor.clip_grad_norm_(1.0) before optimizer.step(); gradkern.clip_grad_norm_("
        "model.parameters(), 1.0); clip values: gradkern.clip_grad_value_(model.parameters(), 1.0)",
        "an identity RNN on the adding task, 50 steps: loss .166 (that of guessing) without, "
        ".013-.029 with norm 1. Keeps a badly initialised network finite, and doesn't train it",
        fits="EXPLODING/recurrence, EXPLODING/spikes",
        helps="EXPLODING, NON-FINITE",
    ),
    _remedy(
        "gates: GRU or LSTM",
        "torch.nn.GRU(inputs, hidden, batch_first=True)",
        "the adding task, 50 steps: loss .170 with a tanh RNN, .0007 with a GRU",
        fits="VANISHING/recurrence, EXPLODING/recurrence",
    ),
    _remedy(
        "weight decay",
        "torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)",
        helps="EXPLODING",
    ),
    _remedy(
        "less weight decay",
        "torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)",
        fits="COLLAPSING/weight decay",
        helps="COLLAPSING",
    ),
    _remedy(
        "a faster optimizer",
        "torch.optim.NAdam(model.parameters(), lr=2e-3)",
        helps="NOT LEARNING, VANISHING",
    ),
    _remedy(
        "pretrained layers, frozen",
        "layer.load_state_dict(pretrained); layer.requires_grad_(False)",
        "for the layers near the input, which gradients don't reach",
        helps="VANISHING, NOT LEARNING",
    ),
    _remedy(
        "no ragged last batch",
        "torch.utils.data.DataLoader(dataset, batch_size, shuffle=True, drop_last=True)",
        "digits: accuracy .58 with a last batch of 3 rows, .97 without",
        fits="TINY BATCH/batch size",
    ),
    _remedy(
        "a norm that needs no batch",
        "torch.nn.LayerNorm(features) or torch.nn.GroupNorm(8, channels)",
        fits="TINY BATCH/batch size",
    ),
)

# Where several fit, those that the cause calls for most come first.
_FIRST: dict[str, tuple[str, ...]] = {
    "VANISHING/recurrence": ("gates: GRU or LSTM",),
    "EXPLODING/recurrence": ("gradient clipping", "gates: GRU or LSTM"),
    "EXPLODING/learning rate": ("a smaller learning rate",),
    "VANISHING/initial scale": ("initialisation that fits the activation",),
    "EXPLODING/initial scale": ("initialisation that fits the activation",),
    "DEAD UNITS/negative bias": ("initialisation that fits the activation",),
    "DEAD UNITS/learning rate": ("a smaller learning rate",),
}


def ranked(kind: str, cause: str, recurrent: bool = False) -> tuple[Remedy, ...]:
    """The remedies for a verdict: those that fit the cause, then those that help at all.

    Args:
        kind: of the verdict, such as ``"VANISHING"``.
        cause: such as ``"sigmoid"``; ``"unknown"`` for none.
        recurrent: whether the model is; then layers can't be normalised or skipped in time.

    Returns:
        The best first.

    Example:
        >>> from gradkern.monitor.remedies import ranked
        >>> [remedy.name for remedy in ranked("TINY BATCH", "batch size")]
        ['no ragged last batch', 'a norm that needs no batch']
    """
    key = f"{kind}/{cause}"
    first = _FIRST.get(key, ())

    def rank(remedy: Remedy) -> tuple[int, int]:
        if remedy.name in first:
            return 0, first.index(remedy.name)
        return (1 if key in remedy.fits else 2), REMEDIES.index(remedy)

    offered = [r for r in REMEDIES if key in r.fits or kind in r.helps]
    if recurrent:
        offered = [r for r in offered if r.name not in ("batch norm", "skip connections")]
    else:
        offered = [r for r in offered if "recurr" not in r.name]
    return tuple(sorted(offered, key=rank))
