"""What a network sees: the maps are those that the network computes, and the page is drawn."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor
from PIL import Image
from torch import nn

from examples.inception_next import InceptionMixer, InceptionNeXt
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones import DepthwiseShortcutBackbone, DMFormer, TransXNet, XFormer
from mmhybrid.backbones.base import backbone_classes
from mmhybrid.layers.overlapping_attention import OverlappingSpatialReductionAttention
from mmhybrid.visualization import feature_maps, layer_maps
from mmhybrid.visualization.drawing import Row, plain
from mmhybrid.visualization.grad_cam import grad_cam
from mmhybrid.visualization.page import draw_page, prepare_image


def tiny(cls: type[nn.Module], **options: object) -> nn.Module:
    return random_init(cls(**cls.test_options, **options)).eval()


def rows_of(model: nn.Module, x: torch.Tensor, *place: tuple[float, float]) -> dict[str, Row]:
    return {row.title: row for row in layer_maps.layer_rows(model, x, *place)}


@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
@torch.no_grad()
def test_attention_of_a_place_is_a_row_of_the_whole_matrix(size) -> None:
    model, x = tiny(TransXNet), torch.randn(1, 3, *size)
    row, column = 0.3, 0.8
    found = rows_of(model, x, (row, column))["Attention of one place"].maps
    calls = []
    for module in model.modules():
        if isinstance(module, OverlappingSpatialReductionAttention):
            module.register_forward_pre_hook(lambda m, args: calls.append((m, *args)))
    model(x)
    assert len(found) == 4
    # The first stage has two blocks, and the last is shown.
    for attention, (module, features, position) in zip(found, calls[1:], strict=True):
        height, width = features.shape[-2:]
        key = module.kv(module.reduce(features)).chunk(2, dim=1)[0]
        q, k = module._split_heads(module.q(features)), module._split_heads(key)
        folded = position.table is None
        table = position.query @ position.key.t() if folded else position.table
        weights = (q @ k.mT * q.shape[-1] ** -0.5 + table).softmax(-1)[0].mean(0)
        index = int(row * height) * width + int(column * width)
        torch.testing.assert_close(torch.from_numpy(attention).flatten(), weights[index])
        assert attention.shape == tuple(key.shape[-2:])


def test_dynamic_kernels_depend_on_the_image() -> None:
    model = tiny(TransXNet)
    rows = [rows_of(model, torch.randn(1, 3, 64, 64))["Dynamic kernels"] for _ in range(2)]
    assert [k.shape for k in rows[0].maps] == [(c, 7, 7) for c in (8, 16, 24, 32)]
    assert rows[0].captions == ["8 channels", "16 channels", "24 channels", "32 channels"]
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(rows[0].maps, rows[1].maps, strict=True))


def test_receptive_fields_grow_and_are_where_the_middle_is() -> None:
    fields = feature_maps.effective_receptive_fields(tiny(DMFormer), torch.randn(1, 3, 128, 128))
    areas = [feature_maps.receptive_area(field) for field in fields]
    assert areas == sorted(areas)
    assert areas[0] < 0.1
    for side in (fields[0].sum(0), fields[0].sum(1)):
        assert 50 < (side * np.arange(128)).sum() / side.sum() < 80


def test_gates_are_factors() -> None:
    maps = rows_of(tiny(DMFormer), torch.randn(1, 3, 64, 64))["Gate"].maps
    assert [g.shape for g in maps] == [(2, 16), (1, 32), (1, 48), (1, 64)]
    assert all(0 <= g.min() < g.max() <= 1 for g in maps)


def test_channel_attentions_are_distributions() -> None:
    maps = rows_of(tiny(XFormer), torch.randn(1, 3, 64, 64))["Attention of channels"].maps
    assert len(maps) == 3
    for weights in maps:
        assert weights.shape[0] == weights.shape[1]
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_grad_cam_shows_what_the_score_is_made_of() -> None:
    """A classifier that looks at the left half alone: the mean gradient weights the channels."""
    pytest.importorskip("pytorch_grad_cam", reason="see requirements/visualize.txt")

    class Head(nn.Module):
        def forward(self, features):
            left = features[-1][..., : features[-1].shape[-1] // 2].relu().mean(dim=(1, 2, 3))
            return torch.stack([left, -left], dim=1)

    model = nn.Module()
    model.backbone = model.extract_feat = tiny(TransXNet)
    model.head, model.data_preprocessor = Head(), nn.Identity()
    model.eval()
    image = torch.rand(1, 3, 128, 128) * 255
    cam, explained = grad_cam(model, model.backbone, image)
    assert explained == "the best class, label 0"
    assert cam.shape == (128, 128)
    assert 0 <= cam.min() < cam.max() <= 1
    features = model.backbone(image)[-1].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.head([features])[0, 0], features)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)[0]  # (4, 4)
    row, column = np.unravel_index(cam.argmax(), cam.shape)
    assert (row // 32 * 4 + column // 32) == expected.argmax()


def wrapped_swin() -> nn.Module:
    swin = dict(type="mmdet.SwinTransformer", embed_dims=24, depths=(1, 1, 1, 1))
    return DepthwiseShortcutBackbone(dict(swin, num_heads=(1, 2, 4, 8), out_indices=(1, 3)))


# Not those that other tests register.
FAMILIES = [c for c in backbone_classes() if c.__module__.startswith("mmhybrid.")]
PAGES = {c.__name__: partial(tiny, c) for c in FAMILIES}
PAGES |= {"mmdet's Swin with shortcuts": wrapped_swin, "a new family": partial(tiny, InceptionNeXt)}
SHORTCUTS = ("DWCaiT", "DWSwinTransformer", "DWVisionTransformer", "mmdet's Swin with shortcuts")
OF_LAYERS = {name: ["Depth-wise shortcuts"] for name in SHORTCUTS} | {
    "TransXNet": ["Dynamic kernels", "Attention of one place"],
    "DMFormer": ["Gate"],
    "XFormer": ["Attention of channels"],
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_every_family(name, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_grad_cam", reason="see requirements/visualize.txt")
    model = random_init(PAGES[name]()).eval()
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    path = tmp_path / "page.png"
    hooks = [len(module._forward_hooks) for module in model.modules()]  # shortcuts are some
    draw_page(model, model, image, path, title=name, place=(0.2, 0.9), short_side=64)
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    rows = [row.title for row in layer_maps.layer_rows(model, torch.rand(1, 3, 64, 96))]
    assert rows == OF_LAYERS.get(name, [])
    assert Image.open(path).height > 150 * (3 + len(rows))


def test_a_layer_of_a_new_type_is_shown_once_it_says_how(monkeypatch) -> None:
    monkeypatch.setattr(layer_maps, "VIEWS", dict(layer_maps.VIEWS))

    @layer_maps.shows(InceptionMixer)
    def mixed(calls, place):
        maps = [layer(x)[0, 0].numpy() for layer, (x,) in calls]
        return Row("Mixed", "First channel.", plain(), maps, ["map"] * len(maps))

    rows = rows_of(tiny(InceptionNeXt), torch.rand(1, 3, 32, 64))
    assert list(rows) == ["Mixed"]
    assert [y.shape for y in rows["Mixed"].maps] == [(8, 16), (8, 16), (4, 8), (2, 4), (1, 2)]


def test_images_are_resized_and_normalised() -> None:
    image = np.full((100, 200, 3), 128, np.uint8)
    shown, x, whole = prepare_image(nn.Linear(1, 1), image, 50)
    assert (shown.shape, x.shape, whole.shape) == ((50, 100, 3), (1, 3, 50, 100), (1, 3, 50, 100))
    assert abs(x).max() < 1
    assert whole.mean() == 128
    assert prepare_image(tiny(DMFormer), image, 50)[2].equal(x)  # a backbone takes it normalised
    model = nn.Module()
    model.data_preprocessor = ClsDataPreprocessor(mean=[1, 2, 3], std=[1, 1, 1], to_rgb=False)
    _, x, whole = prepare_image(model, image, 50)
    assert (whole.flip(1) - torch.tensor([1, 2, 3]).view(3, 1, 1)).equal(x)
