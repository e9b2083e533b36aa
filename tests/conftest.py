"""What every test may use, and the markers without which no test may be slow."""

import copy
import functools
import gc
import gzip
import importlib
import json
import math
import os
import random
import runpy
import shutil
import subprocess
import sys
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

# One thread for each worker of pytest-xdist, and one that waits without spinning, for the sake of
# other processes; set before PyTorch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import mmengine.config.config
import numpy as np
import pytest
import torch
from mmengine.config import Config, utils
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

import mmhybrid
from mmhybrid.engine.runner.prepare_config import with_resume, with_safeguards
from mmhybrid.engine.runner.run_config import build_runner
from mmhybrid.layers.norm import build_norm
from mmhybrid.weights import suggesting

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
# It registers its backbone, which is therefore tested like every other.
importlib.import_module("examples.inception_next")


def _asked_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Remembers the answers of a function of types and of configs."""
    answers: dict[Any, Any] = {}

    @functools.wraps(function)
    def answer(*args: Any) -> Any:
        scope = DefaultScope.get_current_instance()
        given = (one if isinstance(one, type) else repr(one) for one in args)
        key = (scope and scope.scope_name, *given)
        if key not in answers:
            answers[key] = function(*args)
        return answers[key]

    return answer


# Reading a config takes a second, most of it for the same answers: what mmdet's hundred metafiles
# hold, and how many channels its backbone gives. Writing one takes long to look good.
# Each checkpoint that is refused is tried in all models.
utils.load = functools.cache(utils.load)
mmengine.config.config.FormatCode = lambda text, **style: (text, True)
suggesting._on_meta = _asked_once(suggesting._on_meta)
replacing = importlib.import_module("mmhybrid.backbones.replace_backbone")
maps_of = _asked_once(replacing._maps_of)
replacing._maps_of = lambda backbone: copy.deepcopy(maps_of(backbone))


def _not_on_meta(init: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """There is nothing to initialise, and trying takes a third of the time to build a model."""

    @functools.wraps(init)
    def initialise(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        return tensor if tensor.is_meta else init(tensor, *args, **options)

    return initialise


for name in ("kaiming_uniform_", "uniform_", "trunc_normal_", "normal_", "constant_"):
    setattr(nn.init, name, _not_on_meta(getattr(nn.init, name)))

# What only a test with the marker may call; pyproject.toml says what the markers mean.
MARKED_CALLS = {
    "process": (subprocess.Popen, "__init__"),
    "train": (Runner, "train"),
    "compile": (torch, "compile"),
    "onnx": (torch.onnx, "export"),
}


def pytest_collection_finish() -> None:
    """MMEngine collects garbage for each data set; what is imported by now need not be searched."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """What is left at the end would be taken for a leak."""
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Fails a test whose marker was forgotten, fixtures included."""
    with pytest.MonkeyPatch.context() as patch:
        for marker, (owner, name) in MARKED_CALLS.items():
            if not item.get_closest_marker(marker):
                patch.setattr(owner, name, _refuse(marker, getattr(owner, name)))
        return (yield)


