"""Plain ViT, Swin and CaiT, whose weights our models start from, compute what ours then do."""

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmhybrid.backbones import DWCaiT, DWSwinTransformer, DWVisionTransformer
from mmhybrid.layers.window_attention import resize_bias_table
from mmhybrid.weights import CheckpointError, LoadReport, load_checkpoint, load_weights
from mmhybrid.weights.converting import to_authors, to_ours
from mmhybrid.weights.families import describe

timm = pytest.importorskip("timm")
pytest.importorskip("mmpretrain")
pytest.importorskip("mmdet")

# What a host never had; by default all else must come from its file.
NEW = re.compile(r"(backbone\.)?((layers\.\d\.)?shortcuts\.|pyramid\.|norm[012]\.)")
CLASSES = 5
HOST = dict(qkv_bias=True, norm_eps=1e-6, zero_init=True)
FACEBOOK = dict(HOST, talking_heads_bias=True, facebook_class_stage=True)
VIT = dict(embed_dims=128, depth=2, num_heads=2)
CAIT = dict(embed_dims=48, depth=3, num_heads=4, cls_depth=2)
SWIN = dict(embed_dims=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 6))
TIMM_VIT = dict(embed_dim=128, depth=2, num_heads=2, img_size=64)
TIMM_CAIT = dict(embed_dim=48, depth=3, num_heads=4, img_size=64)
TIMM_SWIN = dict(embed_dim=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 6))
MM_VIT = dict(embed_dims=128, num_layers=2, num_heads=2, feedforward_channels=512)


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter at random, so that none hides behind a zero."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter[0].numel() if parameter.ndim > 1 else 9
            parameter.copy_(torch.randn(parameter.shape, generator=random) * size**-0.5)
            if parameter.ndim == 1:
                parameter += 1
    model.eval()  # OpenMMLab's return None
    return model


def timms(name: str, **options: Any) -> nn.Module:
    return fill(timm.create_model(name, num_classes=CLASSES, **options))


def mms(package: str, name: str, **options: Any) -> nn.Module:
    return fill(MODELS.build(dict(type=f"{package}.{name}", **options)))


def as_microsoft(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names turned into Microsoft's: downsampling ends a stage, the classifier is flat."""
    return {
        re.sub(r"(?<=layers\.)\d(?=\.downsample)", lambda m: str(int(m[0]) - 1), key).replace(
            "head.fc.", "head."
        ): value
        for key, value in weights.items()
    } | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}


