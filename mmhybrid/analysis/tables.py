"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def giga(value: float) -> str:
    """In 10^9, e.g. ``'1.77 G'``."""
    return f"{value / 1e9:.4g} G"


def mega(value: float) -> str:
    """In 10^6, e.g. ``'12.8 M'``."""
    return f"{value / 1e6:.4g} M"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table, its columns aligned; figures to the right."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    widths = [max(width, 3) for width in widths]
    right = [
        bool(cells) and all(row[i] in ("", "-") or row[i][0].isdigit() for row in cells)
        for i in range(len(head))
    ]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (width - 1) + ":" if to_right else "-" * width
        for width, to_right in zip(widths, right, strict=True)
    ]
    return [line(head), line(rule), *map(line, cells)]
