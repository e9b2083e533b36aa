"""Predicting on files: the three libraries' models, folders with broken files, videos."""

import errno
import importlib
import json
import warnings
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from pycocotools.coco import COCO

import mmhybrid
from mmhybrid.apis import inputs, make_inferencer, make_model, predict
from mmhybrid.apis.inputs import find_inputs, read_rgb
from mmhybrid.backbones import DMFormer, DWVisionTransformer, TransXNet
from mmhybrid.datasets.synthetic.shapes import scene
from mmhybrid.engine.runner.run_config import UserError, load_config

ROOT = Path(__file__).resolve().parents[1]


def tiny(backbone: type, **options) -> str:
    """The part of a config that makes a backbone tiny, as its class has it for tests."""
    options = dict(backbone.test_options) | options
    arch = ", ".join(f"{key}={value!r}" for key, value in options.pop("arch").items())
    options = "".join(f", {key}={value!r}" for key, value in options.items())
    return f"backbone=dict(arch=dict(_delete_=True, {arch}){options}, init_cfg=None)"


WIDTHS = f"neck=dict(in_channels={list(TransXNet.test_options['arch']['embed_dims'])})"
DETECTOR, SEGMENTOR, CLASSIFIER = CONFIGS = (
    "mask_rcnn_transxnet_t_coco",
    "semantic_fpn_dmformer_s_ade20k",
    "dw_vit_t_cifar10",
)
# What makes each config small.
SMALL = {
    DETECTOR: f"""
model = dict(
    {tiny(TransXNet)}, {WIDTHS}, roi_head=dict(bbox_head=dict(fc_out_channels=16)),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=3)))
meta_keys = ("img_path", "ori_shape", "img_shape", "scale_factor")
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(96, 64), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=meta_keys)]))
""",
    SEGMENTOR: f"""
model = dict({tiny(DMFormer)}, {WIDTHS})
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(512, 128), keep_ratio=True),
    dict(type="ResizeToMultiple", size_divisor=32),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs")]))
""",
    CLASSIFIER: f"model = dict({tiny(DWVisionTransformer)}, head=dict(in_channels=48))",
}


def image(seed: int = 0) -> np.ndarray:
    return scene(np.random.default_rng(seed), 96, 64, range(4), 3)[0]


