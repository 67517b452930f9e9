"""Finds batch normalisations with an activation behind them, and makes one module of both."""

from __future__ import annotations

import copy
import itertools
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from gradkern.nn import activation_modules as ours
from gradkern.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, FusedBatchNorm
from gradkern.nn.gelu import GELU
from gradkern.nn.sync_batch_norm import SyncBatchNorm

__all__ = ["BatchNormFusion", "fuse_batch_norm"]

_FUSED: dict[type[nn.Module], type[FusedBatchNorm]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    **{c: c for c in (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)},
}

# An activation's name and its parameter, or None for one that is not fused.
_Match = tuple[str, float | None] | None

_MODULES: dict[type[nn.Module], Callable[[Any], _Match]] = {
    **{c: lambda m: ("relu", None) for c in (nn.ReLU, ours.ReLU)},
    **{c: lambda m: ("leaky_relu", m.negative_slope) for c in (nn.LeakyReLU, ours.LeakyReLU)},
    **{c: lambda m: ("elu", m.alpha) for c in (nn.ELU, ours.ELU)},
    **{c: lambda m: ("silu", None) for c in (nn.SiLU, ours.SiLU)},
    **{c: lambda m: ("gelu", None) if m.approximate == "none" else None for c in (nn.GELU, GELU)},
}

_FUNCTIONS: dict[Any, str] = {
    nn.functional.relu: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    nn.functional.leaky_relu: "leaky_relu",
    nn.functional.elu: "elu",
    nn.functional.silu: "silu",
    nn.functional.gelu: "gelu",
}
_IN_PLACE = {"iadd", "isub", "imul", "itruediv", "setitem"}
_METHODS = {"relu", "relu_"}
_PARAMETER = {"leaky_relu": "negative_slope", "elu": "alpha"}


@dataclass
class BatchNormFusion:
    """What :func:`fuse_batch_norm` did.

    Attributes:
        model: the model to use from now on.
        fused: by the batch normalisation's name, what it does now, like "add, relu".
        left: by the name of each other batch normalisation, why it was left as it is.
    """

    model: nn.Module
    fused: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


class _Tracer(fx.Tracer):
    """gradkern's modules are leaves, like torch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("gradkern.") or super().is_leaf_module(
            m, module_qualified_name
        )


def fuse_batch_norm(
    model: nn.Module, example_inputs: tuple[Any, ...] | None = None
) -> BatchNormFusion:
    """Makes one module of each batch normalisation, the addition and the activation behind it.

    The model is traced by :mod:`torch.fx`. Where it can't be (or where what it does depends on the
    training mode), batch normalisations in a :class:`torch.nn.Sequential` are fused with the
    activation that follows there. What can't be proved equal stays unchanged.

    Args:
        model: the model. Its parameters and buffers are shared with the result. A model that can't
            be traced is changed in place.
        example_inputs: arguments of ``model``. With them, additions are fused too: only then it is
            known that both operands have one shape. The model runs once, a copy of it, in
            evaluation mode.

    Returns:
        The fused model, and what was fused or left and why.

    Raises:
        TypeError: ``model`` is not a module.

    Source:
        the pattern of Ioffe, Szegedy, 2015, and He et al., 2016.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU())
        >>> gradkern.nn.fuse_batch_norm(model).fused
        {'0': 'relu'}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; it must be a torch.nn.Module")
    graph, reason = _trace(model)
    if graph is None:
        return _fuse_in_sequentials(model, reason)
    return _fuse_in_graph(fx.GraphModule(model, graph, type(model).__name__), example_inputs)


def _trace(model: nn.Module) -> tuple[fx.Graph | None, str]:
    """The graph of a model that does the same in training and in evaluation."""
    modes = {name: module.training for name, module in model.named_modules()}
    graphs = []
    try:
        for training in (True, False):
            model.train(training)
            graphs.append(_Tracer().trace(model))
    except Exception as error:  # whatever the model's own code raises
        return None, f"the model can't be traced: {str(error).partition(chr(10))[0]}"
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
    if str(graphs[0]) != str(graphs[1]):
        return None, "the model does something else in evaluation than in training"
    return graphs[0], ""


# ---- in a graph --------------------------------------------------------------------------------


def _fuse_in_graph(
    model: fx.GraphModule, example_inputs: tuple[Any, ...] | None
) -> BatchNormFusion:
    result = BatchNormFusion(model)
    modules = dict(model.named_modules())
    if example_inputs is not None:
        _propagate_shapes(model, example_inputs)
    calls = Counter(node.target for node in model.graph.nodes if node.op == "call_module")
    for node in list(model.graph.nodes):
        if node.op != "call_module" or type(modules[node.target]) not in _FUSED:
            continue
        name, module = str(node.target), modules[node.target]
        reason = _unfusable(module)
        if calls[node.target] > 1:
            reason = f"it is called {calls[node.target]} times"
        if reason is None:
            reason = _fuse_node(model, node, modules, result)
        if reason is not None:
            result.left[name] = reason
    model.graph.lint()
    model.recompile()
    return result


def _propagate_shapes(model: fx.GraphModule, example_inputs: tuple[Any, ...]) -> None:
    """Notes the shape and dtype of every node's value."""
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        ShapeProp(twin).propagate(*example_inputs)
    for node, seen in zip(model.graph.nodes, twin.graph.nodes, strict=True):
        node.meta.update(seen.meta)


