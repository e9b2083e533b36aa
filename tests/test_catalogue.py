"""The catalogue of published weights: what it lists, its addresses, and how files are fetched."""

import errno
import functools
import hashlib
import io
import re
import runpy
import threading
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

import mmhybrid
from mmhybrid.backbones import DepthwiseShortcutBackbone, XFormer
from mmhybrid.backbones.family import PretrainedWeights
from mmhybrid.engine.runner.check_config import check_config
from mmhybrid.errors import UserError
from mmhybrid.weights import CheckpointError, DamagedCheckpointError, downloading, get_weights
from mmhybrid.weights.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[1]
TINY = XFormer.test_options
Entry = Callable[..., PretrainedWeights]


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    """A web server of this machine: ``url``, and ``files`` with what to send by path: content,
    length that is announced (None: none), status. ``asked`` are the paths that were asked for."""
    files, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content, length, status = files.get(self.path, (b"", 0, 404))
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{http.server_port}"
        yield SimpleNamespace(url=url, files=files, asked=asked)
        http.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where downloads go."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def publish(server: SimpleNamespace, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """Puts a file on the server, and an entry for it on XFormer."""
    server.files.clear()
    server.asked.clear()

    def publish(content: bytes, name: str = "xformer.test", path: str = "/x.pth", **more: Any):
        server.files[path] = (content, len(content), 200)
        about = dict(trained_on="noise", metrics={}, license="MIT", options=TINY)
        entry = PretrainedWeights(name, server.url + path, **about | more)
        monkeypatch.setattr(XFormer, "pretrained", (*XFormer.pretrained, entry))
        return entry

    return publish


def saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def assert_same(weights: dict, expected: dict) -> None:
    torch.testing.assert_close(dict(weights), dict(expected), rtol=0, atol=0)


# --- the list -------------------------------------------------------------------------------------


def test_list() -> None:
    names = [entry.name for entry in mmhybrid.list_weights()]
    assert names == sorted(names)
    assert {"transxnet_tiny.in1k", "van-base_3rdparty_in1k"} < set(names)
    found = [entry.name for entry in mmhybrid.list_weights("TransXNet_T")]
    assert found == [name for name in names if "transxnet_t" in name] != []
    assert mmhybrid.list_weights("none") == []


def test_classes_of_a_users_own_are_listed(publish: Entry) -> None:
    entry = publish(b"")

    class Mine(XFormer):
        pretrained = (entry._replace(name="mine.data"),)

    class Heir(Mine):  # what it inherits is not its own
        pass

    try:
        for one in (Mine, Heir):
            MODELS.register_module(module=one)
        assert [one for one in catalogue() if one[0].url == entry.url] == [
            (entry._replace(name="mine.data"), "Mine"),
            (entry, "XFormer"),
        ]
        Mine.pretrained = (entry._replace(url="https://example.com/x.pth"),)
        with pytest.raises(CheckpointError, match=r"two files .* 'xformer\.test': http.* and http"):
            get_weights("xformer.test")
    finally:
        for one in (Mine, Heir):
            MODELS.module_dict.pop(one.__name__, None)


@pytest.mark.parametrize(
    "load",
    [
        get_weights,
        CheckpointLoader.load_checkpoint,
        lambda address: mmhybrid.load_checkpoint(XFormer(**TINY), address),
        lambda address: check_config(Config(dict(model=dict(type="XFormer"), load_from=address))),
    ],
)
def test_near_names_are_told(load: Callable) -> None:
    with pytest.raises(CheckpointError, match=r"'transxnet_tinny\.in1k' .*'transxnet_tiny\.in1k'"):
        load("mmhybrid://transxnet_tinny.in1k")


def test_entries_are_whole() -> None:
    cached: dict[str, str] = {}
    for entry, owner in catalogue():
        assert get_weights(entry.name).url == entry.url
        assert re.fullmatch(r"[\w.-]+", entry.name)
        assert re.fullmatch(r"https://\S+", entry.url)
        assert entry.trained_on
        assert entry.license
        assert all(0 < value < 100 for value in entry.metrics.values())
        assert re.fullmatch(r"([0-9a-f]{8,64})?", entry.sha256)
        assert MODELS.get(entry.options.get("type", owner)) is not None
        if entry.config:
            assert (ROOT / "configs" / f"{entry.config}.py").is_file()
        # No two files have one place.
        file = downloading.cache_name(entry.url, entry.name)
        assert cached.setdefault(file, entry.url) == entry.url


def test_addresses_have_places_of_their_own() -> None:
    address = "https://a.org/x/model.safetensors"
    place = downloading.cache_name(address)
    for same in ("?token=1", "?X-Amz-Signature=ab&X-Amz-Expires=3", "?Expires=5&Signature=c"):
        assert downloading.cache_name(address + same) == place
    others = ["?id=1", "?id=2", "?id=2&export=1"]
    assert len({place, *(downloading.cache_name(address + other) for other in others)}) == 4
    signed = downloading.cache_name(f"{address}?token=9&id=1")
    assert signed == downloading.cache_name(f"{address}?id=1")


# --- every way to an address ----------------------------------------------------------------------


class Plain(BaseModule):
    """No backbone of ours: MMEngine's own PretrainedInit fills it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.linear = nn.Linear(2, 3)


