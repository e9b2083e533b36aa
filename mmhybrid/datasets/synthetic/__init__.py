"""Small data sets, drawn in the very format that a config reads: one file a format."""

from mmhybrid.datasets.synthetic.draw import draw_data, drawn_classes

__all__ = ["draw_data", "drawn_classes"]
