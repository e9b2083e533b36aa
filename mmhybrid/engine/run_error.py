"""The old name of :mod:`mmhybrid.errors`, which goes in version 0.3."""

from mmhybrid.errors import UserError as RunError  # noqa: F401
