"""gradkern.nn.fuse_batch_norm: what it fuses, what it leaves, and that results stay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import gradkern
from gradkern.nn import fuse_batch_norm


class Block(nn.Module):
    """Of a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return F.relu(out, inplace=True)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    head = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2)]
    return nn.Sequential(*head, Block(), Block())


def assert_equal_results(before: nn.Module, after: nn.Module, *shape: int) -> None:
    for training in (True, False):
        before.train(training)
        after.train(training)
        for _ in range(2):
            x = torch.randn(shape)
            a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
            y, z = before(a), after(b)
            torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-5)
            g = torch.randn_like(y)
            y.backward(g)
            z.backward(g)
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    assert before.state_dict().keys() == after.state_dict().keys()
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_residual_network() -> None:
    before = network()
    result = fuse_batch_norm(copy.deepcopy(before), (torch.randn(2, 3, 8, 8),))
    assert result.fused == {
        "1": "leaky_relu",
        "3.bn1": "relu",
        "3.bn2": "add, relu",
        "4.bn1": "relu",
        "4.bn2": "add, relu",
    }
    assert result.left == {}
    assert_equal_results(before, result.model, 2, 3, 8, 8)


def test_additions_need_example_inputs() -> None:
    before = network()
    result = fuse_batch_norm(copy.deepcopy(before))
    assert result.fused.keys() == {"1", "3.bn1", "4.bn1"}
    assert all("example_inputs" in reason for reason in result.left.values())
    assert_equal_results(before, result.model, 2, 3, 8, 8)


class Branching(nn.Module):
    """Depends on values: it can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.SiLU(), nn.Linear(4, 4))
        self.last = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.last(y) if y.sum() > -1e9 else y


def test_sequentials_of_what_cannot_be_traced() -> None:
    before = Branching()
    result = fuse_batch_norm(copy.deepcopy(before))
    assert result.fused == {"body.1": "silu"}
    assert "can't be traced" in result.left["last"]
    assert_equal_results(before, result.model, 8, 3)


class OtherInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.relu(self.bn(x)), training=self.training)


def test_what_depends_on_the_mode_is_left() -> None:
    result = fuse_batch_norm(OtherInTraining())
    assert result.fused == {}
    assert "in evaluation" in result.left["bn"]


def test_what_else_is_left() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice = nn.BatchNorm1d(3)
            self.used_twice = nn.BatchNorm1d(3)
            self.hooked = nn.BatchNorm1d(3)
            self.alone = nn.BatchNorm1d(3)
            self.hooked.register_forward_hook(lambda *_: None)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.twice(F.relu(self.twice(x))))
            y = self.used_twice(x)
            return F.relu(self.hooked(F.relu(y) + y)) + self.alone(x)

    before = Shared()
    result = fuse_batch_norm(copy.deepcopy(before), (torch.randn(8, 3),))
    assert result.fused == {}
    assert result.left["twice"] == "it is called 2 times"
    assert "several times" in result.left["used_twice"]
    assert result.left["hooked"] == "it has hooks"
    assert result.left.keys() == {"twice", "used_twice", "hooked", "alone"}
    assert_equal_results(before, result.model, 8, 3)


def test_a_broadcast_addition_is_left() -> None:
    class Broadcast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.bn(x) + x[:, :1])

    result = fuse_batch_norm(Broadcast(), (torch.randn(8, 3),))
    assert result.left == {"bn": "what is added to it has another shape or dtype"}


def test_input_that_is_changed_in_between_is_left() -> None:
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            y = self.bn(x)
            z = x.add_(1)
            return F.relu(y + z)

    before = Changed()
    result = fuse_batch_norm(copy.deepcopy(before), (torch.randn(8, 3),))
    assert result.left == {"bn": "its input may be changed before the residual is there"}
    x = torch.randn(8, 3)
    torch.testing.assert_close(before(x), result.model(x))


def test_modules_of_gradkern_are_fused() -> None:
    model = nn.Sequential(gradkern.nn.BatchNorm1d(3), gradkern.nn.ELU(0.5))
    result = fuse_batch_norm(model)
    assert result.fused == {"0": "elu"}
    assert fuse_batch_norm(result.model).left == {"0": "it has an activation already"}


def test_not_a_module() -> None:
    with pytest.raises(TypeError, match="model is a int"):
        fuse_batch_norm(3)  # type: ignore[arg-type]
