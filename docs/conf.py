"""The documentation as a site, by Sphinx: ``make docs`` builds it into docs/_build/html."""

import logging
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
log = logging.getLogger(__name__)

project = html_title = "mmhybrid"
extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_css_files = ["site.css"]
html_static_path = ["_static"]
html_show_copyright = html_copy_source = False
# Of `make links`; doi.org and image-net.org refuse programs.
linkcheck_ignore = [r"https?://doi\.org/", r"https?://image-net\.org", r"http://10\."]


def link_charts(app: Sphinx, page: str, source: list[str]) -> None:
    """Link the leaderboard to its page with charts, which only the site has."""
    if page == "leaderboard":
        source[0] = source[0].replace("`leaderboard.html`", "<a href='charts.html'>a page</a>")


def write_charts(app: Sphinx, error: Exception | None) -> None:
    """Add the leaderboard with charts, where what mmhybrid needs is installed."""
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.leaderboard import leaderboard
        from benchmarks.leaderboard_page import to_html
        from benchmarks.model_index import read_costs
        from benchmarks.results import read_results, with_published
    except ModuleNotFoundError as error:
        log.info("The site gets no charts.html: %s", error)
        return
    finally:
        sys.path.remove(str(ROOT))
    board = leaderboard(with_published(read_results([ROOT / "results"])), read_costs(ROOT))
    Path(app.outdir, "charts.html").write_text(to_html(board), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", link_charts)
    app.connect("build-finished", write_charts)
