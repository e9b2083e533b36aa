"""Public names are documented and typed, their examples run, and docs/api.md lists them all."""

import doctest
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import pkgutil
import runpy
from dataclasses import is_dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.logging import MMLogger

import mmhybrid

ROOT = Path(__file__).resolve().parents[1]
write_api = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "write_api.py")))

PUBLIC = {
    f"{module}.{name}": thing
    for module in write_api.MODULES
    for name, thing in write_api.public(module)
}
OURS = {name: thing for name, thing in PUBLIC.items() if thing.__module__.startswith("mmhybrid")}
every_name = pytest.mark.parametrize("name", OURS)


def functions(thing: object) -> dict[str, object]:
    """A function, or the constructor, methods and properties that a class itself defines."""
    if not inspect.isclass(thing):
        return {thing.__name__: thing}
    return {
        name: value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        for name, value in vars(thing).items()
        if (name == "__init__" or not name.startswith("_"))
        and isinstance(value, property | classmethod | staticmethod | type(lambda: None))
    }


def test_all_names_are_ours_and_sorted() -> None:
    assert OURS == PUBLIC
    for module in write_api.MODULES:
        names = importlib.import_module(module).__all__
        assert len(set(names)) == len(names)


@every_name
def test_has_a_docstring(name: str) -> None:
    # Not an inherited one, and not the one that Python gives to dataclasses.
    text = vars(OURS[name]).get("__doc__") if inspect.isclass(OURS[name]) else OURS[name].__doc__
    assert text, name
    assert not text.startswith(f"{OURS[name].__name__}("), name


@every_name
def test_is_typed(name: str) -> None:
    for function in functions(OURS[name]).values():
        signature = inspect.signature(function)
        annotations = {n: each.annotation for n, each in signature.parameters.items()}
        annotations["return"] = signature.return_annotation
        untyped = {n for n, each in annotations.items() if each is inspect.Parameter.empty}
        assert untyped <= {"self", "cls"}, f"{name}.{function.__name__}"


def test_the_page_lists_what_there_is() -> None:
    if importlib.metadata.packages_distributions()["mmengine"][0] != "mmengine":
        pytest.skip("written with mmengine, whose loops take other arguments than its fork's")
    assert write_api.PAGE.read_text() == write_api.page(), "run: python docs/write_api.py"


def modules_with_examples() -> list[str]:
    """Modules of the package in whose source a docstring has an example."""
    names = [info.name for info in pkgutil.walk_packages(mmhybrid.__path__, "mmhybrid.")]
    return [n for n in names if ">>> " in Path(importlib.util.find_spec(n).origin).read_text()]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MMLogger.get_current_instance(), "level", logging.ERROR)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=options)
    assert tried > 0
    assert failed == 0


def test_what_is_built_by_hand_has_an_example() -> None:
    """Configs build hooks, loops and samplers; results and errors come from what has an example."""
    by_others = ("Hook", "Loop", "BatchSampler", "Error", "HybridBackbone")
    without = [
        name
        for name, thing in OURS.items()
        if not (name.endswith(by_others) or is_dataclass(thing) or hasattr(thing, "_fields"))
        and ">>> " not in (thing.__doc__ or "")
    ]
    assert without == []
