"""Keeps of an evaluation what its report shows, batch by batch."""

import heapq
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

MOST_WORST = 20  # images


@dataclass
class Evaluation:
    """What is kept of one evaluation; never an image or a map of more than the worst images."""

    images: int = 0
    seconds: float = 0.0  # loading and predicting, without the metrics
    iteration: int = 0
    best: str = ""  # the checkpoint that MMEngine saved as the best for this evaluation
    metrics: dict[str, Any] = field(default_factory=dict)
    confusion: np.ndarray | None = None  # pixels, (truth, prediction); the last row: unknown labels
    with_class: np.ndarray | None = None  # images that show a class
    answers: list[tuple[int, int, float]] = field(default_factory=list)  # truth, best class, score
    worst: list[tuple[float, tuple[int, int], Any]] = field(default_factory=list)  # a heap
    coco_metric: Any = None  # mmdet's CocoMetric, whose predictions lie in `folder`
    folder: tempfile.TemporaryDirectory | None = None

    def keep_worst(self, badness: float, key: tuple[int, int], make: Callable[[], Any]) -> None:
        """Keeps what ``make`` returns, if it is among the worst so far."""
        if len(self.worst) < MOST_WORST:
            heapq.heappush(self.worst, (badness, key, make()))
        elif (badness, key) > self.worst[0][:2]:
            heapq.heapreplace(self.worst, (badness, key, make()))

    def add(self, other: "Evaluation") -> None:
        """Adds what another process evaluated."""
        self.images += other.images
        self.seconds = max(self.seconds, other.seconds)
        for name in ("confusion", "with_class"):
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(
                self, name, theirs if mine is None else mine if theirs is None else mine + theirs
            )
        self.answers += other.answers
        for badness, key, thing in other.worst:
            self.keep_worst(badness, key, lambda thing=thing: thing)


def _never_fails(method: Callable[..., None]) -> Callable[..., None]:
    """A report is no reason to lose a training: an error is logged and ends the collecting."""

    @wraps(method)
    def guarded(self: "ReportHook", runner: Runner, *args: Any, **options: Any) -> None:
        try:
            method(self, runner, *args, **options)
        except Exception as error:  # whatever a stranger's data set or model brings
            self.problem = f"{type(error).__name__}: {error}"
            self.now = None
            runner.logger.exception("The report will lack the evaluation; the run goes on")

    return guarded


