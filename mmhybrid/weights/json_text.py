"""JSON that keeps tuples, in which configs have their sizes."""

import json
from typing import Any

TUPLE = "()"  # the one key of the object that stands for a tuple


def dumps(value: Any) -> str:
    """Dicts with text as keys, lists, tuples, text and numbers as JSON.

    Example:
        >>> dumps({"scale": (4, 3)})
        '{"scale": {"()": [4, 3]}}'
    """
    return json.dumps(_tagged(value), ensure_ascii=False)


def loads(text: str) -> Any:
    """What :func:`dumps` was given.

    Example:
        >>> loads('{"scale": {"()": [4, 3]}}')
        {'scale': (4, 3)}
    """
    return json.loads(text, object_hook=lambda one: tuple(one[TUPLE]) if [*one] == [TUPLE] else one)


def _tagged(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tagged(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        items = [_tagged(one) for one in value]
        return {TUPLE: items} if isinstance(value, tuple) else items
    return value
