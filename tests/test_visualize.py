"""What a network looks at: the maps are those that the network computes, and the page is drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import (
    DepthwiseShortcutBackbone,
    DMFormer,
    DWSwinTransformer,
    DWVisionTransformer,
    TransXNet,
    XFormer,
)
from mmhybrid.layers.overlapping_attention import OverlappingSpatialReductionAttention
from mmhybrid.visualization import attention_maps as looking
from mmhybrid.visualization.page import draw_page, prepare_image

SMALL = dict(depths=(1, 1, 1, 1), embed_dims=(16, 16, 32, 32))
MODELS = {
    "TransXNet": lambda: TransXNet({**SMALL, "num_heads": (1, 1, 2, 2)}),
    "DMFormer": lambda: DMFormer(SMALL),
    "XFormer": lambda: XFormer(dict(xf_depths=(1, 1, 1))),
    "DWViT": lambda: DWVisionTransformer(dict(depth=2)),
    "DWSwin": lambda: DWSwinTransformer(dict(depths=(1, 1, 1, 1))),
    "mmdet's Swin with shortcuts": lambda: DepthwiseShortcutBackbone(
        dict(
            type="mmdet.SwinTransformer",
            embed_dims=24,
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 4, 8),
            out_indices=(1, 3),
        )
    ),
}


def transxnet() -> TransXNet:
    return random_init(TransXNet(dict(depths=(1, 1, 1, 1), embed_dims=(16, 32, 48, 64)))).eval()


@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
@torch.no_grad()
def test_attention_of_a_place_is_a_row_of_the_whole_matrix(size) -> None:
    model, x = transxnet(), torch.randn(1, 3, *size)
    row, column = 0.3, 0.8
    found = looking.attention_of_pixel(model, x, row, column)
    calls = looking.calls_of(model, OverlappingSpatialReductionAttention, x)
    assert len(found) == len(calls) == 4
    for attention, (module, (features, position)) in zip(found, calls, strict=True):
        height, width = features.shape[-2:]
        key, value = module.kv(module.reduce(features)).chunk(2, dim=1)
        # With one channel a key set to 1 in the values, the output is the weight of that key.
        q, k = module._split_heads(module.q(features)), module._split_heads(key)
        table = position.table
        if table is None:
            table = position.query @ position.key.t()
        weights = (q @ k.mT * q.shape[-1] ** -0.5 + table).softmax(-1)[0].mean(0)
        index = int(row * height) * width + int(column * width)
        torch.testing.assert_close(torch.from_numpy(attention).flatten(), weights[index])
        assert attention.shape == tuple(key.shape[-2:])
        assert value.shape == key.shape


@torch.no_grad()
def test_dynamic_kernels_depend_on_the_image() -> None:
    model = transxnet()
    one, other = (looking.dynamic_kernels(model, torch.randn(1, 3, 64, 64)) for _ in range(2))
    assert [k.shape for k in one] == [(c, 7, 7) for c in (8, 16, 24, 32)]
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(one, other, strict=True))


def test_receptive_fields_grow_and_are_where_the_middle_is() -> None:
    model = random_init(DMFormer(SMALL)).eval()
    fields = looking.effective_receptive_fields(model, torch.randn(1, 3, 128, 128))
    areas = [looking.area_of(field) for field in fields]
    assert areas == sorted(areas)
    assert areas[0] < 0.1
    for side in (fields[0].sum(0), fields[0].sum(1)):
        assert 50 < (side * np.arange(128)).sum() / side.sum() < 80


def test_gates_are_factors() -> None:
    gates = looking.gates(random_init(DMFormer(SMALL)).eval(), torch.randn(1, 3, 64, 64))
    # The first two stages have as many channels as each other.
    assert [g.shape for g in gates] == [(2, 16), (2, 32)]
    assert all(0 <= g.min() < g.max() <= 1 for g in gates)


def test_channel_attentions_are_distributions() -> None:
    maps = looking.channel_attentions(
        random_init(MODELS["XFormer"]()).eval(), torch.randn(1, 3, 64, 64)
    )
    assert [m.shape for m in maps] == [(36, 36), (48, 48), (60, 60)]
    for weights in maps:
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_grad_cam_shows_what_the_score_is_made_of() -> None:
    """A classifier that looks at the left half alone."""
    pytest.importorskip("pytorch_grad_cam", reason="see requirements/visualize.txt")

    class Head(nn.Module):
        def forward(self, features):
            left = features[-1][..., : features[-1].shape[-1] // 2].relu().mean(dim=(1, 2, 3))
            return torch.stack([left, -left], dim=1)

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = transxnet()
            self.head = Head()
            self.data_preprocessor = nn.Identity()

        def extract_feat(self, x):
            return self.backbone(x)

    model = Classifier().eval()
    cam, chosen = looking.grad_cam(model, model.backbone, torch.rand(1, 3, 128, 128) * 255)
    assert chosen == 0
    assert cam.shape == (128, 128)
    assert 0 <= cam.min() < cam.max() <= 1


@pytest.mark.parametrize("name", MODELS)
def test_a_page_of_every_family(name, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="see requirements/visualize.txt")
    model = random_init(MODELS[name]()).eval()
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    assert prepare_image(model, image, 64)[2].abs().max() < 3  # normalised, as for training
    path = tmp_path / "page.png"
    hooks = [len(module._forward_hooks) for module in model.modules()]  # shortcuts are some
    draw_page(model, model, image, path, title=name, place=(0.2, 0.9), short_side=64)
    assert min(Image.open(path).size) > 400
    assert [len(module._forward_hooks) for module in model.modules()] == hooks


def test_images_are_resized_and_normalised() -> None:
    image = np.full((100, 200, 3), 128, np.uint8)
    shown, x, whole = prepare_image(nn.Linear(1, 1), image, 50)
    assert shown.shape == (50, 100, 3)
    assert x.shape == whole.shape == (1, 3, 50, 100)
    assert abs(x).max() < 1
    assert whole.mean() == 128
