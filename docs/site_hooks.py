"""What MkDocs does beyond turning Markdown into pages."""

import logging
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

ROOT = Path(__file__).resolve().parents[1]
log = logging.getLogger("mkdocs.hooks.site_hooks")


def on_post_build(config: MkDocsConfig) -> None:
    """Add the leaderboard with charts, where what mmhybrid needs is installed."""
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.leaderboard import leaderboard
        from benchmarks.leaderboard_page import to_html
        from benchmarks.model_index import read_costs
        from benchmarks.results import read_results, with_published
    except ModuleNotFoundError as error:
        log.info("The site gets no leaderboard.html: %s", error)
        return
    finally:
        sys.path.remove(str(ROOT))
    board = leaderboard(with_published(read_results([ROOT / "results"])), read_costs(ROOT))
    Path(config.site_dir, "leaderboard.html").write_text(to_html(board), encoding="utf-8")