def _refuse(marker: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def refuse(*args: Any, **options: Any) -> Any:
        if marker == "process":
            program = args[1] if isinstance(args[1], str) else args[1][0]
            # Git and compilers, which are asked for their versions, answer at once.
            if not Path(program).name.startswith(("python", "bash")):
                return function(*args, **options)
        pytest.fail(f"this test needs the marker {marker!r}")

    return refuse


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference values and sample images; not part of the project."""
    folder = Path(os.environ.get("MMHYBRID_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} does not exist (set MMHYBRID_SHARED)")
    return folder


@pytest.fixture(scope="session")
def read_config() -> Callable[[str], Config]:
    """Reads a config of ``configs/`` by its name, once a session; each caller gets a copy."""
    read = functools.cache(lambda name: Config.fromfile(ROOT / "configs" / f"{name}.py"))
    return lambda name: copy.deepcopy(read(name))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where to compute; what asks for it runs on a GPU too, if there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return request.param


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a tool in this process: its file in ``tools/`` and its command line."""

    def run(name: str, *words: object) -> None:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")

    monkeypatch.syspath_prepend(ROOT / "tools")
    return run


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Runs a file in another Python, in ``tmp_path``, and returns what it printed."""

    def run(*words: object) -> str:
        command, env = [sys.executable, *map(str, words)], dict(os.environ, PYTHONPATH=str(ROOT))
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        done = subprocess.run(command, cwd=tmp_path, env=env, timeout=900, **pipes)
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def published_keys() -> dict[str, Any]:
    """Entries of the published state dicts with their shapes, by model; see data/README.md."""
    with gzip.open(ROOT / "tests" / "data" / "published_keys.json.gz") as file:
        return json.load(file)


@pytest.fixture(scope="session")
def dense_shapes(published_keys: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Names, shapes and types of one of the nine dense files of TransXNet's authors.

    Called with a method of data/dense_heads.json and ``'t'``, ``'s'``, ``'b'``, or ``'tiny'``: the
    backbone that the class has for tests.
    """
    heads = json.loads((ROOT / "tests" / "data" / "dense_heads.json").read_text())

    def shapes(method: str, size: str) -> dict[str, tuple[list[int], torch.dtype]]:
        if size == "tiny":
            model = mmhybrid.backbones.TransXNet(**mmhybrid.backbones.TransXNet.test_options)
            channels = model.feature_channels
            backbone = {key: (list(v.shape), v.dtype) for key, v in model.state_dict().items()}
        else:
            published = published_keys[f"transxnet_{size}"]
            channels = published["arch_settings"]["embed_dims"]
            entries = published["keys_fork_feat"]
            backbone = {key: (shape, getattr(torch, dtype)) for key, shape, dtype in entries}
        channels = dict(zip(("c1", "c2", "c3", "c4"), channels, strict=True))
        found = {f"backbone.{key}": value for key, value in backbone.items()}
        if method == "retinanet":  # the authors' start_level=1
            found = {key: found[key] for key in found if not key.startswith("backbone.norm0.")}
        for key, shape in heads[method].items():
            dtype = torch.int64 if key.endswith("num_batches_tracked") else torch.float32
            found[key] = ([channels.get(n, n) for n in shape], dtype)
        return found

    return shapes


@pytest.fixture(scope="session")
def dense_checkpoint(dense_shapes: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Such a file whole, as mmcv 1.7.1 writes it, its values filled by a rule; called the same."""

    def values(key: str, shape: list[int], dtype: torch.dtype) -> Tensor:
        if dtype == torch.int64:
            return torch.full(shape, 7)
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        noise = torch.rand(shape, generator=generator)
        if key.endswith(("bias", "running_mean")):
            return 0.2 * noise - 0.1
        return 0.5 + noise if len(shape) == 1 else (4 * noise - 2) / math.prod(shape[1:]) ** 0.5

    def make(method: str, size: str) -> dict[str, Any]:
        weights = OrderedDict((k, values(k, *v)) for k, v in dense_shapes(method, size).items())
        weights._metadata = OrderedDict({"": dict(version=1), "backbone": dict(version=2)})
        return dict(
            meta=old_meta(method, size),
            state_dict=weights,
            optimizer=dict(
                state={
                    index: dict(step=torch.tensor(9.0), exp_avg=value * 0, exp_avg_sq=value * 0)
                    for index, value in enumerate(weights.values())
                    if value.ndim == 1  # all, in theirs; these keep the file small
                },
                param_groups=[dict(lr=1e-6, betas=(0.9, 0.999), params=list(range(len(weights))))],
            ),
        )

    return make


def old_meta(method: str, size: str) -> dict[str, Any]:
    """``meta`` as mmcv 1.7.1 writes it for mmdet 2.28.2 and mmseg 0.30.0."""
    config = f"model = dict(\n    type='{method}', backbone=dict(type='transxnet_{size}'))\n"
    common = dict(env_info="sys.platform: linux\nPyTorch: 1.12.1", seed=None)
    common |= dict(mmcv_version="1.7.1", time="Mon Oct 30 12:00:00 2023")
    if method == "semantic_fpn":
        data = importlib.import_module("mmseg.datasets").ADE20KDataset.METAINFO
        score = np.float64(0.455)  # NumPy rounds it before the hook keeps it
        hooks = dict(last_ckpt="work_dirs/iter_80000.pth", best_score=score)
        return common | dict(
            mmseg_version="0.30.0+34645655",
            config=config,
            CLASSES=tuple(data["classes"]),
            PALETTE=[list(colour) for colour in data["palette"]],
            exp_name=f"sfpn_transxnet_{size}.py",
            hook_msgs=hooks | dict(best_ckpt="work_dirs/best_mIoU_iter_80000.pth"),
            epoch=127,
            iter=80000,
        )
    data = importlib.import_module("mmdet.datasets").CocoDataset.METAINFO
    hooks = dict(last_ckpt="work_dirs/epoch_12.pth", best_score=0.445)
    return common | dict(
        mmdet_version="2.28.2+5ba630b",
        config=config,
        CLASSES=tuple(data["classes"]),
        exp_name=f"{method}_transx_{size}_fpn_1x_coco.py",
        hook_msgs=hooks | dict(best_ckpt="work_dirs/best_bbox_mAP_epoch_12.pth"),
        epoch=12,
        iter=87960,
    )


@pytest.fixture
def safe_checkpoints() -> Iterator[mmhybrid.weights.mmengine_loading.SafeCheckpoints]:
    """MMEngine reads, loads and writes checkpoints as mmhybrid does."""
    with mmhybrid.enable_safe_checkpoints() as handle:
        yield handle


@pytest.fixture(autouse=True)
def _as_if_first() -> None:
    """The same random numbers, and no default scope of an earlier test's config."""
    torch.manual_seed(0)
    DefaultScope._instance_dict.clear()


@DATASETS.register_module()
class ToyImages(BaseDataset):
    """Noise of three levels, flipped at random by each of the three random generators."""

    METAINFO: ClassVar[dict[str, Any]] = {"classes": ("dark", "grey", "bright")}

    def __init__(self, data_list: list[dict[str, Any]], **options: Any) -> None:
        self.records = data_list
        super().__init__(**options)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [dict(record) for record in self.records]

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.get_data_info(index)
        if record.get("unreadable"):
            raise OSError(f"cannot identify image file {record['img_path']}")
        noise = np.random.default_rng(index).normal(record["gt_label"], 1, (3, 8, 8))
        image = torch.tensor(noise, dtype=torch.float32) * record.get("factor", 1.0)
        if self.test_mode:
            return dict(inputs=image, data_samples=BaseDataElement(metainfo=record))
        image = image.flip(2) if random.random() < 0.5 else image
        image = image.flip(1) if np.random.rand() < 0.5 else image  # noqa: NPY002
        image = image + 0.1 * torch.randn(3, 8, 8)
        return dict(inputs=image, data_samples=BaseDataElement(metainfo=record))


@MODELS.register_module()
class ToyClassifier(BaseModel):
    """A convolution, batch normalisation, dropout and a linear layer."""

    def __init__(self, norm_cfg: dict | None = None, dropout: float = 0.3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = build_norm(norm_cfg or dict(type="BN"), 8)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(8, 3)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        scores = self.linear(self.dropout(self.norm(self.conv(inputs)).relu()).mean((2, 3)))
        labels = torch.tensor([sample.gt_label for sample in data_samples])
        if mode == "loss":
            return dict(loss=nn.functional.cross_entropy(scores, labels))
        return [dict(right=bool(a == b)) for a, b in zip(scores.argmax(1), labels, strict=True)]


@METRICS.register_module()
class ToyAccuracy(BaseMetric):
    """The share of right answers."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [sample["right"] for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(accuracy=sum(results) / len(results))


@pytest.fixture
def toy_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """Of a run that does not ask for the versions of compilers, which takes a second."""
    monkeypatch.setattr(Runner, "_log_env", lambda *args: None)
    yield make_toy_config(tmp_path)
    gc.collect()  # a runner that failed, which lets go of its folder and of safe checkpoints


@pytest.fixture
def train() -> Callable[..., Runner]:
    """Trains by a toy config as ``tools/train.py`` would, with some more hooks."""

    def train(cfg: Config, *hooks: Hook, resume: bool = False) -> Runner:
        cfg = with_safeguards(with_resume(cfg, "auto") if resume else cfg)
        cfg.experiment_name = f"toy_{uuid.uuid4()}"  # not random, which a run seeds
        runner = build_runner(cfg)
        for hook in hooks:
            runner.register_hook(hook)
        runner.train()
        return runner

    return train


def make_toy_config(folder: Path) -> Config:
    """A run of 4 epochs of 6 batches of 4, a few milliseconds each, with all that must survive a
    crash: random flips, dropout, batch normalisation, AdamW, a schedule and averaged weights.
    """
    images = [dict(img_path=f"{index}.png", gt_label=index % 3) for index in range(22)]
    data = dict(type="ToyImages", data_list=images, serialize_data=False)
    sampler = dict(type="DefaultSampler")
    loader = dict(batch_size=4, num_workers=0, collate_fn=dict(type="default_collate"))
    return Config(
        dict(
            default_scope="mmengine",
            custom_imports=dict(imports=["mmhybrid"]),
            model=dict(type="ToyClassifier"),
            train_dataloader=loader | dict(dataset=data, sampler=dict(sampler, shuffle=True)),
            train_cfg=dict(by_epoch=True, max_epochs=4),
            val_dataloader=loader
            | dict(dataset=data | dict(test_mode=True), sampler=dict(sampler, shuffle=False)),
            val_cfg=dict(),
            val_evaluator=dict(type="ToyAccuracy"),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.01)),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=5),
                dict(type="MultiStepLR", milestones=[2, 3], gamma=0.5),
            ],
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
            custom_hooks=[dict(type="EMAHook", momentum=0.1)],
            randomness=dict(seed=3),
            launcher="none",
            work_dir=str(folder / "run"),
        )
    )


def count_iterations(cfg: Config, sampler: str = "InfiniteSampler") -> None:
    """Makes a toy run one of 20 iterations."""
    cfg.train_cfg = dict(by_epoch=False, max_iters=20, val_interval=6)
    cfg.train_dataloader.sampler.type = sampler
    cfg.default_hooks.checkpoint.update(interval=5, by_epoch=False)
    cfg.param_scheduler[1].update(by_epoch=False, milestones=[8, 14])


@pytest.fixture
def by_iteration() -> Callable[..., None]:
    """Makes a toy run one of iterations."""
    return count_iterations


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="see requirements/tests.txt")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium found (CHROMIUM=path names one)")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.fixture(params=[390, 1280])
def page(browser, request: pytest.FixtureRequest):
    """A page of a phone's and of a screen's width, which must raise no error and fit in."""
    page = browser.new_page(viewport=dict(width=request.param, height=900))
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("requestfailed", lambda failed: problems.append(failed.url))
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= request.param
    assert problems == []
    page.close()
