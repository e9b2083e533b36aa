"""Reading a file of weights without running what a hostile one asks for."""

import argparse
import collections
import datetime
import functools
import io
import mmap
import os
import pathlib
import pickle
import random
import re
import runpy
import struct
import subprocess
import sys
import tarfile
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from mmhybrid.weights import (
    CheckpointError,
    DamagedCheckpointError,
    UnsafeCheckpointError,
    read_checkpoint,
    write_checkpoint,
)


def save(value, path, **kwargs):
    torch.save(value, path, **kwargs)
    return path


def saved_pickle(pickled: bytes, path):
    """A proper zip of torch.save with another pickle in it."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {}}, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return path


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self):
        """Only what can be called may be pickled as what is called."""


MARKER = "marker-of-the-attack"


def hostile_objects():
    """What a hostile file asks for, by name; each creates a file if it is executed."""
    command, code = f"touch {MARKER}", f"open({MARKER!r}, 'w').close()"
    globals_of = Calls(getattr, Calls(getattr, HistoryBuffer, "__init__"), "__globals__")
    return {
        "os.system": Calls(os.system, command),
        "subprocess.Popen": Calls(subprocess.Popen, ["touch", MARKER]),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "runpy": Calls(runpy.run_path, "attack.py"),
        "open": Calls(open, MARKER, "w"),
        "getattr chain": Calls(Calls(getattr, Calls(__import__, "os"), "system"), command),
        "getattr of an allowed class": Calls(globals_of, "os"),
        "torch.load within": Calls(torch.load, "attack.pth"),
        "torch.utils.cpp_extension": Calls(torch.hub.load, "attack", "model"),
        "map": Calls(list, Calls(map, eval, [code])),
        "nested in the weights": {"state_dict": {"a": torch.ones(1), "b": Calls(eval, code)}},
        "in the metadata": {"meta": {"hook_msgs": [Calls(os.system, command)]}},
        "as a dict's key": {Calls(os.system, command): 1},
        "functools.partial": Calls(functools.partial, os.system, command),
        "filled from a tensor": Calls(collections.deque, torch.ones(1).expand(2**40)),
        "a program in numpy": Calls(np.load, "attack.npy"),
    }


def hostile_pickles():
    """The same by hand, in instructions that pickle.dumps does not write."""
    command = b"X" + _text(f"touch {MARKER}".encode())
    return {
        "posix.system": b"\x80\x02cposix\nsystem\n" + command + b"\x85R.",
        "INST": b"\x80\x02(" + command + b"ios\nsystem\n.",
        "OBJ": b"\x80\x02(cos\nsystem\n" + command + b"o.",
        "dotted name": b"\x80\x04\x8c\x13torch.serialization\x8c\x09os.system\x93%s\x85R."
        % command,
        "extension registry": b"\x80\x02\x82\x01.",
        "change of an allowed class": b"\x80\x02cmmengine.logging.history_buffer\nHistoryBuffer\n"
        b"}X\x06\x00\x00\x00updateK\x01sb.",
        "change of an allowed function": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"
        b"N}X\x0c\x00\x00\x00__defaults__)s\x86b.",
        "call of a type": b"\x80\x02ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R.",
        # A message must not print what a few bytes nest a billion times, nor may it be hashed.
        "repeated nesting": NESTED + b"}b.",
        "nested key": b"\x80\x02})" + b"\x85" * 10**6 + b"Ns.",
        "function in another": pickle.dumps(
            Calls(torch._tensor._rebuild_from_type_v2, bytearray, torch.Tensor, (2**44,), {}), 2
        ),
    }


def _text(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


NESTED = b"\x80\x02]q\0" + b"".join(b"]h%cah%caq%c" % (i, i, i + 1) for i in range(60))


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """A folder in which an attack would leave a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attack.py").write_text(f"open({MARKER!r}, 'w').close()")
    return tmp_path


@pytest.mark.parametrize("container", ["zip", "legacy", "bare pickle", "called safetensors"])
@pytest.mark.parametrize("attack", hostile_objects())
def test_hostile_object_is_refused_and_does_not_run(attack, container, in_empty_folder):
    value = hostile_objects()[attack]
    path = in_empty_folder / "attack.pth"
    if container == "bare pickle":
        path.write_bytes(pickle.dumps(value if attack != "nested in the weights" else 1))
    else:
        path = path.with_suffix(".safetensors") if container == "called safetensors" else path
        save(value, path, _use_new_zipfile_serialization=container != "legacy")
    before = set(os.listdir())

    with pytest.raises(CheckpointError, match="attack") as error:
        read_checkpoint(path)

    assert set(os.listdir()) == before
    if container in ("zip", "legacy"):
        assert isinstance(error.value, UnsafeCheckpointError)
        assert "Nothing of it was executed" in str(error.value) or "attribute" in str(error.value)


