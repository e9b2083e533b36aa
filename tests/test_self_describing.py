"""Checkpoints that hold their config, classes and origin: tools need no CONFIG beside them."""

import json
import sys
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmengine.runner import Runner
from PIL import Image

from mmhybrid.apis import init_model, make_inferencer, predict
from mmhybrid.apis.models import model_of
from mmhybrid.backbones import DWVisionTransformer
from mmhybrid.datasets.synthetic.shapes import scene
from mmhybrid.engine.hooks.durable_checkpoint_hook import newest_whole_checkpoint
from mmhybrid.engine.runner import checkpoint_config
from mmhybrid.engine.runner.checkpoint_config import config_of, is_checkpoint, plain
from mmhybrid.engine.runner.prepare_config import with_best, with_safeguards
from mmhybrid.engine.runner.run_config import build_runner, load_config
from mmhybrid.engine.runner.verdict import near_zero
from mmhybrid.errors import UserError
from mmhybrid.weights import read_checkpoint, write_checkpoint

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("circle", "square")
SMALL = {"arch": dict(DWVisionTransformer.test_options["arch"], _delete_=True)}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classifier of two classes, of images that are resized to 48 pixels."""
    path = tmp_path_factory.mktemp("config") / "shapes.py"
    path.write_text(
        f"""
_base_ = {str(ROOT / "configs" / "dw_vit_t_cifar10.py")!r}
model = dict(
    backbone=dict({", ".join(f"{k}={v!r}" for k, v in SMALL.items())}),
    head=dict(in_channels=48, num_classes=2, topk=(1,)),
    train_cfg=None)
val_evaluator = test_evaluator = dict(type="Accuracy", topk=(1,))
test_dataloader = dict(dataset=dict(
    _delete_=True, type="CustomDataset", data_root="nowhere", metainfo=dict(classes={CLASSES!r}),
    pipeline=[dict(type="LoadImageFromFile"), dict(type="Resize", scale=48),
              dict(type="PackInputs")]))
"""
    )
    return path


def saved(cfg: Config, path: Path, **changes: Any) -> Path:
    """A checkpoint of a config's model, which says of itself what a run of tools/train.py says."""
    metainfo = dict(classes=CLASSES, palette=[[1, 2, 3], [4, 5, 6]])
    runner = SimpleNamespace(
        cfg=cfg,
        seed=3,
        train_dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo)),
        model=torch.nn.Linear(1, 1),
    )
    described = checkpoint_config.describe(runner)
    described["config"].update(changes)
    state = model_of(cfg).state_dict()
    write_checkpoint(dict(meta=dict(mmhybrid=described), state_dict=state), path)
    return path


