"""Problems of folders: what is said of each, and how grave it is."""

from collections import defaultdict

from mmhybrid.datasets.findings import Finding, Severity, errors_first, is_many

# code: (severity of a few, severity of many, of what a few or many, what is said of them)
PROBLEMS: dict[str, tuple[Severity, Severity, str, str]] = {
    code: (few, many, unit, text)
    for few, many, unit, problems in (
        (
            *("warning", "error", "images"),
            {
                "missing-image": "annotated images that are not in the folder",
                "unreadable-image": "images that cannot be read, left out",
                "unread-format": "images of a format that is not read, left out: save them as "
                "JPEG or PNG",
                "dead-link": "links to files that are not there, left out",
                "ambiguous-image": "annotated images whose name several files have, left out",
                "size-differs": "images of another size than their annotations say: their boxes "
                "may lie in the wrong places",
                "image-without-class": "images beside the folders of classes, left out",
                "label-without-image": "label files without an image",
                "bad-file": "label files that cannot be read, left out",
                "unknown-value": "masks with values that are no class: these pixels are ignored",
                "mask-size": "masks of another size than their image, left out",
            },
        ),
        (
            *("warning", "error", "objects"),
            {
                "bad-line": "lines, rows or entries that cannot be understood, left out",
                "other-label": "rows that give an image another class than one before, left out",
                "bad-box": "boxes that are no four numbers, left out",
                "empty-box": "boxes smaller than a pixel, left out",
                "box-outside": "boxes outside of their image, left out",
                "box-cut": "boxes that reach beyond their image, cut at its border",
                "bad-outline": "objects with an outline that is no polygon and no RLE",
                "no-outline": "objects without an outline: their box is taken for it",
                "unknown-class": "objects of a class that the folder does not name, left out",
                "unknown-image": "objects of an image that the file does not list, left out",
                "dropped-shape": "shapes without an area, such as points and lines, left out",
            },
        ),
        (
            *("info", "warning", "images"),
            {
                "image-without-label": "images without a label, left out",
                "image-without-split": "images in no split, left out",
            },
        ),
        (
            *("warning", "warning", "images"),
            {
                "exif-turned": "images that EXIF turns, as mmcv does when it reads them: their "
                "labels must be those of the turned image",
                "repeated-object": "objects that a second annotation file repeats, left out",
                "split-missing": "splits that are named and not there",
                "bad-name": "files whose names are no text, left out",
            },
        ),
        (
            *("info", "info", "images"),
            {
                "image-beside-image": "images whose label is that of another image of this name, "
                "left out",
                "image-not-listed": "images that no annotation file lists, left out",
                "image-without-label-file": "images without a label file, taken as images without "
                "an object",
                "windows-text": "files with a byte order mark or with CRLF, which are read anyway",
                "odd-name": "images whose names have spaces or other letters than ASCII's",
                "mixed-case": "images with an extension in upper case",
                "embedded-image": "images inside of label files, written into the work folder",
            },
        ),
    )
    for code, text in problems.items()
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
            severity = many if is_many(len(places), total) else few
            found.append(Finding(code, severity, f"{text}: {len(places):,}", places))
        return errors_first(found)
