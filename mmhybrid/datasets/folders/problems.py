"""Problems of folders: what is said of each, and how grave it is."""

from collections import defaultdict

from mmhybrid.datasets.findings import Finding, Severity

MANY = 0.1  # share of the images, or of the objects, from which a problem is an error

# code: (severity of a few, severity of many, of what a few or many, what is said of them)
PROBLEMS: dict[str, tuple[Severity, Severity, str, str]] = {
    "missing-image": ("warning", "error", "images", "annotated images are not in the folder"),
    "unreadable-image": ("warning", "error", "images", "images cannot be read: left out"),
    "ambiguous-image": (
        *("warning", "error", "images"),
        "annotated images have a name that several files have: left out",
    ),
    "size-differs": (
        *("warning", "error", "images"),
        "images have another size than their annotations say: boxes may lie in the wrong places",
    ),
    "exif-turned": (
        *("warning", "warning", "images"),
        "images are turned by EXIF when they are read: their labels must be those of the turned "
        "image",
    ),
    "image-without-label": (
        *("info", "warning", "images"),
        "images are not labelled: left out",
    ),
    "image-without-label-file": (
        *("info", "info", "images"),
        "images have no label file: taken as images without an object",
    ),
    "image-without-split": ("info", "warning", "images", "images are in no split: left out"),
    "image-without-class": (
        *("warning", "error", "images"),
        "images lie beside the folders of classes: left out",
    ),
    "label-without-image": ("warning", "error", "images", "label files have no image"),
    "bad-file": ("warning", "error", "images", "label files cannot be read: left out"),
    "bad-line": ("warning", "error", "objects", "lines or rows cannot be understood: left out"),
    "bad-box": ("warning", "error", "objects", "boxes are no four numbers: left out"),
    "empty-box": ("warning", "error", "objects", "boxes are smaller than a pixel: left out"),
    "box-outside": ("warning", "error", "objects", "boxes lie outside of their image: left out"),
    "box-cut": ("warning", "error", "objects", "boxes reach beyond their image: cut at its border"),
    "bad-outline": (
        *("warning", "error", "objects"),
        "outlines are no polygon and no RLE: their box is taken",
    ),
    "no-outline": ("warning", "error", "objects", "objects have no outline: their box is taken"),
    "unknown-class": (
        *("warning", "error", "objects"),
        "objects are of a class that the file does not name: left out",
    ),
    "unknown-image": ("warning", "error", "objects", "objects are of an unknown image: left out"),
    "dropped-shape": (
        *("warning", "error", "objects"),
        "shapes without an area, such as points and lines: left out",
    ),
    "unknown-value": (
        *("warning", "error", "images"),
        "masks have values that are no class: these pixels are ignored",
    ),
    "mask-size": (
        *("warning", "error", "images"),
        "masks have another size than their image: left out",
    ),
    "bad-name": ("warning", "warning", "images", "files have names that are no text: left out"),
    "split-missing": ("warning", "warning", "images", "splits are named that are not there"),
    "windows-text": ("info", "info", "images", "files have a byte order mark or CRLF: read anyway"),
    "odd-name": ("info", "info", "images", "names with spaces or other letters than ASCII's"),
    "mixed-case": ("info", "info", "images", "extensions in upper case: read like the others"),
    "embedded-image": (
        "info",
        "info",
        "images",
        "images are embedded: written into the work folder",
    ),
}


class Notes:
    """Collects problems by code while a folder is read."""

    def __init__(self) -> None:
        self.places: dict[str, list[str]] = defaultdict(list)
        self.others: list[Finding] = []

    def add(self, code: str, place: object) -> None:
        """One of ``PROBLEMS``, and the image or the line that has it."""
        assert code in PROBLEMS, code
        self.places[code].append(str(place))

    def say(self, code: str, severity: Severity, message: str, images: list[str] = ()) -> None:
        """A finding with a sentence of its own."""
        self.others.append(Finding(code, severity, message, list(images)))

    def findings(self, images: int, objects: int) -> list[Finding]:
        """All of them, errors first, for a folder with so many images and objects."""
        found = list(self.others)
        for code, places in self.places.items():
            few, many, unit, text = PROBLEMS[code]
            total = objects if unit == "objects" else images
            severity = many if len(places) > MANY * max(1, total) else few
            found.append(Finding(code, severity, f"{len(places):,} {text}", places))
        order = ("error", "warning", "info")
        return sorted(found, key=lambda one: (order.index(one.severity), -len(one.images)))
