"""timm's registry has our backbones, and they do what timm's own tests ask of a model.

Every registered class is checked, at the size that it has for tests.
"""

import copy
import inspect
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from timm.models import FeatureInfo, group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import mmhybrid.timm
from mmhybrid.backbones import TransXNet, backbone_classes
from mmhybrid.backbones.family import PretrainedWeights
from mmhybrid.weights import CheckpointError

SIDE = 64
MODELS = {f"test_{cls.__name__}".lower(): cls for cls in backbone_classes()}
for name, cls in MODELS.items():
    mmhybrid.timm.register(name, cls, **cls.test_options)
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE)


def test_every_preset_has_a_model_and_every_classifier_of_the_catalogue_a_tag() -> None:
    names = timm.list_models(module="timm", include_tags=True)
    archs = {name.partition(".")[0] for name in names}
    assert archs >= {"transxnet_small", "dmformer_large", "dw_swin_tiny", "dw_cait_xxs12"}
    presets = sum(len(cls.presets) for cls in MODELS.values())
    assert len([arch for arch in archs if not arch.startswith("test_")]) == presets
    catalogue = [one for cls in MODELS.values() for one in cls.pretrained]
    ours = {one.name for one in catalogue if one.name.partition(".")[0] in archs}
    assert ours == set(timm.list_models(module="timm", pretrained=True))
    assert {one.name for one in catalogue} - ours == {
        one.name for one in catalogue if one.name.startswith(("mask_rcnn", "retina", "semantic"))
    }


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("dw_vit_tiny.deit_in1k", "deit_tiny_patch16_224.fb_in1k"),
        ("dw_vit_small.augreg_in21k_ft_in1k", "vit_small_patch16_224.augreg_in21k_ft_in1k"),
        ("dw_vit_small.dino", "vit_small_patch16_224.dino"),
        ("dw_swin_tiny.in1k", "swin_tiny_patch4_window7_224.ms_in1k"),
        ("dw_cait_xxs24.in1k", "cait_xxs24_224.fb_dist_in1k"),
    ],
)
def test_weights_of_a_host_are_described_as_timm_describes_them(name: str, host: str) -> None:
    ours, theirs = (timm.get_pretrained_cfg(one).to_dict() for one in (name, host))
    same = ("mean", "std", "crop_pct", "interpolation", "input_size", "num_classes", "license")
    assert {key: ours.get(key) for key in same} == {key: theirs.get(key) for key in same}


def test_the_larger_size_is_the_one_that_weights_were_last_trained_at() -> None:
    cfg = timm.get_pretrained_cfg("transxnet_base.in1k_384")
    assert (cfg.input_size, cfg.crop_pct) == ((3, 384, 384), 0.95)
    assert timm.get_pretrained_cfg("transxnet_tiny").url.endswith("/transx-t.pth.tar")


@every_model
def test_forward_and_backward(name: str, x: Tensor) -> None:
    model = timm.create_model(name, num_classes=42, drop_rate=0.1, drop_path_rate=0.1).train()
    output = model(x)
    assert output.shape == (2, 42)
    output.mean().backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None, parameter
    assert torch.isfinite(output).all()


@every_model
def test_the_size_that_positions_are_made_for(name: str, x: Tensor) -> None:
    plain = timm.create_model(name)
    for size in (96, (96, 96)):
        model = timm.create_model(name, img_size=size, num_classes=3)
        assert model(x).shape == (2, 3)
        shapes, usual = ([p.shape for p in one.backbone.parameters()] for one in (model, plain))
        takes = "image_size" in inspect.signature(MODELS[name]).parameters
        assert (shapes != usual) == takes
    if takes:
        with pytest.raises(ValueError, match="give the side"):
            timm.create_model(name, img_size=(64, 96))
    maps = timm.create_model(name, img_size=96, features_only=True)(x)
    assert maps[0].shape[-1] == SIDE // 4


