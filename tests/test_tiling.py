"""Very large images in tiles: a detector whose answers are known, mmseg's windows, backbones."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as coco_mask

from mmhybrid.apis import make_inferencer, tiling
from mmhybrid.apis.random_init import random_init
from mmhybrid.apis.samples import samples_of
from mmhybrid.apis.tiling import (
    Change,
    choose_tile,
    features_in_tiles,
    parse_tile,
    samples_in_tiles,
    spans,
)
from mmhybrid.backbones import DMFormer, DWSwinTransformer, TransXNet, XFormer
from mmhybrid.errors import UserError

SCALE = (400, 300)  # width, height
BOXES = [
    (10, 10, 20, 20),
    (295, 5, 310, 18),  # over the border of a tile
    (990, 700, 1000, 710),
    (500, 600, 512, 616),
    (40, 200, 900, 560),  # larger than a tile
    (1180, 880, 1200, 900),  # in the corner
]


class Bright:
    """Finds bright rectangles of 4 pixels or more, in what an image is resized to."""

    def __init__(self) -> None:
        pipeline = [dict(type="Resize", scale=SCALE, keep_ratio=True)]
        dataset = dict(type="CocoDataset", pipeline=pipeline)
        self.cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
        test_cfg = ConfigDict(rcnn=dict(nms=dict(iou_threshold=0.5)))
        self.model = SimpleNamespace(dataset_meta=dict(classes=("bright",)), test_cfg=test_cfg)

    def __call__(self, images: list[np.ndarray], **options) -> dict:
        return dict(predictions=[self.find(image) for image in images])

    def find(self, image: np.ndarray) -> DetDataSample:
        height, width = image.shape[:2]
        factor = min(1, SCALE[0] / width, SCALE[1] / height)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
        _, numbers, rows, _ = cv2.connectedComponentsWithStats((small[..., 0] > 99).astype("uint8"))
        large = [index for index in range(1, len(rows)) if rows[index][2:4].min() >= 4]
        boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in rows[large]]
        masks = [numbers == index for index in large]
        masks = [cv2.resize(mask.astype("uint8"), (width, height)) > 0 for mask in masks]
        found = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / factor,
            scores=torch.full((len(large),), 0.8 if factor == 1 else 0.7),
            labels=torch.zeros(len(large), dtype=torch.int64),
            masks=torch.from_numpy(np.array(masks).reshape(-1, height, width)),
        )
        return DetDataSample(pred_instances=found)


@pytest.fixture
def image() -> np.ndarray:
    image = np.zeros((900, 1200, 3), np.uint8)
    for left, top, right, bottom in BOXES:
        image[top:bottom, left:right] = 255
    return image


def boxes_of(sample: DetDataSample) -> list[tuple[float, ...]]:
    return sorted(tuple(box) for box in sample.pred_instances.bboxes.round().tolist())


def test_every_object_is_found_once(image: np.ndarray) -> None:
    changes: list[Change] = []
    (sample,) = samples_in_tiles(Bright(), [image], (300, 400), changes)
    found = sample.pred_instances
    assert len(found) == len(BOXES)
    for got, expected in zip(boxes_of(sample), sorted(BOXES), strict=True):
        assert got == pytest.approx(expected, abs=3)  # of the large one, to a pixel of the small
    for box, code in zip(found.bboxes.round().int().tolist(), found.masks, strict=True):
        left, top, right, bottom = box
        mask = coco_mask.decode(code)  # all of them at once may be more than a memory holds
        inside = mask[top:bottom, left:right]
        assert mask.shape == (900, 1200)
        assert inside.mean() > 0.95
        assert inside.sum() > 0.95 * mask.sum()
    # The whole image gives the large one, and those of four pixels in it.
    (whole,) = samples_of(Bright(), [image])
    assert len(whole.pred_instances) == 4
    assert changes == [Change(same=1.0, more=2)]


def test_auto_tiles_what_would_lose_half_of_its_pixels(image: np.ndarray, monkeypatch) -> None:
    assert choose_tile(Bright(), (600, 800)) is None
    assert choose_tile(Bright(), (900, 1200)) == (512, 683)
    monkeypatch.setattr(tiling, "SHORTEST", 300)
    assert choose_tile(Bright(), (900, 1200)) == (300, 400)
    assert choose_tile(Bright(), (400, 500)) is None
    assert len(samples_in_tiles(Bright(), [image])[0].pred_instances) == len(BOXES)
    small = image[:100, :100]
    whole, tiled = samples_of(Bright(), [small]), samples_in_tiles(Bright(), [small])
    assert boxes_of(tiled[0]) == boxes_of(whole[0])
    assert boxes_of(samples_in_tiles(Bright(), [image], None)[0]) == boxes_of(
        samples_of(Bright(), [image])[0]
    )


@pytest.mark.parametrize("length", [1, 30, 64, 65, 100, 1000])
def test_tiles_cover_a_side_and_overlap(length: int) -> None:
    found = spans(length, 64)
    assert (found[0][0], found[-1][1]) == (0, length)
    for (_, end), (start, _) in pairwise(found):
        assert end - start >= 16 - 1  # rounded
    assert {end - start for start, end in found} == {min(64, length)}


def test_words_for_tiles() -> None:
    assert parse_tile("800x1333") == (800, 1333)
    assert (parse_tile("auto"), parse_tile("off")) == ("auto", None)
    for text in ("800", "0x800", "ax800", "800x800x3"):
        with pytest.raises(UserError, match="--tile takes auto, off or a size"):
            parse_tile(text)


@pytest.fixture
def segmentor(read_config, tmp_path: Path):
    """The inferencer of a small segmentor, and its files."""
    cfg = read_config("semantic_fpn_dmformer_s_ade20k")
    cfg.model.backbone.update(dict(DMFormer.test_options), init_cfg=None)
    cfg.model.neck.in_channels = list(DMFormer.test_options["arch"]["embed_dims"])
    cfg.test_dataloader.dataset.pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(192, 128), keep_ratio=True),
        dict(type="PackSegInputs"),
    ]
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope("mmseg")
    model = random_init(MODELS.build(cfg.model))
    torch.save({"state_dict": model.state_dict(), "meta": {}}, tmp_path / "model.pth")
    cfg.dump(tmp_path / "config.py")
    return make_inferencer(cfg, str(tmp_path / "model.pth"), device="cpu"), tmp_path


def test_segmentors_take_mmsegs_windows(segmentor, monkeypatch) -> None:
    inferencer, _ = segmentor
    image = np.random.default_rng(0).integers(0, 256, (128, 192, 3), np.uint8)
    sizes = []
    inferencer.model.backbone.register_forward_pre_hook(lambda _, x: sizes.append(x[0].shape[2:]))
    changes: list[Change] = []
    (tiled,) = samples_in_tiles(inferencer, [image], (64, 96), changes)
    assert sizes == [(64, 96)] * 9 + [(128, 192)]
    assert inferencer.model.test_cfg.mode == "whole"
    (whole,) = samples_of(inferencer, [image])
    same = (whole.pred_sem_seg.data == tiled.pred_sem_seg.data).double().mean().item()
    assert changes == [Change(same)]
    windows = dict(mode="slide", crop_size=(64, 96), stride=(48, 72))
    monkeypatch.setattr(inferencer.model, "test_cfg", ConfigDict(windows))
    (expected,) = samples_of(inferencer, [image])
    assert (expected.pred_sem_seg.data == tiled.pred_sem_seg.data).all()


def test_auto_of_a_segmentor_looks_at_memory(segmentor, monkeypatch, tmp_path: Path) -> None:
    inferencer, _ = segmentor
    needed = 128 * 192 * (400 + 12 * 150)
    monkeypatch.setattr(tiling, "MEMORY", tmp_path / "meminfo")
    assert choose_tile(inferencer, (1280, 1920)) is None  # no such file
    for free, expected in ((2 * needed + 2048, None), (needed, (1024, 1024))):
        (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {free // 1024} kB\n")
        assert choose_tile(inferencer, (1280, 1920)) == expected
    monkeypatch.setattr(tiling, "LARGEST", 128 * 192 - 1)
    (tmp_path / "meminfo").unlink()
    inferencer.model.test_cfg = ConfigDict(mode="slide", crop_size=(32, 48), stride=(24, 36))
    assert choose_tile(inferencer, (1280, 1920)) == (32, 48)


def test_tools_predict_says_what_tiles_change(segmentor, run_tool, capsys, tmp_path: Path) -> None:
    _, folder = segmentor
    generator = np.random.default_rng(0)
    Image.fromarray(generator.integers(0, 256, (128, 192, 3), np.uint8)).save(tmp_path / "a.png")
    words = [folder / "config.py", folder / "model.pth", tmp_path / "a.png", "--device", "cpu"]
    words += ["--out-dir", tmp_path / "out", "--no-save-vis", "--tile", "64x96", "--tile-check"]
    run_tool("predict.py", *words)
    printed = capsys.readouterr().out
    assert "1 images in tiles: " in printed
    assert " % of the whole image's result is the same" in printed
    assert np.array(Image.open(tmp_path / "out" / "labels" / "a.png")).shape == (128, 192)


@pytest.mark.parametrize("tile", ["off", "auto", "64x64"])
def test_tiles_that_cannot_be_are_told_before_images_are_read(
    tile: str, tmp_path: Path, run_tool, monkeypatch, capsys
) -> None:
    inferencer = SimpleNamespace(model=SimpleNamespace(head=None, dataset_meta=dict(classes=())))
    monkeypatch.setattr("mmhybrid.apis.make_inferencer", lambda *args, **options: inferencer)
    monkeypatch.setattr(tiling, "samples_of", lambda *args: pytest.fail("it predicts"))
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    for name in ("config.py", "model.pth"):
        (tmp_path / name).touch()
    words = [tmp_path / "config.py", tmp_path / "model.pth", tmp_path / "a.png"]
    words += ["--out-dir", tmp_path / "out", "--tile", tile]
    told = "--tile-check compares" if tile == "off" else "--tile is for detectors and segmentors"
    with pytest.raises(SystemExit, match=f"error: {told}"):
        run_tool("predict.py", *words, *(["--tile-check"] if tile == "off" else []))
    assert "cannot read" not in "".join(capsys.readouterr())


def test_a_class_is_one_of_a_whole_image() -> None:
    inferencer = SimpleNamespace(model=SimpleNamespace(head=None))
    with pytest.raises(UserError, match="for detectors and segmentors"):
        samples_in_tiles(inferencer, [np.zeros((9, 9, 3), np.uint8)])


@torch.no_grad()
@pytest.mark.parametrize("family", [TransXNet, DMFormer, XFormer, DWSwinTransformer])
@pytest.mark.parametrize("size", [(200, 136), (97, 161)])
def test_a_backbones_maps_of_tiles(family: type, size: tuple[int, int]) -> None:
    model = random_init(family(**family.test_options)).eval()
    x = torch.randn(1, 3, *size)
    whole = model(x)
    for y, expected in zip(features_in_tiles(model, x, (64, 64), 224), whole, strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    for y, expected in zip(features_in_tiles(model, x, (64, 64), 32), whole, strict=True):
        assert y.shape == expected.shape
        assert y.isfinite().all()
    with pytest.raises(UserError, match="must be multiples of 32"):
        features_in_tiles(model, x, (64, 60))