UNJUDGED = b"\x80\x02}X\x03\x00\x00\x00badc__builtin__\nbytearray\nJ\x00\x00\x10\x00\x85Rs."


def records(pickled, **others):
    """The bytes of a zip of torch.save with this pickle, cut before and after its directory."""
    saved = io.BytesIO()
    torch.save({"w": torch.ones(2)}, saved)
    made = io.BytesIO()
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") and pickled else old.read(name))
        for name, content in others.items():
            new.writestr(f"archive/{name}", content)
    data = made.getvalue()
    place = data.rfind(b"PK\5\6")
    size, start = struct.unpack("<II", data[place + 12 : place + 20])
    return data[:start], data[start : start + size], data[place:]


def test_a_name_in_capitals_hides_no_other_pickle(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"".join(records(None, **{"DATA.PKL": UNJUDGED})))
    with pytest.raises(UnsafeCheckpointError, match="read in two ways"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_second_directory_hides_no_other_pickle(tmp_path):
    hidden, first, _ = records(UNJUDGED, pad=b"x" * 4000)
    shown, second, end = records(None, pad=b"x" * 10)
    # PyTorch looks where the last record says, Python just before that record.
    moved, place, shift = bytearray(second), 0, len(hidden) + len(first) - len(first + shown)
    while place < len(moved):
        lengths = struct.unpack("<HHH", moved[place + 28 : place + 34])
        (offset,) = struct.unpack("<I", moved[place + 42 : place + 46])
        moved[place + 42 : place + 46] = struct.pack("<I", offset + shift)
        place += 46 + sum(lengths)
    end = end[:12] + struct.pack("<II", len(first), len(hidden)) + end[20:]
    (tmp_path / "a.pth").write_bytes(hidden + first + shown + bytes(moved) + end)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.read("archive/data.pkl") != UNJUDGED
    with open(tmp_path / "a.pth", "rb") as file:
        assert torch._C.PyTorchFileReader(file).get_record("data.pkl") == UNJUDGED
    with pytest.raises(UnsafeCheckpointError, match="read in two ways"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("attack", hostile_pickles())
def test_hostile_pickle_is_refused_and_does_not_run(attack, in_empty_folder):
    path = saved_pickle(hostile_pickles()[attack], in_empty_folder / "attack.pth")
    before = set(os.listdir())
    with pytest.raises(UnsafeCheckpointError, match="attack"):
        read_checkpoint(path)
    assert set(os.listdir()) == before
    assert HistoryBuffer.update is not None
    assert HistoryBuffer([1.0], [1]).mean() == 1.0


def test_attacks_would_succeed_if_they_were_run(in_empty_folder):
    """The attacks above are real: an ordinary unpickler runs them."""
    for attack in ("os.system", "eval", "exec", "runpy", "getattr chain", "in the metadata"):
        pickle.loads(pickle.dumps(hostile_objects()[attack]))
        assert os.path.exists(MARKER), attack
        os.remove(MARKER)
    pickle.loads(hostile_pickles()["INST"])
    assert os.path.exists(MARKER)


def test_message_names_file_and_global(tmp_path):
    path = save(Calls(os.system, "true"), tmp_path / "weights.pth")
    with pytest.raises(UnsafeCheckpointError, match=r"weights\.pth.*posix\.system.*state_dict"):
        read_checkpoint(path)


def test_program_of_torchscript_is_refused(tmp_path):
    path = tmp_path / "program.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/constants.pkl", b"")
        archive.writestr("program/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(UnsafeCheckpointError, match="TorchScript"):
        read_checkpoint(path)


def test_names_of_records_reach_no_path(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    path = folder / "slip.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside", b"x")
        archive.writestr("/tmp/mmhybrid-outside", b"x")
        archive.writestr("a/../../data.pkl", pickle.dumps({"a": 1}, 2))
    with pytest.raises(CheckpointError, match="slip"):
        read_checkpoint(path)
    assert os.listdir(tmp_path) == ["inside"]
    assert os.listdir(folder) == ["slip.pth"]
    assert not os.path.exists("/tmp/mmhybrid-outside")


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "old tar of torch"])
def test_tar_is_refused(kind, tmp_path):
    path = tmp_path / "weights.pth"
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
        for name in ("storages", "tensors", "pickle", "../outside"):
            info = tarfile.TarInfo(name)
            data = pickle.dumps(Calls(os.system, f"touch {tmp_path / MARKER}"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(CheckpointError, match="unpack it"):
        read_checkpoint(path)
    assert os.listdir(tmp_path) == ["weights.pth"]


def storage_pickle(count: int, size: int, stride: int = 1) -> bytes:
    """A pickled tensor of ``size`` elements over storage 0 of ``count`` elements."""

    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
        b"X\x01\0\0\x000X\x03\0\0\0cpu\x8a\x08%btQK\0\x8a\x08%b\x85\x8a\x08%b\x85\x89NtR."
        % tuple(struct.pack("<q", value) for value in (count, size, stride))
    )


@pytest.mark.parametrize("stride", [1, -1, 2**50])
@pytest.mark.parametrize(("count", "size"), [(2**50, 1), (4, 2**50), (4, 5), (2**20, 2**20)])
def test_declared_sizes_beyond_the_file_are_refused(count, size, stride, tmp_path):
    path = tmp_path / "huge.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", storage_pickle(count, size, stride))
        archive.writestr("x/data/0", b"\0" * 16)
    with pytest.raises(DamagedCheckpointError, match="huge"):
        read_checkpoint(path)


