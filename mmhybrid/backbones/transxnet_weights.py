"""What the authors of TransXNet published: release v1.0 of https://github.com/LMMMEng/TransXNet.

Their repository is under Apache-2.0 since June 2025; the files have no licence of their own. The
metrics are the authors', from the READMEs of the repository.
"""

from mmhybrid.backbones.family import PretrainedWeights

RELEASE = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/"
ARCHS = {"t": "tiny", "s": "small", "b": "base"}

# Size, what the name ends with, file, top-1 accuracy. The size of the tables of relative positions
# in the file for 384 is not known; another one than 224 is resized.
IMAGENET = (
    ("t", "in1k", "transx-t.pth.tar", 81.6),
    ("s", "in1k", "transx-s.pth.tar", 83.8),
    ("b", "in1k", "transx-b.pth.tar", 84.6),
    ("b", "in1k_384", "transx-b-384.pth.tar", 85.5),
)
# Method, size, file and metrics of whole models of mmdet 2.28 and mmseg 0.30.
COCO = (
    ("retinanet", "t", "retinanet_tiny.pth", {"box AP": 43.1}),
    ("retinanet", "s", "retinanet_small.pth", {"box AP": 46.4}),
    ("retinanet", "b", "retinanet_base.pth", {"box AP": 47.6}),
    ("mask_rcnn", "t", "maskrcnn_tiny.pth", {"box AP": 44.5, "mask AP": 40.7}),
    ("mask_rcnn", "s", "maskrcnn_small.pth", {"box AP": 47.7, "mask AP": 43.1}),
    ("mask_rcnn", "b", "maskrcnn_base.pth", {"box AP": 48.8, "mask AP": 43.8}),
)
ADE20K = (
    ("semantic_fpn", "t", "sfpn_transxnet_tiny.pth", {"mIoU": 45.5}),
    ("semantic_fpn", "s", "sfpn_transxnet_small.pth", {"mIoU": 48.5}),
    ("semantic_fpn", "b", "sfpn_transxnet_base.pth", {"mIoU": 49.9}),
)
# The README of 2023 linked this name, that of 2025 the one above.
OTHER_NAMES = {"retinanet_base.pth": "reinanet_base.pth"}


def published_weights() -> tuple[PretrainedWeights, ...]:
    """The catalogue of TransXNet."""
    found = [
        PretrainedWeights(
            name=f"transxnet_{ARCHS[size]}.{end}",
            url=RELEASE + file,
            trained_on="ImageNet-1K" + (", last at 384x384" if end == "in1k_384" else ""),
            metrics={"top-1": accuracy},
            license="Apache-2.0",
            options=dict(arch=ARCHS[size]),
            # At 384 pixels no config of ours evaluates.
            config=f"transxnet_{size}_imagenet" if end == "in1k" else "",
            preprocessing=dict(crop_pct=0.95) if size == "b" else {},
        )
        for size, end, file, accuracy in IMAGENET
    ]
    for data, rows in {"COCO": COCO, "ADE20K": ADE20K}.items():
        for method, size, file, metrics in rows:
            options = dict(arch=ARCHS[size])
            if method == "retinanet":  # its neck takes no first map, so there is no norm0
                options["out_indices"] = (1, 2, 3)
            found.append(
                PretrainedWeights(
                    name=f"{method}_transxnet_{ARCHS[size]}.{data.lower()}",
                    url=RELEASE + file,
                    trained_on=f"{data}, from ImageNet-1K",
                    metrics=metrics,
                    license="Apache-2.0",
                    options=options,
                    config=f"{method}_transxnet_{size}_{data.lower()}",
                    other_url=RELEASE + OTHER_NAMES[file] if file in OTHER_NAMES else "",
                )
            )
    return tuple(found)
