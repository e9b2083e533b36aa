"""Small files that would run, delete or hang something, through every path that reads a file."""

import io
import os
import pickle
import signal
import struct
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from torch import nn

from mmhybrid.backbones import XFormer
from mmhybrid.engine.hooks.durable_checkpoint_hook import newest_whole_checkpoint
from mmhybrid.engine.runner.checkpoint_config import config_of, size_note
from mmhybrid.errors import UserError
from mmhybrid.weights import (
    CheckpointError,
    UnsafeCheckpointError,
    load_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from mmhybrid.weights.downloading import load_url
from mmhybrid.weights.mmengine_loading import enable_safe_checkpoints

ROOT = Path(__file__).parents[1]
SECONDS = 60  # for all paths together on a busy machine; each takes milliseconds


# --- files ----------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def put(place: int) -> bytes:
    return b"r" + struct.pack("<I", place)


def get(place: int) -> bytes:
    return b"j" + struct.pack("<I", place)


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return b"\x8a" + bytes([len(data)]) + data


def doubled(times: int = 40) -> bytes:
    """A tuple of a tuple twice, and so on."""
    return b")" + put(0) + b"".join(get(i) + get(i) + b"\x86" + put(i + 1) for i in range(times))


def in_state_dict(value: bytes) -> bytes:
    return b"\x80\x02}" + text("state_dict") + b"}" + text("a") + value + b"ss."


TWICE = b"".join(b"]" + put(i + 1) + b"(" + get(i) + get(i) + b"e" + put(i + 1) for i in range(40))
DEEPER = b"".join(
    b"}" + put(i + 1) + b"(" + b"".join(text(k) + get(i) for k in ("model", "net", "ema")) + b"u"
    for i in range(30)
)
ONE_HASH = b"".join(number((2**61 - 1) * i) + b"N" for i in range(1, 20_000))
STORAGE = b"(" + text("storage") + b"%b" + text("0") + text("cpu") + b"K\x01tQ"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n("
    + STORAGE % b"ctorch\nFloatStorage\n"
    + b"K\x00%b%b\x89ccollections\nOrderedDict\n)RtR"
)
PICKLES = {
    "a list twice, forty times over": b"\x80\x02]" + put(0) + TWICE + b".",
    "a tuple twice, forty times over": b"\x80\x02" + doubled() + b".",
    "such a tuple as a key": b"\x80\x02}" + doubled() + b"Ns.",
    "such a tuple in a set": b"\x80\x02c__builtin__\nset\n]" + doubled() + b"a\x85R.",
    "such a tuple as a type of storage": in_state_dict(STORAGE % doubled()),
    "such a tuple as a function": in_state_dict(
        b"ctorch._tensor\n_rebuild_from_type_v2\n(" + doubled() + b"N)}tR"
    ),
    "entries in entries": b"\x80\x02}" + put(0) + DEEPER + b".",
    "a dict that holds itself": b"\x80\x02}" + put(0) + text("model") + get(0) + b"s.",
    "a list that holds itself": b"\x80\x02}" + text("meta") + b"]" + put(0) + get(0) + b"as.",
    "keys with one hash": b"\x80\x02}(" + ONE_HASH + b"u.",
    "a set with one hash": b"\x80\x02c__builtin__\nset\n](" + ONE_HASH + b"e\x85R.",
    "lists in lists": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "dicts in dicts": b"\x80\x02"
    + (b"}" + text("model")) * 20_000
    + b"}"
    + b"s" * 20_000
    + b".",
    "marks without end": b"\x80\x02" + b"(" * 100_000 + b".",
    "tuples behind a long stack": b"\x80\x02" + b"N" * 30_000 + b"(t" * 30_000 + b"\x80.",
    "a text again and again": b"\x80\x04\x8d"
    + struct.pack("<Q", 10**6)
    + b"a" * 10**6
    + b"\x94("
    + b"h\x00" * 50_000
    + b"t.",
    "a class with a long name": b"\x80\x04\x8d"
    + struct.pack("<Q", 10**6)
    + b"a" * 10**6
    + b"\x94h\x00\x93.",
    "a tensor of 2**40 elements in one": in_state_dict(
        TENSOR % (number(2**40) + b"\x85", b"K\x00\x85")
    ),
    "a tensor of too many dimensions": in_state_dict(
        TENSOR % (b"(" + b"K\x01" * 5000 + b"t", b"(" + b"K\x00" * 5000 + b"t")
    ),
    "a tensor of a negative size": in_state_dict(TENSOR % (b"J\xff\xff\xff\xff\x85", b"K\x01\x85")),
    "an integer of too many digits": b"\x80\x02I" + b"9" * 10_000 + b"\n.",
    "more instructions than anybody reads": b"\x80\x02" + b"N" * 2_000_001 + b".",
}  # fmt: skip


def with_pickle(pickled: bytes, path: Path) -> None:
    """A proper zip of torch.save with another pickle in it."""
    saved = io.BytesIO()
    torch.save({"w": torch.ones(1)}, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))


def safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


def tar_of_many_headers() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"a" * 10_000: "b" * 100_000}
        archive.addfile(info)
    return content.getvalue()


BYTES = {
    "safetensors with a header of 2**60 bytes": safetensors(b"{", 2**60),
    "safetensors with a deep header": safetensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "safetensors with a huge shape": safetensors(
        b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}'
    ) + bytes(4),
    "a tar of long headers": tar_of_many_headers(),
    "a directory of nothing": b"PK\x05\x06" + b"\xff" * 18,
    "nothing but the start of a zip": b"PK\x03\x04" * 1000,
    "a pickle alone": pickle.dumps({"state_dict": {}}),
}  # fmt: skip

# What is read, but cannot be loaded.
ONE = torch.ones(())
NESTED_NAME = "_orig" * 50_000 + "_mod." + "_mod." * 50_000
READABLE: dict[str, Callable[[], dict[str, Any]]] = {
    "a name of half a megabyte": lambda: {NESTED_NAME: torch.ones(1)},
    "a name of many parts": lambda: {"a." * 100 + "b": torch.ones(1)},
    # Of one storage.
    "too many tensors": lambda: dict.fromkeys((f"layers.{i}.a" for i in range(20_001)), ONE),
    "thousands of tensors": lambda: dict.fromkeys(
        (f"m{i}.n.k.stages.{i}.0.q.weight" for i in range(4000)), ONE
    ),
    "sparse weights": lambda: {"a": torch.sparse_coo_tensor([[0]], [1.0], (2**40,))},
    "names of wrappers alone": lambda: {"module." * 20 + "a": torch.ones(1)},
}


def make(case: str, path: Path) -> None:
    if case in PICKLES:
        with_pickle(PICKLES[case], path)
    elif case in BYTES:
        path.write_bytes(BYTES[case])
    else:
        write_checkpoint(dict(state_dict=READABLE[case]()), path)


# --- paths ----------------------------------------------------------------------------------------


def model() -> nn.Module:
    return XFormer(**XFormer.test_options)


def through_init_cfg(path: str) -> None:
    options = dict(XFormer.test_options, init_cfg=dict(type="Pretrained", checkpoint=path))
    XFormer(**options).init_weights()


def through_mmengine(path: str) -> None:
    from mmengine.runner import load_checkpoint

    load_checkpoint(model(), path, map_location="cpu")


def through_mmengine_made_safe(path: str) -> None:
    with enable_safe_checkpoints():
        through_mmengine(path)


def converted(path: str) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    import convert_checkpoint

    sys.argv = ["convert_checkpoint.py", path, str(Path(path).with_name("out.pth"))]
    try:
        convert_checkpoint.main()
    except SystemExit as error:
        raise UserError(str(error.code)) from error


def through_an_inferencer(path: str) -> None:
    from mmdet.apis import DetInferencer

    DetInferencer(weights=path, device="cpu")


def downloaded(path: str) -> None:
    import shutil

    torch.hub.download_url_to_file = lambda url, to, **_: shutil.copy(path, to)
    folder = Path(path).with_name("cache")
    try:
        load_checkpoint_of = load_url("https://example.com/a.pth", folder, progress=False)
        raise UserError(f"read {type(load_checkpoint_of)}")
    finally:
        kept = list(folder.glob("**/*.pth"))
        assert not kept or Path(path).stem == "readable"


