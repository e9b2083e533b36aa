"""Runs of layers that keep one map for training: same outputs, gradients and statistics."""

import copy
import gc
import weakref
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DMFormer, TransXNet, XFormer
from mmhybrid.layers import dynamic_multi_level_attention, inverted_residual, token_mixer
from mmhybrid.layers import lean_training as module
from mmhybrid.layers.layer_scale import LayerScale
from mmhybrid.layers.lean_training import run_lean
from mmhybrid.layers.norm import BatchNorm2d

C = 4
NORM, CONV = BatchNorm2d(C), nn.Conv2d(C, 6, 1)
RUNS = {
    "folded": [nn.GELU(), NORM, nn.Conv2d(C, 6, 1, bias=False)],
    "folded, bias and stride": [nn.GELU(), NORM, nn.Conv2d(C, 6, 1, stride=2)],
    "padded": [NORM, nn.Conv2d(C, 6, 3, padding=1)],
    "norm and activation": [NORM, nn.ReLU(), CONV],
    "norm alone": [nn.Hardswish(), nn.BatchNorm2d(C)],
    "scaled": [nn.GELU(), NORM, CONV, LayerScale(6)],
    "scaled, no bias": [nn.GELU(), nn.Conv2d(C, 6, 3, bias=False), LayerScale(6, bias=False)],
    "scaled, one bias": [nn.GELU(), nn.Conv2d(C, 6, 1, bias=False), LayerScale(6)],
    "scaled norm": [NORM, LayerScale(C)],
    "no norm": [nn.GELU(), nn.Conv2d(C, C, 3, groups=C)],
    "two in one": [
        nn.Sequential(nn.Conv2d(C, C, 3), nn.GELU(), NORM, nn.Identity()),
        *(nn.Conv2d(C, C, 1), nn.GELU(), nn.BatchNorm2d(C), CONV, nn.BatchNorm2d(6)),
    ],
}


@pytest.fixture(autouse=True)
def _small_maps_too(monkeypatch) -> None:
    monkeypatch.setattr(module, "SMALLEST", 1)


def image(side: int = 7) -> Tensor:
    return torch.randn(2, C, side, side, dtype=torch.float64, requires_grad=True)


def plain(x: Tensor, modules: Iterable[nn.Module]) -> Tensor:
    return nn.Sequential(*modules)(x)