def as_mmdet(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    from mmdet.models.backbones.swin import swin_converter

    weights = as_microsoft(weights)
    heads = {f"head.fc.{part}": weights[f"head.{part}"] for part in ("weight", "bias")}
    del weights["layers.0.blocks.1.attn_mask"]
    return {**swin_converter(weights), **heads}


def in_classifier(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """mmpretrain's files, whose classifier's names are given here already."""
    bare = ("head.", "backbone.")
    return {k if k.startswith(bare) else f"backbone.{k}": v for k, v in weights.items()}


same = dict
TINY = dict(
    vit=(lambda: timms("vit_tiny_patch16_224", **TIMM_VIT), DWVisionTransformer, HOST, VIT),
    cait=(lambda: timms("cait_xxs24_224", **TIMM_CAIT), DWCaiT, FACEBOOK, CAIT),
    swin=(
        lambda: timms("swin_tiny_patch4_window7_224", **TIMM_SWIN),
        *(DWSwinTransformer, dict(zero_init=True), SWIN),
    ),
)
FULL = dict(
    deit_tiny=(lambda: timms("deit_tiny_patch16_224"), DWVisionTransformer, HOST, "tiny"),
    deit_small=(lambda: timms("deit_small_patch16_224"), DWVisionTransformer, HOST, "small"),
    vit_tiny=(lambda: timms("vit_tiny_patch16_224"), DWVisionTransformer, HOST, "tiny"),
    dino_small=(lambda: timms("vit_small_patch16_224.dino"), DWVisionTransformer, HOST, "small"),
    cait_xxs24=(lambda: timms("cait_xxs24_224"), DWCaiT, FACEBOOK, "xxs24"),
    swin_tiny=(
        lambda: timms("swin_tiny_patch4_window7_224"),
        *(DWSwinTransformer, dict(zero_init=True), "tiny"),
    ),
)
# What is written in a file, from the tensors by timm's names. DINO's has no classifier.
FILES: dict[str, tuple[str, Callable[[dict[str, Tensor]], Any]]] = {
    "timm's ViT": ("vit", same),
    "DeiT's": ("vit", lambda weights: {"model": weights}),
    "old AugReg with pre-logits": (
        "vit",
        lambda weights: weights | {"pre_logits.fc.weight": torch.ones(128, 128)},
    ),
    "DINO's": ("vit", lambda weights: {k: v for k, v in weights.items() if "head." not in k}),
    "timm's CaiT": ("cait", same),
    "Facebook's CaiT": (
        "cait",
        lambda weights: {"model": {f"module.{k}": v for k, v in weights.items()}, "epoch": 399},
    ),
    "timm's Swin": ("swin", same),
    "Microsoft's": ("swin", lambda weights: {"model": as_microsoft(weights)}),
    "mmdet's converted Swin": ("swin", lambda weights: {"state_dict": as_mmdet(weights)}),
}


def sized(image_size: int, backbone: type) -> dict[str, Any]:
    return {} if backbone is DWSwinTransformer else dict(image_size=image_size)


def classifier(backbone: type, **options: Any) -> nn.Module:
    options["out_type" if backbone is not DWSwinTransformer else "out_indices"] = (
        "cls_token" if backbone is not DWSwinTransformer else (3,)
    )
    neck = dict(type="GlobalAveragePooling") if backbone is DWSwinTransformer else None
    made = dict(type=f"mmhybrid.{backbone.__name__}", **options)
    channels = backbone(**options).feature_channels[-1]
    head = dict(type="LinearClsHead", num_classes=CLASSES, in_channels=channels)
    cfg = dict(type="mmpretrain.ImageClassifier", backbone=made, neck=neck, head=head)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return MODELS.build(cfg).eval()


def load(model: nn.Module, content: Any, folder: Path) -> LoadReport:
    torch.save(content, folder / "host.pth")
    report = load_checkpoint(model, folder / "host.pth", logger="silent")
    assert report.mismatched == {}
    return report


def assert_whole(report: LoadReport, left: str = r"(head|pre_logits)\.") -> None:
    missing = [key for key in report.missing_keys if not NEW.match(key)]
    assert [key for key in missing if not key.startswith("head.")] == []
    assert all(re.search(left, key) for key in report.unexpected_keys)


def assert_not_whole(model: nn.Module, content: Any, folder: Path) -> None:
    """An error, or named as missing for the loader to judge."""
    with contextlib.suppress(CheckpointError):
        report = load(model, content, folder)
        assert {"patch_embed.weight", "pos_embedding"} <= set(report.missing_keys)


def patch_features(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Of ours: the normalised tokens that the pyramid is made of, or Swin's maps."""
    if isinstance(model, DWSwinTransformer):
        return list(model(x))
    kept = []
    hook = model.norm.register_forward_hook(lambda module, inputs, output: kept.append(output))
    model(x)
    hook.remove()
    return kept


def host_features(host: nn.Module, x: Tensor) -> list[Tensor]:
    if not hasattr(host, "layers"):
        return [host.forward_features(x)[:, 1:]]
    last, maps = host.forward_intermediates(x)
    fresh = [F.layer_norm(y.permute(0, 2, 3, 1), y.shape[1:2]) for y in maps[:3]]
    return [y.permute(0, 3, 1, 2) for y in (*fresh, last)]


def assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert b.std() > 0.1
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@torch.no_grad()
def assert_same_function(host, backbone, options, arch, write, image_size, folder) -> None:
    x = torch.randn(2, 3, image_size, image_size)
    options = dict(options, arch=arch, **sized(image_size, backbone))
    content = write(host.state_dict())
    dense = backbone(**options).eval()
    report = load(dense, content, folder)
    assert_whole(report, left=r"(head|pre_logits|cls_blocks|blocks_token_only|cls_token)")
    assert_equal(patch_features(dense, x), host_features(host, x))
    model = classifier(backbone, **options)
    assert_whole(load(model, content, folder))
    (feature,) = model.extract_feat(x)
    if model.with_neck:
        expected = host.forward_features(x).mean((1, 2))
    else:
        expected = host.forward_features(x)[:, 0]
    assert_equal([feature], [expected])
    if "head.fc.weight" in load(model, content, folder).loaded:
        assert_equal([model.head((feature,))], [host(x)])
    else:
        assert not any("head." in key for key in content)


@pytest.mark.parametrize("file", FILES)
def test_function_of_the_host(file, tmp_path) -> None:
    name, write = FILES[file]
    build, *ours = TINY[name]
    assert_same_function(build(), *ours, write, 224 if name == "swin" else 64, tmp_path)


@pytest.mark.full_size
@pytest.mark.parametrize("name", FULL)
def test_function_of_the_host_at_full_size(name, tmp_path) -> None:
    build, *ours = FULL[name]
    assert_same_function(build(), *ours, same, 224, tmp_path)


def test_microsofts_names_are_those_that_timm_reads() -> None:
    from timm.models.swin_transformer import checkpoint_filter_fn

    host = TINY["swin"][0]()
    back = checkpoint_filter_fn(as_microsoft(host.state_dict()), host)
    torch.testing.assert_close(back, dict(host.state_dict()), rtol=0, atol=0)


MM = {
    "mmdet.SwinTransformer": (dict(SWIN), SWIN),
    "mmpretrain.SwinTransformer": (dict(arch=SWIN, out_indices=(0, 1, 2, 3)), SWIN),
    "mmpretrain.VisionTransformer": (
        dict(arch=MM_VIT, img_size=64, patch_size=16, out_type="raw", norm_cfg=None),
        VIT,
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", MM)
@pytest.mark.parametrize("wrap", [same, in_classifier])
def test_function_of_openmmlabs(name, wrap, tmp_path) -> None:
    options, arch = MM[name]
    if "norm_cfg" in options:
        options = dict(options, norm_cfg=dict(type="LN", eps=1e-6))
    package, _, host = name.partition(".")
    host = mms(package, host, **options)
    weights = wrap(host.state_dict())
    if name.endswith("SwinTransformer"):
        model = DWSwinTransformer(arch=arch, zero_init=True).eval()
        report = load(model, weights, tmp_path)
        assert not any(key.startswith("norm") for key in report.missing_keys)
        assert_whole(report)
        # mmdet's alone shifts windows even along a side that fits in one: the last map at 224.
        for size in ((260, 300), (224, 224))[: 1 if package == "mmdet" else 2]:
            x = torch.randn(1, 3, *size)
            assert_equal(list(model(x)), list(host(x)))
        return
    model, x = (
        DWVisionTransformer(arch=arch, image_size=64, **HOST).eval(),
        torch.randn(2, 3, 64, 64),
    )
    assert_whole(load(model, weights, tmp_path))
    assert_equal(patch_features(model, x), [host(x)[0][:, 1:]])
    head = {
        "head.layers.head.weight": torch.randn(CLASSES, 128),
        "head.layers.head.bias": torch.ones(5),
    }
    model = classifier(DWVisionTransformer, arch=arch, image_size=64, **HOST)
    assert_whole(load(model, in_classifier(weights) | head, tmp_path))
    (feature,) = model.extract_feat(x)
    assert_equal([feature], [host(x)[0][:, 0]])
    assert torch.equal(model.head.fc.weight, head["head.layers.head.weight"])


@torch.no_grad()
@pytest.mark.parametrize("image_size", [96, 48])
def test_positions_of_another_size_are_timms(image_size, tmp_path) -> None:
    from timm.models.vision_transformer import checkpoint_filter_fn

    small = TINY["vit"][0]()
    host = timms("vit_tiny_patch16_224", **dict(TIMM_VIT, img_size=image_size))
    host.load_state_dict(checkpoint_filter_fn(small.state_dict(), host))
    model = DWVisionTransformer(arch=VIT, image_size=image_size, **HOST).eval()
    report = load(model, small.state_dict(), tmp_path)
    assert report.adapted == ["pos_embedding"]
    x = torch.randn(1, 3, image_size, image_size)
    assert_equal(patch_features(model, x), host_features(host, x))
    # And of images as they come.
    host = timms("vit_tiny_patch16_224", **TIMM_VIT, dynamic_img_size=True)
    model = DWVisionTransformer(arch=VIT, image_size=64, position_antialias=True, **HOST).eval()
    load(model, host.state_dict(), tmp_path)
    x = torch.randn(1, 3, image_size, 80)
    assert_equal(patch_features(model, x), host_features(host, x))


@pytest.mark.parametrize("window_size", [8, 12, 5])
def test_position_biases_of_another_window_are_timms(window_size, tmp_path) -> None:
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

    table = torch.randn(13 * 13, 3)
    shape = ((2 * window_size - 1) ** 2, 3)
    expected = resize_rel_pos_bias_table(table, (window_size, window_size), shape)
    torch.testing.assert_close(resize_bias_table(table, window_size), expected, rtol=0, atol=1e-5)
    model = DWSwinTransformer(arch=dict(SWIN, window_size=window_size))
    host = TINY["swin"][0]()
    report = load(model, host.state_dict(), tmp_path)
    assert len(report.adapted) == 8
    assert_whole(report)


@torch.no_grad()
def test_half_precision(tmp_path) -> None:
    build, backbone, options, arch = TINY["cait"]
    weights = {k: v.half() for k, v in build().state_dict().items()}
    model = backbone(arch=arch, image_size=96, **options)
    report = load(model, weights, tmp_path)
    assert "pos_embedding" in report.adapted
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    expected = weights["blocks.1.attn.proj_l.weight"].t().float()
    assert torch.equal(model.blocks[1].attn.mix_heads_pre_attn, expected)


# A part of what a host computes is something else.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit", dict(qkv_bias=False)),
        ("vit", dict(arch=dict(VIT, depth=1))),
        ("cait", dict(talking_heads_bias=False)),
        ("cait", dict(talking_heads=False)),
        ("cait", dict(layer_scale=False)),
        ("cait", dict(out_type="cls_token", facebook_class_stage=False)),
        ("swin", dict(arch=dict(SWIN, depths=(2, 2, 1, 2)))),
    ],
)
def test_a_model_that_computes_less_than_the_host_does_not_take_it_in_part(
    name, options, tmp_path
) -> None:
    build, backbone, host_options, arch = TINY[name]
    pytest.importorskip("mmhybrid.weights.rule")
    model = backbone(**dict(host_options, arch=arch, **sized(64, backbone)) | options)
    host = build().state_dict()
    call = re.escape(in_words(backbone, backbone.suggest(host)))
    with pytest.raises(
        CheckpointError, match=rf"(lacks|not there): .*blocks.*{call} takes it whole"
    ):
        load(model, host, tmp_path)


def in_words(backbone, options: dict) -> str:
    return f"{backbone.__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())})"


def test_nothing_is_said_to_take_a_file_that_lacks_a_tensor(tmp_path) -> None:
    weights = TINY["vit"][0]().state_dict()
    del weights["blocks.0.norm1.weight"]
    with pytest.raises(CheckpointError, match=r"blocks\.0\.norm1") as error:
        load(DWVisionTransformer(arch=VIT, image_size=64, **HOST), weights, tmp_path)
    assert "takes it whole" not in str(error.value)


@pytest.mark.parametrize("shape", [(), (7,)])
@pytest.mark.parametrize("file", ["timm's ViT", "timm's CaiT", "Microsoft's", "mmdet's Swin"])
def test_a_tensor_of_a_shape_that_nothing_has_is_refused(file, shape) -> None:
    if file == "mmdet's Swin":
        name, weights = "swin", mms("mmdet", "SwinTransformer", **SWIN).state_dict()
    else:
        name, write = FILES[file]
        weights = write(TINY[name][0]().state_dict())
        weights = weights.get("model", weights)
    _, backbone, options, arch = TINY[name]
    model = backbone(**options, arch=arch, **sized(64, backbone))
    made_anew = r"head\.|^(cls_token|blocks_token_only)|index$|attn_mask$"
    left = made_anew if name != "vit" else r"head\."
    one_of_each = {re.sub(r"\d", "*", k): k for k in weights if not re.search(left, k)}
    for key in list(one_of_each.values())[:: 3 if shape == () else 7]:
        with pytest.raises(CheckpointError, match="does not fit"):
            load_weights(model, {**weights, key: torch.ones(shape)}, logger="silent")


@pytest.mark.parametrize("out_type", ["cls_token", "featmap"])
def test_the_class_stage_of_cait(out_type) -> None:
    model = DWCaiT(arch=CAIT, image_size=64, out_type=out_type, **FACEBOOK)
    more = timms("cait_xxs24_224", **TIMM_CAIT, depth_token_only=3).state_dict()
    none = {key: value for key, value in more.items() if "token" not in key}
    assert describe(none) == "a classifier built on CaiT"
    if out_type == "featmap":
        for weights in (more, none):
            assert_whole(
                load_weights(model, weights, logger="silent"), left="head|token|cls_blocks"
            )
        return
    with pytest.raises(
        CheckpointError, match=r"lacks: cls_blocks\.2.*cls_depth': 3.*takes it whole"
    ):
        load_weights(model, more, logger="silent")
    with pytest.raises(CheckpointError, match=r"not there: cls_blocks \(32\), cls_token \(1\)\. "):
        load_weights(model, none, logger="silent")


def test_others_are_not_taken_for_a_host(tmp_path) -> None:
    weights = TINY["vit"][0]().state_dict()
    distilled = weights | {
        "dist_token": torch.zeros(1, 1, 128),
        "pos_embed": torch.zeros(1, 18, 128),
    }
    assert "distilled DeiT" in describe(distilled)
    assert_not_whole(DWVisionTransformer(arch=VIT, image_size=64, **HOST), distilled, tmp_path)
    assert DWVisionTransformer.suggest(distilled) is None
    assert DWVisionTransformer.suggest(weights | {"blocks.0.ls1.gamma": torch.ones(128)}) is None
    # Names of a host are turned into ours only for the class that starts from it.
    assert_not_whole(DWVisionTransformer(**HOST), TINY["cait"][0]().state_dict(), tmp_path)
    assert to_ours(weights).renamed == {}
    with pytest.raises(CheckpointError, match="ViT or DeiT"):
        to_authors(weights)


@pytest.mark.parametrize("file", FILES)
def test_what_is_suggested_takes_the_file_whole(file, tmp_path) -> None:
    name, write = FILES[file]
    content = write(TINY[name][0]().state_dict())
    weights = content.get("model", content.get("state_dict", content))
    weights = {key.removeprefix("module."): tensor for key, tensor in weights.items()}
    classes = (DWVisionTransformer, DWCaiT, DWSwinTransformer)
    ((suited, options),) = [(one, found) for one in classes if (found := one.suggest(weights))]
    # Without the attention of the first blocks, which loading then finds missing, there is one too.
    rest = {name: tensor for name, tensor in weights.items() if ".0.attn." not in name}
    assert any(one.suggest(rest) for one in classes)
    model = suited(**options)
    left = r"(head|pre_logits|cls_blocks|blocks_token_only|cls_token)"
    report = load(model, content, tmp_path)
    assert_whole(report, left=left)
    assert not {"pos_embedding"} & set(report.adapted)


@pytest.mark.full_size
@pytest.mark.parametrize("name", FULL)
def test_what_is_suggested_for_published_sizes(name) -> None:
    build, backbone, options, arch = FULL[name]
    assert backbone.suggest(build().state_dict()) == dict(options, arch=arch, zero_init=True)


@pytest.mark.parametrize("backbone", [DWVisionTransformer, DWCaiT, DWSwinTransformer])
def test_starts_in_the_catalogue_are_built(backbone) -> None:
    for weights in backbone.pretrained:
        with torch.device("meta"):
            model = backbone(**weights.options)
        shortcuts = getattr(model, "shortcuts", None) or model.layers[0].shortcuts
        assert all(s.convs[0].weight.is_meta for s in shortcuts)
        assert weights.options["zero_init"]
        assert weights.url.startswith("https://")


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_zero_init_is_the_plain_host(name) -> None:
    _, backbone, options, arch = TINY[name]
    x = torch.randn(1, 3, 64, 64)
    options = dict(options, arch=arch, **sized(64, backbone))
    model = backbone(**options).eval()
    plain = backbone(**options, dw_kernel_sizes=()).eval()
    plain.load_state_dict({k: model.state_dict()[k] for k in plain.state_dict()})
    assert_equal(list(model(x)), list(plain(x)))


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (DWVisionTransformer, dict(qkv_bias=True), "no bias such as blocks.0.attn.q.bias"),
        (DWCaiT, dict(talking_heads_bias=True), "no bias such as .*mix_heads_pre_attn_bias"),
        (DWCaiT, dict(facebook_class_stage=True), "class attention mixes heads"),
    ],
)
def test_what_the_authors_code_cannot_have_is_not_written_for_it(
    backbone, options, message
) -> None:
    model = backbone(**backbone.test_options, out_type="cls_token", **options)
    with pytest.raises(CheckpointError, match=message):
        to_authors(model.state_dict())