@every_model
def test_default_cfg_describes_the_model(name: str, x: Tensor) -> None:
    model = timm.create_model(name).eval()
    cfg, weights = model.default_cfg, model.state_dict()
    assert cfg is model.pretrained_cfg
    assert cfg["architecture"] == name
    assert f"{cfg['classifier']}.weight" in weights
    assert weights[f"{cfg['first_conv']}.weight"].shape[1] == 3
    x = torch.randn(1, *cfg["input_size"])
    features = model.forward_features(x)
    assert features.shape == (1, model.num_features, *cfg["pool_size"])
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    torch.testing.assert_close(model.forward_head(features), model(x))


@every_model
def test_the_classifier_can_be_replaced_and_removed(name: str, x: Tensor) -> None:
    model = timm.create_model(name).eval()
    features = model.forward_features(x)
    model.reset_classifier(7)
    assert model(x).shape == (2, model.num_classes) == (2, model.get_classifier().out_features)
    model.reset_classifier(0)
    torch.testing.assert_close(model(x), features.mean((2, 3)))
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(x), features)
    for options, ndim in ((dict(), 2), (dict(global_pool=""), 4)):
        without = timm.create_model(name, num_classes=0, **options)
        assert without(x).ndim == ndim
        assert not any(key.startswith("head.") for key in without.state_dict())


