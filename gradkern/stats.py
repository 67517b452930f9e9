"""Statistics and norms of tensors: one pass, one operator call for all, no synchronisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from gradkern import _core, ops
from gradkern.tensor_lists import TensorOrTensors, as_list, require_kernels, require_tensors

if TYPE_CHECKING:
    from rich.table import Table

ModuleOrNamedTensors: TypeAlias = (
    torch.nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]
)

COLUMNS: tuple[str, ...] = _core.statistics


class TensorStats:
    r"""The statistics of n tensors, as float64 tensors of shape ``[n]`` on the tensors' device.

    Measured, in one pass (a complex tensor counts as its real and imaginary parts):

    - ``count``: the number of elements; ``zeros``, ``nans``, ``infs``: how many of them are 0, NaN,
      and infinite;
    - ``sum``, ``sum_squares``, ``abs_max``, ``abs_min_nonzero`` of the **finite** elements: NaN and
      infinity are counted, and kept out of these four. Without a finite element ``abs_max`` is 0;
      without a finite non-zero one ``abs_min_nonzero`` is infinite.

    Derived when asked for:

    - ``norm``: the 2-norm; NaN where an element is NaN and infinite where one is infinite, as
      native's would be for that reason;
    - ``mean``, ``std`` (with Bessel's correction, as ``torch.std``), ``rms``: of the finite
      elements;
    - ``zero_fraction``: zeros among all elements.

    Nothing here waits for a GPU, until a number is asked for (``.tolist()``, :meth:`to_dict`,
    :meth:`table`).

    Attributes:
        values: float64, shape ``[n, 8]``, the columns in the order of ``TensorStats.columns``. All
            are sum-, max- or min-reducible, so that shards can be combined.
        names: the tensors' names, or None.

    Example:
        >>> stats = gradkern.tensor_stats([torch.tensor([1.0, -2.0, 0.0, float("nan")])], ["x"])
        >>> stats.sum.tolist(), stats.abs_max.tolist(), stats.nans.tolist(), stats.norm.tolist()
        ([-1.0], [2.0], [1.0], [nan])
    """

    columns: tuple[str, ...] = COLUMNS

    def __init__(self, values: Tensor, names: Sequence[str] | None = None) -> None:
        self.values = values
        self.names = None if names is None else tuple(names)

    def __len__(self) -> int:
        return self.values.shape[0]

    def __repr__(self) -> str:
        named = "" if self.names is None else f", names={list(self.names)}"
        return f"TensorStats(n={len(self)}, device={self.values.device}{named})"

    def _column(self, name: str) -> Tensor:
        return self.values[:, COLUMNS.index(name)]

    @property
    def count(self) -> Tensor:
        """Number of elements."""
        return self._column("count")

    @property
    def sum(self) -> Tensor:
        """Sum of the finite elements."""
        return self._column("sum")

    @property
    def sum_squares(self) -> Tensor:
        """Sum of the squares of the finite elements."""
        return self._column("sum_squares")

    @property
    def abs_max(self) -> Tensor:
        """Largest magnitude of a finite element; 0 without one."""
        return self._column("abs_max")

    @property
    def abs_min_nonzero(self) -> Tensor:
        """Smallest magnitude of a finite element that is not 0; infinity without one."""
        return self._column("abs_min_nonzero")

    @property
    def zeros(self) -> Tensor:
        """How many elements are 0."""
        return self._column("zeros")

    @property
    def nans(self) -> Tensor:
        """How many elements are NaN."""
        return self._column("nans")

    @property
    def infs(self) -> Tensor:
        """How many elements are infinite."""
        return self._column("infs")

    @property
    def norm(self) -> Tensor:
        """The 2-norm: NaN if an element is NaN, else infinite if one is."""
        finite = self.sum_squares.sqrt()
        with_infinite = torch.where(self.infs > 0, torch.inf, finite)
        return torch.where(self.nans > 0, torch.nan, with_infinite)

    @property
    def _finite_count(self) -> Tensor:
        return self.count - self.nans - self.infs

    @property
    def mean(self) -> Tensor:
        """Mean of the finite elements; NaN without one."""
        return self.sum / self._finite_count

    @property
    def std(self) -> Tensor:
        """Standard deviation of the finite elements, with Bessel's correction; NaN below two."""
        n = self._finite_count
        # The rounding of the two sums can leave a difference just below 0.
        squares = (self.sum_squares - self.sum.square() / n).clamp(min=0)
        return (squares / torch.where(n > 1, n - 1, torch.nan)).sqrt()

    @property
    def rms(self) -> Tensor:
        """Root of the mean square of the finite elements; NaN without one."""
        return (self.sum_squares / self._finite_count).sqrt()

    @property
    def zero_fraction(self) -> Tensor:
        """Zeros among all elements; NaN for an empty tensor."""
        return self.zeros / self.count

    derived: tuple[str, ...] = ("norm", "mean", "std", "rms", "zero_fraction")

    def to_dict(self) -> dict[str, dict[str, float]]:
        """All statistics as Python numbers; waits for a GPU once.

        Returns:
            For each tensor's name (its index as a string, without names) a dictionary from the
            statistic's name, measured and derived, to its value.

        Example:
            >>> gradkern.tensor_stats([torch.ones(4)], ["bias"]).to_dict()["bias"]["norm"]
            2.0
        """
        names = self.names or tuple(str(i) for i in range(len(self)))
        titles = COLUMNS + self.derived
        numbers = torch.stack([getattr(self, title) for title in titles], dim=1).tolist()
        return {
            name: dict(zip(titles, row, strict=True))
            for name, row in zip(names, numbers, strict=True)
        }

    def table(self, title: str | None = None) -> Table:
        """All statistics as a table for the terminal; waits for a GPU once.

        Args:
            title: a line above the table.

        Returns:
            A ``rich.table.Table``; print it with ``rich.print``.

        Raises:
            ImportError: rich is not installed (``pip install "gradkern[cli]"``).
        """
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title)
        table.add_column("tensor", overflow="fold")
        shown = (
            "count", "norm", "mean", "std", "abs_max", "abs_min_nonzero", "zeros", "nans", "infs",
        )  # fmt: skip
        for column in shown:
            table.add_column(column, justify="right")
        for name, row in self.to_dict().items():
            table.add_row(Text(name), *(f"{row[column]:.4g}" for column in shown))
        return table


