"""Packaging of mmhybrid."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def requirements(*names: str) -> list[str]:
    """The lines of requirements/NAME.txt that are no comments."""
    lines = [
        line.strip()
        for name in names
        for line in (HERE / "requirements" / f"{name}.txt").read_text().splitlines()
    ]
    return sorted({line for line in lines if line and not line.startswith("#")})


def provide_for_mim() -> None:
    """Put what mim looks for into PACKAGE/.mim, as links, which a wheel turns into files."""
    folder = HERE / "mmhybrid" / ".mim"
    folder.mkdir(exist_ok=True)
    for name in ("configs", "tools", "model-index.yml"):
        if (folder / name).exists():
            continue
        try:
            (folder / name).symlink_to(os.path.join("..", "..", name))
        except OSError:  # a system without links
            copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy
            copy(HERE / name, folder / name)


provide_for_mim()
OPENMMLAB = requirements("openmmlab")
COMMON = [r for r in OPENMMLAB if not re.match("mmdet|mmsegmentation|mmpretrain|pycocotools", r)]
DET = [*COMMON, *(r for r in OPENMMLAB if re.match("mmdet|pycocotools", r))]
SEG = [*COMMON, *(r for r in OPENMMLAB if re.match("mmsegmentation", r))]
CLS = [*COMMON, *(r for r in OPENMMLAB if re.match("mmpretrain", r))]

setup(
    name="mmhybrid",
    version=re.search(r'"(.+)"', (HERE / "mmhybrid" / "version.py").read_text()).group(1),
    description="Hybrid CNN-Transformer backbones for OpenMMLab",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    project_urls={
        "Paper of TransXNet": "https://arxiv.org/abs/2310.19380",
        "Paper of the depth-wise shortcut": "https://arxiv.org/abs/2407.19394",
        "Paper of DMFormer": "https://arxiv.org/abs/2209.07738",
        "Paper of XFormer": "https://arxiv.org/abs/2207.07268",
    },
    keywords=["computer vision", "backbone", "object detection", "segmentation", "OpenMMLab"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["mmhybrid", "mmhybrid.*"]),
    package_data={
        "mmhybrid": [
            ".mim/model-index.yml",
            ".mim/configs/**/*",
            ".mim/tools/*",
            "visualization/report.html",
        ]
    },
    entry_points={"console_scripts": ["mmhybrid=mmhybrid.__main__:main"]},
    # No OpenMMLab package: mmcv and mmcv-lite, or mmengine and a fork of it, would overwrite each
    # other. The extras name them.
    install_requires=requirements("runtime"),
    extras_require={
        "det": DET,
        "seg": SEG,
        "cls": CLS,
        "onedl": requirements("onedl"),
        "export": requirements("export"),
        "timm": ["timm>=1.0"],
        "hub": ["huggingface_hub>=0.24", "safetensors>=0.4"],
        "docs": requirements("docs"),
        "dev": requirements("openmmlab", "export", "docs", "tests"),
    },
)
