"""What lets today's OpenMMLab run on today's PyTorch."""

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import types
import urllib.error

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import OPTIMIZERS
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

import mmhybrid
from mmhybrid import compat, enable_safe_checkpoints
from mmhybrid.compat import distribution_names, package_metadata
from mmhybrid.import_hooks import add_import_hook
from mmhybrid.weights import CheckpointError, UnsafeCheckpointError


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- the import -----------------------------------------------------------------------------------


@pytest.mark.process
def test_import_is_lean():
    names = ("mmdet", "mmseg", "mmpretrain", "torchvision", "transformers", "mmcv", "cv2")
    code = f"import sys, mmhybrid; print([n for n in {names!r} if n in sys.modules])"
    without = f"import sys, mmengine.model; print([n for n in {names!r} if n in sys.modules])"
    assert run_python(code) == run_python(without)


MODULES = (
    "torch",
    "torch.serialization",
    "mmengine.runner.checkpoint",
    "mmengine.hooks.ema_hook",
    "mmengine.model.weight_init",
)
# Every attribute of these modules and of the classes in them, a function by where it is written.
STATE = """
import importlib, json, signal, types, warnings
{first}

def described(value, deep=True):
    value = getattr(value, "__func__", value)
    if code := getattr(value, "__code__", None):
        return code.co_filename + ":" + code.co_name
    if isinstance(value, dict):
        return {{str(key): described(each) for key, each in value.items()}} if deep else "a dict"
    if isinstance(value, (list, tuple, set)):
        return sorted(str(described(each, False)) for each in value) if deep else "a list"
    name = str(getattr(value, "__module__", "")) + "." + str(getattr(value, "__qualname__", ""))
    return name if "." in name[1:] else repr(value).partition(" at 0x")[0]

state = {{}}
for name in {modules}:
    module = importlib.import_module(name)
    for key, value in vars(module).items():
        if isinstance(value, types.ModuleType) and value.__name__ == name + "." + key:
            continue  # a submodule that somebody has imported
        state[name + "." + key] = described(value)
        if isinstance(value, type) and value.__module__ == name:
            for attribute, held in vars(value).items():
                state[name + "." + key + "." + attribute] = described(held, key != "_schemes")
from mmengine.registry import WEIGHT_INITIALIZERS
import torch
schemes = state.pop("mmengine.runner.checkpoint.CheckpointLoader._schemes")
state.update({{"scheme " + prefix: where for prefix, where in schemes.items()}})
state["initializers"] = described(WEIGHT_INITIALIZERS.module_dict)
state["warnings.filters"] = [str(each) for each in warnings.filters]
state["safe globals"] = described(torch.serialization.get_safe_globals())
for number in signal.valid_signals():
    state["handler of " + str(number)] = str(signal.getsignal(number))
print(json.dumps(state))
"""
# What `import mmhybrid` changes there, and why.
CHANGED_BY_IMPORT = {
    "scheme ": "MMEngine's own checkpoints, which PyTorch refuses since 2.6, are read all the same",
    "initializers": "init_cfg=dict(type='Pretrained') knows the authors' names for our backbones",
}


def state_after(first: str) -> dict:
    return json.loads(run_python(STATE.format(first=first, modules=MODULES)).splitlines()[-1])


@pytest.mark.process
def test_import_changes_what_is_listed_and_nothing_else():
    without, with_it = state_after(""), state_after("import mmhybrid")
    assert len(without) > 5000
    changed = {key for key in without | with_it if without.get(key) != with_it.get(key)}
    assert changed == set(CHANGED_BY_IMPORT)
    initializers = without["initializers"] | with_it["initializers"]
    same = {key for key in initializers if without["initializers"].get(key) == initializers[key]}
    assert set(initializers) - same == {"Pretrained"}
    undone = (
        "import mmhybrid, mmengine.hooks; handle = mmhybrid.enable_safe_checkpoints(); "
        "mmhybrid.enable_safe_checkpoints().undo(); "
        "from mmengine.runner import checkpoint as c; assert 'mmhybrid' in c.load_url.__module__; "
        "handle.undo()"
    )
    assert state_after(undone) == with_it


