"""TransXNet against the published formula and the published outputs."""

import json
import math
import zlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain_transxnet import plain_transxnet
from mmhybrid.backbones import TransXNet

TINY = dict(
    depths=(2, 1, 1, 1),
    embed_dims=(16, 32, 48, 64),
    num_heads=(1, 2, 3, 4),
    mlp_ratios=(2, 2, 2, 2),
)
# Presets: parameters of a dense backbone with all outputs, with the last three, and without
# outputs.
PARAMETERS = {
    "tiny": (12_386_544, 12_386_448, 12_834_808),
    "small": (26_352_092, 26_351_964, 26_864_068),
    "base": (47_337_130, 47_336_978, 48_009_002),
}


def published_filling(key: str, tensor: Tensor) -> Tensor:
    """The value that the reference outputs were computed with, see README.md of the references."""
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


def random_init(model: nn.Module) -> nn.Module:
    """Random values in every parameter and statistic: at initialisation LayerScale hides
    everything."""
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.ndim > 1 and "layer_scale" not in key and "relative_pos_enc" not in key:
                tensor.normal_(std=1 / math.sqrt(math.prod(tensor.shape[1:])))
            elif tensor.is_floating_point():
                tensor.normal_(0.3, 0.3)
    return model


@pytest.fixture(scope="module")
def references(shared) -> dict:
    return json.loads((shared / "reference" / "transxnet_golden.json").read_text())["t"]


@pytest.fixture(scope="module")
def published_tiny() -> TransXNet:
    model = TransXNet("tiny").double().eval()
    model.load_state_dict({k: published_filling(k, v) for k, v in model.state_dict().items()})
    return model


@pytest.mark.parametrize("size", [(224, 224), (256, 320)])
def test_outputs_equal_the_published_ones(size, published_tiny, references) -> None:
    with torch.no_grad():
        outputs = published_tiny(published_input(*size))
    for output, reference in zip(outputs, references[f"{size[0]}x{size[1]}"], strict=True):
        assert_as_published(output, reference)


@pytest.mark.parametrize("arch", ["tiny", "small", "base"])
def test_keys_and_parameters_equal_the_published_ones(arch, shared) -> None:
    published = json.loads((shared / "reference" / f"transxnet_{arch[0]}_keys.json").read_text())
    with torch.device("meta"):
        model = TransXNet(arch)
    ours = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert ours == {key: shape for key, shape, _ in published["keys_fork_feat"]}


@pytest.mark.parametrize("arch", PARAMETERS)
def test_parameter_counts(arch) -> None:
    def count(**options) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in TransXNet(arch, **options).parameters())

    dense, last_three, classifier = PARAMETERS[arch]
    assert count() == dense
    assert count(out_indices=(1, 2, 3)) == last_three
    channels = TransXNet.presets[arch]["embed_dims"][-1]
    assert count(out_indices=(3,)) + channels * 1000 + 1000 == classifier


@pytest.mark.parametrize("size", [(64, 64), (75, 101), (32, 32)])
@pytest.mark.parametrize("training", [False, True])
def test_output_and_every_gradient_equal_the_plain_formula(size, training) -> None:
    # Made for 64 pixels, so that one of the sizes needs no resizing.
    model = random_init(TransXNet(TINY, image_size=64).double()).train(training)
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
    model = random_init(TransXNet(TINY).double()).eval()
    x = torch.randn(3, 3, 128, 160, dtype=torch.float64)
    with torch.no_grad():
        for together, *alone in zip(model(x), *(model(one[None]) for one in x), strict=True):
            torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-10)


def test_a_batch_of_one_trains() -> None:
    model = TransXNet(TINY).train()
    sum(y.sum() for y in model(torch.randn(1, 3, 64, 64))).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_gate_statistics_are_updated_twice_as_published() -> None:
    model = TransXNet(TINY).train()
    model(torch.randn(2, 3, 64, 64))
    assert model.patch_embed.proj.bn.num_batches_tracked == 1
    assert model.network[0][0].token_mixer.local_unit.proj[0].bn.num_batches_tracked == 2


def test_tables_of_another_size_are_resized_on_loading() -> None:
    small, large = TransXNet(TINY, image_size=64), TransXNet(TINY, image_size=96)
    state_dict = random_init(small).state_dict()
    large.load_state_dict(large.adapt_state_dict(state_dict))
    assert large.relative_pos_enc[0].shape[-2:] == (24 * 24, 9)


@pytest.mark.parametrize(("side", "training"), [(1024, False), (512, True)])
def test_no_score_matrix_is_made(side, training) -> None:
    """Nothing is as large as the scores of the first stage would be."""
    model = TransXNet(dict(TINY, depths=(1, 1, 1, 1)), out_indices=(0,)).train(training)
    x = torch.randn(1, 3, side, side)
    scores_bytes = (side // 4) ** 2 * (side // 32) ** 2 * 4
    with torch.set_grad_enabled(training), torch.profiler.profile(profile_memory=True) as profile:
        model(x)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < scores_bytes
