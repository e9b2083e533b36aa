"""Counting, timing and what tables are made of."""

from mmhybrid.analysis.counting import Count, ModuleCount, count

__all__ = ["Count", "ModuleCount", "count"]