def test_enabling_lasts_until_it_is_undone():
    import mmengine.runner.checkpoint as checkpoint
    import mmengine.runner.runner as runner_module
    from mmengine.hooks import EMAHook

    def state():
        return (
            checkpoint.load_url,
            runner_module.save_checkpoint,
            runner_module._load_checkpoint_to_model,
            EMAHook.after_load_checkpoint,
            dict(CheckpointLoader._schemes),
        )

    before = state()
    with enable_safe_checkpoints():
        enabled = state()
        assert not any(a == b for a, b in zip(before, enabled, strict=True))
        with enable_safe_checkpoints():
            pass
        assert state() == enabled
    assert state() == before
    with enable_safe_checkpoints():
        assert state()[0] is enabled[0]


def test_apply_twice_changes_nothing():
    import mmcv.utils.ext_loader
    from mmengine.utils import package_utils

    def state():
        return (
            mmcv.adjust_hue,
            mmcv.utils.ext_loader.load_ext,
            dict(CheckpointLoader._schemes),
            package_utils.is_installed,
            OPTIMIZERS.register_module,
            list(sys.meta_path),
        )

    before = state()
    compat.apply()
    assert state() == before


def test_import_hook(tmp_path, monkeypatch):
    (tmp_path / "awaited_module.py").write_text("value = 1")
    monkeypatch.syspath_prepend(tmp_path)
    seen = []
    add_import_hook("awaited_module", lambda module: seen.append(module.value))
    assert seen == []
    import awaited_module

    assert seen == [1]
    add_import_hook("awaited_module", lambda module: seen.append(module.value + 1))
    assert seen == [1, 2]
    assert awaited_module.__spec__.origin == str(tmp_path / "awaited_module.py")
    sys.modules.pop("awaited_module")


# --- checkpoints ----------------------------------------------------------------------------------


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x, y=None, mode="tensor"):
        loss = (self.layer(torch.stack(x) if isinstance(x, list) else x) - 1).pow(2).mean()
        return {"loss": loss} if mode == "loss" else [loss]


class Data(torch.utils.data.Dataset):
    metainfo = dict(palette=np.arange(6).reshape(2, 3), classes=("a", "b"))  # noqa: RUF012

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(x=torch.full((4,), float(index)))


def runner(work_dir, iterations=4, **settings):
    torch.manual_seed(0)
    return Runner(
        Toy(),
        str(work_dir),
        train_dataloader=dict(
            batch_size=2,
            dataset=Data(),
            sampler=dict(type="InfiniteSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
        param_scheduler=[dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=3)],
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=False),
            logger=dict(type="LoggerHook", interval=1),
        ),
        randomness=dict(seed=0),
        experiment_name=f"toy_{np.random.default_rng().integers(1 << 62)}",
        default_scope="mmengine",
        **settings,
    )


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.train
def test_a_run_resumes_from_its_own_checkpoint(averaged, tmp_path):
    hooks = [dict(type="EMAHook", momentum=0.5)] if averaged else None
    runner(tmp_path / "whole", 4, custom_hooks=hooks).train()
    whole = CheckpointLoader.load_checkpoint(str(tmp_path / "whole" / "iter_4.pth"))

    runner(tmp_path / "halves", 2, custom_hooks=hooks).train()
    resumed = runner(tmp_path / "halves", 4, custom_hooks=hooks, resume=True)
    resumed.train()
    halves = CheckpointLoader.load_checkpoint(str(tmp_path / "halves" / "iter_4.pth"))

    if hasattr(torch.serialization, "get_safe_globals"):
        with pytest.raises(Exception, match=r"HistoryBuffer|getattr|weights_only"):
            torch.load(tmp_path / "whole" / "iter_4.pth", weights_only=True)
    for entry in ("state_dict", "ema_state_dict") if averaged else ("state_dict",):
        for key, tensor in whole[entry].items():
            assert torch.equal(tensor, halves[entry][key]), key
    assert resumed.iter == 4
    assert halves["meta"]["dataset_meta"]["classes"] == ("a", "b")
    assert np.array_equal(whole["meta"]["dataset_meta"]["palette"], Data.metainfo["palette"])
    history = halves["message_hub"]["log_scalars"]["train/loss"]
    assert len(history.data[0]) == 4
    assert np.isfinite(history.mean())
    assert history.statistics("current") == history.current()


