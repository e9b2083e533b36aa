"""The old name of :mod:`mmhybrid.engine.hooks.durable_checkpoint_hook`, until version 0.3."""

from mmhybrid.engine.hooks.durable_checkpoint_hook import *  # noqa: F403
