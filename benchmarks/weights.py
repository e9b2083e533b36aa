"""What becomes of every type of published file in every model that takes it.

Nothing is downloaded: the files have the names and shapes of the published ones and are filled at
random, and the models that they are of compute what must come out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmhybrid.analysis.tables import markdown_table
from mmhybrid.apis.models import make_model, model_of
from mmhybrid.apis.random_init import random_init
from mmhybrid.engine.runner.run_config import load_config
from mmhybrid.weights import load_weights
from mmhybrid.weights.converting import to_authors

ROOT = Path(__file__).resolve().parents[1]
Weights = dict[str, Tensor]
# The names of the last norm of TransXNet, Swin, and plain models.
LAST_NORMS = ("backbone.norm6", "norm6", "backbone.norm3", "norm3", "norm", "ln1")
COLUMNS = ("file", "model", "tensors", "loaded", "adapted", "new", "left over", "difference")

VIT = "qkv_bias=True, norm_eps=1e-6, zero_init=True"
CAIT = f"{VIT}, talking_heads_bias=True, facebook_class_stage=True"
HOSTS = {
    "DeiT-T": "timm.deit_tiny_patch16_224(features_only=False)",
    "DeiT-S": "timm.deit_small_patch16_224(features_only=False)",
    "ViT-T": "timm.vit_tiny_patch16_224(features_only=False)",
    "DINO ViT-S": "timm.vit_small_patch16_224(features_only=False, num_classes=0)",
    "CaiT-XXS24": "timm.cait_xxs24_224(features_only=False)",
    "Swin-T": "timm.swin_tiny_patch4_window7_224(features_only=False)",
    "mmdet's Swin-T": "mmdet.SwinTransformer",
    "mmpretrain's Swin-T": "mmpretrain.SwinTransformer(arch='tiny', out_indices=(0, 1, 2, 3))",
    "mmpretrain's DeiT-T": "mmpretrain.VisionTransformer(arch='deit-tiny', "
    "out_type='raw', norm_cfg={'type': 'LN', 'eps': 1e-6})",
}


class File(NamedTuple):
    """A type of file.

    Attributes:
        name: Whose it is, as published.
        host: The model that it is of: a key of :data:`HOSTS`, or a config's path.
        write: What the file holds, from the tensors of that model.
        models: Those that take it: :func:`mmhybrid.apis.make_model`'s names, ``classifier of`` one.
        size: Height and width of the image that they are compared on.
    """

    name: str
    host: str
    write: Callable[[Weights], dict[str, Any]]
    models: tuple[str, ...]
    size: tuple[int, int] = (224, 224)


def _both(backbone: str) -> tuple[str, str]:
    """A backbone of maps, and a classifier built on it."""
    if "Swin" in backbone:
        return backbone, f"classifier of {backbone}"
    return backbone, f"classifier of {backbone.removesuffix(')')}, out_type='cls_token')"


def _vit(arch: str) -> tuple[str, str]:
    return _both(f"DWVisionTransformer(arch='{arch}', {VIT})")


def as_microsoft(weights: Weights) -> dict[str, Any]:
    """timm moved Swin's downsampling to the next stage; masks are in Microsoft's file alone."""
    names = {
        key: re.sub(
            r"^layers\.(\d)(?=\.downsample)", lambda found: f"layers.{int(found[1]) - 1}", key
        ).replace("head.fc.", "head.")
        for key in weights
    }
    masks = {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    return dict(model={names[key]: tensor for key, tensor in weights.items()} | masks)


def within(prefix: str, entry: str) -> Callable[[Weights], dict[str, Any]]:
    """Every name behind a prefix, in an entry of the file."""
    return lambda weights: {entry: {prefix + key: tensor for key, tensor in weights.items()}}


def as_dino(weights: Weights) -> dict[str, Any]:
    """A checkpoint of DINO's training, with its projection head."""
    head = {"module.head.mlp.0.weight": torch.zeros(8, 384)}
    (teacher,) = within("module.backbone.", "teacher")(weights).values()
    return dict(student=teacher | head, teacher=teacher | head, epoch=99)


def as_transxnet(weights: Weights) -> dict[str, Any]:
    """The authors' names of the classifier."""
    return dict(state_dict=to_authors(weights).weights)


def as_mmcv_1(weights: Weights) -> dict[str, Any]:
    """A whole model of mmdet 2 or mmseg 0, whose names are those of today."""
    return dict(meta=dict(mmcv_version="1.7.1", epoch=12), state_dict=weights)


