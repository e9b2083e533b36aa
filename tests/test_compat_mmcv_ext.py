"""Python finds `mmcv._ext` in mmhybrid, and OpenMMLab's models run on it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmhybrid.compat import mmcv_ext
from mmhybrid.compat.distribution_names import is_installed

pytest.importorskip("mmcv")
mmcv_ext.apply()


def run(code: str, root: Path, *path: Path) -> str:
    """Run code in a fresh Python; `path` comes before everything else there."""
    setup = f"import sys; sys.path[:0] = {[str(folder) for folder in (*path, root)]}\n"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", setup + code], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


APPLY = "from mmhybrid.compat import mmcv_ext; mmcv_ext.apply(); mmcv_ext.apply()\n"


@pytest.mark.process
def test_apply_imports_nothing_and_installs_once(root: Path) -> None:
    run(
        APPLY
        + "assert not {'mmcv', 'torchvision'} & set(sys.modules)\n"
        + "assert sys.meta_path.count(mmcv_ext.ExtensionFinder) == 1",
        root,
    )


@pytest.mark.process
def test_python_finds_a_proper_spec(root: Path) -> None:
    run(
        APPLY
        + """
import importlib.util, pkgutil
spec = importlib.util.find_spec("mmcv._ext")
assert spec.name == "mmcv._ext" and spec.loader and spec.has_location
assert "torchvision" not in sys.modules
if hasattr(pkgutil, "find_loader"):  # removed from Python 3.14
    assert pkgutil.find_loader("mmcv._ext") is not None
from mmengine.utils import is_installed
from mmengine.utils.dl_utils import mmcv_full_available
assert mmcv_full_available()
import mmcv._ext
assert sys.modules["mmcv._ext"] is mmcv._ext and mmcv._ext.__spec__.name == "mmcv._ext"
assert importlib.util.find_spec("mmcv.no_such_module") is None
""",
        root,
    )


def fake_mmcv(folder: Path, **files: str) -> Path:
    (folder / "mmcv").mkdir()
    for name, text in files.items():
        (folder / "mmcv" / f"{name}.py").write_text(text)
    return folder


@pytest.mark.process
def test_a_full_mmcv_is_left_alone(root: Path, tmp_path: Path) -> None:
    """Its kernels are taken, and the check that it has all of them stays."""
    import mmcv.utils.ext_loader

    folder = fake_mmcv(tmp_path, __init__="", _ext="compiled = True")
    (folder / "mmcv" / "utils").mkdir()
    loader = Path(mmcv.utils.ext_loader.__file__).read_text()
    (folder / "mmcv" / "utils" / "__init__.py").write_text("")
    (folder / "mmcv" / "utils" / "ext_loader.py").write_text(loader)
    code = """
import mmcv._ext
from mmcv.utils.ext_loader import load_ext
assert load_ext("_ext", ["compiled"]).compiled
try:
    load_ext("_ext", ["absent"])
except AssertionError as error:
    assert "absent" in str(error)
else:
    raise SystemExit("no check")
"""
    run(APPLY + code, root, folder)


@pytest.mark.process
def test_without_mmcv_nothing_happens(root: Path) -> None:
    run(
        """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "mmcv" else find_spec(name, *a)
from mmhybrid.compat import mmcv_ext
from mmhybrid.compat.distribution_names import is_installed
mmcv_ext.apply()
assert mmcv_ext.ExtensionFinder not in sys.meta_path
""",
        root,
    )


def test_a_kernel_that_is_not_supplied_says_so() -> None:
    from mmcv import ops

    boxes = torch.tensor([[5.0, 5, 4, 4, 0.1], [5, 5, 4, 4, 0.2]])
    advice = "onedl-mmcv" if is_installed("onedl-mmcv") else r"mmcv==2\.1\.0.*https://"
    with pytest.raises(NotImplementedError, match=f"'box_iou_rotated'.*{advice}"):
        ops.box_iou_rotated(boxes, boxes)
    with pytest.raises(NotImplementedError, match="'nms_rotated'"):
        ops.nms_rotated(boxes, torch.tensor([0.5, 0.4]), 0.5)


def test_hasattr_tells_which_kernels_there_are() -> None:
    import mmcv._ext
    from mmcv.ops.nms import ext_module

    assert ext_module is mmcv._ext
    for name in ("nms", "roi_align_forward", "get_compiler_version"):
        assert hasattr(mmcv._ext, name)
    for name in ("nms_rotated", "box_iou_rotated", "carafe_forward", "no_such_kernel", "__path__"):
        assert not hasattr(mmcv._ext, name)


def test_the_environment_report_names_the_kernels() -> None:
    from mmcv.utils import collect_env

    assert "torchvision" in collect_env()["MMCV Compiler"]


@pytest.mark.process
def test_openmmlab_imports(root: Path) -> None:
    pytest.importorskip("mmdet")
    code = "import mmdet, mmdet.models, mmseg.models, mmpretrain.models; print('all')"
    assert run(APPLY + code, root).strip() == "all"


def small_detector(name: str) -> dict:
    """A detector of mmdet's own configs, made small."""
    import mmdet
    from mmengine.config import Config

    model = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs" / name).model
    model.backbone.init_cfg = None
    if model.backbone.type == "ResNet":
        model.backbone.depth = 18
        model.neck.update(in_channels=[64, 128, 256, 512], out_channels=16)
    if "rpn_head" in model:
        model.rpn_head.update(in_channels=16, feat_channels=16)
        model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 60
        model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=5)
        roi = model.roi_head
        heads = roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]
        for head in heads:
            head.update(in_channels=16, fc_out_channels=32, num_classes=4)
        roi.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=4)
        for extractor in (roi.bbox_roi_extractor, roi.mask_roi_extractor):
            extractor.out_channels = 16
    elif model.type == "RetinaNet":
        model.bbox_head.update(in_channels=16, feat_channels=16, num_classes=4)
    else:
        model.bbox_head.num_classes = 4
    return model


@pytest.mark.parametrize(
    "config",
    [
        "_base_/models/mask-rcnn_r50_fpn.py",
        "_base_/models/cascade-mask-rcnn_r50_fpn.py",
        "_base_/models/retinanet_r50_fpn.py",
        "yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",
    ],
)
@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
def test_detectors_learn_and_predict(config: str, amp: bool) -> None:
    pytest.importorskip("mmdet")
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    model = MODELS.build(small_detector(config))
    inputs = demo_mm_inputs(2, [[3, 64, 64]] * 2, num_items=[3, 0], with_mask=True, num_classes=4)
    inputs = model.data_preprocessor(inputs, training=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        losses, _ = model.parse_losses(model(**inputs, mode="loss"))
        losses.backward()
        gradients = [p.grad for p in model.backbone.parameters() if p.grad is not None]
        assert all(g.isfinite().all() for g in gradients)
        assert any(g.any() for g in gradients)
        with torch.no_grad():
            predictions = model.eval()(**inputs, mode="predict")
    for prediction in predictions:
        found = prediction.pred_instances
        assert len(found) > 0
        assert found.bboxes.shape == (len(found), 4)
        if "mask" in config:
            assert found.masks.shape == (len(found), *prediction.ori_shape)
