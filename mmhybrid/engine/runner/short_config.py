"""A finished config, written as what differs from the one that it was made of."""

from collections.abc import Mapping
from pathlib import Path
from pprint import pformat
from typing import Any

from mmengine.config import Config

# What a run has beside its config.
OF_THE_RUN = ("work_dir", "launcher")


def write_short_config(cfg: Config, base: str, path: str | Path) -> None:
    """Writes a config that inherits from ``base`` and is ``cfg``, but for its work folder.

    One in pure Python, from which no text can inherit, is written in full. Variables of the base
    that ``cfg`` has no longer stay: nothing reads them.

    Args:
        cfg (Config): Finished.
        base (str): File of the config that it was made of.
        path (str | Path): ``.py`` file to write.
    """
    path, before = Path(path), Config.fromfile(base)
    path.parent.mkdir(parents=True, exist_ok=True)
    if before._imported_names:  # what it imports as classes
        cfg.dump(path)
        return
    content = {key: value for key, value in cfg.to_dict().items() if key not in OF_THE_RUN}
    changed = _difference(before.to_dict(), content)
    changed = dict(_base_=str(Path(base).resolve()), **changed)
    style = dict(width=100, compact=True, sort_dicts=False)
    path.write_text("".join(f"{key} = {pformat(one, **style)}\n" for key, one in changed.items()))


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What MMEngine has to merge into ``old`` to get ``new``, the keys that only it has aside."""
    changed = {}
    for key, value in new.items():
        before = old.get(key)
        if key in old and before == value and type(before) is type(value):
            continue
        if not isinstance(value, Mapping) or key not in old:
            changed[key] = value
        elif isinstance(before, Mapping) and _set_keys(before) <= value.keys():
            changed[key] = _difference(before, value)
        else:
            changed[key] = dict(_delete_=True, **value)
    return changed


def _set_keys(node: Mapping[str, Any]) -> set[str]:
    """Without those of None, which mean the same as keys that are not there."""
    return {key for key, value in node.items() if value is not None}
