"""Small data sets, drawn in the very format that a config reads: one file a format."""

from mmhybrid.engine.sample_data.draw import draw_data

__all__ = ["draw_data"]