PATHS: dict[str, Callable[[str], Any]] = {
    "load_checkpoint": lambda path: load_checkpoint(model(), path, logger="silent"),
    "load_checkpoint of EMA": lambda path: load_checkpoint(model(), path, ema=True),
    "init_cfg": through_init_cfg,
    "MMEngine's load_checkpoint": through_mmengine,
    "the same, made safe": through_mmengine_made_safe,
    "the config of a checkpoint": config_of,
    "an inferencer without a config": through_an_inferencer,
    "converting": converted,
    "a download": downloaded,
}


def within(seconds: float, function: Callable[[], None]) -> str:
    """What a function says in a process of its own, which is ended when it hangs."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        told = "passed"
        try:
            function()
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(writing, told.encode()[:5000])
        os._exit(0)
    os.close(writing)
    end = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"hangs for {seconds} seconds"
        time.sleep(0.01)
    with open(reading, "rb") as told_by_it:
        return told_by_it.read().decode()


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What every process needs is imported once."""
    import mmdet.apis  # noqa: F401


# MMEngine warns of names that do not match, and unknown names stay as they are where they are read.
WARNED = {"MMEngine's load_checkpoint"}
KEPT = {"names of wrappers alone": "converting", "thousands of tensors": "converting"}


@pytest.mark.process
@pytest.mark.parametrize("case", [*PICKLES, *BYTES, *READABLE])
def test_every_path_refuses_it_soon(case, tmp_path) -> None:
    path = tmp_path / ("readable.pth" if case in READABLE else "hostile.pth")
    make(case, path)
    before = sorted(tmp_path.iterdir())
    left_out = WARNED | {KEPT.get(case)} if case in READABLE else set()

    def try_all() -> None:
        if case in READABLE:
            read_checkpoint(path)
        else:
            with pytest.raises(CheckpointError):
                read_checkpoint(path)
        for name in PATHS.keys() - left_out:
            with pytest.raises(UserError) as error:
                PATHS[name](str(path))
            assert len(str(error.value)) < 3000, name
        for finds in (newest_whole_checkpoint, lambda folder: size_note(Config(), str(path))):
            with suppress(UserError):
                assert not finds(str(tmp_path))

    assert within(SECONDS, try_all) == "passed"
    assert set(before) <= set(tmp_path.iterdir())


# --- runs -----------------------------------------------------------------------------------------


def resumable(**changes: Any) -> dict[str, Any]:
    """A checkpoint that MMEngine would begin to resume from."""
    info = dict(best_score=0.5) | changes.pop("runtime_info", {})
    hub = dict(log_scalars=OrderedDict(), runtime_info=info, resumed_keys=dict.fromkeys(info, True))
    meta = dict(epoch=1, iter=6, experiment_name="a", seed=0) | changes.pop("meta", {})
    return dict(meta=meta, message_hub=hub | changes.pop("message_hub", {}), state_dict={})


SCALARS = {f"s{i}": HistoryBuffer([1.0], [1]) for i in range(5000)}
RUNS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "weights alone": (lambda: dict(state_dict={}), "no epoch, iteration and message hub"),
    "a meta that is a list": (lambda: resumable() | dict(meta=[1]), "no epoch"),
    "an epoch that is a text": (lambda: resumable(meta=dict(epoch="1")), "no epoch"),
    "a message hub that is none": (
        lambda: resumable(message_hub=dict(log_scalars=3)),
        "message hub is damaged",
    ),
    "a message hub with too much": (
        lambda: resumable(
            message_hub=dict(log_scalars=SCALARS, resumed_keys=dict.fromkeys(SCALARS, True))
        ),
        "too much",
    ),
}


@pytest.mark.train
@pytest.mark.parametrize("case", RUNS)
def test_a_run_is_refused_before_it_starts(case, toy_config, tmp_path) -> None:
    made, told = RUNS[case]
    write_checkpoint(made(), tmp_path / "a.pth")
    cfg = Config(dict(toy_config, load_from=str(tmp_path / "a.pth"), resume=True))
    with pytest.raises(CheckpointError, match=told):
        Runner.from_cfg(cfg).train()


