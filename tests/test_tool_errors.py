"""What the tools refuse, in one sentence and before they have done anything."""

import os
import shlex
from pathlib import Path

import pytest
import torch

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DETECTOR = CONFIGS / "mask_rcnn_transxnet_t_coco.py"
CLASSIFIER = CONFIGS / "dw_vit_t_cifar10.py"
SEGMENTOR = CONFIGS / "semantic_fpn_transxnet_t_ade20k.py"
MISSPELT = CONFIGS / "mask_rcnn_transxnett_coco.py"
VIT = "export_onnx.py DWVisionTransformer --out vit.onnx"
DECAYING = "optim_wrapper.constructor=mmhybrid.LayerwiseDecayOptimWrapperConstructor"
DATA = "data/coco/annotations/instances_train2017.json"
# A command line, in a folder that holds weights.pth alone, and what it is told.
# fmt: off
REFUSED = {
    "missing config": (f"train.py {MISSPELT}", rf"{MISSPELT}\. Did you mean .*{DETECTOR}"),
    "missing config, counted": ("get_flops.py configs/nothing.py", "there is no config file"),
    **{f"mistyped name of a config for {tool}": (f"{tool} mask_rcnn_transxnet_t",
        r"no config mask_rcnn_transxnet_t; did you mean mask_rcnn_transxnet_t_coco.*\?$")
        for tool in ("train.py", "get_flops.py")},
    "missing data of a config by its name": ("check_data.py --most 1 retinanet_transxnet_t_coco",
        f"HERE/{DATA}"),
    "no config": ("check_data.py weights.pth", r"weights\.pth is no config: the name of one ends"),
    "missing data": (f"train.py {DETECTOR}",
        rf"HERE/{DATA}(.|\n)*annotations_trainval2017\.zip(.|\n)*--data-root(.|\n)*--quick"),
    "missing data elsewhere": (f"train.py {DETECTOR} --data-root HERE/there",
        "HERE/there/annotations/instances_train2017.json"),
    "missing checkpoint": (f"test.py {DETECTOR} none.pth", r"there is no checkpoint none\.pth$"),
    "missing checkpoint to resume": (f"train.py {DETECTOR} --resume none.pth --quick --cfg-options "
        "quick.train_images=4 quick.val_images=2", r"there is no checkpoint none\.pth$"),
    "missing image": (f"predict.py {CLASSIFIER} weights.pth nothing.png",
        r"there is no image nothing\.png$"),  # said before the checkpoint is read
    "mixed precision without a GPU": (f"train.py {DETECTOR} --amp",
        "--amp needs a GPU, and PyTorch sees none; a CPU trains with --amp-dtype bfloat16$"),
    "mixed precision without a GPU, tested": (f"test.py {DETECTOR} weights.pth --amp",
        "--amp needs a GPU, and PyTorch sees none$"),
    "quick without validation": (f"train.py {DETECTOR} --quick --no-validate",
        "leave out --no-validate"),
    "predictions of a segmentor in a file": (f"test.py {SEGMENTOR} weights.pth --out found.pkl",
        r"label maps of a segmentor to a folder: name one instead of found\.pkl$"),
    "augmentation of masks": (f"test.py {DETECTOR} weights.pth --tta", "merges boxes alone"),
    "unknown quick setting": (f"train.py {DETECTOR} --quick --cfg-options quick.steps=3",
        r"quick\.steps .*iterations"),
    "wrong model, counted": (f"get_flops.py {DETECTOR} --cfg-options model.backbone.frozen_stage=1",
        r"model\.backbone.*did you mean 'frozen_stages'\?"),
    "wrong model, grouped": (f"print_groups.py {DETECTOR} --cfg-options model.backbone.arch=tinny",
        r"model\.backbone.*'tinny' is unknown; choose from"),
    # Any files: the model is wrong before they are read.
    "wrong model to predict": (f"predict.py {DETECTOR} {DETECTOR} {DETECTOR} --cfg-options "
        "model.backbone.frozen_stage=1", r"model\.backbone.*'frozen_stages'\?"),
    "wrong optimizer": (f"print_groups.py {DETECTOR} --cfg-options optim_wrapper.optimizer.decay=1",
        r"optim_wrapper\.optimizer: AdamW has no argument 'decay'"),
    "wrong constructor": (f"print_groups.py {DETECTOR} --cfg-options optim_wrapper.constructor=No1",
        f"the optim_wrapper of {DETECTOR}: "),
    "no rate of decay": (f"print_groups.py {DETECTOR} --cfg-options {DECAYING}",
        "layer_decay_rate"),
    **{f"device {device} of {command.split()[0]}": (f"{command} --device {device}",
        f"--device {device} cannot be used here, ")
        for device in ("gpu", "foo:1", "cuda:99")
        for command in ("benchmark.py XFormer", "predict.py C K P")},
    "no model of timm": ("get_flops.py timm.nothing", r"timm\.nothing cannot be made: Unknown mod"),
    "no model": ("get_flops.py Nothing", "no model is registered as Nothing"),
    "no model of mmdet": ("get_flops.py mmdet.Nothing", "no model is registered as Nothing in mmd"),
    "no argument of a model": ("get_flops.py TransXNet(size=1)",
        "unexpected keyword argument 'size'"),
    "broken call": ("get_flops.py 'TransXNet('", "names no model"),
    "shape of three": ("get_flops.py TransXNet --shape 1 2 3", "--shape takes height and width"),
    "shape that is too small": ("get_flops.py TransXNet --shape 16", "at least 32x32 pixels.*16"),
    "options of no config": ("get_flops.py TransXNet --cfg-options a=1",
        "--cfg-options change a config"),
    "size of one number": (f'{VIT} --check 64', "--check takes sizes such as 480x640"),
    "images for a backbone": (f'{VIT} --images weights.pth', "--images need a whole model"),
}
# fmt: on


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told(case: str, run_tool, tmp_path: Path, monkeypatch) -> None:
    words, told = (text.replace("HERE", str(tmp_path)) for text in REFUSED[case])
    if "--amp" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("LOCAL_RANK", "0")  # a tool sets it, and it must not stay
    monkeypatch.chdir(tmp_path)
    Path("weights.pth").touch()
    with pytest.raises(SystemExit, match=rf"^error: (.*\W)?{told}") as left:
        run_tool(*shlex.split(words))
    assert "\n" not in left.value.code or "data" in case
    assert "--quick" in words or os.listdir() == ["weights.pth"]
