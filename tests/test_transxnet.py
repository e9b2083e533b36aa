"""TransXNet against the published formula and the published outputs."""

import json
import math
import re
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.plain_transxnet import plain_transxnet
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import TransXNet
from mmhybrid.layers import blockwise_attention, relative_position

TINY = TransXNet.test_options


# Mean and deviation of the weights that the reference outputs were computed with, by the first
# pattern that a name fits; see data/README.md.
FILLINGS = {
    r"running_mean$": (0, 0.1),
    r"layer_scale.*weight$": (0.3, 0.15),
    r"^relative_pos_enc": (0, 1),
    r"local_unit\.weight$": (0, 0.15),
    r"local_unit\.bias$": (0, 0.2),
    r"bias$": (0, 0.1),
}


def published_filling(key: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return torch.full_like(tensor, 7)
    shape, seed = tuple(tensor.shape), zlib.crc32(key.encode())
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    for pattern, (mean, deviation) in FILLINGS.items():
        if re.search(pattern, key):
            value = mean + deviation * normal
            break
    else:
        value = 1.5 * normal / math.sqrt(math.prod(shape[1:]))
        if tensor.ndim == 1:
            value = 0.5 + np.random.Generator(np.random.PCG64(seed + 1)).random(shape)
    return torch.as_tensor(value, dtype=tensor.dtype)


@torch.no_grad()
@pytest.mark.full_size
def test_outputs_equal_the_published_ones(root) -> None:
    references = json.loads((root / "tests" / "data" / "transxnet_golden.json").read_text())["t"]
    model = TransXNet("tiny").double().eval()
    model.load_state_dict({k: published_filling(k, v) for k, v in model.state_dict().items()})
    for height, width in ((224, 224), (256, 320)):
        generator = np.random.Generator(np.random.PCG64(height * 10000 + width))
        outputs = model(torch.from_numpy(generator.standard_normal((1, 3, height, width))))
        for y, reference in zip(outputs, references[f"{height}x{width}"], strict=True):
            assert list(y.shape) == reference["shape"]
            places = np.linspace(0, y.numel() - 1, 64).astype(int)
            found = torch.stack([*y.flatten()[places], y.mean(), y.std(), y.abs().max()])
            expected = [*reference["values"], *(reference[k] for k in ("mean", "std", "absmax"))]
            assert found.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("arch", ["tiny", "small", "base"])
def test_keys_and_shapes_equal_the_published_ones(arch, published_keys) -> None:
    published = published_keys[f"transxnet_{arch[0]}"]
    with torch.device("meta"):
        model = TransXNet(arch)
    ours = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert ours == {key: shape for key, shape, _ in published["keys_fork_feat"]}


@pytest.mark.parametrize("size", [(64, 64), (75, 101), (32, 32)])
@pytest.mark.parametrize("training", [False, True])
def test_output_and_every_gradient_equal_the_plain_formula(size, training) -> None:
    # Made for 64 pixels, so that one of the sizes needs no resizing.
    model = random_init(TransXNet(**TINY).double()).train(training)
    x = torch.randn(3, 3, *size, dtype=torch.float64)
    ours, plain = model(x), plain_transxnet(model, x)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-9)
    weights = [torch.randn_like(y) for y in ours]
    names, parameters = zip(*model.named_parameters(), strict=True)
    losses = (sum((y * w).sum() for y, w in zip(ys, weights, strict=True)) for ys in (ours, plain))
    gradients = (
        dict(zip(names, torch.autograd.grad(loss, parameters), strict=True)) for loss in losses
    )
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("size", [(160, 224), (256, 101)])
def test_keys_in_groups_equal_the_plain_formula(size, monkeypatch) -> None:
    groups = []
    real = relative_position._attention_in_groups
    monkeypatch.setattr(relative_position, "LARGEST_WHOLE_TABLE", 0)  # so that all are folded
    monkeypatch.setattr(
        relative_position, "_attention_in_groups", lambda *args: groups.append(1) or real(*args)
    )
    model = random_init(TransXNet(**TINY | dict(image_size=224)).double()).eval()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain_transxnet(model, x), rtol=0, atol=1e-9)
    assert len(groups) == sum(TINY["arch"]["depths"])


def folded(queries: int = 11, keys: int = 5) -> list[Tensor]:
    """Queries, keys, values and columns of positions, for two images and two heads."""
    sizes = (2, 2, queries, 4), (2, 2, keys, 4), (2, 2, keys, 4), (1, 2, queries, 3), (keys, 3)
    tensors = [torch.randn(size, dtype=torch.float64) for size in sizes]
    return [tensor.requires_grad_(tensor.ndim == 4) for tensor in tensors]


@pytest.mark.parametrize("rows", [100, 4, 0], ids=["one block", "a short last one", "rows"])
@pytest.mark.parametrize("layout", ["heads first", "channels last"])
def test_attention_in_blocks(rows, layout, monkeypatch) -> None:
    inputs = folded()
    if layout == "channels last":
        inputs[:3] = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs[:3]]
    q, k, v, position_q, position_k = inputs
    monkeypatch.setattr(blockwise_attention, "BLOCK", rows * len(q) * q.shape[1] * len(position_k))
    scores = q @ k.mT / 2 + position_q @ position_k.mT
    outputs = scores.softmax(-1) @ v, blockwise_attention.attention_in_blocks(*inputs)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    weight = torch.randn_like(outputs[0])
    gradients = [torch.autograd.grad((y * weight).sum(), inputs[:4]) for y in outputs]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("autocast", [False, True])
