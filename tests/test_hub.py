"""A published folder: what it holds, that it is read back whole and safely, and its upload."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import ModelCard
from mmengine.config import Config
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import mmhybrid
from mmhybrid.apis import init_model, make_inferencer, publish, upload
from mmhybrid.apis.models import model_of
from mmhybrid.apis.redaction import redacted
from mmhybrid.backbones import DMFormer
from mmhybrid.engine.runner import checkpoint_config
from mmhybrid.engine.runner.run_config import load_config
from mmhybrid.errors import UserError
from mmhybrid.weights import CheckpointError, write_checkpoint

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("circle", "square")
METRICS = {"accuracy/top1": 87.5, "time": 0.1}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "shapes.py"
    arch = dict(DMFormer.test_options["arch"], _delete_=True)
    path.write_text(
        f"""
_base_ = {str(ROOT / "configs" / "dmformer_s_imagenet.py")!r}
model = dict(backbone=dict(arch={arch!r}), head=dict(in_channels=64, num_classes=2, topk=(1,)))
test_dataloader = dict(dataset=dict(
    _delete_=True, type="CustomDataset", data_root="nowhere", metainfo=dict(classes={CLASSES!r}),
    pipeline=[dict(type="LoadImageFromFile"), dict(type="Resize", scale=(48, 48)),
              dict(type="PackInputs")]))
