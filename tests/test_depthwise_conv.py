"""The gradients of depth-wise convolutions on a CPU: equal to PyTorch's own, for every kernel."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmhybrid.layers import depthwise_conv as module
from mmhybrid.layers.depthwise_conv import DepthwiseConv, depthwise_conv
from mmhybrid.layers.dynamic_convolution import InputDependentDepthwiseConv

C = 3


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: int) -> Tensor:
    return nn.functional.conv2d(x, weight, bias, 1, *geometry, groups=len(weight))


def tensors(size: tuple[int, ...], kernel_size: int, dtype: torch.dtype = torch.float64) -> list:
    shapes = (size, (C, 1, kernel_size, kernel_size), (C,))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("size", [(2, C, 9, 12), (1, C, 1, 1), (3, C, 14, 2)])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 11])
def test_gradients_equal_those_of_pytorch(kernel_size, dilation, size, monkeypatch) -> None:
    geometry = dilation * (kernel_size // 2), dilation
    calls, weight_grad = [], module._weight_grad
    monkeypatch.setattr(
        module, "_weight_grad", lambda *args: calls.append(args) or weight_grad(*args)
    )
    x, weight, bias = tensors(size, kernel_size)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = x.detach().to(memory_format=memory_format).requires_grad_()
        for needed in ([x, weight, bias], [weight], [x]):
            given = [
                t if any(t is one for one in needed) else t.detach() for t in (x, weight, bias)
            ]
            ours, theirs = depthwise_conv(*given, *geometry), plain(*given, *geometry)
            torch.testing.assert_close(ours, theirs)
            grad = torch.randn_like(ours)
            pair = [torch.autograd.grad(y, needed, grad) for y in (ours, theirs)]
            torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-9)
    assert len(calls) == (0 if geometry[0] <= 1 else 4)  # the fast way is really taken


def test_gradients_of_gradients() -> None:
    x, weight, bias = tensors((1, C, 4, 5), 5)
    assert torch.autograd.gradcheck(depthwise_conv, (x, weight, bias, 4, 2))
    assert torch.autograd.gradgradcheck(depthwise_conv, (x, weight, bias, 4, 2))
    # as in the dynamic convolution, whose kernel depends on the image
    mixed = lambda x: depthwise_conv(x, weight * x.mean(), None, 2)  # noqa: E731
    assert torch.autograd.gradgradcheck(mixed, (x,))


def test_transforms_and_graphs() -> None:
    x, weight, bias = tensors((2, C, 6, 7), 5)
    expected = plain(x, weight, bias, 4, 2)
    mapped = torch.func.vmap(lambda one: depthwise_conv(one[None], weight, bias, 4, 2)[0])(x)
    torch.testing.assert_close(mapped, expected)
    grad = torch.func.grad(lambda weight: depthwise_conv(x, weight, bias, 4, 2).sum())(weight)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), weight)[0])
    _, tangent = torch.func.jvp(lambda x: depthwise_conv(x, weight, bias, 4, 2), (x,), (x,))
    torch.testing.assert_close(tangent, plain(x, weight, None, 4, 2))
    layer, image = DepthwiseConv(C, 5, 2), x.detach().float()
    traced = torch.jit.trace(layer, image, check_trace=False)
    torch.testing.assert_close(traced(image), layer(image))
    assert "PythonOp" not in str(traced.inlined_graph)
    exported = torch.export.export(layer, (image,)).module()
    torch.testing.assert_close(exported(image), layer(image))
    assert layer.to("meta")(image.to("meta")).shape == x.shape


@pytest.mark.compile
def test_a_compiled_training_step() -> None:
    x, weight, bias = tensors((2, C, 6, 7), 7, torch.float32)
    compiled = torch.compile(depthwise_conv, fullgraph=True)
    pair = [f(x, weight, bias, 3).square().sum() for f in (compiled, depthwise_conv)]
    pair = [torch.autograd.grad(y, (x, weight, bias)) for y in pair]
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-2)


def test_autocast_and_no_images() -> None:
    x, weight, bias = tensors((2, C, 8, 8), 5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pair = [f(x, weight, bias, 2) for f in (depthwise_conv, plain)]
    assert pair[0].dtype == torch.bfloat16
    torch.testing.assert_close(*pair)
    grads = [torch.autograd.grad(y.float().square().sum(), (x, weight, bias)) for y in pair]
    torch.testing.assert_close(*grads, rtol=0.02, atol=1)
    assert depthwise_conv(x[:0], weight, bias, 2).shape == (0, C, 8, 8)


@pytest.mark.parametrize("side", [6, 30])
def test_gradients_of_the_dynamic_convolution(side: int) -> None:
    layer = InputDependentDepthwiseConv(8, norm_cfg=dict(type="BN")).double()
    x = torch.randn(2, 8, side, side, dtype=torch.float64, requires_grad=True)
    weight, bias = layer.kernels(x)
    expected = plain(x.reshape(1, -1, side, side), weight.reshape(-1, 1, 7, 7), bias.flatten(), 3)
    inputs = (x, *layer.parameters())
    pair = [torch.autograd.grad(y.square().sum(), inputs) for y in (layer(x), expected)]
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-9)


def test_where_triton_does_not_work_pytorch_does(monkeypatch) -> None:
    monkeypatch.delenv("MMHYBRID_TRITON", raising=False)
    pytest.importorskip("triton")
    with pytest.warns(UserWarning, match="Triton does not work on cpu .* PyTorch's own kernels"):
        assert not module._has_triton.__wrapped__(torch.device("cpu"))


def test_no_kernel_starts_for_tensors_without_values(monkeypatch) -> None:
    monkeypatch.setattr(module, "_has_triton", lambda device: True)
    with FakeTensorMode():
        x = torch.empty(1, 64, 256, 256, device="cuda")
        y = depthwise_conv(x, torch.empty(64, 1, 7, 7, device="cuda"), None, 3)
    assert y.shape == x.shape