@pytest.mark.parametrize("trusted", ["0", "1"])
def test_without_enabling_a_program_keeps_its_own_policy(trusted, tmp_path, monkeypatch):
    """What PyTorch is told to trust is read; what it refuses, mmhybrid does not run either."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", trusted)
    path = str(tmp_path / "whole_model.pth")
    torch.save(nn.Linear(2, 2), path)
    if trusted == "1":
        assert isinstance(CheckpointLoader.load_checkpoint(path), nn.Linear)
    else:
        with pytest.raises(UnsafeCheckpointError, match="Linear"):
            CheckpointLoader.load_checkpoint(path)
    assert isinstance(torch.load(path, weights_only=False, mmap=True), nn.Linear)


@pytest.fixture
def safe_checkpoints():
    with enable_safe_checkpoints() as handle:
        yield handle


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def attack(tmp_path):
    """A hostile checkpoint and what it would create."""
    marker = tmp_path / "marker"
    path = tmp_path / "attack.pth"
    torch.save({"state_dict": {}, "meta": Attack(marker)}, path)
    yield str(path)
    assert not marker.exists()


@pytest.mark.parametrize("old", ["0", "1"])
@pytest.mark.train
def test_every_way_of_loading_refuses_an_attack(
    attack, safe_checkpoints, old, tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", old)
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path))
    os.link(attack, hub / "attack.pth")
    (tmp_path / "open_mmlab.json").write_text('{"ours": "attack.pth"}')

    class Module(BaseModule):
        pass

    def through_init_cfg(**settings):
        Module(init_cfg=dict(type="Pretrained", checkpoint=attack, **settings)).init_weights()

    ways = [
        lambda: CheckpointLoader.load_checkpoint(attack),
        lambda: CheckpointLoader.load_checkpoint("https://example.com/attack.pth"),
        lambda: CheckpointLoader.load_checkpoint("open-mmlab://ours"),
        lambda: CheckpointLoader.load_checkpoint("openmmlab://ours"),
        lambda: mmhybrid.load_checkpoint(nn.Linear(1, 1), attack),
        lambda: runner(tmp_path, load_from=attack).train(),
        lambda: runner(tmp_path, load_from=attack, resume=True).train(),
        through_init_cfg,
        lambda: through_init_cfg(prefix="backbone."),
    ]
    for way in ways:
        with pytest.raises(UnsafeCheckpointError, match="attack"):
            way()


def test_without_network_the_error_says_where_to_put_the_file(
    safe_checkpoints, tmp_path, monkeypatch
):
    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    url = "https://example.com/weights.pth"
    with pytest.raises(CheckpointError) as error:
        CheckpointLoader.load_checkpoint(url)
    where = tmp_path / "checkpoints" / "weights.pth"
    for told in (url, str(where), "init_cfg.checkpoint", "init_cfg=None", "no network"):
        assert told in str(error.value)
    torch.save({"state_dict": {"a": torch.ones(1)}}, where)
    assert CheckpointLoader.load_checkpoint(url)["state_dict"]["a"] == 1


def test_sha256_of_downloads_is_checked(safe_checkpoints, tmp_path, monkeypatch):
    source = tmp_path / "source.pth"
    torch.save({"a": torch.ones(1)}, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()

    def download(url, path, **_):
        with open(path, "wb") as file:
            file.write(source.read_bytes())

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    load = CheckpointLoader.load_checkpoint
    assert load(f"https://example.com/net_20200101-{digest[:8]}.pth")["a"] == 1
    assert load("https://example.com/net-20200101.pth")["a"] == 1
    assert load("https://example.com/net.pth")["a"] == 1
    with pytest.raises(CheckpointError, match=f"{digest}.*01234567"):
        load("https://example.com/net_20200101-01234567.pth")


# --- pkg_resources --------------------------------------------------------------------------------


def test_questions_to_pkg_resources():
    import mmdet
    import mmengine

    # The maintained fork has a name of its own.
    mmsegmentation = importlib.metadata.packages_distributions()["mmseg"][0]
    assert package_metadata.is_installed("mmdet")
    assert package_metadata.is_installed(mmsegmentation)
    assert package_metadata.is_installed("mmseg")
    assert not package_metadata.is_installed("no-such-distribution")
    assert package_metadata.get_installed_path("mmdet") == os.path.dirname(mmdet.__file__)
    assert package_metadata.get_installed_path("mmengine") == os.path.dirname(mmengine.__file__)
    assert os.path.basename(package_metadata.get_installed_path(mmsegmentation)) == "mmseg"
    assert package_metadata.package2module(mmsegmentation) == "mmseg"
    with pytest.raises(ModuleNotFoundError):
        package_metadata.get_installed_path("no-such-distribution")


@pytest.mark.parametrize(
    "base",
    [
        "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
        "mmseg::_base_/models/upernet_r50.py",
        "mmpretrain::_base_/models/resnet18.py",
    ],
)
def test_configs_inherit_from_other_packages(base, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(f"_base_ = {base!r}")
    assert Config.fromfile(path).model.type


# --- optimizers -----------------------------------------------------------------------------------

DUPLICATES = """
import sys, types
{first}
import torch
from mmengine.registry import OPTIMIZERS
if {apply}:
    from mmhybrid.compat import optimizer_names
    optimizer_names.apply()