def test_load_checkpoint_and_init_cfg(publish: Entry, server: SimpleNamespace) -> None:
    expected = XFormer(**TINY).state_dict()
    entry = publish(saved(dict(model=expected)))
    model = XFormer(**TINY)
    mmhybrid.load_checkpoint(model, "mmhybrid://xformer.test")
    assert_same(model.state_dict(), expected)
    for address in ("mmhybrid://xformer.test", entry.url):
        model = XFormer(**TINY, init_cfg=dict(type="Pretrained", checkpoint=address))
        model.init_weights()
        assert_same(model.state_dict(), expected)
    assert server.asked == ["/x.pth"]


def test_mmengine_takes_the_address(publish: Entry, toy_config: Config) -> None:
    plain = Plain()
    publish(saved(dict(state_dict=plain.state_dict())), "plain.test", "/plain.pth")
    for safe in (False, True):
        with mmhybrid.enable_safe_checkpoints() if safe else torch.no_grad():
            other = Plain(init_cfg=dict(type="Pretrained", checkpoint="mmhybrid://plain.test"))
            other.init_weights()
            assert_same(other.state_dict(), plain.state_dict())

            model = MODELS.build(toy_config.model)
            publish(saved(dict(state_dict=model.state_dict())), f"toy.{safe}", f"/{safe}.pth")
            start = dict(load_from=f"mmhybrid://toy.{safe}", experiment_name=f"toy_{safe}")
            runner = Runner.from_cfg(Config(dict(toy_config, custom_hooks=[], **start)))
            runner.load_or_resume()
            assert_same(runner.model.state_dict(), model.state_dict())


def test_a_wrapped_backbone_of_mmdet_takes_microsofts_names(publish: Entry) -> None:
    pytest.importorskip("mmdet")
    swin = dict(
        type="mmdet.SwinTransformer",
        embed_dims=24,
        depths=(1, 1, 1, 1),
        num_heads=(1, 2, 4, 8),
        convert_weights=True,
        init_cfg=dict(type="Pretrained", checkpoint="mmhybrid://swin.test"),
    )
    renames = {
        "stages.": "layers.",
        "attn.w_msa.": "attn.",
        "ffn.layers.0.0.": "mlp.fc1.",
        "ffn.layers.1.": "mlp.fc2.",
        "projection": "proj",
    }
    theirs = MODELS.build(dict(swin, init_cfg=None)).state_dict()
    same = {name: value for name, value in theirs.items() if "downsample" not in name}
    for old, new in renames.items():
        theirs = {name.replace(old, new): value for name, value in theirs.items()}
    publish(saved(dict(model=theirs)), "swin.test")
    model = DepthwiseShortcutBackbone(backbone=swin, zero_init=True)
    model.init_weights()
    found = model.backbone.state_dict()
    assert len(same) > 50
    assert_same({name: found[name] for name in same}, same)


# --- downloading ----------------------------------------------------------------------------------

