#!/usr/bin/env python
"""Runs an exported model, with NumPy and onnxruntime or OpenVINO alone.

This file can be copied into a service: it imports nothing of mmhybrid, PyTorch or OpenMMLab. To
read files and to draw it takes Pillow or OpenCV, whichever is there; arrays need neither.

    from predictor import Predictor

    predict = Predictor("FOLDER")
    print(predict("street.jpg").names)

On a command line it prints one line of JSON an image: ``python predictor.py FOLDER street.jpg``.
"""

from __future__ import annotations

import argparse
import colorsys
import functools
import io
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

VERSION = 2  # the newest version of model.json that this file understands
TOP = 5  # classes that are named of a classifier
CORE_LOCK = threading.Lock()
RUNTIMES = ("onnxruntime", "openvino")
MOST_AT_ONCE = 16  # images, in a graph that takes any number
KEYS = ("task", "file", "runtime", "input", "outputs", "resize")  # of model.json, always there
# EXIF's orientations.
TURNED = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class PredictorError(ValueError):
    """A folder, runtime or image that cannot be used; the message says why."""


@dataclass
class Prediction:
    """What a model finds in an image, in the image's own pixels.

    Args:
        task (str): ``'detection'``, ``'instance_segmentation'``, ``'segmentation'``,
            ``'classification'`` or ``'features'``.
        size (tuple[int, int]): Height and width of the image.
        labels (np.ndarray): Class of each object, best first; of a classifier the five best; of a
            segmentation those that occur, most pixels first. int64.
        scores (np.ndarray): Of each object or class, 0 to 1; of a segmentation the share of pixels.
        names (list[str]): Of the labels.
        category_ids (list[int], optional): Of the labels, as the data set's annotations number
            them; of a detector whose ``model.json`` says so.
        boxes (np.ndarray, optional): (N, 4) left, top, right, bottom, float32.
        masks (np.ndarray, optional): (N, height, width), bool.
        label_map (np.ndarray, optional): (height, width), the class of each pixel, uint8 or uint16.
        probabilities (np.ndarray, optional): Of a classifier, (classes,); of a segmentation that is
            asked for them, (classes, height, width). float32.
        features (dict[str, np.ndarray], optional): Maps (C, h, w) of a backbone.
    """

    task: str
    size: tuple[int, int]
    labels: np.ndarray
    scores: np.ndarray
    names: list[str]
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
    label_map: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    features: dict[str, np.ndarray] | None = None
    category_ids: list[int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Lists and numbers for JSON, without features and probabilities.

        ``masks`` has one for each label, also of a label map, as COCO's uncompressed run lengths.
        """
        content: dict[str, Any] = dict(task=self.task, height=self.size[0], width=self.size[1])
        content |= dict(labels=self.labels.tolist(), names=self.names)
        content["scores"] = [round(score, 6) for score in self.scores.tolist()]
        if self.category_ids is not None:
            content["category_ids"] = self.category_ids
        if self.boxes is not None:
            content["boxes"] = [[round(x, 2) for x in box] for box in self.boxes.tolist()]
        if self.masks is not None:
            content["masks"] = [_run_lengths(mask) for mask in self.masks]
        if self.label_map is not None:
            content["masks"] = [_run_lengths(self.label_map == label) for label in self.labels]
        return content


class Options(NamedTuple):
    """Of a call, see :class:`Predictor`."""

    score_threshold: float | None
    probabilities: bool
    tile: tuple[int, int] | None


class Predictor:
    """An exported model, from images to what is in them.

    Any number of threads may call it at once.

    Args:
        folder (str | Path): Of the graph and its ``model.json``.
        runtime (str, optional): ``'onnxruntime'`` or ``'openvino'``. Defaults to the one that the
            model was exported for, or, of an .onnx file, to the other where that one is missing.
        threads (int, optional): Of the runtime. Defaults to its own choice.

    Raises:
        PredictorError: The folder holds no model, or one of a newer format, or the runtime is not
            installed.

    Example:
        >>> from mmhybrid.deploy import Predictor
        >>> found = Predictor('exported/mask_rcnn')('street.jpg')  # doctest: +SKIP
        >>> found.names, found.boxes, found.masks  # doctest: +SKIP
    """

    def __init__(
        self, folder: str | Path, runtime: str | None = None, threads: int | None = None
    ) -> None:
        self.meta = _read_meta(Path(folder))
        self.task: str = self.meta["task"]
        self.classes: list[str] | None = self.meta.get("classes")
        self.palette: list = self.meta.get("palette") or [
            _colour(number) for number in range(len(self.classes or ()))
        ]
        file = Path(folder) / self.meta["file"]
        self.runtime = _choose_runtime(runtime, self.meta["runtime"], file)
        if not file.is_file():
            raise PredictorError(f"{file} is missing, which model.json names")
        opened = _openvino if self.runtime == "openvino" else _onnxruntime
        try:
            self._graph = opened(file, self.meta, threads)
        except Exception as error:  # of many types, by runtime
            raise PredictorError(f"{self.runtime} cannot open {file}: {error}") from error

    def __call__(
        self,
        images: Any,
        score_threshold: float | None = None,
        probabilities: bool = False,
        tile: tuple[int, int] | None = None,
    ) -> Prediction | list[Prediction]:
        """Predicts on an image, or on each of a list.

        A list goes through the graph in batches where that takes them, of neighbours that are
        resized to one size, and otherwise one after the other.

        Args:
            images: A path, the bytes of a file, or an array (H, W, 3), RGB, uint8; or a list of
                these.
            score_threshold (float, optional): Least score of an object. Defaults to the model's.
            probabilities (bool): Give a segmentation's, which take four bytes a class and pixel.
            tile (tuple[int, int], optional): Height and width of windows that overlap by a quarter,
                in which a segmentor takes very large images, as they are resized. A graph of a
                fixed size takes its own. Logits are averaged where windows overlap.

        Raises:
            PredictorError: Something is no image, or of a size that the graph does not take, or
                tiles are asked of a model that gives no logits of pixels.
        """
        options = Options(score_threshold, probabilities, tile)
        if tile and not (self.task == "segmentation" and "logits" in self.meta["outputs"]):
            raise PredictorError("tiles are for segmentors whose graph gives logits")
        if tile and not (isinstance(tile, list | tuple) and len(tile) == 2 and min(tile) > 0):
            raise PredictorError(f"a tile is its height and width, not {tile!r}")
        if isinstance(images, list | tuple):
            return list(self._predict(images, options))
        return next(self._predict([images], options))

    def _predict(self, images: Iterable[Any], options: Options) -> Iterator[Prediction]:
        meta, batch = self.meta, self.meta["input"].get("batch")
        decode = DECODERS[self.task]
        if options.tile:
            for image in images:
                yield self._in_windows(read_image(image), options)
            return
        prepared = (prepare(read_image(image), meta) for image in images)
        for _, alike in groupby(prepared, key=lambda one: one.x.shape):
            while chunk := list(islice(alike, batch or MOST_AT_ONCE)):
                x = np.stack([one.x for one in chunk])
                if batch and len(chunk) < batch:  # what fills it up is not looked at
                    x = np.concatenate([x, x[:1].repeat(batch - len(chunk), 0)])
                outputs = found = self._run(x)
                for index, one in enumerate(chunk):
                    if decode is not _detected:  # whose graph takes one image and has no batch
                        found = {name: y[index] for name, y in outputs.items()}
                    yield decode(meta, found, one, options)

    def _run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        try:
            found = self._graph(x)
        except Exception as error:  # of many types, by runtime
            raise PredictorError(
                f"{self.runtime} fails on an input of {x.shape}: {error}"
            ) from error
        return dict(zip(self.meta["outputs"], found, strict=True))

    def _in_windows(self, image: np.ndarray, options: Options) -> Prediction:
        given = self.meta["input"]
        window = given.get("height") or options.tile[0], given.get("width") or options.tile[1]
        one = prepare(image, self.meta | dict(input=given | dict(height=None, width=None)))
        size, total = one.x.shape[1:], None
        count = np.zeros(size, np.float32)
        for rows in _windows(size[0], window[0]):
            for columns in _windows(size[1], window[1]):
                x = one.x[:, rows, columns]
                if given.get("height"):  # an image that is smaller than the graph's
                    fill = self.meta.get("mean") or (0, 0, 0)
                    padded = _pad(x.transpose(1, 2, 0), window, fill)
                    x = padded.transpose(2, 0, 1).astype(x.dtype)
                logits = self._run(x[None].repeat(given.get("batch") or 1, 0))["logits"][0]
                total = np.zeros((len(logits), *size), np.float32) if total is None else total
                height, width = count[rows, columns].shape
                for sums, y in zip(total, logits, strict=True):
                    sums[rows, columns] += _stretch(y, x.shape[1:])[:height, :width]
                count[rows, columns] += 1
        total /= count
        least = self.meta.get("label_threshold") or 0.5  # of a segmentor of one channel
        labels = total.argmax(0) if len(total) > 1 else total[0] > np.log(least / (1 - least))
        return _segmented(self.meta, dict(labels=labels, logits=total), one, options)

    def draw(self, image: Any, prediction: Prediction, score_threshold: float = 0.3) -> np.ndarray:
        """Draws what was found into a copy of an image (H, W, 3), RGB, uint8.

        Args:
            image: As it was predicted on.
            prediction (Prediction): Of this image.
            score_threshold (float): Least score of objects that are drawn.

        Raises:
            PredictorError: Names are to be written, and neither Pillow nor OpenCV is there.
        """
        drawn = read_image(image).copy()
        if prediction.label_map is not None:
            for label in prediction.labels:
                _tint(drawn, prediction.label_map == label, self._colour_of(label))
            return drawn
        words = [
            f"{name} {score:.2f}"
            for name, score in zip(prediction.names, prediction.scores, strict=True)
        ]
        if prediction.boxes is None:
            return _write(drawn, [(0, 16 * row, word) for row, word in enumerate(words)])
        shown = [i for i, score in enumerate(prediction.scores) if score >= score_threshold]
        for index in reversed(shown):  # the best on top
            colour = self._colour_of(prediction.labels[index])
            if prediction.masks is not None:
                _tint(drawn, prediction.masks[index], colour)
            _frame(drawn, prediction.boxes[index], colour)
        return _write(drawn, [(*prediction.boxes[i][:2].astype(int), words[i]) for i in shown])

    def _colour_of(self, label: int) -> np.ndarray:
        return np.uint8(self.palette[label] if label < len(self.palette) else _colour(label))


# --- the folder and its runtime


def _read_meta(folder: Path) -> dict[str, Any]:
    file = folder / "model.json"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        known = meta["format"] == "mmhybrid" and all(key in meta for key in KEYS)
    except OSError:
        raise PredictorError(f"{folder} is no folder of an exported model: no model.json") from None
    except (ValueError, LookupError, TypeError):
        known = False
    if not known:
        raise PredictorError(f"{file} does not describe an exported model of mmhybrid")
    if meta.get("version") != VERSION:
        raise PredictorError(
            f"{file} has version {meta.get('version')}, and this predictor knows {VERSION} alone: "
            "take predictor.py from the mmhybrid that exported the model"
        )
    return meta


def _choose_runtime(wanted: str | None, default: str, file: Path) -> str:
    if wanted not in (None, *RUNTIMES):
        raise PredictorError(f"runtime {wanted!r}: choose from {', '.join(RUNTIMES)}")
    if wanted == "onnxruntime" and file.suffix != ".onnx":
        raise PredictorError(f"onnxruntime does not run {file.name}: take runtime='openvino'")
    choices = (wanted,) if wanted else (default, *(RUNTIMES if file.suffix == ".onnx" else ()))
    for name in choices:
        if find_spec(name):
            return name
    raise PredictorError(f"{choices[0]} is not installed: pip install {choices[0]}")


def _onnxruntime(file: Path, meta: dict[str, Any], threads: int | None) -> Callable:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    return lambda x: session.run(meta["outputs"], {meta["input"]["name"]: x})


def openvino_core() -> Any:
    """The one ``openvino.Core`` of the process, which stays.

    A core gives its thread a stack for signal handlers, and puts the one before back when it goes.
    Of two cores that go in the order in which they came the last puts back one that is gone, and
    the next signal (a child that ends, Ctrl-C, SIGTERM) ends the process with a segmentation fault.
    """
    with CORE_LOCK:
        return _core()


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _openvino(file: Path, meta: dict[str, Any], threads: int | None) -> Callable:
    # Without the hint, OpenVINO computes in bfloat16 wherever the processor can. An int8 graph has
    # parts that are not in 8 bits, the attention of large maps among them.
    precision = "bf16" if meta.get("precision") in ("bf16", "int8") else "f32"
    config: dict[str, Any] = dict(PERFORMANCE_HINT="LATENCY", INFERENCE_PRECISION_HINT=precision)
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    model = openvino_core().compile_model(str(file), "CPU", config)

    def run(x: np.ndarray) -> list[np.ndarray]:
        request = model.create_infer_request()  # a request serves one thread at a time
        request.infer({meta["input"]["name"]: x})
        return [request.get_tensor(name).data.copy() for name in meta["outputs"]]

    return run


# --- from an image to the graph's input


def read_image(image: Any) -> np.ndarray:
    """An image (H, W, 3), RGB, uint8, from a path, a file's bytes, or such an array itself.

    Files are turned as their EXIF orientation says, as they are in training.

    Raises:
        PredictorError: It is none.
    """
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise PredictorError(
                "an image is an array (height, width, 3), RGB, uint8, "
                f"not {image.shape}, {image.dtype}"
            )
        return image
    if isinstance(image, bytes | bytearray):
        name, content = "what was given", bytes(image)
    elif isinstance(image, str | Path):
        try:
            name, content = str(image), Path(image).read_bytes()
        except (OSError, ValueError) as error:  # as a path, too
            reason = getattr(error, "strerror", None) or error
            raise PredictorError(f"cannot read {image}: {reason}") from error
    else:
        raise PredictorError(f"an image is a path, bytes or an array, not {type(image).__name__}")
    if find_spec("PIL"):
        return _by_pillow(name, content)
    if find_spec("cv2"):
        return _by_opencv(name, content)
    raise PredictorError("files are read by Pillow or OpenCV: pip install pillow")


def _by_pillow(name: str, content: bytes) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()  # which turns a TIFF
            # ImageOps.exif_transpose writes all tags anew, and fails where any is damaged.
            how = TURNED.get(opened.getexif().get(0x0112))
            turned = opened.transpose(Image.Transpose[how]) if how else opened
            if turned.mode.startswith("I"):  # 16 bits
                grey = (np.asarray(turned) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.asarray(turned.convert("RGB"))
    except UnidentifiedImageError:
        raise PredictorError(f"{name} is no image") from None
    except Exception as error:  # of many types, by format
        raise PredictorError(f"{name} cannot be read as an image: {error}") from error


def _by_opencv(name: str, content: bytes) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise PredictorError(f"{name} is no image")
    return np.ascontiguousarray(image[..., ::-1])


class Prepared(NamedTuple):
    """The input of a graph (3, h, w), the image's own size, and what it was resized to."""

    x: np.ndarray
    size: tuple[int, int]
    resized: tuple[int, int]


def prepare(image: np.ndarray, meta: dict[str, Any]) -> Prepared:
    """Resizes, crops and pads an image (H, W, 3) for a graph, as its training did.

    Raises:
        PredictorError: It does not fit into a graph of a fixed size.
    """
    given, x = meta["input"], image
    resized = image.shape[:2]
    for step in meta["resize"]:
        if step["type"] in ("crop", "crop_square"):
            x = _crop(x, step)
        elif step["type"] == "pad":
            x = _pad(x, _padded_size(*x.shape[:2], step), step["value"])
        else:
            resized = _new_size(*x.shape[:2], step, given)
            how = step.get("interpolation", "bilinear"), step.get("backend", "cv2")
            x = resize(x, resized, *how)
    target = given.get("height") or x.shape[0], given.get("width") or x.shape[1]
    if x.shape[0] > target[0] or x.shape[1] > target[1]:
        raise PredictorError(
            f"an image of {x.shape[0]}x{x.shape[1]} does not fit into this model, which was "
            f"exported for {target[0]}x{target[1]}"
        )
    x = x[..., ::-1] if meta.get("bgr") else x
    x = _pad(x, target, meta.get("mean") or (0, 0, 0))  # which is 0 when it is normalised
    if given["dtype"] == "uint8":
        x = x.round()
    x = x.transpose(2, 0, 1).astype(given["dtype"], order="C", copy=False)
    if not meta.get("normalized_in_graph", True) and meta.get("mean"):
        x = (x - np.float32(meta["mean"])[:, None, None]) / np.float32(meta["std"])[:, None, None]
    return Prepared(x, image.shape[:2], resized)


def _crop(x: np.ndarray, step: dict) -> np.ndarray:
    """The middle, or in it the square of a share of the short edge."""
    if step["type"] == "crop_square":
        height = width = step["share"] * min(x.shape[:2])
    else:
        height, width = step["height"], step["width"]
    top, left = (max(0, round(y / 2)) for y in (x.shape[0] - height, x.shape[1] - width))
    # To the last pixel, as mmcv crops.
    return x[top : int(top + height - 1) + 1, left : int(left + width - 1) + 1]


def _pad(x: np.ndarray, size: Sequence[int], value: Sequence[float]) -> np.ndarray:
    """Below and to the right."""
    if x.shape[:2] == tuple(size):
        return x
    padded = np.empty((*size, 3), np.float32)
    padded[:] = value
    padded[: x.shape[0], : x.shape[1]] = x
    return padded


def _padded_size(height: int, width: int, step: dict) -> tuple[int, int]:
    if "height" in step:
        return max(height, step["height"]), max(width, step["width"])
    if step.get("square"):
        height = width = max(height, width)
    divisor = step["divisor"]
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def _windows(length: int, window: int) -> Iterator[slice]:
    """Windows along a side, as mmsegmentation slides them by three quarters of one."""
    stride = max(1, round(window * 0.75))
    for start in range(0, max(length - window + stride - 1, 0) // stride * stride + 1, stride):
        stop = min(start + window, length)
        yield slice(max(stop - window, 0), stop)


def _new_size(height: int, width: int, step: dict, given: dict) -> tuple[int, int]:
    if step["type"] == "exact":
        return step["height"], step["width"]
    if step["type"] == "multiple":
        return _padded_size(height, width, step)
    scale = step.get("scale")
    if step["type"] == "short_edge":
        edge = step["edge"]
        if "longest" not in step:  # where mmpretrain cuts off, mmseg rounds
            shorter = min(height, width)
            return tuple(edge if y == shorter else int(edge * y / shorter) for y in (height, width))
        factor = min(edge / min(height, width), step["longest"] / max(height, width))
        scale = int(height * factor + 0.5), int(width * factor + 0.5)
    elif step["type"] != "keep_ratio":
        raise PredictorError(f"this predictor knows no step {step['type']!r} for sizes")
    factor = min(
        max(scale) / max(height, width),
        min(scale) / min(height, width),
        (given.get("height") or np.inf) / height,
        (given.get("width") or np.inf) / width,
    )
    more = 0.5 if step.get("round", True) else 0
    return max(1, int(height * factor + more)), max(1, int(width * factor + more))


def resize(
    image: np.ndarray, size: Sequence[int], interpolation: str = "bilinear", backend: str = "cv2"
) -> np.ndarray:
    """Resizes an image (H, W, C), uint8, to (height, width), as OpenCV or Pillow does.

    ``'bilinear'`` and ``'bicubic'``; Pillow's are averaged over what a pixel covers (antialiased).
    Their values are met to within one grey level.
    """
    # Rows first, which is quicker, unless values are rounded in between.
    for axis in (1, 0) if backend == "pillow" else (0, 1):
        if image.shape[axis] != size[axis]:
            image = _resample(image, size[axis], axis, interpolation, backend)
            if backend == "pillow":
                image = _as_bytes(image)
    return _as_bytes(image)


def _as_bytes(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.uint8 else np.clip(image + 0.5, 0, 255).astype(np.uint8)


def _resample(
    array: np.ndarray, size: int, axis: int, interpolation: str = "bilinear", backend: str = "cv2"
) -> np.ndarray:
    """Resizes one axis of an array, float32."""
    if interpolation not in ("bilinear", "bicubic"):
        raise PredictorError(f"this predictor knows no interpolation {interpolation!r}")
    old = array.shape[axis]
    scale = max(1.0, old / size) if backend == "pillow" else 1.0
    support = scale * (1 if interpolation == "bilinear" else 2)
    centres = (np.arange(size) + 0.5) * old / size
    first = np.floor(centres - support + 0.5)
    places = (first + np.arange(np.ceil(2 * support) + 1)[:, None]).astype(int)  # (taps, size)
    distances = np.abs(places + 0.5 - centres) / scale
    if interpolation == "bilinear":
        weights = np.maximum(0, 1 - distances)
    else:
        weights = _cubic(distances, -0.5 if backend == "pillow" else -0.75)
    if backend == "pillow":
        weights = np.where((places >= 0) & (places < old), weights, 0)
        weights /= weights.sum(0)
    shape = [1] * array.ndim
    shape[axis] = size
    total = np.zeros((*array.shape[:axis], size, *array.shape[axis + 1 :]), np.float32)
    for place, weight in zip(places.clip(0, old - 1), weights.astype(np.float32), strict=True):
        if weight.any():
            total += array.take(place, axis) * weight.reshape(shape)
    return total


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel at distances from 0 on."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


# --- from the graph's outputs to predictions


def _detected(meta: dict[str, Any], outputs: dict, image: Prepared, options: Options) -> Prediction:
    least = options.score_threshold
    least = (meta.get("score_threshold") or 0) if least is None else least
    kept = (outputs["scores"] > 0) & (outputs["scores"] >= least)  # those of 0 only fill up
    height, width = image.size
    factors = np.float32([image.resized[1] / width, image.resized[0] / height] * 2)
    boxes, masks = outputs["boxes"][kept] / factors, None
    if "masks" in outputs:
        masks = np.zeros((len(boxes), height, width), bool)
        for mask, box, probabilities in zip(masks, boxes, outputs["masks"][kept], strict=True):
            _paste(mask, box, probabilities, meta.get("mask_threshold") or 0.5)
    boxes = boxes.clip(0, np.float32([width, height] * 2))
    labels, ids = outputs["labels"][kept].astype(np.int64), meta.get("category_ids")
    return Prediction(
        meta["task"],
        image.size,
        labels,
        outputs["scores"][kept],
        _named(meta, labels),
        boxes,
        masks,
        category_ids=[ids[label] for label in labels] if ids else None,
    )


def _paste(mask: np.ndarray, box: np.ndarray, probabilities: np.ndarray, threshold: float) -> None:
    """Sets in a mask (H, W) where probabilities (h, w), stretched over a box, reach a threshold.

    They are interpolated between the centres of their pixels, and are 0 outside of these.
    """
    parts, weights = [], []
    for axis, (low, high) in enumerate(((box[1], box[3]), (box[0], box[2]))):
        start = max(0, int(np.floor(low)) - 1)
        stop = max(start, min(mask.shape[axis], int(np.ceil(high)) + 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            places = (np.arange(start, stop, dtype=np.float32) + 0.5 - low) / (high - low)
        count = np.float32(probabilities.shape[axis])
        # A box without a width takes what is in the middle.
        places = np.nan_to_num(places, nan=0.5, posinf=0.5, neginf=0.5) * count - 0.5
        distances = np.abs(places[:, None] - np.arange(count, dtype=np.float32))
        weights.append(np.maximum(0, 1 - distances))
        parts.append(slice(start, stop))
    mask[tuple(parts)] = weights[0] @ probabilities @ weights[1].T >= threshold


def _segmented(
    meta: dict[str, Any], outputs: dict, image: Prepared, options: Options
) -> Prediction:
    seen, (height, width) = outputs["labels"], image.resized
    label_map, probabilities = seen[:height, :width], None  # without what was padded
    logits, kept = outputs.get("logits", ()), []

    def own_size(y: np.ndarray) -> np.ndarray:
        return _stretch(_stretch(y, seen.shape)[:height, :width], image.size)

    if len(logits) > 1 and (options.probabilities or label_map.shape != image.size):
        label_map, best = np.zeros(image.size, np.int64), np.full(image.size, -np.inf, np.float32)
        for number, y in enumerate(logits):  # one by one: all together may be large
            y = own_size(y)
            label_map[y > best] = number
            best = np.maximum(best, y)
            if options.probabilities:
                kept.append(y)
    elif label_map.shape != image.size:
        rows, columns = (
            (np.arange(new) * 2 + 1) * old // (2 * new)
            for new, old in zip(image.size, label_map.shape, strict=True)
        )
        label_map = label_map[rows[:, None], columns]
    probabilities = _softmax(np.stack(kept)) if kept else None
    if len(logits) == 1 and options.probabilities:  # that of the one class
        probabilities = 1 / (1 + np.exp(-own_size(logits[0])[None]))
    label_map = label_map.astype(np.uint8 if label_map.max() < 256 else np.uint16)
    found, counts = np.unique(label_map, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    found = found[order].astype(np.int64)
    return Prediction(
        meta["task"],
        image.size,
        found,
        counts[order] / label_map.size,
        _named(meta, found),
        label_map=label_map,
        probabilities=probabilities,
    )


def _stretch(y: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Resizes a map (h, w) bilinearly."""
    for axis in (0, 1):
        if y.shape[axis] != size[axis]:
            y = _resample(y, size[axis], axis)
    return y


def _classified(
    meta: dict[str, Any], outputs: dict, image: Prepared, options: Options
) -> Prediction:
    probabilities = _softmax(outputs["logits"])
    labels = np.argsort(-probabilities, kind="stable")[:TOP]
    return Prediction(
        meta["task"],
        image.size,
        labels,
        probabilities[labels],
        _named(meta, labels),
        probabilities=probabilities,
    )


def _extracted(
    meta: dict[str, Any], outputs: dict, image: Prepared, options: Options
) -> Prediction:
    nothing = np.zeros(0, np.int64), np.zeros(0, np.float32), []
    return Prediction(meta["task"], image.size, *nothing, features=outputs)


DECODERS = {
    "detection": _detected,
    "instance_segmentation": _detected,
    "segmentation": _segmented,
    "classification": _classified,
    "features": _extracted,
}


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)


def _named(meta: dict[str, Any], labels: np.ndarray) -> list[str]:
    classes = meta.get("classes")
    return [classes[label] if classes else str(label) for label in labels]


def _run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """A mask (H, W) as lengths of runs of 0 and 1 in turn, down the columns: COCO's form."""
    pixels = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(pixels[1:] != pixels[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return dict(size=list(mask.shape), counts=counts.tolist())


# --- drawing and the command line


def _colour(label: int) -> list[int]:
    """One that differs from its neighbours', for models that bring none."""
    return [round(255 * x) for x in colorsys.hsv_to_rgb(label * 0.618 % 1, 0.8, 1)]


def _tint(image: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> None:
    image[mask] = image[mask] // 2 + colour // 2


def _frame(image: np.ndarray, box: np.ndarray, colour: np.ndarray) -> None:
    height, width = image.shape[:2]
    line = max(1, round(max(height, width) / 500))
    left, top, right, bottom = box.round().astype(int)
    for rows, columns in (
        ((top, top + line), (left, right)),
        ((bottom - line, bottom), (left, right)),
        ((top, bottom), (left, left + line)),
        ((top, bottom), (right - line, right)),
    ):
        (y0, y1), (x0, x1) = np.clip(rows, 0, height), np.clip(columns, 0, width)
        image[y0:y1, x0:x1] = colour


def _write(image: np.ndarray, words: Iterable[tuple[int, int, str]]) -> np.ndarray:
    """Writes words at (left, top, text), white on black, into an image."""
    if find_spec("PIL"):
        from PIL import Image, ImageDraw

        drawn = Image.fromarray(image)
        pen = ImageDraw.Draw(drawn)
        for left, top, text in words:
            pen.rectangle(pen.textbbox((left, top), text), fill="black")
            pen.text((left, top), text, fill="white")
        return np.array(drawn)
    if not find_spec("cv2"):
        raise PredictorError("names are written by Pillow or OpenCV: pip install pillow")
    import cv2

    image = np.ascontiguousarray(image)
    for left, top, text in words:
        place, font = (int(left), int(top) + 12), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(image, text, place, font, 0.4, (0, 0, 0), 3)
        cv2.putText(image, text, place, font, 0.4, (255, 255, 255), 1)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict on images, one line of JSON each.")
    parser.add_argument("folder", help="of the graph and its model.json")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--score", type=float, help="least score of objects (default: the model's)")
    parser.add_argument("--runtime", choices=RUNTIMES)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    try:
        predict = Predictor(args.folder, args.runtime, args.threads)
    except PredictorError as error:
        sys.exit(f"error: {error}")
    failed = False
    for image in args.images:
        try:
            print(json.dumps({"file": image} | predict(image, args.score).to_dict()), flush=True)
        except PredictorError as error:
            failed = True
            print(f"error: {error}", file=sys.stderr, flush=True)
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
