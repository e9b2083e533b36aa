"""The config that ``tools/train.py CONFIG --data FOLDER`` leaves, from real images of COCO."""

import json
import runpy
from pathlib import Path

import pytest
from mmengine.config import Config

from mmhybrid.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["car", "person", "toilet"]
OURS = [
    "mask_rcnn_transxnet_t_coco",
    "cascade_mask_rcnn_dw_swin_t_coco",
    "retinanet_transxnet_t_coco",
    "yolov3_xformer_s_coco",
]
MMDETS = [
    "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco",
    "rtmdet/rtmdet_tiny_8xb32-300e_coco",
    "dino/dino-4scale_r50_8xb2-12e_coco",
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco",
]
# Each path of a model's config that ends in a number of classes, with the number.
BOX = {"bbox_head.num_classes": 3}
SECOND = {"roi_head.bbox_head.num_classes": 3, "roi_head.mask_head.num_classes": 3}
THREE = {f"roi_head.bbox_head.{stage}.num_classes": 3 for stage in range(3)}
PANOPTIC = {
    f"{head}.num_{what}_classes": number
    for head in ("panoptic_head", "panoptic_fusion_head")
    for what, number in (("things", 3), ("stuff", 0))
}
EXPECTED = {
    OURS[0]: SECOND,
    OURS[1]: THREE | {"roi_head.mask_head.num_classes": 3},
    MMDETS[3]: PANOPTIC,
}


def paths(node: object, path: str = "") -> dict[str, int]:
    """Every key of a config that ends in ``classes``, with its number."""
    found = {}
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list | tuple):
            found |= paths(value, f"{path}{key}.")
        elif str(key).endswith("classes") and value is not None:
            found[f"{path}{key}"] = value
    return found


@pytest.fixture(scope="module")
def coco(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of three classes."""
    make = runpy.run_path(str(ROOT / "tests" / "make_data_folders.py"))
    samples = make["real_objects"](shared)
    for one in samples:
        one.things = [thing for thing in one.things if thing.name in NAMES]
    folder = tmp_path_factory.mktemp("coco")
    make["coco_splits"](folder, [one for one in samples if one.things])
    return folder


def config_file(name: str, folder: Path) -> Path:
    """One of ours, or the text by which mmdet's trains our backbone."""
    if "/" not in name:
        return ROOT / "configs" / f"{name}.py"
    tiny = "backbone = dict(type='TransXNet', arch='tiny', init_cfg=None)\n"
    fit = "model = __import__('mmhybrid').replace_backbone(_base_.model, backbone)\n"
    if name == MMDETS[3]:  # whose head takes the maps itself
        head = "panoptic_head=dict(in_channels=[48, 96, 224, 448])"
        fit = f"model = dict(backbone=dict(_delete_=True, **backbone), {head})\n"
    imports = "custom_imports = dict(imports=['mmhybrid'])\n"
    path = folder / "mine.py"
    path.write_text(f"_base_ = 'mmdet::{name}.py'\n{imports}{tiny}{fit}")
    return path


@pytest.mark.parametrize("name", OURS + MMDETS)
def test_the_saved_config_has_the_number_of_classes(name, coco, run_tool, tmp_path, monkeypatch):
    # The config is written and checked; what would train stops the tool.
    monkeypatch.setattr("mmhybrid.engine.runner.run_config.build_runner", _stop)
    work = tmp_path / "work"
    with pytest.raises(SystemExit, match="here the training would begin"):
        run_tool("train.py", config_file(name, tmp_path), "--data", coco, "--work-dir", work)
    cfg = Config.fromfile(work / "config.py")
    assert paths(cfg.model.to_dict()) == EXPECTED.get(name, BOX)
    categories = json.loads((work / "data" / "val.json").read_text())["categories"]
    assert [one["name"] for one in categories] == NAMES
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = loader.dataset
        while "dataset" in dataset:
            dataset = dataset.dataset
        assert list(dataset.metainfo.classes) == NAMES
        assert dataset.data_root == str(coco)


def _stop(cfg: Config) -> None:
    raise UserError("here the training would begin")