def _fuse_node(
    model: fx.GraphModule,
    node: fx.Node,
    modules: dict[str, nn.Module],
    result: BatchNormFusion,
) -> str | None:
    """Fuses what follows a batch normalisation; else says why not."""
    follower, residual = _only_user(node), None
    if follower is not None and _is_addition(follower):
        addition = follower
        operands = [a for a in addition.args if isinstance(a, fx.Node) and a is not node]
        if len(operands) != 1 or len(addition.args) != 2:
            return "what is added to it is not another tensor"
        if addition.target in (operator.iadd, "add_") and addition.args[0] is not node:
            return "the addition changes the other operand"
        mine, other = (n.meta.get("tensor_meta") for n in (node, operands[0]))
        if mine is None or other is None:
            return "give example_inputs, so that the shape of what is added to it is known"
        if mine.shape != other.shape or mine.dtype != other.dtype:
            return "what is added to it has another shape or dtype"
        residual, follower = operands[0], _only_user(addition)
    if follower is None:
        return "its result is used several times, or not by an activation"
    match = _activation_of(follower, modules)
    if match is None:
        return "no activation that is fused follows"
    # The call stands where both its arguments are known; nothing may change the input before.
    place = node if residual is None else _later(model.graph, node, residual)
    if _may_change(node.args[0], node, place, modules):
        return "its input may be changed before the residual is there"
    target = str(node.target)
    model.set_submodule(target, _with_activation(modules[target], match))
    arguments = node.args if residual is None else (node.args[0], residual)
    with model.graph.inserting_after(place):
        call = model.graph.call_module(target, arguments, node.kwargs)
    call.meta.update(follower.meta)
    follower.replace_all_uses_with(call)
    model.graph.erase_node(follower)
    if residual is not None:
        model.graph.erase_node(addition)
    model.graph.erase_node(node)
    result.fused[target] = match[0] if residual is None else f"add, {match[0]}"
    return None


def _later(graph: fx.Graph, a: fx.Node, b: fx.Node) -> fx.Node:
    """Of two nodes the one that comes later."""
    order = list(graph.nodes)
    return max(a, b, key=order.index)


def _may_change(value: Any, after: fx.Node, until: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node behind `after`, up to `until`, may write over a value."""
    node = after
    while node is not until:
        node = node.next
        if value not in node.all_input_nodes:
            continue
        name = str(getattr(node.target, "__name__", node.target))
        in_place = name.endswith("_") or name in _IN_PLACE or bool(node.kwargs.get("inplace"))
        if node.op == "call_module":
            in_place = bool(getattr(modules[str(node.target)], "inplace", False))
        if in_place or node.kwargs.get("out") is not None:
            return True
    return False


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _is_addition(node: fx.Node) -> bool:
    if node.kwargs:  # alpha, out
        return False
    if node.op == "call_function":
        return node.target in (operator.add, operator.iadd, torch.add)
    return node.op == "call_method" and node.target in ("add", "add_")


def _activation_of(node: fx.Node, modules: dict[str, nn.Module]) -> _Match:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return None if _unfusable(module) else _activation_of_module(module)
    if node.op == "call_method":
        return ("relu", None) if node.target in _METHODS and not node.kwargs else None
    name = _FUNCTIONS.get(node.target) if node.op == "call_function" else None
    if name is None:
        return None
    keywords = {k: v for k, v in node.kwargs.items() if k not in ("inplace", "input")}
    parameter = keywords.pop(_PARAMETER.get(name, ""), None)
    if len(node.args) > 1 and name in _PARAMETER:
        parameter = node.args[1]
    if keywords.pop("approximate", "none") != "none" or keywords.pop("scale", 1) != 1:
        return None
    if keywords or (len(node.args) > 2) or not isinstance(parameter, (int, float, type(None))):
        return None
    return name, None if parameter is None else float(parameter)


# ---- in containers -----------------------------------------------------------------------------


def _fuse_in_sequentials(model: nn.Module, reason: str) -> BatchNormFusion:
    result = BatchNormFusion(model)
    counts = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    for prefix, container in model.named_modules():
        if type(container) is not nn.Sequential:
            continue
        children = list(container._modules.items())
        for (name, first), (next_name, second) in itertools.pairwise(children):
            if type(first) not in _FUSED or second is None:
                continue
            match = _activation_of_module(second)
            if match is None or _unfusable(first) or _unfusable(second):
                continue
            if counts[id(first)] > 1 or counts[id(second)] > 1:
                continue
            container._modules[name] = _with_activation(first, match)
            # Something that does nothing keeps the places, and so the names, of what follows.
            container._modules[next_name] = nn.Identity()
            result.fused[f"{prefix}.{name}" if prefix else name] = match[0]
    for name, module in model.named_modules():
        if type(module) in _FUSED and name not in result.fused:
            result.left[name] = reason
    return result


# ---- both --------------------------------------------------------------------------------------


def _activation_of_module(module: nn.Module) -> _Match:
    match = _MODULES.get(type(module))
    return None if match is None else match(module)


def _unfusable(module: nn.Module) -> str | None:
    """Why a module can't be made one with another; None if it can."""
    if getattr(module, "activation", "identity") != "identity":
        return "it has an activation already"
    if getattr(module, "memory_efficient", False):
        return "it keeps its output for backward"
    if getattr(module, "on_stats", None) is not None:
        return "its statistics are in use"
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return "it has hooks" if any(hooks) else None


def _with_activation(module: nn.Module, match: tuple[str, float | None]) -> FusedBatchNorm:
    cls = _FUSED[type(module)]
    fused = cls.__new__(cls)
    fused.__dict__ = dict(module.__dict__)
    fused.activation, fused.activation_parameter = match
    return fused
