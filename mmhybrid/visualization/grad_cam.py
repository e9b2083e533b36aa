"""Grad-CAM of backbones, classifiers, segmentors and detectors, by the library pytorch-grad-cam."""

import numpy as np
import torch
from torch import Tensor, nn

from mmhybrid.backbones.family import is_backbone
from mmhybrid.deploy.onnx_outputs import NamedOutputs


class _Scores(NamedOutputs):
    """A model whose output is one tensor of scores, which Grad-CAM takes the gradient of."""

    def forward(self, x: Tensor) -> Tensor:
        outputs = super().forward(x)
        if "logits" in outputs:
            return outputs["logits"]
        if is_backbone(self.model):
            return list(outputs.values())[-1].mean(dim=(2, 3))
        if "prediction_0" in outputs:  # YOLO: 4 numbers of a box, its objectness, and classes
            maps = [y[:, 4 :: self.model.bbox_head.num_attrib] for y in outputs.values()]
        else:
            maps = [y for name, y in outputs.items() if name.startswith("score")]
        return torch.cat([y.flatten(1) for y in maps], dim=1)


def grad_cam(model: nn.Module, backbone: nn.Module, x: Tensor) -> tuple[np.ndarray, str]:
    """Grad-CAM (https://arxiv.org/abs/1610.02391) at the last output of a backbone, which is a map.

    Takes an image as :class:`mmhybrid.deploy.onnx_outputs.NamedOutputs` does; returns (H, W), 0 to
    1, and the score that it explains, in words.
    """
    from pytorch_grad_cam import GradCAM

    scores = _Scores(model)
    with torch.no_grad():
        output = scores(x)[0]
    if output.ndim == 3:  # of a segmentor, (classes, h, w)
        labels = output.argmax(dim=0)
        chosen = int(labels.flatten().bincount().argmax())
        weights = labels == chosen
        explained = f"the pixels of the most frequent class, label {chosen}"
    else:
        chosen, weights = int(output.argmax()), 1
        explained = "the best box of the dense head"
        if is_backbone(model):
            explained = f"its strongest channel, {chosen}: without a head there is no class"
        elif isinstance(getattr(model, "head", None), nn.Module):
            explained = f"the best class, label {chosen}"

    layer = nn.Identity()  # the last map goes through it: the library wants a layer
    with backbone.register_forward_hook(lambda m, args, maps: (*maps[:-1], layer(maps[-1]))):
        cam = GradCAM(model=scores, target_layers=[layer])
        return cam(x, targets=[lambda output: (output[chosen] * weights).sum()])[0], explained
