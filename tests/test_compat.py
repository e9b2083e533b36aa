"""What lets today's OpenMMLab run on today's PyTorch."""

import copy
import functools
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import types
import urllib.error
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import ModuleList
from mmengine.registry import DATASETS, OPTIMIZERS
from mmengine.runner import CheckpointLoader, Runner, loops
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import nn

import mmhybrid
from mmhybrid import compat, enable_safe_checkpoints
from mmhybrid.compat import distribution_names, package_metadata, reading_checkpoints
from mmhybrid.import_hooks import add_import_hook
from mmhybrid.weights import CheckpointError, UnsafeCheckpointError
from mmhybrid.weights.downloading import cache_name


@pytest.fixture
def python(run_python):
    """What a fresh Python prints of some code, in ``tmp_path``."""
    return lambda code: run_python("-W", "ignore", "-c", code).strip()


# --- the import -----------------------------------------------------------------------------------


@pytest.mark.process
def test_import_is_lean(python):
    names = ("mmdet", "mmseg", "mmpretrain", "torchvision", "transformers", "mmcv", "cv2")
    code = f"import sys, mmhybrid; print([n for n in {names!r} if n in sys.modules])"
    without = f"import sys, mmengine.model; print([n for n in {names!r} if n in sys.modules])"
    assert python(code) == python(without)


MODULES = (
    "torch",
    "torch.serialization",
    "mmengine.runner.checkpoint",
    "mmengine.hooks.ema_hook",
    "mmengine.model.weight_init",
    "mmengine.runner.runner",
    "mmengine.infer.infer",
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
    if isinstance(value, (list, tuple, set, frozenset)):
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
    "mmengine.runner.runner.Runner.resume": "it executes a text of the checkpoint, and has its "
    "paths removed",
    "mmengine.runner.runner.Runner.build_dataloader": "spawned workers import "
    "mmdet before mmhybrid",
    "mmengine.infer.infer.BaseInferencer._init_model": "it executes a text of the checkpoint",
    "scheme mmhybrid://": "weights of the catalogue, by MMEngine's own extension point",
    "mmengine.infer.infer.MODULE2PACKAGE": "_base_ = 'mmhybrid::...' finds our configs",
    "initializers": "init_cfg=dict(type='Pretrained') knows the authors' names for our backbones",
}


def state_after(python, first: str) -> dict:
    return json.loads(python(STATE.format(first=first, modules=MODULES)).splitlines()[-1])


@pytest.mark.process
def test_import_changes_what_is_listed_and_nothing_else(python):
    without, with_it = state_after(python, ""), state_after(python, "import mmhybrid")
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
    assert state_after(python, undone) == with_it


def test_enabling_ends_with_its_last_user_and_keeps_the_schemes_of_others(monkeypatch):
    import mmengine.runner.runner as runner_module
    from mmengine.hooks import EMAHook

    def state():
        return (
            mmengine_checkpoint.load_url,
            runner_module.save_checkpoint,
            runner_module._load_checkpoint_to_model,
            EMAHook.after_load_checkpoint,
            dict(CheckpointLoader._schemes),
        )

    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    before, mine = state(), lambda filename, map_location: {}
    outer = enable_safe_checkpoints()
    enabled = state()
    assert not any(a == b for a, b in zip(before, enabled, strict=True))
    with enable_safe_checkpoints():
        outer.undo()
        outer.undo()
        assert state() == enabled
        CheckpointLoader.register_scheme("mine://", mine)
    assert state() == (*before[:-1], before[-1] | {"mine://": mine})
    with enable_safe_checkpoints():
        assert state()[0] is enabled[0]