WHOLE = saved({"a": torch.arange(9999.0)})
PAGE = b"<!DOCTYPE html><html>Log in to the proxy</html>"
OLD = saved({"a": torch.arange(9999.0)}, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ((WHOLE[:-5000], len(WHOLE), 200), "last bytes are missing"),
        ((WHOLE[:-5000], None, 200), "last bytes are missing"),
        ((OLD[:-5000], len(OLD), 200), "more bytes than the file has"),
        ((b"", 0, 200), "the file is empty"),
        ((PAGE, len(PAGE), 200), "it is a web page"),
        ((PAGE, len(PAGE), 503), "HTTP Error 503"),
    ],
    ids=["cut", "cut, no length", "cut, old format", "empty", "proxy", "error"],
)
@pytest.mark.parametrize("by", ["name", "address"])
def test_what_is_no_whole_file_is_not_kept(
    sent: tuple, told: str, by: str, publish: Entry, server: SimpleNamespace, cache: Path
) -> None:
    entry = publish(WHOLE)
    server.files["/x.pth"] = sent
    address = entry.url if by == "address" else "mmhybrid://xformer.test"
    with pytest.raises(CheckpointError) as error:
        downloading.load_url(address, progress=False)
    assert told in str(error.value)
    assert entry.url in str(error.value)
    assert ".download-" not in str(error.value)
    assert list(cache.iterdir()) == []
    server.files["/x.pth"] = (WHOLE, len(WHOLE), 200)
    assert downloading.load_url(address, progress=False)["a"][7] == 7


def test_a_file_that_was_renamed_is_found(
    publish: Entry, server: SimpleNamespace, cache: Path
) -> None:
    publish(WHOLE, path="/new.pth", other_url=f"{server.url}/x.pth")
    server.files["/x.pth"] = server.files.pop("/new.pth")
    assert downloading.load_url("mmhybrid://xformer.test", progress=False)["a"][7] == 7
    assert [path.name for path in cache.iterdir()] == ["new.pth"]


