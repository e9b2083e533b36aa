"""One model for several threads, and models that are made on the meta device."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmhybrid.backbones import backbone_classes
from mmhybrid.deploy import fuse

SWIN = dict(type="mmdet.SwinTransformer", embed_dims=24, num_heads=(1, 2, 4, 8))


def wrapper(span: int = 1) -> nn.Module:
    import mmdet.models  # noqa: F401

    shallow = dict(SWIN, depths=(2, 2, 2, 2))
    return MODELS.build(dict(type="DepthwiseShortcutBackbone", backbone=shallow, dw_span=span))


MODELS_OF = {one.__name__: lambda one=one: one(**one.test_options) for one in backbone_classes()}
# Of ours alone: mmdet's Swin reads numbers of a tensor while it is made.
every_of_ours = pytest.mark.parametrize("name", list(MODELS_OF))
MODELS_OF |= {"wrapper": wrapper, "wrapper of two blocks": lambda: wrapper(2)}
every_model = pytest.mark.parametrize("name", MODELS_OF)


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS_OF[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model


@every_model
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@torch.no_grad()
def test_four_threads_get_the_features_of_their_own_images(name, fused) -> None:
    model = fuse(made(name)) if fused else made(name)
    # Of two sizes: what one thread fitted to its size must not serve another.
    images = [torch.randn(1, 3, 64, side) for side in (64, 96, 64, 96)]
    expected = [model(image) for image in images]
    together = threading.Barrier(4)

    def run(index: int) -> None:
        torch.set_grad_enabled(False)  # which holds for a thread
        together.wait()
        for _ in range(6):
            torch.testing.assert_close(model(images[index]), expected[index], rtol=1e-3, atol=1e-4)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))


@every_of_ours
@pytest.mark.parametrize("assign", [True, False], ids=["assigned", "emptied and filled"])
@torch.no_grad()
def test_made_on_the_meta_device_a_model_computes_the_same(name, assign) -> None:
    real = made(name)
    with torch.device("meta"):
        model = MODELS_OF[name]()
    if not assign:
        model = model.to_empty(device="cpu")
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(7)  # whatever the memory holds
    model.load_state_dict(real.state_dict(), assign=assign)
    image = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(model.eval()(image), real(image))


def test_blocks_that_are_called_without_their_wrapper_have_their_shortcut() -> None:
    model, image = made("wrapper"), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(image), model(image))