def files() -> Iterator[File]:
    """All types of files, and the models that take them."""
    yield File("timm, DeiT-T", "DeiT-T", dict, _vit("tiny"))
    yield File("Facebook, DeiT-S", "DeiT-S", within("", "model"), _vit("small"))
    yield File("timm, AugReg ViT-T", "ViT-T", dict, _vit("tiny"))
    old = {"pre_logits.fc.weight": torch.ones(192, 192), "pre_logits.fc.bias": torch.ones(192)}
    yield File("old AugReg ViT-T", "ViT-T", lambda weights: weights | old, _vit("tiny"))
    yield File("DINO, ViT-S backbone", "DINO ViT-S", dict, _vit("small")[:1])
    yield File("DINO, ViT-S teacher and student", "DINO ViT-S", as_dino, _vit("small")[:1])
    mmpretrain = "mmpretrain's DeiT-T"
    yield File(mmpretrain, mmpretrain, within("backbone.", "state_dict"), _vit("tiny")[:1])
    cait = f"DWCaiT(arch='xxs24', {CAIT})"
    yield File("timm, CaiT-XXS24", "CaiT-XXS24", dict, _both(cait))
    yield File("Facebook, CaiT-XXS24", "CaiT-XXS24", within("module.", "model"), _both(cait))
    swin = "DWSwinTransformer(arch='tiny', zero_init=True)"
    yield File("timm, Swin-T", "Swin-T", dict, _both(swin))
    yield File("Microsoft, Swin-T", "Swin-T", as_microsoft, _both(swin))
    wrapped = (
        "DepthwiseShortcutBackbone(backbone={'type': 'mmdet.SwinTransformer'}, zero_init=True)"
    )
    # mmdet's Swin, alone of all, shifts a window that its last map at 224 fits in.
    for name, size in (("mmdet's Swin-T", (256, 320)), ("mmpretrain's Swin-T", (224, 224))):
        yield File(name, name, within("backbone.", "state_dict"), (swin,), size)
    yield File("mmdet's Swin-T", "mmdet's Swin-T", within("", "state_dict"), (wrapped,))
    for size, arch in dict(t="tiny", s="small", b="base").items():
        backbone = f"TransXNet(arch='{arch}')"
        config = f"configs/transxnet_{size}_imagenet.py"
        yield File(f"TransXNet, {arch}", config, as_transxnet, (config, backbone))
        for task in ("retinanet_transxnet_{}_coco", "mask_rcnn_transxnet_{}_coco"):
            config = f"configs/{task.format(size)}.py"
            models = (config, f"two classes in {config}", backbone)
            yield File(task.format(size), config, as_mmcv_1, models)
        config = f"configs/semantic_fpn_transxnet_{size}_ade20k.py"
        models = (config, f"two classes in {config}", backbone)
        yield File(Path(config).stem, config, as_mmcv_1, models)


def build(name: str) -> nn.Module:
    """A host, or a model that takes a file, by its name in :class:`File`."""
    if name.startswith("classifier of "):
        backbone = make_model(name.removeprefix("classifier of "))
        pooled = getattr(backbone, "out_type", "") == "cls_token"
        channels = backbone.feature_channels[-1]
        head = dict(type="LinearClsHead", num_classes=1000, in_channels=channels)
        neck = None if pooled else dict(type="GlobalAveragePooling")
        with DefaultScope.overwrite_default_scope("mmpretrain"):
            cfg = dict(type="mmpretrain.ImageClassifier", backbone=backbone, neck=neck, head=head)
            return MODELS.build(cfg)
    if not name.endswith(".py"):
        return make_model(HOSTS.get(name, name))
    cfg = load_config(str(ROOT / name.removeprefix("two classes in ")))
    if name.startswith("two classes in "):
        for head in (cfg.model, cfg.model.get("roi_head") or {}):
            for part in ("bbox_head", "mask_head", "decode_head"):
                if part in head:
                    head[part].num_classes = 2
    return model_of(cfg)


def features(model: nn.Module, x: Tensor) -> Tensor:
    """The last features, (B, tokens, C), normalised over C as by a last norm without weights.

    The model's own may be new.
    """
    modules = dict(model.named_modules())
    norm = next(modules[name] for name in LAST_NORMS if name in modules)
    kept: list[Tensor] = []
    with norm.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0])):
        whole = hasattr(model, "with_neck")  # OpenMMLab's
        (model.backbone if whole else model)(x)
    y = kept[-1]
    y = y.flatten(1, -2) if y.shape[-1] == norm.weight.numel() else y.flatten(2).mT
    return F.layer_norm(y, y.shape[-1:], eps=1e-6)


def difference(host: nn.Module, model: nn.Module, x: Tensor, logits: bool) -> float:
    """The largest, of logits or of features."""
    if logits:
        theirs = host(x, mode="tensor") if hasattr(host, "with_neck") else host(x)
        return float((theirs - model(x, mode="tensor")).abs().max())
    ours, theirs = features(model, x), features(host, x)
    # A class token stands before the patches.
    return float((theirs[:, -ours.shape[1] :] - ours).abs().max())


@torch.no_grad()
def measure(types: Iterable[File]) -> Iterator[tuple[Any, ...]]:
    """A row of :data:`COLUMNS` for each file and model.

    Raises:
        CheckpointError: A model does not take a file that it should.
    """
    for file in types:
        x = torch.randn(1, 3, *file.size, generator=torch.Generator().manual_seed(0))
        host = random_init(build(file.host))
        host.train(False)  # not eval(): OpenMMLab's return nothing
        content = file.write(host.state_dict())
        for name in file.models:
            model = build(name)
            model.train(False)
            report = load_weights(model, content, source=file.name, logger="silent")
            yield (
                file.name,
                name,
                report.tensors,
                len(report.loaded),
                len(report.adapted),
                len(report.new),
                len(report.unexpected_keys),
                f"{difference(host, model, x, 'head.fc.weight' in report.loaded):.1e}",
            )


def write_table(folder: Path) -> str:
    """Writes weights.md, and returns it."""
    rows = []
    for row in measure(files()):
        print(*row[:2], sep=": ", flush=True)
        rows.append(row)
    about = (
        "What becomes of the tensors of each type of published file, and the largest difference, "
        "float32, between what the model computes and what the model does that the file is of: "
        "of logits where a classifier is loaded, else of the last features, normalised over "
        "channels. Images have 224x224 pixels, for mmdet's Swin 256x320. The files "
        "have the published names and shapes and random values. Written by "
        "`python -m benchmarks weights`."
    )
    text = f"# Weights\n\n{about}\n\n{markdown_table(COLUMNS, rows)}\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.md").write_text(text, encoding="utf-8")
    return text
