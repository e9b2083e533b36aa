"""TransXNet against the published formula and the published outputs."""

import json
import math
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.plain_transxnet import plain_transxnet
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import TransXNet

TINY = dict(TransXNet.test_options)


def published_filling(key: str, tensor: Tensor) -> Tensor:
    """The value that the reference outputs were computed with, see data/README.md."""
    if not tensor.is_floating_point():
        return torch.full_like(tensor, 7)
    shape = tuple(tensor.shape)
    seed = zlib.crc32(key.encode())
    normal = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    uniform = np.random.Generator(np.random.PCG64(seed + 1)).random(shape)
    if key.endswith("running_var"):
        value = 0.5 + uniform
    elif key.endswith("running_mean"):
        value = 0.1 * normal
    elif "layer_scale" in key and key.endswith("weight"):
        value = 0.3 + 0.15 * normal
    elif key.startswith("relative_pos_enc"):
        value = normal
    elif key.endswith("local_unit.weight"):
        value = 0.15 * normal
    elif key.endswith("local_unit.bias"):
        value = 0.2 * normal
    elif key.endswith("bias"):
        value = 0.1 * normal
    elif tensor.ndim == 1:
        value = 0.5 + uniform
    else:
        value = 1.5 * normal / math.sqrt(math.prod(shape[1:]))
    return torch.as_tensor(value, dtype=tensor.dtype)


def published_input(height: int, width: int) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(height * 10000 + width))
    return torch.from_numpy(generator.standard_normal((1, 3, height, width)))


def assert_as_published(output: Tensor, reference: dict) -> None:
    assert list(output.shape) == reference["shape"]
    places = np.linspace(0, output.numel() - 1, 64).astype(int)
    expected = torch.tensor(reference["values"], dtype=torch.float64)
    torch.testing.assert_close(output.flatten()[places], expected, rtol=0, atol=1e-9)
    for name, value in (
        ("mean", output.mean()),
        ("std", output.std()),
        ("absmax", output.abs().max()),
    ):
        assert value.item() == pytest.approx(reference[name], abs=1e-9)


@pytest.fixture(scope="module")
def references(root) -> dict:
    return json.loads((root / "tests" / "data" / "transxnet_golden.json").read_text())["t"]


@pytest.fixture(scope="module")
def published_tiny() -> TransXNet:
    model = TransXNet("tiny").double().eval()
    model.load_state_dict({k: published_filling(k, v) for k, v in model.state_dict().items()})
    return model


@pytest.mark.full_size
@pytest.mark.parametrize("size", [(224, 224), (256, 320)])
def test_outputs_equal_the_published_ones(size, published_tiny, references) -> None:
    with torch.no_grad():
        outputs = published_tiny(published_input(*size))
    for output, reference in zip(outputs, references[f"{size[0]}x{size[1]}"], strict=True):
        assert_as_published(output, reference)


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
    ours = model(x)
    plain = plain_transxnet(model, x)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    weights = [torch.randn_like(y) for y in ours]
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = [
        torch.autograd.grad(
            sum((y * w).sum() for y, w in zip(ys, weights, strict=True)), parameters
        )
        for ys in (ours, plain)
    ]
    for name, a, b in zip(names, *gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_batches_do_not_mix_in_evaluation() -> None:
    model = random_init(TransXNet(**TINY).double()).eval()
    x = torch.randn(3, 3, 128, 160, dtype=torch.float64)
    with torch.no_grad():
        for together, *alone in zip(model(x), *(model(one[None]) for one in x), strict=True):
            torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-10)


def test_a_batch_of_one_trains() -> None:
    model = TransXNet(**TINY).train()
    sum(y.sum() for y in model(torch.randn(1, 3, 64, 64))).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


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