def test_a_hosts_own_reader_of_files_stays(monkeypatch):
    mine = lambda filename, map_location: {}  # noqa: E731
    monkeypatch.setattr(CheckpointLoader, "_schemes", {"": mine})
    reading_checkpoints._patch(mmengine_checkpoint)
    assert CheckpointLoader._schemes == {"": mine}


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


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.train
def test_a_run_resumes_from_its_own_checkpoint(averaged, tmp_path, toy_config, monkeypatch):
    palette = np.arange(6).reshape(2, 3)
    monkeypatch.setitem(DATASETS.get("ToyImages").METAINFO, "palette", palette)
    # Without randomness, MMEngine's own loop goes on where it was between two epochs.
    toy_config.model.dropout = 0.0
    toy_config.param_scheduler = toy_config.param_scheduler[:1]
    toy_config.train_dataloader.dataset.test_mode = True
    toy_config.train_dataloader.sampler.shuffle = False
    toy_config.custom_hooks = toy_config.custom_hooks[:averaged]

    def run(name, epochs, **options):
        unique = dict(work_dir=str(tmp_path / name), experiment_name=f"{tmp_path}{name}{epochs}")
        config = Config(dict(copy.deepcopy(toy_config), **unique, **options))
        config.train_cfg.max_epochs = epochs
        runner = Runner.from_cfg(config)
        runner.train()
        return runner

    run("whole", 4)
    run("halves", 2)
    assert run("halves", 4, resume=True).iter == 24
    paths = [tmp_path / name / "epoch_4.pth" for name in ("whole", "halves")]
    whole, halves = (CheckpointLoader.load_checkpoint(str(path)) for path in paths)

    if hasattr(torch.serialization, "get_safe_globals"):
        with pytest.raises(Exception, match=r"HistoryBuffer|getattr|weights_only"):
            torch.load(paths[0], weights_only=True)
    for entry in ("state_dict", "ema_state_dict") if averaged else ("state_dict",):
        for key, tensor in whole[entry].items():
            assert torch.equal(tensor, halves[entry][key]), key
    assert halves["meta"]["dataset_meta"]["classes"] == ("dark", "grey", "bright")
    assert np.array_equal(whole["meta"]["dataset_meta"]["palette"], palette)
    history = halves["message_hub"]["log_scalars"]["train/loss"]
    assert len(history.data[0]) == 24
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


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def attack(tmp_path):
    """A hostile checkpoint, whose code must not run."""
    path = tmp_path / "attack.pth"
    torch.save({"state_dict": {}, "meta": Attack(tmp_path / "marker")}, path)
    yield str(path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("old", ["0", "1"])
@pytest.mark.train
def test_every_way_of_loading_refuses_an_attack(
    attack, safe_checkpoints, old, tmp_path, toy_config, monkeypatch
):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", old)
    hub = tmp_path / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path))
    for name in ("attack.pth", cache_name("https://example.com/attack.pth")):
        os.link(attack, hub / name)
    (tmp_path / "open_mmlab.json").write_text('{"ours": "attack.pth"}')

    def through_init_cfg(**settings):
        init_cfg = dict(type="Pretrained", checkpoint=attack, **settings)
        ModuleList(init_cfg=init_cfg).init_weights()

    places = (attack, "https://example.com/attack.pth", "open-mmlab://ours", "openmmlab://ours")
    ways = [
        *(functools.partial(CheckpointLoader.load_checkpoint, place) for place in places),
        lambda: mmhybrid.load_checkpoint(nn.Linear(1, 1), attack),
        lambda: Runner.from_cfg(Config(dict(toy_config, load_from=attack))).train(),
        lambda: Runner.from_cfg(Config(dict(toy_config, load_from=attack, resume=True))).train(),
        through_init_cfg,
        lambda: through_init_cfg(prefix="backbone."),
    ]
    for way in ways:
        with pytest.raises(UnsafeCheckpointError, match="attack"):
            way()