@every_model
@pytest.mark.parametrize("indices", [None, (1, 2), (-1,), 2])
def test_features_only(name: str, indices: tuple[int, ...] | int | None, x: Tensor) -> None:
    options = {} if indices is None else dict(out_indices=indices)
    model = timm.create_model(name, features_only=True, **options).train()
    plain = MODELS[name](**MODELS[name].test_options)
    taken = {None: range(4), 2: (-2, -1)}.get(indices, indices)
    info = model.feature_info
    assert info.channels() == [plain.feature_channels[i] for i in taken]
    assert info.reduction() == [plain.feature_strides[i] for i in taken]
    assert len(info.info) == 4
    maps = model(x)
    for one, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        assert one.shape == (2, channels, SIDE // reduction, SIDE // reduction)
    sum(one.square().mean() for one in maps).backward()
    unused = {key for key, value in model.named_parameters() if value.grad is None}
    assert unused == set()


@every_model
def test_forward_intermediates(name: str, x: Tensor) -> None:
    model = timm.create_model(name).eval()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    output, maps = model.forward_intermediates(x)
    torch.testing.assert_close(output, model.forward_features(x))
    for one, channels, reduction in zip(maps, info.channels(), info.reduction(), strict=True):
        assert one.shape == (2, channels, SIDE // reduction, SIDE // reduction)
    for indices in (1, [0]):
        (one,) = model.forward_intermediates(x, indices, intermediates_only=True)
        torch.testing.assert_close(one, maps[0 if indices == [0] else -1])
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NHWC")


@every_model
def test_recomputing_changes_nothing(name: str, x: Tensor) -> None:
    plain = timm.create_model(name).train()
    other = copy.deepcopy(plain)
    other.set_grad_checkpointing()
    assert other.backbone.with_cp
    for model in (plain, other):
        model(x).square().mean().backward()
    torch.testing.assert_close(
        *({k: p.grad for k, p in m.named_parameters()} for m in (plain, other))
    )


@every_model
def test_layer_groups_and_decay(name: str) -> None:
    model = timm.create_model(name)
    depth = model.backbone.get_layer_depth("", "")[1]
    for coarse, most in ((True, 6), (False, depth)):
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == {key for key, _ in model.named_parameters()}
        assert groups[f"{model.default_cfg['first_conv']}.weight"] == 0
        assert groups["head.fc.weight"] == max(groups.values())
        assert 4 <= max(groups.values()) + 1 <= most
    assert model.no_weight_decay() <= set(groups)
    learned = create_optimizer_v2(model, "sgd", weight_decay=0.1, layer_decay=0.5).param_groups
    undecayed = {id(p) for one in learned if one["weight_decay"] == 0 for p in one["params"]}
    assert all(id(model.get_parameter(key)) in undecayed for key in model.no_weight_decay())
    assert len({one["lr_scale"] for one in learned}) == len(set(groups.values()))


def test_what_does_not_decay_is_named_by_the_class() -> None:
    parts = {name: timm.create_model(name).no_weight_decay() for name in MODELS}
    assert parts["test_dwvisiontransformer"] == {"backbone.cls_token", "backbone.pos_embedding"}
    assert {key.rpartition(".")[2] for key in parts["test_xformer"]} == {"temperature"}
    assert parts["test_transxnet"] == set()


@every_model
@pytest.mark.parametrize("in_chans", [1, 4])
def test_a_file_is_fitted_to_other_channels_and_classes(
    name: str, in_chans: int, x: Tensor, tmp_path: Path
) -> None:
    trained = timm.create_model(name).eval()
    path = tmp_path / "trained.pth"
    torch.save(trained.state_dict(), path)
    file = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    model = timm.create_model(name, in_chans=in_chans, num_classes=5, **file).eval()
    assert model(torch.randn(1, in_chans, SIDE, SIDE)).shape == (1, 5)
    if in_chans == 1:  # one channel is seen three times
        one = torch.randn(1, 1, SIDE, SIDE)
        expected = trained.forward_features(one.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model.forward_features(one), expected)
    features = timm.create_model(name, features_only=True, **file).eval()
    loaded = features.model.backbone.state_dict()
    same = [
        torch.equal(value, loaded[k])
        for k, value in trained.backbone.state_dict().items()
        if k in loaded
    ]
    assert all(same)
    assert len(same) > len(loaded) / 2


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TransXNet:
    """A model whose file, under its authors' names, lies in the cache of downloads."""
    weights = PretrainedWeights(
        "test_mini.in1k", "https://127.0.0.1:1/mini.pth.tar", "ImageNet-1K", {"top-1": 1.0},
        "Apache-2.0", TransXNet.test_options,
    )  # fmt: skip
    monkeypatch.setattr(TransXNet, "pretrained", (*TransXNet.pretrained, weights))
    if not timm.is_model("test_mini"):
        mmhybrid.timm.register("test_mini", TransXNet, [weights], **weights.options)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    trained = timm.create_model("test_mini").eval()
    file = {key.removeprefix("backbone."): v for key, v in trained.backbone.state_dict().items()}
    for place in ("weight", "bias"):
        file[f"classifier.0.{place}"] = file.pop(f"norm6.{place}")
        head = trained.head.fc.state_dict()[place]
        file[f"classifier.2.{place}"] = head[..., None, None] if place == "weight" else head
    torch.save(dict(state_dict=file), tmp_path / "checkpoints" / "mini.pth.tar")
    return trained


def test_pretrained_weights_come_by_our_own_loader(published: nn.Module, x: Tensor) -> None:
    for name in ("test_mini", "test_mini.in1k"):
        model = timm.create_model(name, pretrained=True).eval()
        torch.testing.assert_close(model(x), published(x), rtol=0, atol=0)
    model = timm.create_model("test_mini", pretrained=True, num_classes=3).eval()
    torch.testing.assert_close(model.forward_features(x), published.forward_features(x))
    grey = timm.create_model("test_mini", pretrained=True, in_chans=1).eval()
    torch.testing.assert_close(grey(x[:, :1]), published(x[:, :1].expand(-1, 3, -1, -1)))
    features = timm.create_model("test_mini", pretrained=True, features_only=True).eval()
    torch.testing.assert_close(features(x)[-1], published.forward_features(x))
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("xformer_small", pretrained=True)
    (Path(torch.hub.get_dir()) / "checkpoints" / "mini.pth.tar").unlink()
    with pytest.raises(CheckpointError, match="cannot download"):
        timm.create_model("test_mini", pretrained=True)


def test_a_vit_of_timm_and_ours_with_its_weights_are_equal(x: Tensor, tmp_path: Path) -> None:
    vit = timm.models.VisionTransformer(SIDE, embed_dim=48, depth=4, num_heads=3).eval()
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    options = dict(zero_init=True, qkv_bias=True, norm_eps=1e-6, image_size=SIDE)
    model = timm.create_model("test_dwvisiontransformer", **options).eval()
    mmhybrid.load_checkpoint(model, tmp_path / "vit.pth")
    torch.testing.assert_close(model(x), vit(x))


def test_saved_by_timm_and_created_from_the_folder(x: Tensor, tmp_path: Path) -> None:
    model = timm.create_model("test_dmformer", num_classes=5).eval()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("options", [dict(features_only=True), dict(num_classes=7), {}])
@pytest.mark.parametrize("kept", [0, 3])  # tensors of the model's own names
def test_a_file_of_another_model_is_refused(options: dict, kept: int, tmp_path: Path) -> None:
    own = [*timm.create_model("test_dmformer").state_dict().items()][:kept]
    torch.save(dict(own, other=torch.ones(2)), tmp_path / "other.pth")
    overlay = dict(file=str(tmp_path / "other.pth"))
    with pytest.raises(CheckpointError, match=r"does not fit DMFormer \(backbone\)"):
        timm.create_model(
            "test_dmformer", pretrained=True, pretrained_cfg_overlay=overlay, **options
        )


def step(model: nn.Module, loss: Tensor) -> None:
    """A step of training reaches the backbone."""
    first = next(p for key, p in model.named_parameters() if "backbone" in key)
    before = first.detach().clone()
    loss.backward()
    torch.optim.SGD(model.parameters(), 1.0).step()
    assert not torch.equal(first, before)


@every_model
def test_a_step_of_segmentation_models_pytorch(name: str, x: Tensor) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet(
        f"tu-{name}", encoder_weights=None, classes=5, decoder_channels=(32, 16, 8, 8, 8)
    )
    output = model(x)
    assert output.shape == (2, 5, SIDE, SIDE)
    step(model, output.square().mean())


@every_model
def test_a_step_of_transformers(name: str, x: Tensor) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.TimmBackboneConfig(backbone=name, out_indices=[1, 3])
    model = transformers.TimmBackbone(config)
    maps = model(x).feature_maps
    assert [one.shape[1] for one in maps] == model.channels
    assert model.out_indices == [1, 3]
    step(model, sum(one.square().mean() for one in maps))


@every_model
def test_a_step_of_torchvisions_faster_rcnn(name: str, x: Tensor) -> None:
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.backbone_utils import BackboneWithFPN

    class Named(nn.ModuleDict):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return OrderedDict((str(i), one) for i, one in enumerate(self["backbone"](x)))

    features = timm.create_model(name, features_only=True)
    backbone = BackboneWithFPN(nn.Sequential(), {}, features.feature_info.channels(), 16)
    backbone.body = Named(dict(backbone=features))
    model = FasterRCNN(
        backbone, num_classes=2, min_size=SIDE, max_size=SIDE, box_detections_per_img=5
    )
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
    losses = model(list(x), [dict(boxes=boxes, labels=torch.tensor([1]))] * 2)
    step(model, sum(losses.values()))


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # as the papers count them; of the families with shortcuts, their hosts'
        *(("transxnet_tiny", 12.8), ("transxnet_small", 26.9), ("transxnet_base", 48.0)),
        *(("dw_vit_tiny", 5.7), ("dw_swin_tiny", 28.3), ("dw_cait_xxs24", 12.0)),
    ],
)
def test_full_size(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
        features = timm.create_model(name, features_only=True)
    counted = sum(one.numel() for one in model.parameters()) / 1e6
    assert counted == pytest.approx(millions, rel=0.02)
    assert len(features.feature_info.channels()) == 4
