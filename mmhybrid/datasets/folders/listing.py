"""The files of a folder: found once, looked up by name, read with care."""

import itertools
import json
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import yaml

from mmhybrid.datasets.folders.problems import Notes
from mmhybrid.datasets.folders.records import ABOUT
from mmhybrid.errors import UserError

IMAGE_SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".jfif",
}
# Of images that OpenCV does not read everywhere.
UNREAD_SUFFIXES = {".heic", ".heif", ".gif", ".avif", ".jp2", ".dng", ".cr2", ".nef", ".arw"}
_SPLIT = re.compile(
    r"(?<![a-z])(train(?:ing)?|val(?:id(?:ation)?)?|dev|test(?:ing)?)(?:set)?(?![a-z])"
)


def split_named(word: str) -> str | None:
    """``"train"`` for ``instances_train2017``, ``"val"`` for ``valid``, None for ``trainval``."""
    words = _SPLIT.findall(re.sub(r"annots?$", "", word.lower()))
    return {"tr": "train", "te": "test"}.get(words[-1][:2], "val") if words else None


def split_of(name: str) -> str | None:
    """The split that a path tells, from the file's own name up."""
    parts = name.rpartition(".")[0].split("/") if "." in name.split("/")[-1] else name.split("/")
    return next((split for part in reversed(parts) if (split := split_named(part))), None)


def folder_split(name: str) -> str | None:
    """The split that the folders of a path tell: an image may be called ``test_1.jpg``."""
    return split_of(posixpath.dirname(name)) if "/" in name else None


def stem(name: str) -> str:
    """Name without folders and extension, alike for every way to write an accent."""
    return unicodedata.normalize("NFC", posixpath.splitext(posixpath.basename(name))[0]).lower()