def test_without_network_the_error_says_where_to_put_the_file(
    safe_checkpoints, tmp_path, monkeypatch
):
    no_network = Mock(side_effect=urllib.error.URLError("no network"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    url = "https://example.com/weights.pth"
    with pytest.raises(CheckpointError) as error:
        CheckpointLoader.load_checkpoint(url)
    where = tmp_path / "checkpoints" / cache_name(url)
    for part in (url, str(where), "init_cfg.checkpoint", "init_cfg=None", "no network"):
        assert part in str(error.value)
    torch.save({"state_dict": {"a": torch.ones(1)}}, where)
    assert CheckpointLoader.load_checkpoint(url)["state_dict"]["a"] == 1


def test_sha256_of_downloads_is_checked(safe_checkpoints, tmp_path, monkeypatch):
    source = tmp_path / "source.pth"
    torch.save({"a": torch.ones(1)}, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()

    download = lambda url, path, **_: shutil.copy(source, path)  # noqa: E731
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    load = CheckpointLoader.load_checkpoint
    no_hash = ["net-20200101.pth", "net.pth", "run-1697712345.pth", "iter-00080000.pth"]
    for name in (f"net_20200101-{digest[:16]}.pth", *no_hash):
        assert load(f"https://example.com/{name}")["a"] == 1
    with pytest.raises(CheckpointError, match=f"{digest}.*0123abcd"):
        load("https://example.com/net_20200101-0123abcd.pth")


@pytest.mark.parametrize("own", [True, False])
def test_a_program_with_a_torch_load_of_its_own_keeps_it(own, tmp_path, monkeypatch):
    path = str(tmp_path / "whole_model.pth")
    torch.save(nn.Linear(2, 2), path)
    if own:
        monkeypatch.setattr(torch, "load", functools.partial(torch.load, weights_only=False))
        assert isinstance(CheckpointLoader.load_checkpoint(path), nn.Linear)
    else:
        with pytest.raises(UnsafeCheckpointError, match="Linear"):
            CheckpointLoader.load_checkpoint(path)


# --- workers that are spawned ---------------------------------------------------------------------

SPAWNED = """
import multiprocessing, sys
if __name__ == "__main__":  # the workers import nothing of this
    from mmengine.runner import Runner
    import mmhybrid
    from mmdet.datasets.transforms import Resize
    multiprocessing.set_start_method(sys.argv[1])
    sampler = dict(type="DefaultSampler", shuffle=False)
    data = [Resize(scale=(4, 4))]
    loader = Runner.build_dataloader(dict(dataset=data, sampler=sampler, batch_size=1,
                                          num_workers=1))
    print("a worker sent", type(next(iter(loader))[0]).__name__)
"""


@pytest.mark.process
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_workers_find_the_kernels(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SPAWNED)
    run = [sys.executable, str(script), method]
    env = dict(os.environ, PYTHONPATH=str(Path(mmhybrid.__file__).parents[1]))
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, env=env)
    assert "a worker sent Resize" in done.stdout, done.stderr[-3000:]


def test_forked_workers_stay_as_they_are(monkeypatch):
    from mmhybrid.compat import spawned_workers

    assert multiprocessing.get_start_method(allow_none=True) in (None, "fork")
    assert spawned_workers.CONTEXTS.get(spawned_workers.start_method()) is None


def test_workers_that_start_late_leave_the_random_numbers_as_they_were():
    late, drawn = loops._InfiniteDataloaderIterator, []
    for iterator in (late, late.__base__):
        torch.manual_seed(0)
        batches = iterator(torch.utils.data.DataLoader(range(4)))
        assert ("_iterator" in vars(batches)) == (iterator is not late)
        before = torch.rand(3).tolist()
        assert next(batches) == 0
        drawn.append((before, torch.rand(3).tolist()))
    assert drawn[0] == drawn[1]


# --- transformers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_multimodal_models_are_left_out_where_transformers_lacks_something(there, monkeypatch):
    from mmhybrid.compat import transformers_version

    modeling = types.ModuleType("transformers.modeling_utils")
    for name in transformers_version.NEEDED[: None if there else -1]:
        setattr(modeling, name, object)
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    monkeypatch.setitem(sys.modules, "transformers.modeling_utils", modeling)
    dependency = types.SimpleNamespace(WITH_MULTIMODAL=True)
    transformers_version._patch(dependency)
    assert dependency.WITH_MULTIMODAL is there


# --- pkg_resources --------------------------------------------------------------------------------


def test_questions_to_pkg_resources():
    import mmdet
    import mmengine

    # The maintained fork has a name of its own.
    mmsegmentation = importlib.metadata.packages_distributions()["mmseg"][0]
    for name in ("mmdet", mmsegmentation, "mmseg"):
        assert package_metadata.is_installed(name)
    assert not package_metadata.is_installed("no-such-distribution")
    for module in (mmdet, mmengine):
        folder = package_metadata.get_installed_path(module.__name__)
        assert folder == os.path.dirname(module.__file__)
    assert os.path.basename(package_metadata.get_installed_path(mmsegmentation)) == "mmseg"
    assert package_metadata.package2module(mmsegmentation) == "mmseg"
    with pytest.raises(ModuleNotFoundError):
        package_metadata.get_installed_path("no-such-distribution")


@pytest.mark.parametrize(
    "base",
    [
        "mmdet::_base_/models/mask-rcnn_r50_fpn",
        "mmseg::_base_/models/upernet_r50",
        "mmpretrain::_base_/models/resnet18",
    ],
)
def test_configs_inherit_from_other_packages(base, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(f"_base_ = '{base}.py'")
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
def test_optimizers_register_twice(register, python):
    # `import mmhybrid` applies it, hence stand-ins for the packages.
    first = "".join(
        f"stand_in = sys.modules[{package.__name__!r}] = types.ModuleType({package.__name__!r}); "
        f"stand_in.__path__ = {list(package.__path__)!r}; "
        for package in (mmhybrid, compat)
    )
    without = python(DUPLICATES.format(first=first, apply=False, register=register))
    assert "is already registered" in without
    applied = python(DUPLICATES.format(first=first, apply=True, register=register))
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
    names = {"mmseg": "mmsegmentation"}
    monkeypatch.setattr(distribution_names, "MODULE2PACKAGE", names)
    monkeypatch.setattr(distribution_names, "is_installed", installed.__contains__)
    distribution_names.apply()
    assert names["mmseg"] == expected


# --- mmcv's kernels -------------------------------------------------------------------------------

APPLY = "import sys; from mmhybrid.compat import mmcv_ext; mmcv_ext.apply(); mmcv_ext.apply()\n"
FIND_THE_EXTENSION = """
import importlib.util, pkgutil
assert not {'mmcv', 'torchvision'} & set(sys.modules)
assert sys.meta_path.count(mmcv_ext.ExtensionFinder) == 1
spec = importlib.util.find_spec("mmcv._ext")
assert spec.name == "mmcv._ext" and spec.loader and spec.has_location
assert "torchvision" not in sys.modules
if hasattr(pkgutil, "find_loader"):  # removed from Python 3.14
    assert pkgutil.find_loader("mmcv._ext") is not None
from mmengine.utils.dl_utils import mmcv_full_available
assert mmcv_full_available()
import mmcv._ext
assert sys.modules["mmcv._ext"] is mmcv._ext and mmcv._ext.__spec__.name == "mmcv._ext"
assert importlib.util.find_spec("mmcv.no_such_module") is None
"""


@pytest.mark.process
def test_python_finds_a_proper_spec_and_imports_nothing_before(python):
    python(APPLY + FIND_THE_EXTENSION)


@pytest.mark.process
def test_a_full_mmcv_is_left_alone(tmp_path, python):
    """Its kernels are taken, and the check that it has all of them stays."""
    import mmcv.utils.ext_loader

    files = {
        "__init__.py": "",
        "_ext.py": "compiled = True",
        "utils/__init__.py": "",
        "utils/ext_loader.py": Path(mmcv.utils.ext_loader.__file__).read_text(),
    }
    (tmp_path / "mmcv" / "utils").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "mmcv" / name).write_text(text)
    code = """
from mmcv.utils.ext_loader import load_ext
assert load_ext("_ext", ["compiled"]).compiled
try:
    load_ext("_ext", ["absent"])
except AssertionError as error:
    print(error)
"""
    assert "absent" in python(APPLY + code)


@pytest.mark.process
def test_without_mmcv_nothing_happens(python):
    code = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "mmcv" else find_spec(name, *a)
from mmhybrid.compat import mmcv_ext
mmcv_ext.apply()
assert mmcv_ext.ExtensionFinder not in sys.meta_path
"""
    python(code)


def test_a_kernel_that_is_not_supplied_says_so():
    from mmcv import ops

    boxes = torch.tensor([[5.0, 5, 4, 4, 0.1], [5, 5, 4, 4, 0.2]])
    advice = (
        "onedl-mmcv"
        if distribution_names.is_installed("onedl-mmcv")
        else r"mmcv==2\.1\.0.*https://"
    )
    with pytest.raises(NotImplementedError, match=f"'box_iou_rotated'.*{advice}"):
        ops.box_iou_rotated(boxes, boxes)
    with pytest.raises(NotImplementedError, match="'nms_rotated'"):
        ops.nms_rotated(boxes, torch.tensor([0.5, 0.4]), 0.5)


def test_hasattr_tells_which_kernels_there_are():
    import mmcv._ext
    from mmcv.ops.nms import ext_module

    assert ext_module is mmcv._ext
    for name in ("nms", "roi_align_forward", "get_compiler_version"):
        assert hasattr(mmcv._ext, name)
    for name in (
        "nms_rotated",
        "box_iou_rotated",
        "border_align_forward",
        "no_such_kernel",
        "__path__",
    ):
        assert not hasattr(mmcv._ext, name)


def test_the_environment_report_names_the_kernels():
    from mmcv.utils import collect_env

    assert "torchvision" in collect_env()["MMCV Compiler"]


@pytest.mark.process
def test_openmmlab_imports(python):
    code = "import mmdet, mmdet.models, mmseg.models, mmpretrain.models; print('all')"
    assert python(APPLY + code) == "all"


def small_detector(name: str) -> dict:
    """A detector of mmdet's own configs, made small."""
    configs = Path(find_spec("mmdet").origin).parent / ".mim" / "configs"
    model = Config.fromfile(configs / f"{name}.py").model
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
        roi.bbox_roi_extractor.out_channels = roi.mask_roi_extractor.out_channels = 16
    elif model.type == "RetinaNet":
        model.bbox_head.update(in_channels=16, feat_channels=16, num_classes=4)
    else:
        model.bbox_head.num_classes = 4
    return model


@pytest.mark.parametrize(
    "config",
    [
        *(
            f"_base_/models/{name}_r50_fpn"
            for name in ("mask-rcnn", "cascade-mask-rcnn", "retinanet")
        ),
        "yolo/yolov3_mobilenetv2_8xb24-320-300e_coco",
    ],
)
@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
def test_detectors_learn_and_predict(config: str, amp: bool):
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
