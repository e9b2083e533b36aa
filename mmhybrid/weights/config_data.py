"""A config that a file holds, taken as data: nothing of it is executed.

MMEngine saves a config as a text of Python and reads it back by executing that. What it writes are
names with texts, numbers and containers, and those are read here. What a config asks for is done
later, when its parts are built: so its types must be registered classes, of modules only
OpenMMLab's and this package's are imported, no file of pickles is named, and where something is to
be written is left to the program.
"""

import ast
import importlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.registry import Registry

from mmhybrid.registry import type_name
from mmhybrid.weights.errors import UnsafeCheckpointError

PACKAGES = ("mmdet", "mmseg", "mmpretrain")
IMPORTED = (*PACKAGES, "mmhybrid", "mmengine", "mmcv")
TYPE_KEYS = ("type", "runner_type", "constructor")  # what names a class
# Registered classes that evaluate a text among their arguments.
EVALUATING = ("RFSearchHook", "CameraMotionCompensation")
# Where classes of OpenMMLab's write to.
OUTPUTS = (
    *("out_dir", "out_file", "out_file_path", "outfile_prefix", "output_dir", "save_dir"),
    *("show_dir", "test_out_dir", "queue_path", "tmpdir", "collect_dir", "format_dir"),
    *("dir_name", "json_trace_path", "log_dir", "work_dir"),
)
PICKLES = (".pkl", ".pickle")
LONGEST_TEXT = 2**20  # characters


def config_from_text(text: Any, source: str) -> dict[str, Any]:
    """The config that MMEngine has written as a text.

    Raises:
        UnsafeCheckpointError: It is more than names with texts, numbers, lists and dictionaries.

    Example:
        >>> config_from_text("model = dict(type='XFormer', out_indices=(0, 3))", 'a.pth')
        {'model': {'type': 'XFormer', 'out_indices': (0, 3)}}
    """
    reason = "more than names and values"
    try:
        if not isinstance(text, str) or len(text) > LONGEST_TEXT:
            raise ValueError(f"no text of at most {LONGEST_TEXT} characters")
        config = {}
        for line in ast.parse(text).body:
            if isinstance(line, ast.Assign) and [type(one) for one in line.targets] == [ast.Name]:
                config[line.targets[0].id] = _value(line.value)
            elif not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)):
                raise ValueError(f"line {line.lineno} is a statement")
        return config
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = f"{reason} ({str(error)[:80] or type(error).__name__})"
    raise UnsafeCheckpointError(
        f"the config in {source} holds {reason}. It was not executed: give the config as a file"
    )


def _value(node: ast.expr) -> Any:
    is_dict = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict"
    if is_dict and not node.args and all(one.arg for one in node.keywords):
        return {one.arg: _value(one.value) for one in node.keywords}
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.literal_eval(key): _value(value) for key, value in pairs}
    if isinstance(node, ast.List | ast.Tuple):
        made = [_value(one) for one in node.elts]
        return made if isinstance(node, ast.List) else tuple(made)
    if isinstance(node, ast.Constant | ast.UnaryOp | ast.Set):
        return ast.literal_eval(node)
    raise ValueError(f"line {node.lineno} is no value")


def checked_config(config: dict[str, Any], imports: Iterable[Any] = ()) -> dict[str, Any]:
    """The same config, without places to write to.

    Raises:
        ImportError: It would import or run more than registered classes.
    """
    _import(imports, scopes_of(config))
    _check_values(config)
    return _without_outputs(config)


def _nodes(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a config with its value, at any depth."""
    values = node.items() if isinstance(node, dict) else ((("", one)) for one in node)
    for key, value in values:
        yield key, value
        if isinstance(value, dict | list | tuple):
            yield from _nodes(value)


def scopes_of(config: dict[str, Any]) -> set[str]:
    """The packages whose registries the types are looked up in."""
    nodes = [(key, str(value)) for key, value in _nodes(config) if value]
    scopes = {value for key, value in nodes if key in ("default_scope", "_scope_")}
    return scopes | {v.partition(".")[0] for key, v in nodes if key in TYPE_KEYS and "." in v}


def _import(modules: Iterable[Any], scopes: set[str]) -> None:
    """Imports OpenMMLab's modules and ours; ImportError for others, unless they are there."""
    for name in map(str, (*modules, *scopes)):
        if name not in sys.modules and name.partition(".")[0] not in IMPORTED:
            raise ImportError(f"asks for the module {name}, which no checkpoint may import")
    for name in modules:
        if name not in sys.modules:
            importlib.import_module(name)
    for scope in scopes.intersection((*PACKAGES, "mmhybrid")):
        importlib.import_module(f"{scope}.registry")
        for registry in registries():
            if registry.scope == scope:
                registry.import_from_location()


def _check_values(config: dict[str, Any]) -> None:
    """MMEngine would import a type that is not registered, and mmcv evaluates the name of NMS.

    MMEngine unpickles what it is told to load, where the name says that it is a pickle.
    """
    import mmcv.ops

    for key, value in _nodes(config):
        if key in TYPE_KEYS and value is not None:
            known = isinstance(value, str) and (is_registered(value) or hasattr(mmcv.ops, value))
            if not known or type_name(value) in EVALUATING:
                raise ImportError(f"asks for {value!r}, which is no registered class that it may")
        if key == "trust_remote_code" and value:
            raise ImportError("asks for code of others")
        if isinstance(value, str) and (value.lower().endswith(PICKLES) or value == "pickle"):
            raise ImportError(f"asks for the pickle {value[-80:]!r}, which may run anything")
        if key == "dtype" and not str(value).isidentifier():
            raise ImportError(f"has dtype={value!r}, which is no type of numbers")


def _without_outputs(node: Any) -> Any:
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key not in OUTPUTS}
        return {key: _without_outputs(value) for key, value in kept.items()}
    if isinstance(node, list | tuple):
        return type(node)(map(_without_outputs, node))
    return node


def registries() -> list[Registry]:
    """MMEngine's registries with their children, and those that a package has besides."""
    modules = [sys.modules.get(f"{name}.registry") for name in ("mmengine", *PACKAGES)]
    found = [one for module in modules if module for one in vars(module).values()]
    found = [one for one in found if isinstance(one, Registry)]
    for registry in found:  # which grows
        found += [child for child in registry.children.values() if child not in found]
    return found


def is_registered(name: str) -> bool:
    """Whether a registry has the class, with or without a scope, which inherits its parent's."""
    known = registries()
    scope, _, rest = name.partition(".")
    if rest and scope in {one.scope for one in known}:
        name = rest
    return any(name in one.module_dict for one in known)