try:
    {register}
except KeyError as error:
    print(error)
else:
    print(sorted(name for name in OPTIMIZERS.module_dict if 'Adafactor' in name))
"""
# What MMEngine before 0.10.7 does.
TWO_ADAFACTORS = (
    "OPTIMIZERS.register_module(module=torch.optim.Adafactor); "
    "OPTIMIZERS.register_module(name='Adafactor', module=type('Adafactor', (), {}))"
)
TWO_IMPORTS = (
    "import mmengine.optim.optimizer.builder as b; sys.modules.pop(b.__name__); "
    "import importlib; importlib.import_module(b.__name__)"
)


@pytest.mark.skipif(not hasattr(torch.optim, "Adafactor"), reason="this PyTorch has no Adafactor")
@pytest.mark.parametrize("register", [TWO_ADAFACTORS, TWO_IMPORTS], ids=["Adafactor", "ASGD"])
@pytest.mark.process
def test_optimizers_register_twice(register):
    # `import mmhybrid` applies it, hence the stand-in for the package.
    first = (
        "package = types.ModuleType('mmhybrid'); "
        f"package.__path__ = {list(mmhybrid.__path__)!r}; sys.modules['mmhybrid'] = package; "
        "compat = types.ModuleType('mmhybrid.compat'); "
        f"compat.__path__ = {list(compat.__path__)!r}; sys.modules['mmhybrid.compat'] = compat"
    )
    without = run_python(DUPLICATES.format(first=first, apply=False, register=register))
    assert "is already registered" in without
    applied = run_python(DUPLICATES.format(first=first, apply=True, register=register))
    assert "TorchAdafactor" in applied
    assert ("'Adafactor'" in applied) == (register is TWO_ADAFACTORS)


# --- hue ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("factor", [-0.5, -0.3, -0.1, -0.001, 0.0, 0.1, 0.4])
def test_hue_jitter(factor, backend):
    import cv2
    import mmcv

    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image[..., 0] = 0
    image[..., 2] = np.maximum(image[..., 2], 128)
    before = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)[..., 0].astype(int)
    shifted = mmcv.adjust_hue(image, factor, backend=backend)
    after = cv2.cvtColor(shifted, cv2.COLOR_BGR2HSV_FULL)[..., 0].astype(int)
    error = (after - before - int(factor * 255) + 128) % 256 - 128
    assert shifted.dtype == image.dtype
    assert np.abs(error).max() <= 3
    assert mmcv.image.adjust_hue is mmcv.adjust_hue


def test_hue_jitter_in_a_pipeline():
    from mmpretrain.datasets.transforms import ColorJitter

    np.random.seed(0)  # noqa: NPY002
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.5)
    for _ in range(20):
        assert jitter(dict(img=image))["img"].shape == image.shape


# --- the fork's name ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (["mmsegmentation"], "mmsegmentation"),
        (["onedl-mmsegmentation"], "onedl-mmsegmentation"),
        (["mmsegmentation", "onedl-mmsegmentation"], "mmsegmentation"),
        ([], "mmsegmentation"),
    ],
)
def test_mmseg_under_the_name_of_its_fork(installed, expected, monkeypatch):
    names = types.SimpleNamespace(**{"mmseg": "mmsegmentation"}).__dict__
    monkeypatch.setattr(distribution_names, "MODULE2PACKAGE", names)
    monkeypatch.setattr(distribution_names, "is_installed", installed.__contains__)
    distribution_names.apply()
    assert names["mmseg"] == expected
