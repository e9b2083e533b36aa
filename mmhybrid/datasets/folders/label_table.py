"""A table of image names and labels: CSV or text, with a header or not."""

import csv
from collections import Counter
from collections.abc import Callable

from mmhybrid.datasets.folders.listing import Listing, split_named, split_of, stem
from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import FolderData, ImageRecord
from mmhybrid.errors import UserError

LABELS = ["label", "labels", "class", "class_name", "classname", "category", "species", "target"]

MOST_NAMED = 8  # columns in a message

SPLIT_WORDS = {"train", "training", "val", "valid", "validation", "test"}


class UnclearTableError(UserError):
    """Nothing tells which column of a table has the labels."""


def read_label_table(listing: Listing, notes: Notes) -> FolderData | None:
    """Every table one column of which names images; None where there is none."""
    splits: dict[str, dict[str, ImageRecord]] = {}
    tables = []
    for name in listing.with_suffix(".csv", ".tsv", ".txt"):
        rows = _rows(listing, name)
        column = _image_column(listing, rows)
        if column is None:
            continue
        tables.append(name)
        header = (
            None if _names_image(listing, "".join(rows[0][1][column : column + 1])) else rows[0][1]
        )
        rows = rows[1:] if header else rows
        label_of = _label_reader(name, header, [row for _, row in rows], column)
        split_column = _split_column([row for _, row in rows], column)
        for line, row in rows:
            label = label_of(row)
            image = listing.find(row[column], name) if len(row) > column and row[column] else None
            if not label or len(row) <= column or not row[column]:
                notes.add("bad-line", f"{name}:{line}")
            elif image is None:
                notes.add("missing-image", row[column])
            else:
                own = split_named(row[split_column]) if split_column is not None else None
                record = ImageRecord(image, listing.root / image, label=label)
                records = splits.setdefault(own or split_of(name) or "", {})
                if records.setdefault(image, record).label != label:
                    notes.add("other-label", f"{name}:{line}")
    if not tables:
        return None
    if list(splits) == ["train"] and len(tables) == 1:
        splits = {"": splits["train"]}
    listed = {image for records in splits.values() for image in records}
    for image in sorted(set(listing.images) - listed):
        notes.add("image-not-listed", image)
    used = {record.label for records in splits.values() for record in records.values()}
    order = sorted(used, key=lambda one: (len(one), one) if one.isdecimal() else (99, one))
    data = {split: list(records.values()) for split, records in splits.items()}
    return FolderData(listing.root, "", f"a table, {tables[0]}", tuple(order), data)


def _rows(listing: Listing, name: str) -> list[tuple[int, list[str]]]:
    """Line numbers and cells, by the separator that makes most of the first line."""
    lines = listing.text(name).splitlines()
    first = next((line for line in lines if line.strip()), "")
    separator = max(",;\t ", key=lambda one: (one in first, one != " ", first.count(one)))
    cells = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        return [(cells.line_num, [one.strip() for one in row]) for row in cells if row]
    except csv.Error:
        return []


def _image_column(listing: Listing, rows: list[tuple[int, list[str]]]) -> int | None:
    """The column in which most cells name an image, if half of them do."""
    hits: Counter[int] = Counter()
    for _, row in rows:
        hits.update(i for i, cell in enumerate(row) if _names_image(listing, cell))
    best = max(hits, key=hits.__getitem__, default=None)
    wide = [row for _, row in rows if len(row) > 1]
    return best if best is not None and 2 * hits[best] >= len(rows) and wide else None


def _names_image(listing: Listing, cell: str) -> bool:
    return bool(cell) and (stem(cell) in listing.by_stem or cell.lower() in listing.by_stem)


def _label_reader(
    name: str, header: list[str] | None, rows: list[list[str]], image: int
) -> Callable[[list[str]], str]:
    """A function of a row: the column of labels, or that of the only 1 (one column a class)."""
    titles = [title.lower() for title in header or []]
    width = max(len(row) for row in rows) if rows else 0
    others = [i for i in range(width) if i != image and i != _split_column(rows, image)]
    told = next((titles.index(title) for title in LABELS if title in titles), None)
    flags = [
        i for i in others if all(len(row) > i and row[i] in ("0", "1") for row in rows if any(row))
    ]
    if told is None and header and len(others) > 1 and flags == others:
        if any([row[i] for i in others].count("1") > 1 for row in rows if any(row)):
            raise UserError(f"{name} gives an image several classes; a classifier here learns one")
        return lambda row: next((header[i] for i in others if row[i : i + 1] == ["1"]), "")
    # A number of its own for each row is no label.
    values = {i: Counter(row[i] for row in rows if len(row) > i and row[i]) for i in others}
    likely = sorted(others, key=lambda i: (len(values[i]) < 2, len(values[i])))
    several: list[int] = []  # columns that tell rows apart, each in another way
    for i in likely if told is None else ():
        is_same = any(
            len({(row[i], row[j]) for row in rows if len(row) > max(i, j)})
            == len(values[i])
            == len(values[j])
            for j in several
        )
        if 1 < len(values[i]) < len(rows) and not is_same:
            several.append(i)
        if len(several) == MOST_NAMED:
            break
    if len(several) > 1:
        titles = dict(enumerate(header or []))
        titled = ", ".join(titles.get(i, f"column {i + 1}") for i in sorted(several))
        raise UnclearTableError(
            f"{name} names images, and several of its columns may be their labels: {titled}. Give "
            "the one that is the title `label`" + ("" if header else ", in a first line of titles")
        )
    column = told if told is not None else next(iter(likely), None)
    if column is None:
        raise UserError(f"{name} names images, but no column of it has their labels")
    return lambda row: row[column] if len(row) > column else ""


def _split_column(rows: list[list[str]], image: int) -> int | None:
    """The column that has nothing but names of splits."""
    for i in range(max((len(row) for row in rows), default=0)):
        cells = {row[i].lower() for row in rows if len(row) > i and row[i]}
        if i != image and cells and cells <= SPLIT_WORDS:
            return i
    return None
