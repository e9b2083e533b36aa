"""What can be wrong with data: codes, severities, and what training does with it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from mmhybrid.datasets.findings import Finding, Severity, is_many

MENDED_COPY = "train.py and test.py mend it in a copy, other programs stop or go wrong"

# code: (severity, what it is, what training does with it)
PROBLEMS: dict[str, tuple[Severity, str, str]] = {
    code: (severity, what, result)
    for severity, problems in (
        (
            "error",
            {
                "missing-image": ("missing images", "left out, and evaluation stops"),
                "empty-file": ("empty files", "left out, and evaluation stops"),
                "unreadable-image": ("unreadable images", "left out, and evaluation stops"),
                "truncated-image": ("truncated images", "left out, or an older OpenCV reads grey"),
                "size-differs": (
                    "images of another size than annotated",
                    "their boxes lie in the wrong places",
                ),
                "bad-file": ("annotation files that cannot be read", "training stops"),
                "no-images": ("no images", "training stops"),
                "no-objects": ("data without an object to learn", "nothing is learnt"),
                "class-not-in-file": (
                    "classes of the config that the file lacks",
                    "nothing of them is learnt",
                ),
                "bad-entry": (
                    "entries of annotation files that lack what cannot be known",
                    "training stops",
                ),
                "missing-field": ("entries without a field that is always read", MENDED_COPY),
                "number-as-text": ("numbers written as text", MENDED_COPY),
                "repeated-id": ("annotations whose id is 0 or another's", MENDED_COPY),
                "category-order": (
                    "categories in another order than the classes, by which names are swapped",
                    MENDED_COPY,
                ),
                "class-named-twice": (
                    "classes that two categories have",
                    "labels after them are wrong",
                ),
                "classes-differ": (
                    "classes in another order or number than those of training",
                    "labels are wrong",
                ),
                "flat-outline": ("outlines that are no list of lists of numbers", MENDED_COPY),
                "bad-outline": (
                    "outlines with a part that is no polygon of three points and no run lengths",
                    "ignored in training, and evaluation stops",
                ),
                "unknown-image": ("boxes of an unknown image", "ignored"),
                "unknown-class": ("boxes of an unknown category", "ignored"),
                "bad-box": ("boxes that are no four numbers", "training stops"),
                "box-outside": ("boxes outside their image", "ignored"),
                "no-outline": (
                    "objects without a mask",
                    "training of masks stops or learns an empty mask",
                ),
                "image-named-twice": ("images named twice", "one of the two counts"),
                "missing-mask": ("missing masks", "left out, and evaluation stops"),
                "mask-size": (
                    "masks of another size than their image",
                    "training stops, or learns wrong labels",
                ),
                "failing-sample": (
                    "samples at which a step of the pipeline fails",
                    "training stops",
                ),
                "colour-mask": (
                    "masks in colour",
                    "labels are wrong; save class numbers in one channel",
                ),
                "unknown-value": ("masks with labels outside the classes", "pixels are ignored"),
                "class-out-of-range": ("class labels out of range", "training stops"),
            },
        ),
        (
            "warning",
            {
                "16-bit-image": ("16-bit images", "reduced to 8 bits"),
                "byte-order-mark": ("files that begin with a byte-order mark", MENDED_COPY),
                "category-missing": (
                    "classes that the file lacks",
                    "the labels of those after them move up",
                ),
                "image-left-out": ("images smaller than filter_cfg.min_size", "left out"),
                "exif-turned": (
                    "images turned by EXIF",
                    "turned while they are read; annotations must agree",
                ),
                "class-not-in-config": (
                    "categories of the file that the config lacks",
                    "their boxes are ignored",
                ),
                "empty-box": ("empty boxes", "ignored"),
                "marked-ignore": ("boxes that are marked to be ignored", "ignored"),
                "box-cut": ("boxes that reach beyond their image", "cut at the border"),
            },
        ),
        (
            "info",
            {
                "not-checked": ("data sets whose samples this check does not know", "not checked"),
                "labels-not-checked": (
                    "data sets whose labels this check does not know",
                    "images alone are checked",
                ),
                "small-image": ("images smaller than 32 pixels", "enlarged by Resize, if any"),
                "cmyk-image": ("CMYK images", "read as RGB, with colours slightly off"),
                "palette-image": ("palette images", "read as RGB"),
                "transparent-image": ("images with transparency", "transparency is ignored"),
                "grey-image": ("grey images", "read as RGB"),
                "crowd-box": ("crowd boxes", "ignored in training, crowds in evaluation"),
                "image-without-label": (
                    "images without a label",
                    "boxes: left out unless filter_cfg keeps them; masks: nothing is learnt",
                ),
            },
        ),
    )
    for code, (what, result) in problems.items()
}

# What training leaves out. A few of many are no reason not to train.
LEFT_OUT = {"missing-image", "empty-file", "unreadable-image", "truncated-image", "size-differs"}
LEFT_OUT |= {"unknown-image", "unknown-class", "image-named-twice", "missing-mask"}
# What a copy of the annotations is written for.
MENDED = {code for code, (_, _, result) in PROBLEMS.items() if result == MENDED_COPY}


class Found(NamedTuple):
    """One of ``PROBLEMS`` in an image, or in whatever else is named, and what is to be said of it.

    ``image`` is empty where a class or a file as a whole has the problem.
    """

    code: str
    image: str
    detail: str = ""


def findings_of(
    found: Iterable[Found], split: str, images: int, few_are_left_out: bool
) -> list[Finding]:
    """One finding a code, of a split that has so many images.

    Args:
        few_are_left_out (bool): A few of ``LEFT_OUT`` are a warning.
    """
    by_code: dict[str, list[Found]] = defaultdict(list)
    for one in found:
        by_code[one.code].append(one)
    findings = []
    for code, these in by_code.items():
        severity, what, result = PROBLEMS[code]
        names = list(dict.fromkeys(one.image for one in these if one.image))
        if few_are_left_out and code in LEFT_OUT and not is_many(len(names), images):
            severity = "warning"
        details = [one.detail for one in these if one.detail]
        message = f"{split}: {what} ({result})"
        if code != "no-images":
            message += f": {len(these):,}"
        if names and details:  # the other images are named anyway
            message += f", such as {details[0]}"
        elif details:
            message += f": {shortened(details, '; ')}"
        findings.append(Finding(code, severity, message, names))
    return findings


def shortened(names: Iterable[str], separator: str = ", ", most: int = 10) -> str:
    """Names in a row, and how many more there are."""
    names = list(names)
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    return separator.join([*names[:most], *more])