def run_with_memory(run, *args) -> tuple[Tensor, int]:
    """What a run gives, and the values that it keeps for the backward pass."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = run(*args)
    return y, sum(tensor.numel() for tensor in kept.values())


@pytest.mark.parametrize("name", RUNS)
def test_gradients_and_statistics_are_the_same(name: str) -> None:
    ours, theirs = (copy.deepcopy(nn.ModuleList(RUNS[name])).double().train() for _ in range(2))
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    x = image()
    y, kept = run_with_memory(run_lean, x, *ours)
    expected, kept_plainly = run_with_memory(plain, x, theirs)
    assert kept < kept_plainly
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-9)
    grad = torch.randn_like(y)
    pair = [
        torch.autograd.grad(out, (x, *modules.parameters()), grad)
        for out, modules in ((y, ours), (expected, theirs))
    ]
    torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["folded", "norm and activation", "no norm", "scaled"])
def test_gradients_of_gradients(name: str) -> None:
    modules = copy.deepcopy(nn.ModuleList(RUNS[name])).double().train()
    weight = modules[-1].weight
    assert torch.autograd.gradgradcheck(lambda x, _: run_lean(x, *modules), (image(4), weight))


FORGOTTEN = {
    "norm": [NORM],
    "activation": [nn.GELU()],
    "norm and activation": [nn.SiLU(), NORM, nn.ReLU()],
    "after a convolution": [nn.Conv2d(C, C, 3), NORM, nn.Hardswish()],
}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", FORGOTTEN)
def test_what_a_tail_reads_is_computed_again(name: str, layout: torch.memory_format) -> None:
    modules = copy.deepcopy(nn.ModuleList(FORGOTTEN[name])).double().train()
    conv = nn.Conv2d(C // 2, C // 2, 3).double()
    read = []

    def tail(y: Tensor) -> Tensor:
        read.append(weakref.ref(y))
        return conv(y[:, C // 2 :]) * y[..., 2:, 2:].mean(1, keepdim=True)

    x = image().detach().contiguous(memory_format=layout).requires_grad_()
    inputs = (x, *modules.parameters(), *conv.parameters())
    out = run_lean(x, *modules, tail=tail)
    assert read[0]() is None  # not kept
    ours = torch.autograd.grad(out.sin().sum(), inputs)
    expected = tail(plain(x, modules))
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    theirs = torch.autograd.grad(expected.sin().sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_nothing_stays_where_no_backward_pass_comes() -> None:
    h = image() * 1
    kept = weakref.ref(h)
    out = run_lean(h, nn.GELU(), tail=torch.relu)
    del h, out
    gc.collect()
    assert kept() is None


def test_gradients_of_gradients_behind_a_tail() -> None:
    modules = copy.deepcopy(nn.ModuleList(FORGOTTEN["norm and activation"])).double().train()
    conv = nn.Conv2d(C, 2, 1).double()

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return run_lean(x, *modules, tail=lambda y: conv(y * y))

    assert torch.autograd.gradgradcheck(run, (image(3), conv.weight))


def test_others_hooks_for_what_is_kept_see_all() -> None:
    seen, x = [], image()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        read = []
        run_lean(x, nn.GELU(), tail=lambda y: read.append(y) or y * y)
    assert any(one.data_ptr() == read[0].data_ptr() for one in seen)


@pytest.mark.parametrize("needed", ["x", "weights"])
def test_some_gradients_alone(needed: str) -> None:
    modules = copy.deepcopy(nn.ModuleList(RUNS["folded"])).double().train()
    x = image()
    if needed == "x":
        modules.requires_grad_(False)
        inputs = [x]
    else:
        x, inputs = x.detach(), list(modules.parameters())
    pair = [run_lean(x, *modules), plain(x, modules)]
    torch.testing.assert_close(*(torch.autograd.grad(y.sin().sum(), inputs) for y in pair))


def test_what_must_run_as_it_is(monkeypatch) -> None:
    monkeypatch.setattr(module, "_run", lambda *args: pytest.fail("it ran as one"))
    x = image().float()
    folded = copy.deepcopy(RUNS["folded"])
    with monkeypatch.context() as patch:
        patch.setattr(module, "SMALLEST", x.numel() + 1)
        run_lean(x, *folded)
    with torch.no_grad():
        run_lean(x, *folded)
    with torch.autocast("cpu", torch.bfloat16):
        run_lean(x, *folded)
    torch.func.vmap(lambda one: run_lean(one[None], nn.GELU(), folded[2]))(x)
    run_lean(x, folded[1].eval(), folded[2])
    run_lean(x, nn.GELU("tanh"), folded[2])
    run_lean(x, nn.GELU(), nn.Conv2d(C, C, 3, padding=1, padding_mode="reflect"))
    seen = []
    folded[2].register_forward_hook(lambda *args: seen.append(args))
    run_lean(x, nn.GELU(), folded[2])
    assert seen


@pytest.mark.parametrize("backbone", [TransXNet, DMFormer])
def test_without_momentum_and_with_checkpointing(backbone) -> None:
    norm_cfg = dict(type="BN", momentum=None)
    torch.manual_seed(0)
    plain, saving = (
        random_init(backbone(**backbone.test_options, norm_cfg=norm_cfg, with_cp=with_cp)).train()
        for with_cp in (False, True)
    )
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, saving):
        torch.manual_seed(0)
        sum(y.mean() for y in model(x)).backward()
    torch.testing.assert_close(saving.state_dict(), plain.state_dict())


@pytest.mark.parametrize("backbone", [TransXNet, DMFormer, XFormer])
def test_whole_backbones_learn_the_same(backbone, monkeypatch) -> None:
    model = random_init(backbone(**backbone.test_options)).double().train()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)

    def gradients() -> list[Tensor]:
        outputs = model(x)
        return torch.autograd.grad(sum(y.sin().sum() for y in outputs), [*model.parameters()])

    ours = gradients()
    for user in (module, token_mixer, dynamic_multi_level_attention, inverted_residual):
        monkeypatch.setattr(user, "is_lean", lambda *args: False)
    torch.testing.assert_close(ours, gradients(), rtol=1e-9, atol=1e-9)


def test_what_stands_for_a_layer_is_called() -> None:
    """A folded norm, a scale that is none or that also shifts, and convolutions without a bias."""
    x = torch.randn(2, 8, 16, 16)
    block = inverted_residual.InvertedResidual(8, 8, norm_cfg=dict(type="BN"))
    block.reduce.conv.bias = nn.Parameter(torch.randn(8))
    attention = dynamic_multi_level_attention.DynamicMultiLevelAttention(
        8, norm_cfg=dict(type="BN"), gate_reduction=2
    )
    shift = LayerScale(8, 0.5)
    nn.init.ones_(shift.bias)
    for call in (block, lambda x: attention(x, shift), lambda x: attention(x, nn.Dropout(0.0))):
        with torch.no_grad():
            plain = call(x)
        torch.testing.assert_close(call(x), plain)
    attention.proj = nn.Conv2d(8, 8, 1, bias=False)
    attention(x, LayerScale(8, bias=False)).sum().backward()
    model = TransXNet(**TransXNet.test_options).train()
    model.network[0][0].layer_scale_1 = nn.Identity()
    sum(y.sum() for y in model(torch.randn(2, 3, 64, 64))).backward()