HUGE = {
    "bytearray": b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\x10\x85R.",
    "array": pickle.dumps(Calls(np.ndarray, (2**44,)), 2),
    "list of a range": pickle.dumps(Calls(list, range(2**36)), 2),
    "long bytes": b"\x80\x04\x8e\0\0\0\0\0\x10\0\0.",
    "long text": b"\x80\x02X\xff\xff\xff\xff.",
    "place in the memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "compressed": None,
    "overlapping records": None,
    "legacy storage": None,
}


@pytest.mark.parametrize("kind", HUGE)
def test_memory_stays_bounded(kind, tmp_path):
    path = tmp_path / "huge.pth"
    if kind == "compressed":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", storage_pickle(2**26, 2**26))
            archive.writestr("x/data/0", bytes(2**28))
    elif kind == "overlapping records":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", b"\x80\x02}.")
            for i in range(64):
                archive.writestr(f"x/data/{i}", bytes(2**10))
                archive.filelist[-1].file_size = archive.filelist[-1].compress_size = 2**26
    elif kind == "legacy storage":
        save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        assert content.count(b"\x4b\x03N") == 1
        path.write_bytes(content.replace(b"\x4b\x03N", b"\x8a\x06\0\0\0\0\0\x10N"))
    else:
        saved_pickle(HUGE[kind], path)
    before = memory_peak(forget=True)
    if kind == "place in the memo":
        assert read_checkpoint(path) is None
    else:
        with pytest.raises(CheckpointError, match="huge"):
            read_checkpoint(path)
    assert memory_peak() - before < 2**26


def memory_peak(forget: bool = False) -> int:
    """The most bytes that this process has had in memory (since it was told to forget)."""
    if forget:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def test_memory_peak_sees_what_is_used():
    before = memory_peak(forget=True)
    with mmap.mmap(-1, 2**27) as memory:  # new pages; an allocator may reuse what was freed
        memory.write(bytes(2**27))
    assert memory_peak() - before > 2**26


def contents():
    """What checkpoints hold, of MMEngine, mmpretrain, timm and the authors."""
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    return {
        "weights": {"a": torch.arange(6.0).view(2, 3).t(), "b": torch.nn.Parameter(torch.ones(2))},
        "shared": [torch.arange(8)[2:4], torch.arange(8).expand(3, 8)],
        "types": {
            str(t): torch.ones(3).to(t)
            for t in (torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64)
        },
        "new types": torch.ones(3, dtype=torch.uint16),
        "empty": [torch.zeros(0, 3), torch.zeros(()), torch.zeros(2, 0)],
        "history": collections.OrderedDict(loss=history),
        "numpy": [np.float64(1.5), np.arange(6).reshape(2, 3), np.array(["ab", "c"]), np.bool_(1)],
        "arguments": argparse.Namespace(lr=0.1, path=pathlib.PosixPath("/data")),
        "containers": [{1, 2}, frozenset([1]), (1,), collections.Counter("ab"), b"\x00\xff", 2**70],
        "default dict": collections.defaultdict(list, a=[1]),
        "config": ConfigDict(a=dict(b=1)),
        "time": datetime.datetime(2024, 1, 2),
        "torch": [torch.Size([1, 2]), torch.float16, torch.device("cpu")],
        "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict(),
        "module": torch.nn.BatchNorm2d(3).state_dict(),
        "sparse": [torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()],
        "attributes": [with_attribute(torch.ones(2)), bytearray(b"ab"), bytearray()],
    }