@pytest.mark.train
@pytest.mark.process
@pytest.mark.parametrize("ema", [True, False], ids=["averaged", "plain"])
@pytest.mark.parametrize("resume", [True, False], ids=["resume", "load_from"])
@pytest.mark.parametrize("case", ["a list twice, forty times over", "keys with one hash"])
def test_runs_refuse_it_soon(case, resume, ema, toy_config, tmp_path) -> None:
    with_pickle(PICKLES[case], tmp_path / "hostile.pth")
    cfg = Config(dict(toy_config, load_from=str(tmp_path / "hostile.pth"), resume=resume))
    if not ema:
        cfg.custom_hooks = []
    told = within(SECONDS, lambda: Runner.from_cfg(cfg).train())
    assert told.startswith("UnsafeCheckpointError")


# --- code -----------------------------------------------------------------------------------------


CODE = {
    "a call": "model = open({marker!r}, 'w')",
    "an import": "import os\nos.mknod({marker!r})",
    "a format": "model = f\"{{open({marker!r}, 'w')}}\"",
    "a comprehension": "model = [open({marker!r}, 'w') for _ in (1,)]",
    "a base": "_base_ = open({marker!r}, 'w').name",
    "a decorated class": "@open({marker!r}, 'w').write\nclass A: pass",
    "a type that runs": "model = dict(type='os.mknod', path={marker!r})",
    "a type that calls": "model = dict(type='subprocess.run', args=['touch', {marker!r}])",
    "an import by type": "model = dict(type='antigravity.x')",
    "brackets without end": "model = " + "[" * 10_000,
    "signs without end": "model = " + "-" * 100_000 + "1",
    "a pickle to load": "model = dict(type='RetinaNet', backbone=None, data='http://a/b.pkl')",
}


@pytest.mark.parametrize("place", ["runtime_info", "meta"])
@pytest.mark.parametrize("case", CODE)
def test_an_inferencer_runs_no_text_of_a_file(case, place, tmp_path) -> None:
    from mmdet.apis import DetInferencer

    marker = tmp_path / "executed"
    code = CODE[case].format(marker=str(marker)) if "{" in CODE[case] else CODE[case]
    hub = dict(runtime_info=dict(cfg=code) if place == "runtime_info" else {})
    content = dict(state_dict={}, message_hub=hub, meta=dict(cfg=code) if place == "meta" else {})
    write_checkpoint(content, tmp_path / "a.pth")
    with pytest.raises(UnsafeCheckpointError, match="config"):
        DetInferencer(weights=str(tmp_path / "a.pth"), device="cpu")
    assert not marker.exists()
    assert "antigravity" not in sys.modules


@pytest.mark.train
@pytest.mark.parametrize("code", [CODE["a call"], CODE["an import"]])
def test_resuming_runs_no_text_of_a_file(code, toy_config, train, tmp_path) -> None:
    toy_config.train_cfg.max_epochs = 1
    train(toy_config)
    path = Path(toy_config.work_dir) / "epoch_1.pth"
    checkpoint = read_checkpoint(path)
    checkpoint["meta"]["config"] = code.format(marker=str(tmp_path / "executed"))
    write_checkpoint(checkpoint, path)
    toy_config.train_cfg.max_epochs = 2
    assert train(toy_config, resume=True).epoch == 2
    assert not (tmp_path / "executed").exists()


# --- removing -------------------------------------------------------------------------------------


@pytest.mark.train
@pytest.mark.parametrize("hook", ["mmhybrid.DurableCheckpointHook", "CheckpointHook"])
def test_resuming_removes_nothing_that_the_run_has_not_written(hook, toy_config, tmp_path) -> None:
    def run(work_dir: str, epochs: int, **more: Any) -> Path:
        cfg = Config(dict(toy_config, work_dir=str(tmp_path / work_dir), **more))
        cfg.experiment_name = f"{work_dir}_{hook}"
        cfg.train_cfg.max_epochs = epochs
        cfg.default_hooks.checkpoint = dict(
            type=hook, interval=1, max_keep_ckpts=1, save_best="accuracy", rule="greater"
        )
        Runner.from_cfg(cfg).train()
        return tmp_path / work_dir

    first = run("first", 1)
    before = {path: path.read_bytes() for path in first.glob("*.pth")}
    assert any(path.name.startswith("best_") for path in before)
    victim = tmp_path / "photos"
    victim.mkdir()
    (victim / "best_a.pth").write_text("")
    checkpoint = read_checkpoint(first / "epoch_1.pth")
    checkpoint["message_hub"]["runtime_info"] |= dict(
        best_ckpt=str(victim), keep_ckpt_ids=["../../photos/best_a", 1, 1], best_score=-1.0
    )
    write_checkpoint(checkpoint, tmp_path / "hostile.pth")
    others = tmp_path / "third"
    others.mkdir()
    (others / "epoch_1.pth").write_text("of another run")
    run("second", 2, resume=True, load_from=str(first / "epoch_1.pth"))
    run("third", 2, resume=True, load_from=str(tmp_path / "hostile.pth"))
    assert {path: path.read_bytes() for path in first.glob("*.pth")} == before
    assert (victim / "best_a.pth").exists()
    assert (others / "epoch_1.pth").read_text() == "of another run"


