"""The leaderboard as a page: it sorts, shows charts and fits, in a browser."""

from pathlib import Path

from benchmarks import leaderboard
from benchmarks.leaderboard_page import scatter, to_html
from benchmarks.model_index import read_costs
from benchmarks.results import read_results

COLUMNS = {"model": None, "method": None, "top-1/paper": 1, "top-1/trained": 1}
ROWS = [
    {"model": "Ours-T", "ours": True, "top-1/paper": 81.6, "top-1/trained": 81.0},
    {"model": "Swin-T", "method": "by its authors", "top-1/paper": 81.3},
    {"model": "ConvNeXt-T", "method": "", "top-1/paper": 82.1},
]
POINTS = [
    dict(model="Ours-T", method="", value=81.6, ours=True, flops=1.8, latency=300, memory=9),
    dict(model="Swin-T", method="<b>", value=81.3, ours=False, latency=400, memory=7),
    dict(model="ConvNeXt-T", method="", value=82.1, ours=False, latency=200, memory=8),
]
TABLE = dict(title="ImageNet-1K", note="In per cent.", rows=ROWS)
TABLE["columns"] = [dict(key=key, title=key, digits=digits) for key, digits in COLUMNS.items()]
BOARD = dict(tables=[TABLE], origins=["table </script> 1"])
BOARD["points"] = [dict(point, series="ImageNet-1K, top-1") for point in POINTS]


def test_a_chart_names_its_points() -> None:
    svg = scatter(POINTS, "latency")
    assert svg.count('<g class="point">') == 3
    assert "<title>Swin-T, &lt;b&gt;: 81.3 at 400</title>" in svg
    assert all(f">{point['model']}</text>" in svg for point in POINTS)
    assert scatter(POINTS[1:], "flops") == ""
    crowd = [dict(POINTS[0], latency=300 + one / 100) for one in range(20)]
    assert 0 < scatter(crowd, "latency").count(">Ours-T</text>") < 20  # none over another


def test_page_sorts_and_charts(page) -> None:
    page.set_content(to_html(BOARD))
    table = page.locator("table").first

    def press(column: int) -> list[str]:
        table.locator("th button").nth(column).click()
        return table.locator("tbody td:first-child").all_text_contents()

    assert press(2) == ["ConvNeXt-T", "Ours-T", "Swin-T"]  # top-1: the largest first
    assert press(2) == ["Swin-T", "Ours-T", "ConvNeXt-T"]
    assert table.locator("th").nth(2).get_attribute("aria-sort") == "ascending"
    assert press(3)[0] == press(3)[0] == "Ours-T"  # what has no figure comes last either way
    assert press(0) == ["ConvNeXt-T", "Ours-T", "Swin-T"]
    assert table.locator(".best").all_text_contents() == ["82.1", "81.0"]
    assert table.locator(".ours td:first-child").all_text_contents() == ["Ours-T"]

    charts = page.locator("details").first.locator("svg")
    points = [chart.locator(".point title").all_text_contents() for chart in charts.all()]
    assert [len(titles) for titles in points] == [1, 3, 3]
    assert points[1][1] == "Swin-T, <b>: 81.3 at 400"
    for chart in charts.all():
        assert 200 < chart.bounding_box()["width"] < page.viewport_size["width"]
        assert chart.get_by_text("Ours-T", exact=True).count() == 1
    assert "</script>" in page.locator("ol").text_content()


def test_page_of_what_the_project_publishes(page, root: Path) -> None:
    board = leaderboard.leaderboard(read_results([root / "results"]), read_costs(root))
    page.set_content(to_html(board))
    assert page.locator("table").count() == len(board["tables"]) >= 7
    assert page.locator("ol li").count() == len(board["origins"])
    for series in page.locator("details").all():
        if series.get_attribute("open") is None:
            series.locator("summary").click()
        assert series.locator(".point").first.is_visible()
        assert page.locator("details[open]").count() == 1
