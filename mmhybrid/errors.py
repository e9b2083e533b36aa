"""How a run says that it cannot go on."""

import re

# What MMEngine puts before the message of an error in a constructor, once for each part around it.
_PLACE = re.compile(r"^(class `\w+` in \S+\.py: )+")


class UserError(Exception):
    """A run cannot start or go on; the message says why and what to do.

    The tools print the message alone, after ``error:``, and exit with 1. All other errors keep
    their traceback: they may be bugs.
    """

    def __init__(self, message: str) -> None:
        # PyTorch hands on what a worker of a data loader raised as a text with its traceback.
        name = f"{type(self).__module__}.{type(self).__qualname__}: "
        super().__init__(_PLACE.sub("", message.rpartition(name)[2].rstrip()))


class ArgumentError(UserError, ValueError):
    """An argument or a config value that cannot be used; the message says which are allowed."""
