"""What backward keeps, which memory is written, and which errors come before that."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from typing import Any

import pytest
import torch
from activation_reference import parameter_sets
from table_rows import ROWS, function, name, normal, same_bits, saves
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import gradkern
from gradkern.activations import TABLE, Activation


def packed_by(call: Any) -> tuple[Tensor, list[Tensor]]:
    packed: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return result, packed


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_one_tensor_is_saved(row: Activation) -> None:
    x = normal(50).requires_grad_()
    for parameters in parameter_sets(row):
        for keywords in saves(row):
            y, packed = packed_by(lambda k=keywords, p=parameters: function(row)(x, *p, **k))
            (saved,) = packed
            of_output = row.can_save_output(parameters) and keywords["save"] == "output"
            assert saved.data_ptr() == (y if of_output else x).data_ptr()
            assert saved.untyped_storage().nbytes() == 200
            y, packed = packed_by(
                lambda k=keywords, p=parameters: function(row, "_with_stats")(x, *p, **k)[0]
            )
            assert [p.data_ptr() for p in packed] == [(y if of_output else x).data_ptr()]


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_in_place_saves_the_output_or_a_copy(row: Activation) -> None:
    for keywords in saves(row):
        leaf = normal(50).requires_grad_()
        x = leaf * 1
        y, packed = packed_by(lambda x=x, k=keywords: function(row)(x, inplace=True, **k))
        assert y is x
        (saved,) = packed
        shares = row.saves_output and keywords["save"] == "output"
        assert (saved.data_ptr() == x.data_ptr()) == shares
        y.sum().backward()
        assert leaf.grad is not None
        want = leaf.detach().clone().requires_grad_()
        function(row)(want, **keywords).sum().backward()
        assert same_bits(leaf.grad, want.grad)


def test_saved_output_that_is_changed_afterwards_is_an_error() -> None:
    for row in (TABLE["tanh"], TABLE["silu"]):
        x = normal(5).requires_grad_()
        for changed in ("input", "output"):
            leaf = x * 1
            y = function(row)(leaf)
            (leaf if changed == "input" else y).mul_(2)
            if (changed == "output") == row.saves_output:
                with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                    y.sum().backward()
            else:
                y.sum().backward()


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_version_counters(row: Activation) -> None:
    x, out = normal(5), torch.empty(5)
    version = x._version
    function(row)(x)
    assert x._version == version
    function(row)(x, inplace=True)
    assert x._version == version + 1
    version = out._version
    function(row)(x, out=out)
    assert out._version == version + 1
    tracked = x.clone().requires_grad_() * 1
    version = tracked._version
    function(row)(tracked, inplace=True)
    assert tracked._version == version + 1


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_errors_come_before_anything_is_written(row: Activation) -> None:
    leaf = normal(6).requires_grad_()
    before = leaf.detach().clone()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        function(row)(leaf, inplace=True)
    with pytest.raises(RuntimeError, match="view of a leaf Variable that requires grad"):
        function(row)(leaf[1:], inplace=True)
    out = torch.full((6,), 7.0)
    with pytest.raises(RuntimeError, match=r"out=\.\.\. arguments don't support automatic"):
        function(row)(leaf, out=out)
    with pytest.raises(RuntimeError, match=r"out=\.\.\. arguments don't support automatic"):
        function(row)(before, out=leaf)
    with pytest.raises(RuntimeError, match="not differentiable"):
        function(row, "_with_derivative")(leaf)
    assert same_bits(leaf.detach(), before)
    assert (out == 7).all()
    assert leaf._version == 0
    with torch.no_grad():
        function(row)(leaf, out=out)
        function(row)(leaf, inplace=True)
    assert same_bits(leaf.detach(), out)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_inference_mode(row: Activation) -> None:
    x = normal(5).requires_grad_()
    with torch.inference_mode():
        y = function(row)(x)
        assert y.is_inference()
        assert same_bits(y, row.value(x, *row.defaults()))
        function(row)(y, inplace=True)
        _, stats = function(row, "_with_stats")(x, channel_dim=0)
        assert stats.values.is_inference()
    assert not function(row)(x.detach()).requires_grad


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(use_reentrant: bool) -> None:
    for row in ROWS:
        x = normal(7).requires_grad_()
        y = checkpoint(function(row), x, use_reentrant=use_reentrant)
        y.sum().backward()
        (want,) = torch.autograd.grad(function(row)(x).sum(), x)
        assert same_bits(x.grad, want), row


def _in_child(connection: Any) -> None:
    torch.set_num_threads(1)
    x = normal(100_000).requires_grad_()
    results = []
    for row in ROWS:
        y = function(row)(x)
        results.append((y.sum().item(), torch.autograd.grad(y.sum(), x)[0].sum().item()))
    connection.send(results)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child() -> None:
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(sender,))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        child.start()
        assert receiver.poll(60), "the child hangs"
        from_child = receiver.recv()
        child.join(10)
        _in_child(sender)
        assert from_child == receiver.recv()
    finally:
        child.kill()
        torch.set_num_threads(before)


def test_rows_are_pickled_by_name() -> None:
    for row in ROWS:
        assert pickle.loads(pickle.dumps(row)) is row
        assert copy.deepcopy(row) is row


def test_detached_results_of_functions_do_not_require_grad() -> None:
    x = normal(4).requires_grad_()
    y, stats = gradkern.functional.tanh_with_stats(x)
    assert y.requires_grad
    assert not stats.values.requires_grad
    y.sum().backward()
    assert x.grad is not None