class ReportHook(Hook):
    """Keeps the evaluation of the best checkpoint, or, where none is kept, the last evaluation.

    Attributes:
        evaluation: What was kept, or None.
        problem: Why something could not be kept.
        start: The iteration that training began at, or went on from.
    """

    priority = "LOWEST"  # after the hook that decides which checkpoint is the best

    def __init__(self) -> None:
        self.evaluation: Evaluation | None = None
        self.problem = ""
        self.now: Evaluation | None = None
        self.saved: dict[str, Any] = {}
        self.start = 0

    def before_train(self, runner: Runner) -> None:
        self.start = runner.iter
        self.saved = _best_checkpoints(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        self._begin(runner, runner.val_loop)

    def before_test_epoch(self, runner: Runner) -> None:
        self._begin(runner, runner.test_loop)

    @_never_fails
    def _begin(self, runner: Runner, loop: Any) -> None:
        self.now = Evaluation(iteration=runner.iter)
        self.loop = loop
        self.ignored = 255
        for metric in loop.evaluator.metrics:
            self.ignored = getattr(metric, "ignore_index", self.ignored)
            # CocoMetric writes its predictions into JSON files at any rate: have it keep them.
            if hasattr(metric, "_coco_api") and metric.outfile_prefix is None:
                self.now.folder = tempfile.TemporaryDirectory()
                self.now.coco_metric = metric
                metric.outfile_prefix = str(Path(self.now.folder.name) / "found")
        self.began = time.perf_counter()

    @_never_fails
    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self.now is None:
            return
        self.now.seconds = time.perf_counter() - self.began
        for position, sample in enumerate(outputs or ()):
            # Samplers repeat samples so that each process has as many; MMEngine cuts these off.
            index = self.now.images * get_world_size() + get_rank()
            if index >= len(self.loop.dataloader.dataset):
                continue
            self.now.images += 1
            if "pred_sem_seg" in sample and "gt_sem_seg" in sample:
                self._segmented(sample)
            elif "pred_score" in sample and "gt_label" in sample:
                self._classified(sample, data_batch, position)

    after_test_iter = after_val_iter

    def _key(self) -> tuple[int, int]:
        return -self.now.images, get_rank()  # the first of equally bad ones; never two the same

    def _segmented(self, sample: Any) -> None:
        count = len(self.loop.dataloader.dataset.metainfo["classes"])
        found, truth = sample.pred_sem_seg.data.squeeze(), sample.gt_sem_seg.data.squeeze()
        truth = truth.to(found.device)
        counted = truth != self.ignored
        # As in IoUMetric, a pixel of a label without a class counts for the prediction alone.
        rows = torch.where((truth >= 0) & (truth < count), truth, count)[counted].long()
        pairs = rows * count + found[counted].long()
        matrix = torch.bincount(pairs, minlength=(count + 1) * count).view(count + 1, count)
        matrix = matrix.cpu().numpy()
        one = Evaluation(confusion=matrix, with_class=(matrix[:count].sum(1) > 0).astype(int))
        self.now.add(one)
        iou = class_iou(matrix)
        if not np.isnan(iou).all():
            self.now.keep_worst(1 - np.nanmean(iou), self._key(), lambda: _small(sample))

    def _classified(self, sample: Any, batch: Any, position: int) -> None:
        if sample.gt_label.numel() != 1:  # of several labels an image
            return
        score, best = sample.pred_score.max(0)
        answer = int(sample.gt_label), int(best), float(score)
        self.now.answers.append(answer)
        if answer[0] != answer[1]:
            # What was read from a pickle has no file: the image exists as input alone.
            shown = sample.get("img_path") or (
                lambda: batch["inputs"][position].permute(1, 2, 0).byte().cpu().numpy()
            )
            keep = lambda: (answer, shown() if callable(shown) else shown)  # noqa: E731
            self.now.keep_worst(answer[2], self._key(), keep)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._end(runner, metrics)

    after_test_epoch = after_val_epoch

    def _end(self, runner: Runner, metrics: dict[str, float] | None) -> None:
        # All processes take part in this, those in which something failed too.
        metric, folder = (self.now.coco_metric, self.now.folder) if self.now else (None, None)
        if self.now:
            self.now.coco_metric = self.now.folder = None  # other processes have no use for them
        if metric:
            metric.outfile_prefix = None
        parts = all_gather_object(self.now)
        if not is_main_process() or any(part is None for part in parts):
            return
        whole = self.now
        for part in parts[1:]:
            whole.add(part)
        whole.coco_metric, whole.folder = metric, folder
        whole.metrics = dict(metrics or {})
        best = _best_checkpoints(runner)
        new = [path for name, path in best.items() if path != self.saved.get(name)]
        whole.best, self.saved = str(new[0]) if new else "", best
        if whole.best or self.evaluation is None or not self.evaluation.best:
            self.evaluation = whole


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, NaN where it is in neither.

    ``matrix`` counts pixels, (classes + 1, classes): truth by prediction, as
    :attr:`Evaluation.confusion`.
    """
    inside = np.diag(matrix)
    union = matrix.sum(0) + matrix[:-1].sum(1) - inside
    return np.divide(inside, union, out=np.full(len(inside), np.nan), where=union > 0)


def _best_checkpoints(runner: Runner) -> dict[str, Any]:
    info: Sequence = runner.message_hub.runtime_info.items()
    return {name: path for name, path in info if name.startswith("best_ckpt")}


def _small(sample: Any) -> Any:
    """A sample with the truth and the prediction alone, as small integers."""
    small = type(sample)(metainfo=sample.metainfo)
    for name in ("gt_sem_seg", "pred_sem_seg"):
        data = getattr(sample, name)
        small.set_field(type(data)(data=data.data.to("cpu", torch.int16)), name, dtype=None)
    return small