RED = np.full((64, 96, 3), (255, 0, 0), np.uint8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Configs of small models, and checkpoints of them with random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    made = {}
    for name, change in SMALL.items():
        config = folder / f"{name}_small.py"
        config.write_text(f"_base_ = {str(ROOT / 'configs' / f'{name}.py')!r}\n{change}")
        cfg = Config.fromfile(config)
        init_default_scope(cfg.default_scope)
        weights = folder / f"{name}.pth"
        torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": {}}, weights)
        made[name] = (config, weights)
    return made


def inferencer_of(config: Path, weights: Path):
    """The inferencer, and a list of the tensors that its model is given."""
    inferencer = make_inferencer(load_config(str(config)), str(weights), device="cpu")
    forward, seen = inferencer.model.forward, []
    inferencer.model.forward = lambda inputs, *args, **options: (
        seen.append(inputs) or forward(inputs, *args, **options)
    )
    return inferencer, seen


def run(files: tuple[Path, Path], inputs: list, folder: Path, **options):
    return predict(inferencer_of(*files)[0], [str(one) for one in inputs], folder, **options)


def write(path: Path, content: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image() if content is None else content).save(path)
    return path


def read(folder: Path) -> list[dict]:
    return json.loads((folder / "predictions.json").read_text())


def test_one_image_that_fails_loses_none_of_the_others(models, tmp_path: Path) -> None:
    for name, content in dict(a=None, b=np.zeros((8, 4000, 3), np.uint8), c=None).items():
        write(tmp_path / "in" / f"{name}.png", content)
    told: list[str] = []
    options = dict(images=False, batch_size=2, report=told.append)
    outcome = run(models[DETECTOR], [tmp_path / "in"], tmp_path / "out", **options)
    assert (outcome.done, [Path(one).name for one in outcome.unreadable]) == (2, ["b.png"])
    assert "b.png: " in told[0]
    assert [Path(one["file_name"]).name for one in read(tmp_path / "out")["images"]] == [
        "a.png",
        "c.png",
    ]
    with pytest.raises(cv2.error):  # there is nothing else: it may be a bug
        run(models[DETECTOR], [tmp_path / "in" / "b.png"], tmp_path / "none", images=False)


def test_what_was_done_is_kept_where_a_run_is_stopped(models, tmp_path: Path, monkeypatch) -> None:
    def stop(*args, **options) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmhybrid.apis.inferencer.draw", stop)
    with pytest.raises(KeyboardInterrupt):
        run(models[DETECTOR], [write(tmp_path / "a.png")], tmp_path / "out")
    assert len(read(tmp_path / "out")["images"]) == 1


def test_an_image_that_cannot_be_drawn_keeps_its_result(
    models, tmp_path: Path, monkeypatch
) -> None:
    from mmhybrid.apis.outputs import draw

    def fail(inferencer, image, sample, target, least) -> None:
        if target.name == "b.jpg":
            raise error
        draw(inferencer, image, sample, target, least)

    monkeypatch.setattr("mmhybrid.apis.inferencer.draw", fail)
    files, told, error = [write(tmp_path / f"{name}.png") for name in "abc"], [], ValueError("why")
    outcome = run(models[CLASSIFIER], files, tmp_path / "out", report=told.append)
    assert (outcome.done, [*outcome.not_drawn]) == (3, [str(files[1])])
    assert told == [f"cannot draw {files[1]}: ValueError: why"]
    assert len(read(tmp_path / "out")) == 3
    assert [one.name for one in sorted((tmp_path / "out/images").iterdir())] == ["a.jpg", "c.jpg"]
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        run(models[CLASSIFIER], files, tmp_path / "out")


def test_long_images_are_drawn_as_large_as_jpeg_allows(models, tmp_path: Path) -> None:
    path = write(tmp_path / "long.png", np.zeros((8, 3000, 3), np.uint8))
    assert not run(models[CLASSIFIER], [path], tmp_path / "out").not_drawn
    with Image.open(tmp_path / "out" / "images" / "long.jpg") as drawn:
        assert 3000 <= drawn.width < 2**16


@pytest.mark.parametrize("place", ["file", "file/in/it", f"file_{'x' * 300}", "link_of_file"])
def test_an_output_folder_that_cannot_be(place: str, models, tmp_path: Path, run_tool) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link_of_file").symlink_to(tmp_path / "nowhere")
    words = (*models[CLASSIFIER], write(tmp_path / "a.png"), "--out-dir", tmp_path / place)
    with pytest.raises(SystemExit, match=r"error: cannot write to .*file"):
        run_tool("predict.py", *words)


def test_a_run_that_does_nothing_says_so(models, tmp_path: Path, run_tool, capsys) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(SystemExit):
        run_tool("predict.py", *models[CLASSIFIER], tmp_path / "a.png", "--out-dir", tmp_path / "o")
    printed = capsys.readouterr().out
    assert "nothing was written" in printed
    assert "written to" not in printed


@pytest.mark.parametrize("wrap", [dict, lambda **meta: dict(dataset_meta=meta)])
def test_class_names_of_older_checkpoints(wrap, models, tmp_path: Path) -> None:
    config, weights = models[CLASSIFIER]
    names = tuple(f"class {i}" for i in range(10))
    content = torch.load(weights) | dict(meta=wrap(CLASSES=names, PALETTE=None))
    torch.save(content, tmp_path / "old.pth")
    inferencer, _ = inferencer_of(config, tmp_path / "old.pth")
    assert inferencer.model.dataset_meta["classes"] == names


def test_label_maps_and_colours_that_are_not_swapped(models, tmp_path: Path) -> None:
    inferencer, seen = inferencer_of(*models[SEGMENTOR])
    assert len(inferencer.model.dataset_meta["classes"]) == 150
    assert not [one for one in warnings.filters if "vis_backend" in str(one[1])]
    inferencer.visualizer.alpha = 0.0  # the image alone
    predict(inferencer, [str(write(tmp_path / "red.png", RED))], tmp_path / "out")
    assert seen[0][0, 0].mean() > seen[0][0, 2].mean()  # R before B, as the model is trained
    labels = np.array(Image.open(tmp_path / "out" / "labels" / "red.png"))
    assert labels.shape == (64, 96)
    assert labels.dtype == np.uint8
    assert labels.max() < 150
    drawn = np.array(Image.open(tmp_path / "out" / "images" / "red.jpg")).reshape(-1, 3).mean(0)
    assert drawn[0] > 200 > 50 > drawn[2]


@pytest.mark.parametrize("name", [DETECTOR, SEGMENTOR])
def test_a_batch_of_images_of_two_sizes(models, tmp_path: Path, name: str) -> None:
    sizes = [(96, 64), (60, 64), (60, 64)]
    inputs = [
        write(tmp_path / f"{index}.png", image(index)[:, :width])
        for index, (width, _) in enumerate(sizes)
    ]
    assert run(models[name], inputs, tmp_path / "together", batch_size=3).done == 3
    run(models[name], inputs, tmp_path / "alone", images=False)
    assert not (tmp_path / "alone" / "images").exists()
    assert cv2.imread(str(tmp_path / "together" / "images" / "0.jpg")).shape == (64, 96, 3)
    if name == SEGMENTOR:
        for path in inputs:
            alone = tmp_path / "alone" / "labels" / path.name
            assert alone.read_bytes() == (tmp_path / "together" / "labels" / path.name).read_bytes()
        return
    together, alone = (COCO(tmp_path / way / "predictions.json") for way in ("together", "alone"))
    for coco in (together, alone):
        images = coco.loadImgs([1, 2, 3])
        assert len(coco.cats) == 80
        assert [one["file_name"] for one in images] == [str(path) for path in inputs]
        assert [(one["width"], one["height"]) for one in images] == sizes
        assert {id_: len(rows) for id_, rows in coco.imgToAnns.items()} == {1: 3, 2: 3, 3: 3}
        for row in coco.anns.values():
            left, top, width, height = row["bbox"]
            right, bottom = sizes[row["image_id"] - 1]
            assert 0 <= left <= left + width <= right + 0.01
            assert 0 <= top <= top + height <= bottom + 0.01
            assert coco.annToMask(row).shape == (bottom, right)
            assert row["area"] == coco.annToMask(row).sum()
            assert 0 <= row["score"] <= 1
    for row, other in zip(together.anns.values(), alone.anns.values(), strict=True):
        assert row["score"] == pytest.approx(other["score"], abs=1e-5)
        assert row["bbox"] == pytest.approx(other["bbox"], abs=0.02)


def test_masks_in_tiles_are_pasted_one_at_a_time(models, tmp_path: Path, monkeypatch) -> None:
    inferencer, _ = inferencer_of(*models[DETECTOR])
    drawn = []
    add = inferencer.visualizer.add_datasample

    def spy(name, pixels, sample, **options) -> None:
        drawn.append(tuple(sample.pred_instances.masks.shape))
        add(name, pixels, sample, **options)

    inferencer.visualizer.add_datasample = spy
    monkeypatch.setattr("mmhybrid.apis.outputs.MASKS", 1)
    path, out = write(tmp_path / "a.png"), tmp_path / "out"
    outcome = predict(inferencer, [str(path)], out, tile=(64, 64), score_threshold=0.0)
    assert (outcome.done, outcome.not_drawn) == (1, {})
    coco = COCO(out / "predictions.json")
    assert drawn == [(1, 64, 96)] * len(coco.anns)
    assert len(drawn) > 3
    for row in coco.anns.values():
        assert row["area"] == coco.annToMask(row).sum()
        assert coco.annToMask(row).shape == (64, 96)
    assert cv2.imread(str(out / "images" / "a.jpg")).shape == (64, 96, 3)


def test_classes_that_the_checkpoint_names(models, tmp_path: Path) -> None:
    config, weights = models[CLASSIFIER]
    checkpoint = torch.load(weights)
    mine = [f"mine{index}" for index in range(10)]
    checkpoint["meta"]["dataset_meta"] = dict(classes=mine)
    torch.save(checkpoint, tmp_path / "mine.pth")
    files = (config, tmp_path / "mine.pth")
    run(files, [write(tmp_path / "a.png")], tmp_path / "out", images=False)
    assert read(tmp_path / "out")[0]["name"] in mine


def test_category_ids_are_those_of_the_data_set(models, tmp_path: Path) -> None:
    inferencer, _ = inferencer_of(*models[DETECTOR])
    ids = [one["id"] for one in ids_of(inferencer, tmp_path / "coco")["categories"]]
    assert ids[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]  # COCO has gaps
    assert ids[-1] == 90
    # Those of the annotations that were trained on, which the checkpoint has.
    config, weights = models[DETECTOR]
    checkpoint = torch.load(weights)
    mine = dict(classes=[f"mine{n}" for n in range(80)], category_ids=list(range(100, 180)))
    checkpoint["meta"]["dataset_meta"] = mine
    torch.save(checkpoint, tmp_path / "mine.pth")
    found = ids_of(inferencer_of(config, tmp_path / "mine.pth")[0], tmp_path / "mine")
    assert found["categories"][0] == dict(id=100, name="mine0")
    assert {row["category_id"] for row in found["annotations"]} <= {*range(100, 180)}
    # Or of the file that the config names.
    cfg = load_config(str(config))
    categories = [dict(id=7 * n, name=f"mine{n}") for n in reversed(range(80))]
    (tmp_path / "mine.json").write_text(json.dumps(dict(categories=categories)))
    dataset = dict(ann_file="mine.json", data_root=str(tmp_path), metainfo=mine)
    del mine["category_ids"]
    cfg.test_dataloader.dataset.update(dataset)
    found = ids_of(make_inferencer(cfg, str(weights), device="cpu"), tmp_path / "file")
    assert found["categories"][:2] == [dict(id=0, name="mine0"), dict(id=7, name="mine1")]


def ids_of(inferencer, folder: Path) -> dict:
    predict(inferencer, [str(write(folder / "a.png"))], folder / "out", images=False)
    return read(folder / "out")


def test_cifar_models_get_rgb_as_in_training(models, tmp_path: Path) -> None:
    inferencer, seen = inferencer_of(*models[CLASSIFIER])
    path = write(tmp_path / "red.png", RED)
    predict(inferencer, [str(path)], tmp_path / "out", images=False)
    assert seen[0][0, 0].mean() > 0 > seen[0][0, 2].mean()


def test_every_frame_of_a_video(models, tmp_path: Path) -> None:
    path = tmp_path / "ride.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    if not video.isOpened():
        pytest.skip("this OpenCV writes no video")
    for index in range(3):
        video.write(image(index)[..., ::-1].copy())
    video.release()
    # Of an earlier, longer video of this name.
    write(tmp_path / "out" / "images" / "ride" / "000003.jpg")
    inputs = [path, write(tmp_path / "ride_000001.png")]
    assert run(models[CLASSIFIER], inputs, tmp_path / "out", batch_size=2).done == 4
    names = [Path(row["file"]).name for row in read(tmp_path / "out")]
    assert names == ["ride.avi#0", "ride.avi#1", "ride.avi#2", "ride_000001.png"]
    images = (tmp_path / "out" / "images").rglob("*.jpg")
    assert sorted(str(path.relative_to(tmp_path / "out" / "images")) for path in images) == [
        *(f"ride/00000{index}.jpg" for index in range(4)),
        "ride_000001.jpg",
    ]
    drawn = mmcv.VideoReader(str(tmp_path / "out" / "videos" / "ride.mp4"))
    assert len(drawn) == 3
    assert drawn.fps == 5


def test_openmmlabs_own_functions(models, tmp_path: Path) -> None:
    mmdet, mmseg, mmpretrain = (
        importlib.import_module(f"{name}.apis") for name in ("mmdet", "mmseg", "mmpretrain")
    )
    path = str(write(tmp_path / "a.png"))
    files = {name: list(map(str, models[name])) for name in CONFIGS}
    infer = mmpretrain.ImageClassificationInferencer(*files[CLASSIFIER], device="cpu")
    (found,) = infer(path)
    assert found["pred_scores"].shape == (10,)
    model = mmdet.init_detector(*files[DETECTOR], device="cpu")
    assert mmdet.inference_detector(model, path).pred_instances.masks.shape == (3, 64, 96)
    model = mmseg.init_model(*files[SEGMENTOR], device="cpu")
    assert mmseg.inference_model(model, path).pred_sem_seg.data.shape == (1, 64, 96)


def test_inputs_are_found_and_named_apart(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/y.png"):
        write(tmp_path / name)
    found = find_inputs([str(tmp_path / "**" / "*.png")])
    assert len(found) == len({name for _, name in found}) == 3
    with pytest.raises(UserError, match="no image"):
        find_inputs([str(tmp_path / "none*.png")])


def test_folders_are_searched_for_images_and_keep_their_names(tmp_path: Path) -> None:
    wanted = ["a/x.PNG", "b/c/x.jpg", "b/ride.mp4", "b/ride/0.webp", "x.jpeg", "x.png", "y.d/z.bmp"]
    for name in (*wanted, "notes.txt", "b/labels.json", ".git/x.png", "b/.x.png", "out/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = {str(path.relative_to(tmp_path)): name for path, name in find(tmp_path)}
    assert sorted(found) == sorted(wanted)
    assert found["b/ride.mp4"] == "b/ride.mp4"  # b/ride/0 is another's
    assert (found["x.png"], found["x.jpeg"]) == ("x.png", "x.jpeg")
    assert (found["a/x.PNG"], found["b/c/x.jpg"]) == ("a/x", "b/c/x")
    by_pattern = dict(find_inputs([str(tmp_path / "*" / "**" / "*.jpg")]))
    assert by_pattern == {tmp_path / "b/c/x.jpg": "b/c/x"}
    # What is named is taken, whatever it is called.
    assert find_inputs([str(tmp_path / "notes.txt")]) == [(tmp_path / "notes.txt", "notes")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image"):
        find_inputs([str(tmp_path / "empty")])


def test_a_pattern_takes_nothing_of_the_output_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "out/images/a.jpg"):
        write(tmp_path / name)
    pattern, out = str(tmp_path / "**" / "*.jpg"), tmp_path / "out"
    assert find_inputs([pattern], out) == [(tmp_path / "a.jpg", "a")]
    with pytest.raises(UserError, match="no image"):
        find_inputs([str(out / "**" / "*.jpg")], out)
    named = out / "images" / "a.jpg"
    assert find_inputs([str(named)], out) == [(named, "a")]


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a" / "x.jpg")
    write(tmp_path / "far" / "y.jpg")
    (tmp_path / "in" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "in")
    for earlier in (".cache", "A"):  # neither takes the place of what lies there
        (tmp_path / "in" / earlier).mkdir()
        (tmp_path / "in" / earlier / "link").symlink_to(tmp_path / "in" / "a")
    found = find_inputs([str(tmp_path / "in")])
    assert [name for _, name in found] == ["a/x", "far/y"]


def test_names_that_others_end_in_are_unique(tmp_path: Path) -> None:
    for name in ("x.jpg", "x.png", "x.jpg.png"):
        write(tmp_path / name)
    names = [name for _, name in find_inputs([str(tmp_path)])]
    assert len({*names}) == 3, names


def test_images_may_be_larger_than_pillow_allows(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    np.testing.assert_array_equal(read_rgb(path), image())
    assert Image.MAX_IMAGE_PIXELS == 1000
    monkeypatch.setattr(inputs, "LARGEST", 96 * 64 - 1)
    with pytest.raises(UserError, match="96x64 pixels"):
        read_rgb(path)


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "LA", "1", "RGBA", "CMYK", "I;16", "exif"])
def test_an_image_of_pillow_is_read_as_its_file(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    turned, given = Image.Exif(), Image.fromarray(image())
    turned[0x112] = 6
    if mode == "I;16":
        given = Image.fromarray(image()[..., 0].astype(np.uint16) * 257)
    elif mode != "exif":
        given = given.convert(mode)
    given.save(path, **(dict(exif=turned) if mode == "exif" else {}))
    with Image.open(path) as opened:
        found = inputs.rgb_of(opened)
    np.testing.assert_allclose(found, read_rgb(path), atol=2 if mode == "CMYK" else 0)


@pytest.mark.parametrize(
    "array", [image()[..., 0], image() / 255, image().transpose(2, 0, 1), image()[:0], "abc"]
)
def test_arrays_that_are_no_image_are_refused(array, models) -> None:
    config, weights = models[CLASSIFIER]
    array = np.array(array)
    with pytest.raises(UserError, match=r"\(H, W, 3\) of uint8"):
        mmhybrid.predict(weights, array, config=config, device="cpu")


def test_a_palette_image_in_python(models, tmp_path: Path) -> None:
    config, weights = models[CLASSIFIER]
    path = tmp_path / "a.png"
    Image.fromarray(image()).convert("P").save(path)
    options = dict(config=config, device="cpu")
    with Image.open(path) as opened:
        found = mmhybrid.predict(weights, opened, **options)
    assert found.scores == mmhybrid.predict(weights, path, **options).scores


def find(folder: Path) -> list[tuple[Path, str]]:
    return find_inputs([str(folder)], leave_out=folder / "out")


def test_equal_names_in_subfolders_do_not_overwrite_each_other(models, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write(tmp_path / "in" / folder / "x.png", image(ord(folder)))
    assert run(models[SEGMENTOR], [tmp_path / "in"], tmp_path / "out").done == 2
    for folder in ("a", "b"):
        assert (tmp_path / "out" / "labels" / folder / "x.png").exists()
        assert (tmp_path / "out" / "images" / folder / "x.jpg").exists()


def test_a_folder_with_broken_files(models, tmp_path: Path, run_tool, capsys) -> None:
    folder, out = tmp_path / "mixed", tmp_path / "out"
    for index in range(19):
        write(folder / f"{index:02d}.{'jpg' if index % 2 else 'png'}", image(index))
    for name in ("03.jpg", "08.png"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    # A chunk without a name, which Pillow calls a SyntaxError.
    write(folder / "12.png", np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
    whole = bytearray((folder / "12.png").read_bytes())
    last = whole.rindex(b"IDAT")
    assert last > 2**16
    whole[last : last + 4] = bytes(4)
    (folder / "12.png").write_bytes(whole)
    (folder / "notes.txt").write_text("left out without a word, as no image by its name")
    with pytest.raises(SystemExit) as end:
        run_tool("predict.py", *models[CLASSIFIER], folder, "--out-dir", out, "--batch-size", 4)
    printed, errors = capsys.readouterr()
    assert end.value.code == 3, errors
    assert "16 images done, 3 inputs not readable" in printed
    told = [line for line in errors.splitlines() if line.startswith("cannot read")]
    for line, name in zip(told, ("03.jpg", "08.png", "12.png"), strict=True):
        assert line.startswith(f"cannot read {folder / name}: ")
    found = read(out)
    assert len(found) == len(list((out / "images").iterdir())) == 16
    assert len(found[0]["best"]) == 5
    assert found[0]["name"] == found[0]["best"][0]["name"]


@pytest.mark.parametrize("error", [TypeError, ValueError, KeyError, RuntimeError, AssertionError])
def test_a_bug_in_a_model_keeps_its_traceback(error: type[Exception], monkeypatch) -> None:
    def make() -> None:
        raise error("a bug")

    monkeypatch.setitem(MODELS.module_dict, "Faulty", make)
    with pytest.raises(error, match="a bug"):
        make_model("Faulty")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("TransXNet(archh='tiny')", "cannot be made: .*unexpected keyword argument 'archh'"),
        ("TransXNet('tiny', arch='small')", "cannot be made: multiple values for argument 'arch'"),
        ("TransXNet('huge')", "huge"),
        ("DepthwiseShortcutBackbone(backbone={'type': 'Nothing'})", "there is no type 'Nothing'"),
        ("nowhere.Model", "cannot be made: No module named 'nowhere'"),
        ("timm.resnet18(nothing=1)", "cannot be made: .*nothing"),
    ],
)
def test_arguments_of_a_model_that_do_not_fit_are_told(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make_model(name)