def test_attention_in_blocks_in_bfloat16(autocast: bool, monkeypatch) -> None:
    monkeypatch.setattr(blockwise_attention, "BLOCK", 1)  # sums of 500 blocks of a query
    *inputs, position_k = folded(queries=500)
    y = blockwise_attention.attention_in_blocks(*inputs, position_k)
    weight = torch.randn_like(y)
    expected = [y, *torch.autograd.grad(y, inputs, weight)]
    given = [x.detach().bfloat16().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = blockwise_attention.attention_in_blocks(*given, position_k.bfloat16())
    found = [y, *torch.autograd.grad(y, given, weight.bfloat16())]
    for a, b in zip(expected, found, strict=True):
        assert b.dtype == torch.bfloat16
        assert (a - b).norm() < 0.015 * a.norm()


def test_gradients_of_gradients_of_attention_in_blocks() -> None:
    *inputs, position_k = folded(queries=3, keys=2)
    assert torch.autograd.gradgradcheck(
        lambda *xs: blockwise_attention.attention_in_blocks(*xs, position_k), inputs
    )


@pytest.mark.parametrize("again", [False, True], ids=["once", "to be differentiated again"])
@pytest.mark.parametrize("wanted", range(4))
def test_some_gradients_of_attention_in_blocks(wanted: int, again: bool) -> None:
    q, k, v, position_q, position_k = inputs = folded()
    for index, tensor in enumerate(inputs):
        tensor.requires_grad_(index == wanted)
    scores = q @ k.mT / 2 + position_q @ position_k.mT
    outputs = scores.softmax(-1) @ v, blockwise_attention.attention_in_blocks(*inputs)
    gradients = [
        torch.autograd.grad(y.square().sum(), inputs[wanted], create_graph=again) for y in outputs
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_checkpointed_attention_is_differentiated_twice() -> None:
    *inputs, position_k = folded()
    attend = lambda *xs: blockwise_attention.attention_in_blocks(*xs, position_k)  # noqa: E731
    outputs = attend(*inputs), checkpoint(attend, *inputs, use_reentrant=False)
    gradients = [torch.autograd.grad(y.square().sum(), inputs, create_graph=True) for y in outputs]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_a_backward_pass_inside_autocast() -> None:
    """Autocast is off in the blocks, whoever calls ``backward`` inside it."""
    model, x = random_init(TransXNet(**TINY)), torch.randn(1, 3, 96, 96)
    losses = [sum(y.mean() for y in model(x)) for _ in range(2)]
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = torch.autograd.grad(losses[0], parameters)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(losses[1], parameters)
    assert [one.dtype for one in found] == [one.dtype for one in expected]
    index = names.index("relative_pos_enc.0")
    torch.testing.assert_close(found[index], expected[index], rtol=0.05, atol=1e-4)


def test_training_goes_in_blocks(monkeypatch) -> None:
    calls = []
    real = relative_position.attention_in_blocks
    monkeypatch.setattr(
        relative_position, "attention_in_blocks", lambda *args: calls.append(1) or real(*args)
    )
    model, x = TransXNet(**TINY), torch.randn(1, 3, 96, 96)
    model(x)
    assert len(calls) == sum(TINY["arch"]["depths"])
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
    assert len(calls) == 2 * sum(TINY["arch"]["depths"])
    with torch.no_grad():
        model.eval()(x)
    assert len(calls) == 2 * sum(TINY["arch"]["depths"])


def test_tables_alone_get_their_gradients(monkeypatch) -> None:
    """Where the scores are many and nothing else trains."""
    q, k, v = torch.randn(3, 1, 2, 80, 4, dtype=torch.float64).unbind()
    table = torch.randn(1, 2, 40, 9, dtype=torch.float64, requires_grad=True)
    weight, gradients = torch.randn(1, 2, 80, 4, dtype=torch.float64), []
    for largest in (10**9, 0):
        monkeypatch.setattr(relative_position, "LARGEST_WHOLE_TABLE", largest)
        position = relative_position.fit_relative_position(table, 80, 80)
        y = relative_position.attention_with_position(q, k, v, position)
        gradients.append(torch.autograd.grad((y * weight).sum(), table))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_batches_do_not_mix_in_evaluation() -> None:
    model = random_init(TransXNet(**TINY).double()).eval()
    x = torch.randn(3, 3, 128, 160, dtype=torch.float64)
    with torch.no_grad():
        alone = [torch.cat(maps) for maps in zip(*(model(one[None]) for one in x), strict=True)]
        torch.testing.assert_close(list(model(x)), alone, rtol=0, atol=1e-10)


def test_gate_statistics_are_updated_twice_as_published() -> None:
    model = TransXNet(**TINY).train()
    model(torch.randn(2, 3, 64, 64))
    assert model.patch_embed.proj.bn.num_batches_tracked == 1
    assert model.network[0][0].token_mixer.local_unit.proj[0].bn.num_batches_tracked == 2


def test_tables_of_another_size_are_resized_on_loading() -> None:
    small, large = TransXNet(**TINY), TransXNet(**TINY | dict(image_size=96))
    state_dict = random_init(small).state_dict()
    large.load_state_dict(large.adapt_state_dict(state_dict))
    assert large.relative_pos_enc[0].shape[-2:] == (24 * 24, 9)


@pytest.mark.parametrize(("side", "training"), [(1024, False), (512, True)])
def test_no_score_matrix_is_made(side, training) -> None:
    """Nothing is as large as the scores of the first stage would be."""
    model = TransXNet(**TINY, out_indices=(0,)).train(training)
    x = torch.randn(1, 3, side, side)
    scores_bytes = (side // 4) ** 2 * (side // 32) ** 2 * 4
    with torch.set_grad_enabled(training), torch.profiler.profile(profile_memory=True) as profile:
        model(x)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < scores_bytes
