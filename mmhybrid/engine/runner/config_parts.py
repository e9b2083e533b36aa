"""The one walk over all of a config, for whoever looks for arguments in it."""

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, Registry

from mmhybrid.registry import type_name, type_of


class Part(NamedTuple):
    """A dictionary somewhere in a config.

    Attributes:
        path: Keys that lead to it; those of lists are numbers.
        node: The dictionary itself, which may be changed.
        scope: The package that its ``type`` is looked for in: of the ``_scope_`` of the closest
            dictionary around it, or else the config's ``default_scope``.
        around: Names of the types of the dictionaries around it, the outermost first.
    """

    path: tuple[str | int, ...]
    node: dict[str, Any]
    scope: str | None
    around: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The path as a reader writes it: ``model.roi_head.bbox_head[0]``."""
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return "".join(steps).removeprefix(".")

    @property
    def key(self) -> str:
        """The last key of the path that is a name."""
        return next((step for step in reversed(self.path) if isinstance(step, str)), "")

    @property
    def given(self) -> dict[str, Any]:
        """The arguments, with those that a partial as the ``type`` gives."""
        made = self.node.get("type")
        return (made.keywords if isinstance(made, partial) else {}) | self.node

    def found(self, registry: Registry = MODELS) -> Any:
        """The class of the ``type``, from a name, a class, or a partial; None if there is none."""
        return type_of(self.node, registry, self.scope) if self.node.get("type") else None

    def bases(self) -> set[str]:
        """Names of the model class and of all that it derives from."""
        return {base.__name__ for base in getattr(self.found(), "__mro__", ())}


def parts_of(cfg: Config) -> Iterator[Part]:
    """Yields every dictionary of a config, those around first, at any depth and in lists.

    What is yielded may be changed: what stands in it then is what is walked next.
    """
    yield from _parts(Part((), cfg._cfg_dict, cfg.get("default_scope")))


def _parts(part: Part) -> Iterator[Part]:
    path, node, scope, around = part
    if isinstance(node, dict):
        scope = node.get("_scope_", scope)
        yield Part(path, node, scope, around)
        around = (*around, type_name(node))
        children = list(node.items())
    else:
        children = list(enumerate(node))
    for key, child in children:
        if isinstance(child, dict | list | tuple):
            yield from _parts(Part((*path, key), child, scope, around))


def arguments_of(found: Any) -> tuple[dict[str, Any], bool]:
    """Arguments of a constructor or function with their defaults, and whether it takes others.

    ``inspect.Parameter.empty`` where there is no default. What a constructor hands on as
    ``**kwargs`` are the arguments of the next one.
    """
    defaults: dict[str, Any] = {}
    lists = _parameters(found)
    for p in (p for parameters in lists for p in parameters):
        if p.name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            defaults.setdefault(p.name, p.default)
    return defaults, bool(lists) and _hands_on(lists[0])


def ends_closed(found: Any) -> bool:
    """Whether the last of the constructors that ``**kwargs`` reach takes no others."""
    lists = _parameters(found)
    return bool(lists) and not _hands_on(lists[-1])


def _parameters(found: Any) -> list[list[inspect.Parameter]]:
    """The parameters of a function, or of a constructor and of those that it hands on to."""
    lists = []
    for one in found.__mro__ if inspect.isclass(found) else [found]:
        function = vars(one).get("__init__") if inspect.isclass(found) else one
        if function is None or one in (object, torch.nn.Module):
            continue
        lists.append(list(inspect.signature(function).parameters.values()))
        if not _hands_on(lists[-1]):
            break  # what is left over would have gone to the next constructor
    return lists


def _hands_on(parameters: list[inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters)