def tensor_stats(tensors: TensorOrTensors, names: Iterable[str] | None = None) -> TensorStats:
    """Measures tensors: eight statistics each, in one pass over memory and one operator call.

    Args:
        tensors: a tensor or an iterable of tensors of one device: float32, float64, bfloat16,
            float16, complex64 or complex128, of any shapes and layouts.
        names: one name for each tensor, for :meth:`TensorStats.to_dict` and
            :meth:`TensorStats.table`.

    Returns:
        The :class:`TensorStats`; nothing waits for a GPU.

    Raises:
        TypeError: something in ``tensors`` is not a tensor.
        ValueError: there are more or fewer names than tensors.
        RuntimeError: a tensor is of an integer dtype, or on another device than the first.
        NotImplementedError: there are no kernels for a tensor's layout, dtype or device.

    Example:
        >>> gradkern.tensor_stats([torch.tensor([3.0, 4.0]), torch.zeros(2)]).norm.tolist()
        [5.0, 0.0]
    """
    listed = as_list(tensors, "tensors")
    require_tensors(listed, "tensors")
    named = None if names is None else tuple(names)
    if named is not None and len(named) != len(listed):
        raise ValueError(
            f"names has {len(named)} entries; it must have one for each of the "
            f"{len(listed)} tensors"
        )
    if not listed:
        return TensorStats(torch.empty((0, len(COLUMNS)), dtype=torch.float64), named)
    require_kernels(listed, [f"tensors[{i}]" for i in range(len(listed))])
    with torch.no_grad():
        return TensorStats(ops.call(ops.tensor_stats, listed), named)