"""
    )
    return path


@pytest.fixture(scope="module")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A checkpoint as tools/train.py leaves it, and its model."""
    folder, cfg = tmp_path_factory.mktemp("run"), load_config(str(config))
    dataset = SimpleNamespace(metainfo=dict(classes=CLASSES, palette=None))
    loader, model = SimpleNamespace(dataset=dataset), model_of(cfg).eval()
    runner = SimpleNamespace(cfg=cfg, seed=3, train_dataloader=loader, model=model)
    meta = dict(mmhybrid=checkpoint_config.describe(runner), dataset_meta=dataset.metainfo)
    path = folder / "epoch_1.pth"
    write_checkpoint(dict(meta=meta, state_dict=model.state_dict()), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    result = dict(type="run", config="shapes", dataset="CustomDataset", quick=False)
    result |= dict(metrics=METRICS, checkpoints={path.name: digest})
    result["origin"] = dict(type="trained", command="python tools/train.py shapes.py", commit="c1")
    (folder / "result.json").write_text(json.dumps(result))
    return path, model


@pytest.fixture(scope="module")
def folder(trained: tuple[Path, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published")
    Image.new("RGB", (8, 8)).save(out / "seen.png")
    (out / "export").mkdir()
    (out / "export" / "model.onnx").write_bytes(b"onnx")
    more = dict(images=[out / "seen.png"], deploy=out / "export", license="Apache-2.0")
    return publish(str(trained[0]), out / "shapes", **more)


def test_images_of_one_name_are_all_shown(trained: tuple, tmp_path: Path) -> None:
    images = [tmp_path / name / "a.png" for name in ("first", "second")]
    for level, path in enumerate(images):
        path.parent.mkdir()
        Image.new("RGB", (8, 8), (level, 0, 0)).save(path)
    for shown in (images, [tmp_path / "out" / "images" / "a.png", images[1]]):  # a second time
        out = publish(str(trained[0]), tmp_path / "out", images=shown)
        assert (out / "images" / "a.png").read_bytes() == images[0].read_bytes()
        assert (out / "images" / "1_a.png").read_bytes() == images[1].read_bytes()
        card = (out / "README.md").read_text()
        assert "images/a.png" in card
        assert "images/1_a.png" in card
    taken = [tmp_path / "out" / "images" / "1_a.png", *images]
    publish(str(trained[0]), tmp_path / "out", images=taken)
    copies = sorted((tmp_path / "out" / "images").iterdir())
    assert [one.name for one in copies] == ["1_a.png", "2_a.png", "a.png"]
    assert [one.read_bytes() for one in copies] == [
        images[1].read_bytes(),
        images[1].read_bytes(),
        images[0].read_bytes(),
    ]


def test_what_is_read_back_is_what_was_trained(folder: Path, trained: tuple) -> None:
    model, x = mmhybrid.from_pretrained(folder), torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(model(x), trained[1](x), rtol=0, atol=0)
    assert not model.training
    assert model.dataset_meta == dict(classes=CLASSES, palette=None)


@pytest.mark.parametrize("lacks", ["head", "classes"])
@pytest.mark.parametrize("does", ["publish", "predict", "test"])
def test_a_head_that_would_be_random_is_refused(
    does: str,
    lacks: str,
    trained: tuple,
    config: Path,
    tmp_path: Path,
    run_tool: Any,
    monkeypatch: Any,
) -> None:
    tensors, path = trained[1].state_dict(), tmp_path / "other.pth"
    if lacks == "head":
        tensors = {key: value for key, value in tensors.items() if not key.startswith("head.")}
    else:
        tensors = {k: v[:1] if k.startswith("head.fc") else v for k, v in tensors.items()}
    write_checkpoint(dict(state_dict=tensors), path)
    told = r"other\.pth leaves head \(2\) of the model random"
    told += "" if lacks == "head" else ".*1 classes in the file, 2 in the model"
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(2):
            image = Image.effect_noise((48, 48), 100).convert("RGB")
            image.save(tmp_path / "data" / name / f"{index}.png")
    if does == "publish":
        with pytest.raises(UserError, match=told):
            publish(str(path), tmp_path / "out", cfg=load_config(str(config)))
        assert not (tmp_path / "out").exists()
        logged: list[str] = []
        monkeypatch.setattr("mmhybrid.apis.models.print_log", lambda text, **_: logged.append(text))
        init_model(str(config), str(path))  # for a backbone that is exported or looked at
        assert re.search(told, *logged)
    elif does == "predict":
        with pytest.raises(UserError, match=told):
            make_inferencer(load_config(str(config)), str(path), device="cpu")
    else:
        words = ["--data", tmp_path / "data", "--work-dir", tmp_path / "run"]
        with pytest.raises(SystemExit, match=told):
            run_tool("test.py", config, path, *words)


DENSE = {"mmdet": "mask_rcnn_dmformer_s_coco", "mmseg": "semantic_fpn_dmformer_s_ade20k"}


def published(name: str, read_config: Any, folder: Path) -> tuple[Config, nn.Module, Path]:
    """A small model of a config, and the folder that it was published to."""
    cfg = read_config(name)
    cfg.model.backbone.update(arch=dict(DMFormer.test_options["arch"]), init_cfg=None)
    cfg.model.neck.in_channels = [16, 32, 48, 64]
    cfg.default_hooks.checkpoint.type = "mmhybrid.DurableCheckpointHook"  # as runs leave it
    model = model_of(cfg)
    write_checkpoint(dict(state_dict=model.state_dict()), folder / "last.pth")
    return cfg, model, publish(str(folder / "last.pth"), folder / "out", cfg=cfg)


@pytest.mark.parametrize("name", DENSE.values())
def test_a_detector_and_a_segmentor(name: str, read_config: Any, tmp_path: Path) -> None:
    cfg, model, out = published(name, read_config, tmp_path)
    again = mmhybrid.from_pretrained(out)
    assert type(again) is type(model)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert len(again.dataset_meta["classes"]) == {"mask": 80, "sema": 150}[name[:4]]
    kept = checkpoint_config.config_of(str(out / "model.safetensors"))
    sizes = checkpoint_config.pipeline_sizes(kept)  # tuples stay tuples
    assert repr(sizes) == repr(checkpoint_config.pipeline_sizes(cfg))
    assert any(isinstance(size, tuple) for size in sizes.values())


def test_the_folder_is_complete(folder: Path, config: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("README.md", "config.json", "config.py", "deploy/model.onnx", "images/seen.png"),
        "model.safetensors",
    }
    flat, full = (load_config(str(path)) for path in (folder / "config.py", config))
    local = [dict(type="LocalVisBackend")]
    assert flat.to_dict() == {
        key: value for key, value in full.to_dict().items() if key in checkpoint_config.PUBLISHED
    } | dict(
        visualizer=dict(type="UniversalVisualizer", vis_backends=local),
        default_hooks=dict(visualization=dict(type="VisualizationHook")),
    )
    about = json.loads((folder / "config.json").read_text())
    assert (about["model_type"], about["name"], about["result"]["metrics"]) == (
        *("mmhybrid", "shapes.py"),
        METRICS,
    )


def test_tools_take_the_weights_without_a_config(folder: Path, trained: tuple) -> None:
    file = str(folder / "model.safetensors")
    assert checkpoint_config.config_of(file).model.backbone.type == "DMFormer"
    inferencer = make_inferencer(file, device="cpu")
    assert tuple(inferencer.model.dataset_meta["classes"]) == CLASSES
    with_config = init_model(str(folder / "config.py"), file)
    x = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(with_config(x), trained[1](x), rtol=0, atol=0)


def test_the_card_says_what_leaderboards_read(folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert (result.task_type, result.dataset_name) == ("image-classification", "CustomDataset")
    assert (result.metric_type, result.metric_name) == ("accuracy", "accuracy/top1")
    assert result.metric_value == 87.5
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "mmhybrid")
    for said in ("DMFormer", "python tools/train.py shapes.py", "2 classes", "images/seen.png"):
        assert said in card.text


SECRET = "s3cr3t"
WITH_SECRETS = {
    "visualizer.vis_backends": [dict(type="NeptuneVisBackend", init_kwargs=dict(api_token=SECRET))],
    "wandb_key": SECRET,
    "default_hooks.checkpoint.backend_args": dict(access_key=SECRET),
    "custom_hooks": [dict(type="EMAHook", key=SECRET)],
    "test_dataloader.dataset.backend_args": dict(access_key=SECRET),
    "test_dataloader.dataset.pipeline.0.backend_args": dict(access_key=SECRET),
    "test_dataloader.dataset.data_root": f"s3://user:{SECRET}@bucket/data?key={SECRET}",
    "model.backbone.init_cfg": dict(type="Pretrained", checkpoint=f"http://a/b.pth?t={SECRET}"),
}
COMMAND = f"python train.py --cfg-options a.api_token={SECRET} seed=3 --hf-token {SECRET} --amp"


@pytest.mark.parametrize(
    "words",
    [
        "optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=0.1 num_tokens=4",
        "model.backbone.with_cls_token=False",
        "--data monkey_keypoints:v1 --key-points 3",
    ],
)
def test_what_is_no_secret_stays(words: str) -> None:
    assert redacted(f"python train.py {words}", "command") == f"python train.py {words}"


@pytest.mark.parametrize("name", ["api_key", "wandbApiKey", "x.token", "apikey", "db-password"])
def test_secrets_by_their_names(name: str) -> None:
    assert redacted(f"train.py a={{'{name}':'s3'}} {name}=12", "command").count("***") == 2


def test_no_secret_is_published(
    trained: tuple, config: Path, tmp_path: Path, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pth"
    meta = dict(origin=dict(type="trained", command=COMMAND))
    write_checkpoint(dict(state_dict=trained[1].state_dict(), meta=dict(mmhybrid=meta)), path)
    result = json.loads(trained[0].with_name("result.json").read_text())
    result["checkpoints"] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    (tmp_path / "result.json").write_text(json.dumps(result | meta))
    hub.files["last.pth"] = path.read_bytes()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    address = f"http://{hub.server_name}:{hub.server_port}/a/resolve/main/last.pth?token={SECRET}"
    for name, checkpoint in (("file", str(path)), ("address", address)):
        out = publish(checkpoint, tmp_path / name, cfg=load_config(str(config), WITH_SECRETS))
        for file in out.iterdir():
            assert SECRET.encode() not in file.read_bytes(), file
        card = (out / "README.md").read_text()
        assert "'a.api_token=***' seed=3 --hf-token '***' --amp" in card
    assert f"From {address.partition('?')[0]}, with" in card


def test_metrics_are_of_these_weights_or_not_there(
    trained: tuple, config: Path, tmp_path: Path
) -> None:
    checkpoint, _ = trained
    best = tmp_path / "best.pth"  # another file than that of the last evaluation
    write_checkpoint(dict(state_dict=trained[1].state_dict()), best)
    (tmp_path / "result.json").write_bytes(checkpoint.with_name("result.json").read_bytes())
    cfg = load_config(str(config))
    card = ModelCard.load(publish(str(best), tmp_path / "out", cfg=cfg) / "README.md")
    assert card.data.eval_results is None
    assert "None is known." in card.text
    assert "Licence of the weights: not stated" in card.text
    with pytest.raises(UserError, match="the result of other weights"):
        publish(str(best), tmp_path / "out", cfg=cfg, result=tmp_path / "result.json")
    evaluated = dict(type="run", dataset="CustomDataset", quick=True, metrics={"accuracy/top1": 1})
    of_others = dict(type="evaluated", sha256="0" * 64, command="c")
    of_these = dict(of_others, sha256=hashlib.sha256(best.read_bytes()).hexdigest())
    training = dict(type="trained", command="c")
    for origin, more in (
        *((of_others, {}), (training, {}), (training, dict(sha256="0" * 64))),
        *((of_these, {}), (training, dict(sha256=of_these["sha256"]))),
    ):
        (tmp_path / "own.json").write_text(json.dumps(dict(evaluated, origin=origin, **more)))
        if of_these["sha256"] not in (origin.get("sha256"), more.get("sha256")):
            with pytest.raises(UserError, match="the result of other weights"):
                publish(str(best), tmp_path / "out", cfg=cfg, result=tmp_path / "own.json")
            continue
        publish(str(best), tmp_path / "out", cfg=cfg, result=tmp_path / "own.json")
        card = ModelCard.load(tmp_path / "out" / "README.md")
        assert card.data.eval_results[0].dataset_name == (
            "CustomDataset, drawn or shrunk for a quick run"
        )


LAMBDA = dict(type="CustomDataset", collate=lambda batch: batch)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (dict(deploy="missing"), "there is no folder missing"),
        (dict(images=iter(["missing.png"])), "there is no image missing.png"),
        (dict(result="metrics.json"), "metrics.json is no result of tools/test.py"),
        (dict(result="broken.json"), "broken.json is no result of tools/test.py"),
        (dict(cfg={"test_dataloader.dataset": LAMBDA}), "cannot be published: .* not registered"),
    ],
)
def test_what_cannot_be_published_is_told_before_anything_is_written(
    options: dict, told: str, trained: tuple, config: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("metrics.json").write_text(json.dumps(METRICS))
    Path("broken.json").write_text("{")
    if "cfg" in options:
        options = dict(cfg=load_config(str(config), options["cfg"]))
    with pytest.raises(UserError, match=told):
        publish(str(trained[0]), "out", **options)
    assert not Path("out").exists()


@pytest.mark.parametrize("content", ["{", "[]", json.dumps(METRICS), '{"checkpoints": []}'])
def test_a_file_beside_the_weights_that_is_no_result(
    content: str, trained: tuple, tmp_path: Path
) -> None:
    path = tmp_path / "last.pth"
    path.write_bytes(trained[0].read_bytes())
    (tmp_path / "result.json").write_text(content)
    out = publish(str(path), tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["result"] is None


def test_an_address_that_holds_its_config(
    trained: tuple, tmp_path: Path, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    hub.files["own.pth"] = trained[0].read_bytes()
    address = f"http://{hub.server_name}:{hub.server_port}/a/resolve/main/own.pth"
    out = publish(address, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["classes"] == [*CLASSES]


def test_other_weights_are_not_published(trained: tuple, config: Path, tmp_path: Path) -> None:
    options = {"model.backbone.arch.depths": (1, 1, 1, 1)}
    cfg = load_config(str(config), options)
    with pytest.raises(UserError, match="the file has what the model lacks"):
        publish(str(trained[0]), tmp_path / "out", cfg=cfg)
    assert not (tmp_path / "out").exists()


def with_description(folder: Path, text: str, target: Path) -> Path:
    target.mkdir()
    save_file(
        load_file(folder / "model.safetensors"), target / "model.safetensors", {"mmhybrid": text}
    )
    return target


def test_nothing_of_it_is_executed(folder: Path, tmp_path: Path) -> None:
    touch = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    with pytest.raises(CheckpointError, match="damaged"):
        mmhybrid.from_pretrained(with_description(folder, touch, tmp_path / "a"))
    hostile = json.dumps(
        dict(name="a.py", config=dict(model=dict(type="os.system", command="touch ran")))
    )
    with pytest.raises(UserError, match=r"no registered class|may import"):
        mmhybrid.from_pretrained(with_description(folder, hostile, tmp_path / "b"))
    for deep in ("[" * 100000, '{"a":' * 100000, "1", "[]"):
        with pytest.raises((CheckpointError, UserError)):
            mmhybrid.from_pretrained(with_description(folder, deep, tmp_path / f"c{len(deep)}"))
    assert not (tmp_path / "ran").exists()


def test_what_is_missing_is_told(
    trained: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmhybrid.apis.hub.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install safetensors huggingface_hub"):
        publish(str(trained[0]), tmp_path / "out")
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        mmhybrid.from_pretrained("me/shapes")


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload and a download ask for."""

    protocol_version = "HTTP/1.1"
    commit = "0" * 40

    def answer(self, content: Any = None, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"] or 0))
        asked = self.server.asked
        asked.append(self.path)
        path, status = self.server.refused
        if self.path == path:
            return self.answer(dict(error="refused"), status)
        if self.path == "/api/validate-yaml":
            self.server.card = json.loads(sent)
            self.answer(dict(errors=[], warnings=[]))
        elif self.path == "/api/repos/create":
            repo = json.loads(sent)
            self.answer(dict(url=f"http://{self.headers['Host']}/me/{repo['name']}"))
        elif "/preupload/" in self.path:
            files = [
                dict(one, uploadMode="regular", shouldIgnore=False)
                for one in json.loads(sent)["files"]
            ]
            self.answer(dict(files=files))
        elif "/commit/" in self.path:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            self.answer(
                dict(
                    commitUrl=f"http://{self.headers['Host']}/me/shapes/commit/{self.commit}",
                    commitOid=self.commit,
                )
            )
        else:
            self.answer(dict(error="unknown"), 404)

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].partition("/resolve/")[2].partition("/")[2]
        if name not in self.server.files:
            return self.answer(dict(error="unknown"), 404, X_Error_Code="EntryNotFound")
        content = self.server.files[name]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.answer(content, X_Repo_Commit=self.commit, ETag=etag)

    do_HEAD = do_GET

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.files, server.asked, server.refused = {}, [], ("", 200)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    # The library reads them from the environment when it is imported.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr(
        huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_uploaded_and_loaded_by_its_name(folder: Path, trained: tuple, hub: Any) -> None:
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    (folder / "20260101.log").write_text("of a run in the same folder")
    assert upload(folder, "me/shapes").endswith(FakeHub.commit)
    assert set(hub.files) == written
    assert hub.card == dict(repoType="model", content=(folder / "README.md").read_text())
    model, x = mmhybrid.from_pretrained("me/shapes"), torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(model(x), trained[1](x), rtol=0, atol=0)
    for missing in ("me/nothing/more", "no folder"):
        with pytest.raises(UserError, match="not found on the Hub"):
            mmhybrid.from_pretrained(missing)
    hub.files.clear()
    with pytest.raises(UserError, match="not found on the Hub"):
        mmhybrid.from_pretrained("me/empty")


def test_what_the_hub_refuses_is_told(
    folder: Path, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"is no folder of tools/publish\.py"):
        upload(tmp_path, "me/shapes")
    with pytest.raises(UserError, match="not uploaded to no name: "):
        upload(folder, "no name")
    hub.refused = "/api/validate-yaml", 400  # a licence that it does not know
    with pytest.raises(UserError, match=r"not uploaded to me/shapes: .*refused"):
        upload(folder, "me/shapes")
    hub.refused = "/api/repos/create", 401  # not logged in
    with pytest.raises(UserError, match=r"(?s)not uploaded to me/shapes: .*hf auth login"):
        upload(folder, "me/shapes")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="not uploaded to me/shapes: "):
        upload(folder, "me/shapes")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"not uploaded to me/shapes: .*HF_HUB_OFFLINE"):
        upload(folder, "me/shapes")
    with pytest.raises(UserError, match="a revision is of a repository"):
        mmhybrid.from_pretrained(folder, revision="v1")


def test_the_tool(
    run_tool: Any, trained: tuple, config: Path, tmp_path: Path, hub: Any, capsys: Any
) -> None:
    for words in ([trained[0]], [config, trained[0]]):
        out = tmp_path / f"out{len(words)}"
        run_tool("publish.py", *words, "--out", out, "--repo", "me/shapes")
        printed = capsys.readouterr()
        assert f"written: {out}" in printed.out
        assert "/commit/" in printed.out
        assert "--license" in printed.err
        assert Config.fromfile(out / "config.py").model.head.num_classes == 2


@pytest.mark.process
def test_in_another_process(folder: Path, trained: tuple, run_python: Any, tmp_path: Path) -> None:
    """Which knows nothing but the package and the folder."""
    x = torch.randn(1, 3, 48, 48)
    torch.save(x, tmp_path / "x.pt")
    code = "import mmhybrid, torch; m = mmhybrid.from_pretrained({!r})\n"
    code += "torch.save(m(torch.load('x.pt')).detach(), 'y.pt')"
    (tmp_path / "load.py").write_text(code.format(str(folder)))
    run_python("load.py")
    torch.testing.assert_close(torch.load(tmp_path / "y.pt"), trained[1](x), rtol=0, atol=0)


@pytest.mark.process
@pytest.mark.parametrize("package", DENSE)
def test_where_one_package_is_installed(package: str, read_config: Any, tmp_path: Path) -> None:
    """The other two are not there, as after ``pip install mmhybrid[det]``."""
    _, model, out = published(DENSE[package], read_config, tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    others = {"mmdet", "mmseg", "mmsegmentation", "mmpretrain", "mmhybrid"} - {package}
    others -= {"mmsegmentation"} if package == "mmseg" else set()
    for path in Path(torch.__file__).parents[1].iterdir():
        if path.name.partition("-")[0] not in others and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    code = "import sys, mmhybrid, torch; m = mmhybrid.from_pretrained(sys.argv[1])\n"
    code += "torch.save(m.state_dict(), sys.argv[2])\n"
    code += "from importlib.util import find_spec as f\n"
    code += "assert [p for p in ('mmdet', 'mmseg', 'mmpretrain') if f(p)] == [sys.argv[3]]"
    command = [sys.executable, "-S", "-c", code, str(out), str(tmp_path / "read.pt"), package]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (site, ROOT))))
    done = subprocess.run(command, env=env, cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-4000:]
    read = torch.load(tmp_path / "read.pt")
    torch.testing.assert_close(read, dict(model.state_dict()), rtol=0, atol=0)
    assert "not installed" not in done.stdout + done.stderr