def test_what_a_file_names_is_found_in_the_folder_that_it_is_in(tmp_path) -> None:
    from mmhybrid.compat.resuming import own_files_only

    (tmp_path / "best_a_epoch_1.pth").write_text("")
    info = dict(best_ckpt="/elsewhere/best_a_epoch_1.pth", best_score=0.5, keep_ckpt_ids=[1, "2"])
    kept = own_files_only(info, str(tmp_path / "epoch_1.pth"), [str(tmp_path)])
    best = str(tmp_path / "best_a_epoch_1.pth")
    assert kept == dict(best_ckpt=best, best_score=0.5, keep_ckpt_ids=[1])
    elsewhere = own_files_only(info, str(tmp_path / "epoch_1.pth"), [str(tmp_path / "other")])
    assert elsewhere == dict(keep_ckpt_ids=[])


def test_the_number_of_gpus_is_still_compared() -> None:
    from mmhybrid.compat.resuming import without_code_and_paths

    config = "model = dict(type='A')\ngpu_ids = range(0, 2)\nx = open('b', 'w')\n"
    made = resumable(meta=dict(config=config))
    assert without_code_and_paths(made, "a.pth", [])["meta"]["config"] == "gpu_ids = range(0, 2)"
    assert made["meta"]["config"] == config
    assert "config" not in without_code_and_paths(resumable(), "a.pth", [])["meta"]


def test_a_record_of_a_run_that_is_deep_hides_no_checkpoint(tmp_path) -> None:
    from mmhybrid.engine.runner.results import _checkpoint_origin

    write_checkpoint(dict(state_dict={}), tmp_path / "a.pth")
    (tmp_path / "result.json").write_text("[" * 100_000)
    assert _checkpoint_origin(str(tmp_path / "a.pth"), False)["type"] == "evaluated"


# --- what is no harm ------------------------------------------------------------------------------

CONFIGS = [
    "retinanet_transxnet_t_coco",
    "semantic_fpn_transxnet_t_ade20k",
    "transxnet_t_imagenet",
]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_mmengine_has_written_is_read_as_it_was(name) -> None:
    from mmhybrid.weights.config_data import checked_config, config_from_text

    cfg = Config.fromfile(ROOT / "configs" / f"{name}.py")
    read = config_from_text(cfg.pretty_text, name)
    assert Config(read).to_dict() == cfg.to_dict()
    assert checked_config(read)["model"] == read["model"]


def test_an_inferencer_takes_a_plain_config_from_a_file(tmp_path) -> None:
    import numpy as np
    from mmdet.apis import DetInferencer
    from mmengine.registry import MODELS, init_default_scope

    cfg = Config.fromfile(ROOT / "configs" / f"{CONFIGS[0]}.py")
    init_default_scope("mmdet")
    cfg.model.backbone = dict(type="XFormer", **XFormer.test_options, out_indices=(1, 2, 3))
    cfg.model.neck.in_channels = list(XFormer(**XFormer.test_options).feature_channels[1:])
    cfg.model.backbone = Config(dict(one=cfg.model.backbone)).one
    weights = MODELS.build(cfg.model).state_dict()
    hub = dict(runtime_info=dict(cfg=cfg.pretty_text))
    meta = dict(dataset_meta=dict(classes=("cat",) * 80, palette=[(0, 0, 0)] * 80))
    write_checkpoint(dict(state_dict=weights, message_hub=hub, meta=meta), tmp_path / "a.pth")
    inferencer = DetInferencer(weights=str(tmp_path / "a.pth"), device="cpu", show_progress=False)
    found = inferencer(np.zeros((64, 64, 3), np.uint8))["predictions"][0]
    assert set(found) == {"labels", "scores", "bboxes"}