class NormTable(Mapping[str, Tensor]):
    """Norms by name: a mapping from names to 0-dim float64 tensors.

    Attributes:
        names: the names, in the order of the module's parameters.
        norms: all norms as one float64 tensor of shape ``[n]``; nothing has waited for a GPU yet.

    Example:
        >>> norms = gradkern.param_norms({"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(1)})
        >>> norms["a"], norms.names
        (tensor(5., dtype=torch.float64), ('a', 'b'))
    """

    def __init__(self, names: Sequence[str], norms: Tensor) -> None:
        self.names = tuple(names)
        self.norms = norms
        self._index = {name: i for i, name in enumerate(self.names)}

    def __getitem__(self, name: str) -> Tensor:
        return self.norms[self._index[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"NormTable({self.to_dict()})"

    def to_dict(self) -> dict[str, float]:
        """All norms as Python numbers; waits for a GPU once."""
        return dict(zip(self.names, self.norms.tolist(), strict=True))


def _kinds(pair: object) -> str:
    if isinstance(pair, tuple):
        return "a tuple of " + ", ".join(type(part).__name__ for part in pair)
    return f"a {type(pair).__name__}"


def _named(module_or_named_tensors: ModuleOrNamedTensors) -> list[tuple[str, Tensor]]:
    if isinstance(module_or_named_tensors, torch.nn.Module):
        return list(module_or_named_tensors.named_parameters())
    pairs: list[tuple[str, Tensor]]
    if isinstance(module_or_named_tensors, Mapping):
        pairs = list(module_or_named_tensors.items())
    elif isinstance(module_or_named_tensors, Iterable):
        pairs = list(module_or_named_tensors)
    else:
        raise TypeError(
            f"module_or_named_tensors is a {type(module_or_named_tensors).__name__}; it must be a "
            "module, a mapping from names to tensors, or an iterable of such pairs"
        )
    for index, pair in enumerate(pairs):
        if not (
            isinstance(pair, tuple)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], Tensor)
        ):
            raise TypeError(
                f"module_or_named_tensors[{index}] is {_kinds(pair)}; it must be a pair of a name "
                "and a tensor, as named_parameters() gives"
            )
    return pairs


def _norm_table(pairs: list[tuple[str, Tensor]], norm_type: float) -> NormTable:
    order = float(norm_type)
    if not (order == 0 or order > 0):
        raise ValueError(f"norm_type is {norm_type}; it must be 0, a positive number or infinity")
    names = [name for name, _ in pairs]
    tensors = [tensor for _, tensor in pairs]
    if not tensors:
        return NormTable((), torch.empty(0, dtype=torch.float64))
    require_kernels(tensors, names)
    if math.isinf(order):
        for name, tensor in pairs:
            if tensor.numel() == 0:
                raise RuntimeError(f"{name} is empty; the norm of order inf needs an element")
    with torch.no_grad():
        return NormTable(names, ops.call(ops.tensor_norms, tensors, order))


def grad_norms(module_or_named_tensors: ModuleOrNamedTensors, norm_type: float = 2) -> NormTable:
    """The norm of every gradient, by the parameter's name, in one operator call.

    Args:
        module_or_named_tensors: a module; or a mapping from names to parameters, or an iterable of
            such pairs. Parameters without a gradient are left out. All gradients must be on one
            device.
        norm_type: the order: 0 (the number of elements that are not 0), a positive number, or
            infinity.

    Returns:
        A :class:`NormTable`: float64, exact at the extremes; nothing waits for a GPU.

    Raises:
        ValueError: ``norm_type`` is negative or NaN.
        TypeError, NotImplementedError, RuntimeError: as :func:`tensor_stats`.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> model.weight.grad = torch.tensor([[3e-30, 4e-30]])
        >>> gradkern.grad_norms(model)["weight"]
        tensor(5.0000e-30, dtype=torch.float64)
    """
    pairs = _named(module_or_named_tensors)
    return _norm_table([(n, p.grad) for n, p in pairs if p.grad is not None], norm_type)


def param_norms(module_or_named_tensors: ModuleOrNamedTensors, norm_type: float = 2) -> NormTable:
    """The norm of every parameter, by name, in one operator call.

    Args:
        module_or_named_tensors: a module; or a mapping from names to tensors, or an iterable of
            such pairs. All must be on one device.
        norm_type: the order: 0 (the number of elements that are not 0), a positive number, or
            infinity.

    Returns:
        A :class:`NormTable`: float64, exact at the extremes; nothing waits for a GPU.

    Raises:
        ValueError: ``norm_type`` is negative or NaN.
        TypeError, NotImplementedError, RuntimeError: as :func:`tensor_stats`.

    Example:
        >>> gradkern.param_norms({"w": torch.full((4,), 0.5)}).to_dict()
        {'w': 1.0}
    """
    return _norm_table(_named(module_or_named_tensors), norm_type)