def with_attribute(tensor):
    tensor.kept = 1
    return tensor


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        if a.layout != torch.strided:
            return a.layout == b.layout and torch.equal(a.to_dense(), b.to_dense())
        return (
            vars(a) == vars(b) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        )
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, HistoryBuffer):
        return same(list(a.data), list(b.data)) and a.mean() == b.mean()
    if isinstance(a, argparse.Namespace):
        return same(vars(a), vars(b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return str(a) == str(b) if isinstance(a, pathlib.PurePath) else a == b


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", contents())
def test_reads_what_checkpoints_hold(kind, protocol, zipped, tmp_path):
    value = contents()[kind]
    path = save(
        value,
        tmp_path / "weights.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    assert same(value, read_checkpoint(path))
    with open(path, "rb") as file:
        assert same(value, read_checkpoint(file, map_location="cpu"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")  # of PyTorch, which is to drop them
def test_reads_quantised_tensors(zipped, tmp_path):
    scales, zeros = torch.tensor([0.1, 0.2]), torch.zeros(2, dtype=torch.int64)
    value = [
        torch.quantize_per_tensor(torch.randn(2, 3), 0.1, 2, torch.qint8),
        torch.quantize_per_channel(torch.randn(2, 3), scales, zeros, 0, torch.quint8),
    ]
    path = save(value, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    for saved, read in zip(value, read_checkpoint(path), strict=True):
        assert torch.equal(saved.dequantize(), read.dequantize())
        assert saved.qscheme() == read.qscheme()


class AttributeDict(dict):
    """As yacs' and EasyDict's: items are attributes too, or attributes are beside the items."""

    def __init__(self, **items):
        super().__init__(items)
        self.__dict__.update(items)


@pytest.mark.parametrize("name", ["mmcv.utils.config.ConfigDict", "yacs.config.CfgNode",
                                  "easydict.EasyDict", "addict.addict.Dict"])  # fmt: skip
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_configuration_classes_are_read_as_dicts(name, zipped, tmp_path, monkeypatch):
    """Of packages that need not be installed."""
    module, _, attribute = name.rpartition(".")
    there = type(attribute, (AttributeDict,), {"__module__": module})
    if name.startswith("addict"):
        from addict import Dict as there
    else:
        monkeypatch.setitem(sys.modules, module.split(".")[0], types.ModuleType("package"))
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
        setattr(sys.modules[module], attribute, there)
    path = tmp_path / "weights.pth"
    value = {"cfg": there(lr=0.1, inner=there(steps=[1, 2]))}
    save(value, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.undo()
    read = read_checkpoint(path)
    assert read == {"cfg": {"lr": 0.1, "inner": {"steps": [1, 2]}}}
    assert not isinstance(read["cfg"], AttributeDict)


def test_histories_that_are_read_first_have_their_statistics(tmp_path, monkeypatch) -> None:
    torch.save({"loss": HistoryBuffer([1.0, 2.0], [1, 1])}, tmp_path / "a.pth")
    monkeypatch.setattr(HistoryBuffer, "_statistics_methods", {})  # as in a process that resumes
    assert read_checkpoint(tmp_path / "a.pth")["loss"].statistics("mean") == 1.5


def test_a_restored_history_changes_no_statistics_of_the_class(tmp_path):
    HistoryBuffer([1.0], [1])  # registers the usual ones
    before = dict(HistoryBuffer._statistics_methods)
    history = HistoryBuffer([1.0], [1])
    pickled = pickle.dumps(history, 2).replace(_text(b"min"), _text(b"mine"), 1)
    read = read_checkpoint(saved_pickle(pickled, tmp_path / "weights.pth"))
    assert HistoryBuffer._statistics_methods == before
    assert read.statistics("mean") == 1.0


def test_what_pytorch_is_told_to_allow_stays(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    path = save(contents()["history"], tmp_path / "weights.pth")
    assert same(contents()["history"], read_checkpoint(path))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_sparse_tensors_that_would_read_elsewhere_are_refused(zipped, tmp_path):
    value = torch.sparse_coo_tensor([[2**40]], [1.0], (2,), check_invariants=False)
    path = save(value, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(DamagedCheckpointError, match="size"):
        read_checkpoint(path)
    save(torch.ones(1), path)
    assert torch.equal(read_checkpoint(path), torch.ones(1))


DTYPE = (
    b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00%s\x89\x88\x87R(K\x03X\x01\x00\x00\x00<NNN%sK%ctb."
)


@pytest.mark.parametrize(
    ("code", "size", "flags"),
    [
        (b"U2", b"K\x10K\x04", 8),  # elements larger than the bytes of an array
        (b"f8", b"J\xff\xff\xff\xffJ\xff\xff\xff\xff", 1),  # numbers taken for objects
        (b"O8", b"J\xff\xff\xff\xffJ\xff\xff\xff\xff", 0),
    ],
)
def test_types_that_make_numpy_read_elsewhere_are_refused(code, size, flags, tmp_path):
    path = saved_pickle(DTYPE % (code, size, flags), tmp_path / "type.pth")
    with pytest.raises(UnsafeCheckpointError, match=r"NumPy|numpy"):
        read_checkpoint(path)


def test_reading_changes_no_type_of_numpy(tmp_path):
    read_checkpoint(save(np.arange(3, dtype=">f8"), tmp_path / "weights.pth"))
    assert np.dtype("f8").byteorder == "="


def test_tensors_that_share_a_storage_still_do(tmp_path):
    tensor = torch.zeros(4)
    read = read_checkpoint(save([tensor, tensor[1:]], tmp_path / "weights.pth"))
    read[0][1] = 5
    assert read[1][0] == 5


def test_metadata_of_a_state_dict_is_kept(tmp_path):
    state = torch.nn.BatchNorm2d(2).state_dict()
    read = read_checkpoint(save(state, tmp_path / "weights.pth"))
    assert read._metadata == state._metadata


def test_moves_to_a_device(tmp_path):
    path = save({"a": torch.ones(2)}, tmp_path / "weights.pth")
    assert read_checkpoint(path, map_location="meta")["a"].device.type == "meta"
    moved = read_checkpoint(path, map_location=lambda storage, location: storage)
    assert torch.equal(moved["a"], torch.ones(2))


def test_what_a_gpu_saved_goes_to_the_cpu_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    whole = save({"a": torch.arange(3.0)}, tmp_path / "cpu.pth")
    path = tmp_path / "gpu.pth"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert _text(b"cpu") in data
                data = data.replace(_text(b"cpu"), _text(b"cuda:0"))
            new.writestr(name, data)
    assert torch.equal(read_checkpoint(path)["a"], torch.arange(3.0))


def test_a_whole_pickled_model_is_refused(tmp_path):
    path = save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "model.pth")
    with pytest.raises(UnsafeCheckpointError, match=r"Sequential.*model\.state_dict\(\)"):
        read_checkpoint(path)


def test_reads_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "weights.safetensors"
    safetensors.save_file({"a": torch.ones(2, 3)}, path)
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(2, 3))
    renamed = path.rename(tmp_path / "weights.pth")
    assert torch.equal(read_checkpoint(renamed)["a"], torch.ones(2, 3))
    renamed.write_bytes(renamed.read_bytes()[:-5])
    with pytest.raises(DamagedCheckpointError, match="weights"):
        read_checkpoint(renamed)


def test_reads_a_zip_without_checksums(tmp_path):
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this PyTorch always writes checksums")
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"a": torch.ones(2)}, tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(2))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x1f\x8b\x08" + bytes(40), "archive"),
        (b"weights" * 40, "neither"),
    ],
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_tells_what_is_no_checkpoint(content, told, ending, tmp_path):
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(content)
    if ending == "safetensors" and told == "neither":
        told = "no whole safetensors file"
    with pytest.raises(DamagedCheckpointError, match=told):
        read_checkpoint(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_checkpoint(tmp_path / "absent.pth")


# Of files of our own every byte counts, but for the mark before the checksum itself; those from
# before PyTorch 1.6 have no checksums.
@pytest.mark.parametrize(("written_by", "least"), [("us", 396), ("torch", 201), ("old torch", 0)])
def test_cut_and_changed_files_are_refused_or_harmless(written_by, least, tmp_path):
    torch.manual_seed(1)
    value = {"state_dict": {"a": torch.randn(50, 20), "b": torch.randn(7)}, "meta": {"epoch": 3}}
    if written_by == "old torch":
        value = {"state_dict": {"a": torch.randn(5, 2)}, "history": HistoryBuffer([1.0], [1])}
    path = tmp_path / "weights.pth"
    if written_by == "us":
        write_checkpoint(value, path)
    else:
        save(value, path, _use_new_zipfile_serialization=written_by == "torch")
    content = path.read_bytes()
    generator = random.Random(0)
    for length in [0, 1, len(content) - 1, *generator.sample(range(len(content)), 50)]:
        path.write_bytes(content[:length])
        with pytest.raises(DamagedCheckpointError, match="weights"):
            read_checkpoint(path)
    refused = 0
    for _ in range(400):
        changed = bytearray(content)
        changed[generator.randrange(len(changed))] ^= generator.randrange(1, 256)
        path.write_bytes(changed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read = read_checkpoint(path)
        except CheckpointError:
            refused += 1
        else:
            assert least == 0 or same(value, read)
    assert refused >= least


@pytest.mark.process
def test_this_file_needs_no_module_of_openmmlab_but_mmengine():
    code = "import sys, mmhybrid.weights; print('mmdet' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- values as torch.load gives them --------------------------------------------------------------


class Mine:
    """A class of the program that reads the file."""

    def __init__(self, *given):
        self.given = given


class MyReduced(Mine):
    def __reduce__(self):
        return type(self), self.given


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("made", [Mine(1, "a"), MyReduced(1, "a"), MyReduced(torch.ones(2))])
@pytest.mark.parametrize("named", [True, False])
def test_classes_that_the_program_allows_are_read(made, zipped, named, tmp_path, safe_checkpoints):
    from mmengine.runner.checkpoint import _load_checkpoint

    kind = type(made)
    path = save(dict(meta=dict(x=made)), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    full = f"{kind.__module__}.{kind.__qualname__}"
    with torch.serialization.safe_globals([(kind, full) if named else kind]):
        for read in (read_checkpoint, functools.partial(_load_checkpoint, map_location="cpu")):
            found = read(str(path))["meta"]["x"]
            assert type(found) is kind
            assert same(found.given, made.given)
    with pytest.raises(UnsafeCheckpointError, match=kind.__name__):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_bits_of_complex_numbers_are_kept(zipped, tmp_path):
    one, other = torch.randn(2, 3, dtype=torch.complex64).clone().unbind()
    saved = [one.conj(), other.clone().conj().imag]
    path = save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    conjugated, negated = read_checkpoint(path)
    assert conjugated.is_conj()
    assert negated.is_neg()
    assert torch.equal(conjugated, saved[0])
    assert torch.equal(negated, saved[1])


@pytest.mark.parametrize("protocol", [2, 4])
def test_dicts_with_defaults_keep_them(protocol, tmp_path):
    shared = collections.defaultdict(list, a=[1])
    inner = collections.defaultdict(int)
    value = dict(one=shared, two=(shared, [inner]), three=collections.OrderedDict(a=inner))
    value["four"] = collections.defaultdict(str)
    read = read_checkpoint(save(value, tmp_path / "a.pth", pickle_protocol=protocol))
    assert read == value
    assert read["four"]["new"] == ""
    assert read["one"]["new"] == []
    assert read["two"][0] is read["one"]
    assert read["two"][1][0]["new"] == 0
    assert type(read["three"]["a"]) is collections.defaultdict


def test_threads_read_at_the_same_time(tmp_path):
    """What one allows PyTorch to look up must not be taken from another."""
    from concurrent.futures import ThreadPoolExecutor

    value = contents()["history"]
    paths = [save(value, tmp_path / f"{i}.pth") for i in range(4)]
    before = torch.serialization.get_safe_globals()
    with ThreadPoolExecutor(4) as pool:
        assert all(same(value, read) for read in pool.map(read_checkpoint, paths * 25))
    assert torch.serialization.get_safe_globals() == before
