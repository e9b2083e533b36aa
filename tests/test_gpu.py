"""What only a GPU shows, and what shows without one that a GPU need not wait for the host."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.claims import train_claims
from benchmarks.gpu import SECTIONS, distance, outputs_and_gradients
from mmhybrid.apis.random_init import random_init
from mmhybrid.backbones.base import backbone_classes
from mmhybrid.deploy import fuse
from mmhybrid.layers import depthwise_conv, norm

CLASSES = backbone_classes()
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
# |a - b| / |b| of outputs and gradients, against float64.
NEAR = {None: (1e-5, 1e-4), torch.bfloat16: (5e-2, 3e-1), torch.float16: (1e-2, 1e-1)}


def _model(backbone: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return random_init(backbone(**backbone.test_options)).eval()


def _images(*size: int) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that multiplies float32 as a CPU does, and takes our kernels for small maps too."""
    monkeypatch.setattr(depthwise_conv, "SMALLEST_IN_TRITON", 0)
    monkeypatch.setattr(norm, "SMALLEST_BY_PARTS", 0)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("autocast", NEAR, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("backbone", CLASSES, ids=lambda c: c.__name__)
def test_outputs_and_gradients_equal(
    backbone, channels_last, autocast, device, exact_float32
) -> None:
    if device == "cpu" and autocast == torch.float16:
        pytest.skip("CPUs compute gradients in float16 for few operations")
    model, x = _model(backbone), _images(*_size(backbone))
    exact = outputs_and_gradients(model.double(), x.double())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.float().to(device, memory_format=layout)
    x = x.to(device, memory_format=layout)
    got = outputs_and_gradients(model, x, autocast)
    for one, other, most in zip(got, exact, NEAR[autocast], strict=True):
        assert distance(one, other) < most


def _size(backbone: type[nn.Module]) -> tuple[int, int]:
    fixed = backbone.test_options.get("image_size")
    return (fixed, fixed) if isinstance(fixed, int) else (64, 96)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backbone", CLASSES, ids=lambda c: c.__name__)
def test_fused_outputs_equal(backbone, dtype, device, exact_float32) -> None:
    model, x = _model(backbone), _images(*_size(backbone))
    with torch.no_grad():
        exact = torch.utils._pytree.tree_leaves(model.double()(x.double()))
        fused = fuse(model.float().to(device), dtype)
        got = torch.utils._pytree.tree_leaves(fused(x.to(device)))
    assert distance(got, exact) < NEAR[dtype][0]


@pytest.mark.parametrize("backbone", CLASSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("training", [False, True])
def test_a_step_reads_no_value_on_the_host(backbone, training) -> None:
    """Tensors without values: whoever asks for one, such as by ``item()``, fails."""
    model = backbone(**backbone.test_options).train(training)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 3, *_size(backbone))
        with torch.set_grad_enabled(training):
            outputs = torch.utils._pytree.tree_leaves(model(x))
            assert all(isinstance(y, torch._subclasses.FakeTensor) for y in outputs)
            if training:
                sum(y.mean() for y in outputs).backward()


@pytest.mark.parametrize("backbone", CLASSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("training", [pytest.param(flag, marks=gpu) for flag in (False, True)])
def test_a_step_does_not_wait_for_the_gpu(backbone, training) -> None:
    model = _model(backbone).cuda().train(training)
    x = _images(*_size(backbone)).cuda()

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16), torch.set_grad_enabled(training):
            outputs = torch.utils._pytree.tree_leaves(model(x))
            if training:
                sum(y.float().mean() for y in outputs).backward()

    step()  # what is made once for a size may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_group_normalisation_by_parts_equals_pytorch(affine, dtype, monkeypatch) -> None:
    layer = norm.GroupNorm(1, 6, affine=affine).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    layer.to(dtype)
    x = torch.randn(2, 6, 9, 7).to(dtype).requires_grad_()
    gradient = torch.randn(2, 6, 9, 7).to(dtype)
    found = []
    for by_parts in (False, True):
        monkeypatch.setattr(norm, "_is_faster_by_parts", lambda *_, flag=by_parts: flag)
        y = layer(x)
        found.append([y, *torch.autograd.grad(y, (x, *layer.parameters()), gradient)])
    tolerance = 1e-9 if dtype == torch.float64 else 5e-2
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


TRITON_CASES = [  # shape of the map, kernel, dilation
    ((2, 3, 9, 13), 7, 1),
    ((1, 2, 20, 70), 5, 2),
    ((2, 2, 5, 4), 3, 3),
    ((3, 4, 1, 1), 7, 1),
]


def check_triton(device: str) -> None:
    """Values, gradients and second gradients in float64 against PyTorch's convolution."""
    from mmhybrid.layers.triton_depthwise import TritonDepthwiseConv

    torch.manual_seed(0)
    for shape, kernel, dilation in TRITON_CASES:
        for layout in (torch.contiguous_format, torch.channels_last):
            channels = shape[1]
            options = dict(dtype=torch.float64, device=device)
            x = torch.randn(shape, **options).to(memory_format=layout).requires_grad_()
            w = torch.randn(channels, 1, kernel, kernel, **options).requires_grad_()
            b = torch.randn(channels, 2, **options)[:, 0].requires_grad_()  # not contiguous
            y = TritonDepthwiseConv.apply(x, w, b, dilation)
            rim = dilation * (kernel // 2)
            expected = F.conv2d(x, w, b, padding=rim, dilation=dilation, groups=channels)
            torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
            assert y.is_contiguous(memory_format=layout)
            gradient = torch.randn_like(y)
            got = torch.autograd.grad(y, (x, w, b), gradient, create_graph=True)
            plain = torch.autograd.grad(y, (x, w, b), gradient, retain_graph=True)
            wanted = torch.autograd.grad(expected, (x, w, b), gradient, create_graph=True)
            for grads in (got, plain):
                torch.testing.assert_close(grads, wanted, rtol=0, atol=1e-9)
            seconds = [
                torch.autograd.grad(g[0].square().sum() + g[1].square().sum(), (x, w))
                for g in (got, wanted)
            ]
            torch.testing.assert_close(*seconds, rtol=0, atol=1e-9)


@pytest.mark.process
def test_triton_in_its_interpreter_equals_pytorch() -> None:
    pytest.importorskip("triton")
    env = dict(os.environ, TRITON_INTERPRET="1", PYTHONPATH=os.getcwd())
    code = f"import runpy; runpy.run_path({__file__!r})['check_triton']('cpu')"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("check", [pytest.param(check_triton, marks=gpu)])
def test_triton_on_a_gpu_equals_pytorch(check) -> None:
    check("cuda")


@pytest.mark.process
@pytest.mark.train
def test_the_command_on_a_cpu_ends_with_every_section(tmp_path: Path, root: Path) -> None:
    words = ["gpu", "--device", "cpu", "--size", "tiny", "--out"]
    env = dict(os.environ, PYTHONPATH=str(root))
    command = [sys.executable, "-m", "benchmarks", *words, str(tmp_path)]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert list(results) == list(SECTIONS)
    for section, content in results.items():
        failed = [row for row in content["rows"] if row.get("failed") or row.get("error")]
        assert content["rows"], section
        assert not failed, section
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"\n## {section}\n" in page for section in SECTIONS)
    assert "failed:" not in page


@pytest.mark.process
@pytest.mark.train
def test_the_claims_train_in_turns_until_all_have_ended(tmp_path: Path, monkeypatch) -> None:
    data = tmp_path / "data"
    for split in ("train", "test"):
        for name in map(str, range(10)):
            (data / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), (25 * int(name), 99, 9)).save(data / split / name / "0.png")
    options = [f"{split}_dataloader.dataset.data_root={data}" for split in ("train", "val", "test")]
    options += [f"{split}_dataloader.num_workers=0" for split in ("train", "val")]
    options += [f"{split}_dataloader.persistent_workers=False" for split in ("train", "val")]
    options += [
        "train_dataloader.batch_size=4",
        "train_cfg.max_iters=2",
        "train_cfg.val_interval=1",
    ]
    options += ["default_hooks.logger.interval=1", "param_scheduler=[]"]
    config, seconds = "dw_vit_t_cifar10_32px", 500.0
    page = train_claims(tmp_path / "runs", seconds, 1, [config], options=options)
    assert f"{config}, plain, top-1 accuracy" in page
    assert f"{config}, shortcuts, top-1 accuracy" in page
    monkeypatch.setattr("benchmarks.claims._train", pytest.fail)  # nothing is left to do
    assert train_claims(tmp_path / "runs", seconds, 1, [config], options=options) == page