def test_a_full_disk_leaves_nothing(
    publish: Entry, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(WHOLE)

    def download(url: str, path: str, **_: Any) -> None:
        Path(path).write_bytes(WHOLE[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(CheckpointError, match="No space left"):
        downloading.load_url("mmhybrid://xformer.test")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("sha256", ["", hashlib.sha256(WHOLE).hexdigest()[:12]])
def test_what_lies_damaged_in_the_cache_is_downloaded_anew(
    sha256: str, publish: Entry, cache: Path, server: SimpleNamespace
) -> None:
    publish(WHOLE, sha256=sha256)
    cache.mkdir(parents=True)
    (cache / "x.pth").write_bytes(WHOLE[:-5000])
    server.files.clear()  # as without a network, what is there stays
    with pytest.raises(CheckpointError, match="cannot download"):
        downloading.load_url("mmhybrid://xformer.test", progress=False)
    assert (cache / "x.pth").read_bytes() == WHOLE[:-5000]
    server.files["/x.pth"] = (WHOLE, len(WHOLE), 200)
    assert downloading.load_url("mmhybrid://xformer.test", progress=False)["a"][7] == 7
    assert [path.read_bytes() for path in cache.iterdir()] == [WHOLE]


def test_the_sha256_of_an_entry_is_compared(publish: Entry, cache: Path) -> None:
    entry = publish(WHOLE, sha256="01234567")
    for address in (entry.url, "mmhybrid://xformer.test"):
        with pytest.raises(DamagedCheckpointError, match="should start with 01234567"):
            downloading.load_url(address, progress=False)
    assert list(cache.iterdir()) == []


def test_two_at_once(publish: Entry, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(WHOLE)
    together, download = threading.Barrier(2), torch.hub.download_url_to_file

    def meet(*args: Any, **options: Any) -> None:
        together.wait(timeout=60)
        download(*args, **options)
        together.wait(timeout=60)

    monkeypatch.setattr(torch.hub, "download_url_to_file", meet)
    found = []
    load = functools.partial(downloading.load_url, "mmhybrid://xformer.test", progress=False)
    threads = [threading.Thread(target=lambda: found.append(load()["a"][7])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [7, 7]
    assert [path.read_bytes() for path in cache.iterdir()] == [WHOLE]


def test_files_of_the_same_name_do_not_meet(publish: Entry, cache: Path) -> None:
    for number in (1, 2):
        content = saved({"a": torch.tensor(number)})
        publish(content, f"vit_{number}.data", f"/vit_{number}/resolve/main/model.pth")
    for number in (1, 2, 1):
        assert downloading.load_url(f"mmhybrid://vit_{number}.data", progress=False)["a"] == number
    assert sorted(path.name for path in cache.iterdir()) == ["vit_1.data.pth", "vit_2.data.pth"]


def test_other_addresses_of_the_same_name_do_not_meet(server: SimpleNamespace, cache: Path) -> None:
    revisions = ["/a/main/model.pth", "/b/main/model.pth", "/b/v2/model.pth"]
    others = ["/uc?id=1", "/uc?id=2", "/folder/", "/vit-base-1697712345.pth", "/été.pth"]
    paths = [*revisions, *others]
    for number, path in enumerate(paths):
        content = saved({"a": torch.tensor(number)})
        server.files[urllib.parse.quote(path, safe="/?=")] = (content, len(content), 200)
    for number, path in [*enumerate(paths)] * 2:  # downloaded, then cached
        assert downloading.load_url(server.url + path, progress=False)["a"] == number
    assert len(list(cache.iterdir())) == len(paths)


@pytest.mark.parametrize(("rank", "local"), [(0, "0"), (1, "1"), (8, "0"), (1, None)])
@pytest.mark.parametrize("fails", [False, True])
def test_the_first_process_of_a_machine_downloads(
    rank: int, local: str | None, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    monkeypatch.setattr(downloading, "get_dist_info", lambda: (rank, 16))
    monkeypatch.setattr(downloading, "barrier", lambda: events.append("barrier"))
    if local is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", local)

    def load(url: str, **options: Any) -> None:
        events.append("load")
        if fails:
            raise CheckpointError("no network")

    monkeypatch.setattr("mmhybrid.weights.mmengine_loading.load_url", load)
    try:
        CheckpointLoader.load_checkpoint("mmhybrid://transxnet_tiny.in1k")
    except CheckpointError:
        assert fails
    # Whatever happens, each meets the others once.
    assert events == (["load", "barrier"] if local == "0" else ["barrier", "load"])


# --- tools ----------------------------------------------------------------------------------------

TOOLS = {
    "convert_checkpoint.py": ["{}", "out.pth"],
    "visualize.py": ["XFormer()", "{}", "--out", "out.png"],
    "export.py": ["XFormer()", "{}", "--out", "out"],
    "predict.py": [str(ROOT / "configs" / "xformer_s_imagenet.py"), "{}", "image.png"],
    "test.py": [str(ROOT / "configs" / "xformer_s_imagenet.py"), "{}", "--quick"],
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", ["xformer.test", "xformer.tset"])
def test_tools_end_with_a_sentence(
    tool: str,
    name: str,
    publish: Entry,
    cache: Path,
    run_tool: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = publish(WHOLE)
    no_network = urllib.error.URLError("no network")

    def download(*args: Any, **options: Any) -> None:
        raise no_network

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.chdir(tmp_path)
    Path("image.png").write_bytes((ROOT / "docs" / "images" / "quick.jpg").read_bytes())
    with pytest.raises(SystemExit) as end:
        run_tool(tool, *(word.format(f"mmhybrid://{name}") for word in TOOLS[tool]))
    assert str(end.value).startswith("error: ")
    told = ["xformer.tset", "xformer.test"]
    if name == entry.name:
        told = [entry.url, str(cache / "x.pth"), "no network"]
    assert all(words in str(end.value) for words in told)


def test_published_weights_are_no_run_to_resume() -> None:
    start = dict(load_from="mmhybrid://transxnet_tiny.in1k", resume=True)
    with pytest.raises(UserError, match="holds weights alone, of which no run can be resumed"):
        check_config(Config(dict(start, model=dict(type="XFormer"))))


# --- what the project names -----------------------------------------------------------------------

ADDRESS = re.compile(
    r"https?://[^\s\"'`)>|]+\.(?:pth\.tar|pth|pt|bin|safetensors|npz|ckpt)\b"
    r"|(?:mmhybrid|open-?mmlab|torchvision|modelzoo|mmcls|jhu|hf)://[\w./-]*\w"
)
FILES = ["*.md", "*.yml", "docs/*.md", "results/*.md", "tools/*.py"]
FILES += ["configs/**/*", "examples/**/*"]


def known(address: str) -> bool:
    entries = mmhybrid.list_weights()
    return address in {one.url for one in entries} | {f"mmhybrid://{one.name}" for one in entries}


def test_no_address_is_unknown_to_the_catalogue() -> None:
    files = {path for pattern in FILES for path in ROOT.glob(pattern) if path.is_file()}
    texts = {path: path.read_text() for path in files if path.suffix in (".md", ".yml", ".py")}
    found = {(path.name, one) for path, text in texts.items() for one in ADDRESS.findall(text)}
    assert len(found) > 9
    placeholder = "mmhybrid://NAME"
    assert {one for one in found if not known(one[1]) and one[1] != placeholder} == set()


def test_the_page_is_up_to_date() -> None:
    write_weights = runpy.run_path(str(ROOT / "docs" / "write_weights.py"))
    again = "run: python docs/write_weights.py"
    assert write_weights["PAGE"].read_text() == write_weights["page"](), again