@pytest.fixture(scope="module")
def checkpoint(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(load_config(str(config)), tmp_path_factory.mktemp("weights") / "best.pth")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(scene(np.random.default_rng(0), 96, 64, range(2), 3)[0]).save(path)
    return path


def test_what_a_checkpoint_says(checkpoint: Path, config: Path) -> None:
    described = read_checkpoint(checkpoint)["meta"]["mmhybrid"]
    assert described["name"] == "shapes.py"
    assert described["task"] == "classification"
    assert described["classes"] == CLASSES
    assert described["palette"] == [[1, 2, 3], [4, 5, 6]]
    assert described["sizes"] == {"Resize.scale": 48}
    assert described["origin"]["type"] == "trained"
    assert described["origin"]["seed"] == 3
    assert {"torch", "mmengine", "mmcv", "mmpretrain", "mmhybrid"} <= set(described["versions"])
    assert described["config"]["model"]["backbone"]["type"] == "DWVisionTransformer"
    assert json.loads(json.dumps(described))["config"]["default_scope"] == "mmpretrain"
    # What is read back is what the file says, less what only training needs.
    wanted = load_config(str(config)).to_dict()
    read = config_of(str(checkpoint)).to_dict()
    assert read == {key: value for key, value in wanted.items() if key in read}
    assert set(wanted) - set(read) <= set(checkpoint_config.OF_TRAINING)


def test_predictions_are_those_with_the_config(checkpoint, config, image, tmp_path) -> None:
    predict(make_inferencer(str(checkpoint), device="cpu"), [str(image)], tmp_path / "alone")
    cfg = load_config(str(config))
    predict(make_inferencer(cfg, str(checkpoint), device="cpu"), [str(image)], tmp_path / "both")
    found = [(tmp_path / name / "predictions.json").read_text() for name in ("alone", "both")]
    assert found[0] == found[1]
    assert {row["name"] for row in json.loads(found[0])[0]["best"]} == set(CLASSES)
    model = init_model(str(checkpoint))
    weights = read_checkpoint(checkpoint)["state_dict"]
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


@pytest.mark.process
def test_predicting_in_a_process_without_a_config(checkpoint, image, run_python) -> None:
    printed = run_python(ROOT / "tools" / "predict.py", checkpoint, image, "--device", "cpu")
    assert "1 images done, 0 inputs not readable" in printed


def test_the_config_may_still_be_given(checkpoint, config, image, tmp_path, run_tool) -> None:
    options = ["--out-dir", tmp_path / "out", "--device", "cpu"]
    run_tool("predict.py", config, checkpoint, image, *options)
    (row,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert row["name"] in CLASSES
    with pytest.raises(SystemExit, match="name the images"):
        run_tool("predict.py", config, checkpoint)
    with pytest.raises(SystemExit, match="name a checkpoint"):
        run_tool("test.py", config)


def test_sizes_that_differ_are_named(checkpoint, config, monkeypatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr("mmhybrid.apis.inferencer.print_log", lambda text, **o: notes.append(text))
    cfg = load_config(str(config))
    assert checkpoint_config.size_note(cfg, str(checkpoint)) == ""
    cfg.test_dataloader.dataset.pipeline[1].scale = 224
    make_inferencer(cfg, str(checkpoint), device="cpu")
    (told,) = notes
    assert "Resize.scale=48 there and 224 in the config" in told
    assert "Leave out the config" in told


def test_the_tools_that_need_no_data(checkpoint, image, tmp_path, run_tool, monkeypatch) -> None:
    drawn, exported = [], []
    monkeypatch.setattr("mmhybrid.visualization.page.draw_page", lambda *a, **o: drawn.append(o))
    run_tool("visualize.py", checkpoint, "--image", image, "--out", tmp_path / "page.PNG")
    assert drawn[0]["title"] == "best, its weights"
    monkeypatch.setattr(
        "mmhybrid.deploy.onnx_export.export_onnx", lambda model, *a, **o: exported.append(model)
    )
    row = SimpleNamespace(shape=(1,), output="x", scale=1.0, largest=0.0, relative=0.0)
    monkeypatch.setattr("mmhybrid.deploy.onnx_export.compare", lambda *a, **o: [row])
    run_tool("export_onnx.py", checkpoint, "--out", tmp_path / "model.onnx")
    weights = read_checkpoint(checkpoint)["state_dict"]
    assert torch.equal(exported[0].state_dict()["head.fc.bias"], weights["head.fc.bias"])


def test_testing_takes_the_config_of_the_checkpoint(checkpoint, run_tool, monkeypatch) -> None:
    with pytest.raises(SystemExit, match=r"the data set is missing: .*nowhere"):
        run_tool("test.py", checkpoint)
    with pytest.raises(SystemExit, match="leave out --quick"):
        run_tool("test.py", checkpoint, "--quick")
    configs: list[Config] = []
    monkeypatch.setattr("mmhybrid.engine.runner.prepare_config.check_data", lambda *args: None)
    monkeypatch.setattr(
        "mmhybrid.engine.runner.run_config.build_runner",
        lambda cfg: (
            configs.append(cfg)
            or SimpleNamespace(rank=0, test=dict, register_hook=lambda hook: None)
        ),
    )
    run_tool("test.py", checkpoint, "--cfg-options", "test_dataloader.batch_size=7")
    (cfg,) = configs
    assert cfg.test_dataloader.batch_size == 7
    assert cfg.load_from == str(checkpoint)
    assert cfg.work_dir == "work_dirs/shapes"


# --- nothing of it is executed --------------------------------------------------------------------

HOSTILE = {
    "a function of Python": dict(type="os.system", command="touch HERE"),
    "a function of a package": dict(type="mmengine.load", file="HERE"),
    "a name that mmcv would evaluate": dict(type="open('HERE', 'w')"),
    "a type of numbers that mmpretrain would": dict(
        type="ToTensor", dtype="ones(open('HERE', 'w'))"
    ),
    "code of a hub": dict(type="Linear", trust_remote_code=True),
    "operations that mmcv would": dict(type="RFSearchHook"),
    "a scope that would be imported": dict(type="Linear", _scope_="antigravity"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_code_in_the_config_is_refused(case, config, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(load_config(str(config)), tmp_path / "bad.pth", visualizer=[HOSTILE[case]])
    with pytest.raises(UserError, match=rf"the config in .*bad\.pth .*: give CONFIG {path}"):
        config_of(str(path))
    assert not (tmp_path / "HERE").exists()
    assert "antigravity" not in sys.modules


def test_modules_of_others_are_not_imported(config, tmp_path, monkeypatch) -> None:
    (tmp_path / "my_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    cfg = load_config(str(config))
    imports = dict(imports=["mmhybrid", "my_module"])
    path = saved(cfg, tmp_path / "a.pth", custom_imports=imports)
    with pytest.raises(UserError, match="asks for the module my_module, which no checkpoint may"):
        config_of(str(path))
    monkeypatch.setitem(sys.modules, "my_module", json)  # as by a program that imports it itself
    assert config_of(str(path)).model.backbone.type == "DWVisionTransformer"


@pytest.mark.parametrize(
    "content",
    [
        dict(state_dict={"a": torch.ones(1)}),
        dict(meta=dict(cfg="import os; os.system('touch HERE')"), state_dict={}),
        dict(meta=dict(mmhybrid=dict(config="model = 1"))),
        {"a": torch.ones(1)},
    ],
)
def test_checkpoints_without_a_config(content, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "old.pth")
    with pytest.raises(UserError, match=r"^old\.pth does not hold its config as data.* CONFIG"):
        config_of("old.pth")
    assert not (tmp_path / "HERE").exists()


def test_published_weights_name_their_config() -> None:
    with pytest.raises(UserError, match=r"give configs/\w+\.py mmhybrid://transxnet_tiny\.in1k"):
        config_of("mmhybrid://transxnet_tiny.in1k")


def test_types_are_names_and_what_is_no_data_is_told() -> None:
    import mmdet.models

    config = dict(model=dict(type=mmdet.models.MaskRCNN), hook=dict(type="mmdet.models.RetinaNet"))
    assert plain(config) == dict(
        model=dict(type="mmdet.MaskRCNN"), hook=dict(type="mmdet.RetinaNet")
    )
    assert type(plain(np.float64(2))) is float
    assert plain(dict(a=np.float32(2), b=Path("x"), c=(1, None))) == dict(a=2.0, b="x", c=(1, None))
    with pytest.raises(TypeError, match="key is <object"):
        plain(dict(key=object()))
    with pytest.raises(TypeError, match="is not registered"):
        plain(dict(type=Path))


def test_what_is_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    (tmp_path / "config.json").touch()
    for name in ("a/best.pth", "mmhybrid://x", "https://x/y", str(tmp_path / "weights")):
        assert is_checkpoint(name)
    others = ("configs/x.py", "TransXNet('tiny')", "timm.resnet50", str(tmp_path / "config.json"))
    assert not any(map(is_checkpoint, others))


# --- what a run keeps -----------------------------------------------------------------------------


def trained(cfg: Config) -> Runner:
    cfg = with_best(with_safeguards(cfg))
    # Of two of one name in a second, one would have the other's message hub.
    cfg.experiment_name = f"toy_{uuid.uuid4()}"
    runner = build_runner(cfg)
    runner.train()
    return runner


@pytest.mark.train
def test_the_best_is_kept_without_the_optimizer(toy_config) -> None:
    toy_config.default_hooks.checkpoint.max_keep_ckpts = 1
    runner = trained(toy_config)
    folder = Path(toy_config.work_dir)
    (named,) = folder.glob("best_accuracy_epoch_*.pth")
    assert (folder / "best.pth").samefile(named)
    best = read_checkpoint(folder / "best.pth")
    last = read_checkpoint(newest_whole_checkpoint(str(folder)))
    assert {"optimizer", "ema_state_dict"} <= set(last)
    assert not {"optimizer", "param_schedulers", "ema_state_dict"} & set(best)
    assert best["meta"]["mmhybrid"] == last["meta"]["mmhybrid"]
    assert best["meta"]["mmhybrid"]["config"] == runner.cfg.to_dict()
    read = config_of(str(folder / "best.pth"))
    assert read.default_hooks.checkpoint.type == "mmhybrid.DurableCheckpointHook"
    # A run goes on from the last, even where the best is the newest file.
    (folder / "last_checkpoint").unlink()
    (folder / "best.pth").touch()
    assert newest_whole_checkpoint(str(folder)) == str(folder / "epoch_4.pth")


@pytest.mark.train
def test_a_config_that_is_no_data_ends_no_run(toy_config, capfd) -> None:
    toy_config.my_notes = dict(when={1, 2})
    trained(toy_config)
    best = Path(toy_config.work_dir) / "best.pth"
    assert read_checkpoint(best)["meta"]["mmhybrid"] == {}
    assert "".join(capfd.readouterr()).count("will not hold its config: when is {1, 2}") == 1


@pytest.mark.train
def test_the_best_where_files_have_one_name(toy_config, monkeypatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    trained(toy_config)
    folder = Path(toy_config.work_dir)
    (named,) = folder.glob("best_accuracy_epoch_*.pth")
    assert (folder / "best.pth").read_bytes() == named.read_bytes()


@METRICS.register_module()
class TwoMetrics(BaseMetric):
    """``aAcc`` and mIoU, or one metric of an unknown direction."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict.fromkeys(self.names, 1.0)


@pytest.mark.train
@pytest.mark.parametrize(
    ("names", "kept"), [(("aAcc", "mIoU"), ["best_mIoU_epoch_1.pth"]), (("quality",), [])]
)
def test_which_metric_is_best(toy_config, names, kept, capfd) -> None:
    toy_config.val_evaluator = dict(type="TwoMetrics", names=names)
    toy_config.train_cfg.max_epochs = 2
    trained(toy_config)
    assert sorted(one.name for one in Path(toy_config.work_dir).glob("best_*")) == kept
    told = "is a high or a low quality better?" in "".join(capfd.readouterr())
    assert told == (not kept)


def test_a_best_needs_an_evaluation(toy_config) -> None:
    with_val = with_best(with_safeguards(toy_config))
    assert with_val.default_hooks.checkpoint.save_best == "auto"
    toy_config.default_hooks.checkpoint.save_best = "mine"
    assert with_best(with_safeguards(toy_config)).default_hooks.checkpoint.save_best == "mine"
    del toy_config.default_hooks.checkpoint["save_best"]
    toy_config.val_dataloader = None
    assert "save_best" not in with_best(with_safeguards(toy_config)).default_hooks.checkpoint


@pytest.mark.parametrize(
    ("metrics", "classes", "weak"),
    [
        ({"coco/bbox_mAP": 0.001, "coco/bbox_mAP_50": 0.004}, 3, True),
        ({"coco/bbox_mAP_50": -1.0}, 3, True),
        ({"coco/bbox_mAP_50": 0.3}, 3, False),
        ({"coco/segm_mAP_50": 0.0, "coco/bbox_mAP_50": 0.3}, 3, False),
        ({"accuracy/top1": 10.5}, 10, True),
        ({"accuracy/top1": 55.0}, 2, True),
        ({"accuracy/top1": 30.0}, 10, False),
        ({"mIoU": float("nan")}, 3, True),
        ({"mIoU": 4.0, "aAcc": 60.0}, 11, True),
        ({"mIoU": 20.0}, 11, False),
    ],
)
def test_results_near_zero(metrics, classes, weak) -> None:
    assert bool(near_zero(metrics, classes)) == weak
