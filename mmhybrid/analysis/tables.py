"""Tables in Markdown."""

from collections.abc import Iterable, Sequence

from prettytable import PrettyTable, TableStyle


def markdown_table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, figures to the right. No two columns have the same title."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    table = PrettyTable([str(title).replace("|", "\\|") for title in head])
    table.set_style(TableStyle.MARKDOWN)
    table.add_rows(cells)
    for i, name in enumerate(table.field_names):
        figures = cells and all(row[i] in ("", "-") or row[i][0].isdigit() for row in cells)
        table.align[name] = "r" if figures else "l"
    return table.get_string()
