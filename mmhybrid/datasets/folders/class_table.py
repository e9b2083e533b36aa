"""Files of class names: one a line, with numbers, with colours; text, CSV, YAML or JSON."""

import itertools
import re
from dataclasses import dataclass
from typing import Any

from mmhybrid.datasets.folders.listing import Listing
from mmhybrid.errors import UserError

NAMES = (
    *("classes.txt", "class_names.txt", "names.txt", "labels.txt", "labelmap.txt", "obj.names"),
    *("label_colors.txt", "class_dict.csv", "classes.csv", "_classes.csv", "labels.csv"),
    *("classes.json", "labels.json", "label_map.json", "labelmap.json", "class_dict.json"),
    *("data.yaml", "dataset.yaml", "classes.yaml"),
)
_SEP = r"[\s,;:=]+"
_COLOUR_LAST = re.compile(rf"^(?:\d+{_SEP})?(.+?){_SEP}(\d+){_SEP}(\d+){_SEP}(\d+)[\s,;:]*$")
_COLOUR_FIRST = re.compile(rf"^(\d+){_SEP}(\d+){_SEP}(\d+){_SEP}(\D.*)$")
_NUMBER_FIRST = re.compile(rf"^(\d+){_SEP}(\D.*)$")
_NUMBERED = re.compile(rf"^(\d+){_SEP}(\S.*)$")
_NUMBER_LAST = re.compile(r"^(.*\D)\s*[,;:=\t]\s*(\d+)$")


@dataclass(frozen=True)
class ClassRow:
    """A class; ``value`` in masks and ``colour`` (red, green, blue) where the file has them."""

    name: str
    value: int | None = None
    colour: tuple[int, int, int] | None = None


def read_class_table(listing: Listing, name: str) -> list[ClassRow]:
    """The classes that a file names.

    Raises:
        UserError: The file cannot be read, or a value in it is no name, number or colour.
    """
    if name.endswith((".json", ".yaml", ".yml")):
        try:
            content = listing.json(name) if name.endswith(".json") else listing.yaml(name)
            return _from_data(content)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"the classes cannot be read: {name}: {error}") from error
    lines = _lines(listing, name)
    rows = [_row(line) for line in lines]
    is_plain = [row == ClassRow(row.name) for row in rows]
    # The title of a table is the only row without a number.
    if is_plain[:1] == [True] and is_plain[1:] and not any(is_plain[1:]):
        return rows[1:]
    if any(is_plain) and not any(row.colour for row in rows):
        if numbered := _numbered(lines) or _numbered(lines[1:]):
            return numbered
        if 2 * sum(is_plain) >= len(rows):  # "2 wheeler" among names
            return [ClassRow(line.strip(",:; ")) for line in lines]
    return rows


def read_class_names(listing: Listing, name: str) -> dict[int, str]:
    """The names by number of a text file with a name a line.

    Numbers before the names count only if they rise from 0 or 1: "50 cent" is a name.
    """
    lines = _lines(listing, name)
    rows = [_row(line) for line in lines]
    for some in (rows, _numbered(lines), rows[1:], _numbered(lines[1:])):  # the last with a title
        found = {row.value: row.name for row in some}
        if len(set(found.values())) < len(some):  # 1 euro, 2 euro
            continue
        for start in (0, 1):
            is_run = some and found.keys() == {*range(start, start + len(some))}
            if is_run and (len(some) == len(lines) or len(some) > start):
                return {value - start: found[value] for value in sorted(found)}
    numbered = _numbered(lines)  # of COCO's numbers some are left out
    if numbered and numbered[0].value < 2 and len({row.name for row in numbered}) == len(lines):
        return dict(enumerate(row.name for row in numbered))
    if rows and all(row.colour for row in rows):
        return dict(enumerate(row.name for row in rows))
    return dict(enumerate(line.strip(",:; ") for line in lines))


def _numbered(lines: list[str]) -> list[ClassRow]:
    """Rows by the numbers that all lines begin with, if these rise: names may begin so, too."""
    found = [match for line in lines if (match := _NUMBERED.match(line))]
    rows = [ClassRow(match[2].strip(), int(match[1])) for match in found]
    rises = all(one.value < other.value for one, other in itertools.pairwise(rows))
    return rows if len(rows) == len(lines) and rises else []


def _lines(listing: Listing, name: str) -> list[str]:
    """Without empty lines and comments."""
    return [line for line in listing.lines(name) if line and not line.startswith("#")]


def find_class_table(listing: Listing) -> tuple[str, list[ClassRow]] | None:
    """The first file of ``NAMES`` that names classes, the least deep one."""
    for name in sorted(listing.named(*NAMES), key=lambda one: one.count("/")):
        try:
            rows = read_class_table(listing, name)
        except UserError:
            if name.endswith(".json"):  # of something else
                continue
            raise
        if rows:
            return name, rows
    return None


def _row(line: str) -> ClassRow:
    if match := _COLOUR_LAST.match(line):
        return ClassRow(match[1].strip(), None, _colour(match.groups()[1:]))
    if match := _COLOUR_FIRST.match(line):
        return ClassRow(match[4].strip(), None, _colour(match.groups()[:3]))
    if match := _NUMBER_FIRST.match(line):
        return ClassRow(match[2].strip(), int(match[1]))
    if match := _NUMBER_LAST.match(line):
        return ClassRow(match[1].strip(), int(match[2]))
    return ClassRow(line.strip(",:; "))


def _colour(values: Any) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"{[red, green, blue]} is no colour")
    return red, green, blue


def _from_data(content: Any) -> list[ClassRow]:
    """``[name, ...]``, ``{number: name}``, ``{name: number or colour}``, or rows with these."""
    if isinstance(content, dict):
        for key in ("names", "classes", "labels", "categories"):
            if isinstance(content.get(key), list | dict):
                return _from_data(content[key])
        pairs = [(str(key), value) for key, value in content.items()]
        if all(key.isdecimal() and isinstance(value, str) for key, value in pairs):
            return [ClassRow(value, int(key)) for key, value in pairs]
        if all(isinstance(value, int) for _, value in pairs):
            return [ClassRow(key, value) for key, value in pairs]
        return [ClassRow(key, None, _colour(value)) for key, value in pairs]
    rows = []
    for one in content:
        if isinstance(one, dict):
            value = next((one[key] for key in ("id", "value", "index") if key in one), None)
            colour = next((one[key] for key in ("color", "colour", "rgb") if key in one), None)
            rows.append(ClassRow(str(one["name"]), value, _colour(colour) if colour else None))
        else:
            rows.append(ClassRow(str(one)))
    return rows