def decoded(content: bytes) -> str:
    """Text in UTF-8, with or without a byte order mark, or in UTF-16 or Latin-1."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


class _YamlLoader(yaml.SafeLoader):
    """Leaves ``no`` and ``yes`` texts, which are names of classes."""

    yaml_implicit_resolvers: ClassVar = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:bool"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class Listing:
    """All files below a folder but hidden ones and those of work folders; links are followed.

    Args:
        root (str | Path): The folder.
        notes (Notes): Where problems of files are noted.
    """

    def __init__(self, root: str | Path, notes: Notes) -> None:
        self.root, self.notes = Path(root).resolve(), notes
        if not self.root.is_dir():
            raise UserError(f"{root} is not a folder")
        self.empty_folders: list[str] = []
        self.bad_names: list[str] = []
        self.dead_links: list[str] = []
        self.files = sorted(self._walk())
        self.known = set(self.files)
        self.folders = {parent for name in self.files for parent in _parents(name)}
        self.images = [name for name in self.files if _suffix(name) in IMAGE_SUFFIXES]
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        self.by_place: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for name in self.images:
            self.by_stem[stem(name)].append(name)
            self.by_place[(stem(name), *name.split("/")[-2:-1])].append(name)

    def _walk(self) -> Iterable[str]:
        waiting, seen = [(self.root, "")], set()
        while waiting:
            folder, name = waiting.pop()
            status = os.stat(folder)
            # A work folder has copies, and images of its own.
            if (status.st_dev, status.st_ino) in seen or (name and (folder / ABOUT).exists()):
                continue
            seen.add((status.st_dev, status.st_ino))
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                raise UserError(f"{folder} cannot be read: {error.strerror}") from error
            if not entries and name:
                self.empty_folders.append(name.rstrip("/"))
            for entry in entries:
                if entry.name.startswith(".") or entry.name in ("__MACOSX", "@eaDir"):
                    continue
                if entry.is_symlink() and not os.path.exists(entry.path):  # or to itself
                    self.dead_links.append(ascii(name + entry.name)[1:-1])
                elif entry.is_dir():
                    waiting.append((Path(entry.path), f"{name}{entry.name}/"))
                elif entry.is_file() and _is_text(entry.name):
                    yield name + entry.name
                elif entry.is_file():
                    self.bad_names.append(ascii(entry.name))

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Files with one of the extensions, in whatever case."""
        return [name for name in self.files if _suffix(name) in suffixes]

    def named(self, *names: str) -> list[str]:
        """Files of one of these names (lower case), the least deep first."""
        found = [one for one in self.files if posixpath.basename(one).lower() in names]
        return sorted(found, key=lambda one: (one.count("/"), one))

    def find(self, name: str, near: str = "") -> str | None:
        """The image that a label file beside ``near`` calls ``name``.

        It is looked for from the label file up, then wherever a name ends alike. A name with a
        folder of another machine is found too, and nothing outside of the root ever is, nor what
        lies in a folder of another split than the name, or else ``near``, tells.
        """
        name = str(name).replace("\\", "/").removeprefix("file://")
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        for base in _parents(near):
            for folder in (base, posixpath.join(base, "images")):
                path = posixpath.join(folder, *parts) if parts else ""
                if path in self.known and _suffix(path) in IMAGE_SUFFIXES:
                    return path
        by_name = self.by_stem.get(stem(name)) or self.by_stem.get(stem(f"{name}.x"), [])
        told = folder_split("/".join(parts)) or _only_split(near)
        fitting = [one for one in by_name if told in (None, folder_split(one) or told)]
        return self._best(fitting, parts, near, name)

    def _best(self, found: list[str], parts: list[str], near: str, name: str) -> str | None:
        """Of files with one stem: the one with most in common with the name, then the split."""

        def rank(one: str) -> tuple[int, bool, bool, int]:
            same_suffix = _suffix(one) == _suffix(name)
            same_split = folder_split(one) == split_of(near)
            beside = len(os.path.commonpath([one, near]) if near else "")
            return _alike(one.split("/")[:-1], parts[:-1]), same_suffix, same_split, beside

        best = sorted(found, key=rank)[-2:]
        if len(best) == 2 and rank(best[0]) == rank(best[1]):
            self.notes.add("ambiguous-image", name)
            return None
        return best[-1] if best else None

    def place(self, entry: str, bases: Iterable[str]) -> str | None:
        """The file or folder that a path of another machine means: its longest end that exists."""
        parts = [
            part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")
        ]
        for start in range(max(1, len(parts))):
            if split_of("/".join(parts[start:])) != split_of("/".join(parts)):
                break  # test/images is not images
            for base in bases:
                path = posixpath.join(base, *parts[start:]).rstrip("/")
                if path in self.known or path in self.folders:
                    return path
        return None

    def text(self, name: str) -> str:
        """A text file, in whatever encoding."""
        content = (self.root / name).read_bytes()
        if content.startswith(b"\xef\xbb\xbf") or b"\r\n" in content[:10000]:
            self.notes.add("windows-text", name)
        return decoded(content)

    def lines(self, name: str) -> list[str]:
        return [line.strip() for line in self.text(name).splitlines()]

    def json(self, name: str) -> Any:
        """Raises ``ValueError`` with file, line and column."""
        try:
            return json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}: {error}") from error

    def yaml(self, name: str) -> Any:
        """Raises ``ValueError`` with file and line; no tag of the file makes an object."""
        try:
            return yaml.load(self.text(name), _YamlLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ValueError(f"{name}: {' '.join(str(error).split())}") from error

    def xml(self, name: str) -> ElementTree.Element:
        """Raises ``ValueError`` with file and line; a file that declares entities is refused."""
        text = self.text(name)
        if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
            raise ValueError(f"{name}: declares a document type or entities, which is refused")
        try:
            return ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
        except (ElementTree.ParseError, ValueError, RecursionError) as error:
            raise ValueError(f"{name}: {error}") from error

    def split_lists(self, part: str = "") -> dict[str, str]:
        """Lists such as ``ImageSets/Main/train.txt``: split by image, masks among them, by list.

        ``part`` is what the list's path must have. Lists whose lines are no images do not count.
        """
        splits: dict[str, str] = {}
        for name in self.with_suffix(".txt", ".lst"):
            word = stem(name)
            if part not in name or word not in ("train", "val", "valid", "test", "trainval"):
                continue
            for one in (one for line in self.lines(name) if line for one in self._of_line(line)):
                if not (word == "trainval" and one in splits):
                    splits[one] = split_named(word.removesuffix("val") or word) or "train"
        return splits

    def _of_line(self, line: str) -> list[str]:
        """The images of a name that a line gives, of those the ones whose folders fit best."""
        if "/" in line and line in self.known and _suffix(line) in IMAGE_SUFFIXES:
            return [line]
        best, most = [], -1
        for word in (line, line.split()[0]):
            *folders, base = [part for part in re.split(r"[/\\]", word) if part] or [word]
            for key in (stem(base), unicodedata.normalize("NFC", base).lower()):
                # Those in a folder of this name alone, not all of a stem, which may be many.
                near = self.by_place.get((key, *folders[-1:])) if folders else None
                near = near or self.by_stem.get(key, [])
                alike = {one: _alike(one.split("/")[:-1], folders) for one in near}
                if max(alike.values(), default=-1) > most:
                    most = max(alike.values())
                    best = [one for one, number in alike.items() if number == most]
        return best


def _only_split(name: str) -> str | None:
    """The split of a path that tells no other: ``train_val.json`` may list images of both."""
    found = {split_named(word[0]) for word in _SPLIT.finditer(name.lower())}
    return found.pop() if len(found) == 1 else None


def _is_text(name: str) -> bool:
    """Whether a name can stand on a line of a list."""
    return not set(name) & {"\n", "\r"} and name == name.encode("utf-8", "ignore").decode()


def _alike(folders: list[str], others: list[str]) -> int:
    """How many folders two paths have in common at their ends."""
    pairs = zip(reversed(folders), reversed(others), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _parents(name: str) -> list[str]:
    """``["a/b", "a", ""]`` for ``a/b/c.txt``."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:end]) for end in range(len(parts), -1, -1)]
