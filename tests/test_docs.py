"""The documentation: links lead somewhere, files that it names exist, figures are measured ones."""

import json
import re
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

# Where a name in backticks with one of these beginnings is a file of the project.
FOLDERS = ["configs", "docs", "examples", "mmhybrid", "requirements", "results", "tests", "tools"]
# Of mmsegmentation's checkout, and this page says so.
ELSEWHERE = {"tools/dataset_converters/cityscapes.py"}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Those of the headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(text), flags=re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {re.sub(r"[ ]+", "-", heading.strip()) for heading in kept}


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = DOCS / path if path else page
        assert linked.is_file(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked.read_text()), f"{page.name} links to {target}"


@every_page
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"(?:tools|configs|examples)/[\w./-]+\.(?:py|sh)", text)
    named += re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", text)
    missing = [name for name in set(named) - ELSEWHERE if not (ROOT / name).exists()]
    assert missing == [], page.name


@every_page
def test_options_of_the_tools_exist(page: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    for name, rest in re.findall(r"python (tools/\w+\.py)([^\n`]*)", text):
        if name not in ELSEWHERE:
            used = set(re.findall(r"(?<![\w-])(--[a-z][\w-]*)", rest.split(" #")[0]))
            source = (ROOT / name).read_text() + (ROOT / "tools" / "command_line.py").read_text()
            known = {*re.findall(r'"(--[\w-]+)"', source), "--help"}
            assert used <= known, f"{page.name}: {name}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = re.findall(r"[\w]+\.md", json.dumps(navigation))
    assert sorted(listed) == [page.name for page in PAGES]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every table, row by row, without the rule under the head."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            found.append([row for row in rows if not set("".join(row)) <= set("-: ")])
            rows = []
    return found


def test_speeds_are_those_of_the_results() -> None:
    results = json.loads((ROOT / "results" / "speed.json").read_text())
    forward, training = tables((DOCS / "speed.md").read_text())
    measured = {
        (row["model"], row["size"]): f"{row['times_plain']:.1f}" for row in results["forward"]
    }
    (_, *sizes), *rows = forward
    shown = {
        (model, size): cell
        for model, *cells in rows
        for size, cell in zip(sizes, cells, strict=True)
        if cell
    }
    assert shown
    assert shown == {key: measured[key] for key in shown}
    measured = {row["model"]: row for row in results["training"]}
    for model, *shown in training[1:]:
        row = measured[model]
        assert shown == [f"{row[key]:.3g}" for key in ("times_plain", "memory_over_plain")]
    assert all(r["largest"] < 1e-14 for r in results["errors"] if r["precision"] == "float64")


def test_the_page_shows_the_very_example() -> None:
    page = (DOCS / "adding_a_backbone.md").read_text()
    for name in ("inception_next.py", "mask_rcnn_inception_next_t_coco.py"):
        assert f"```python\n{(ROOT / 'examples' / name).read_text()}```" in page, name


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True))
    assert (tmp_path / "site" / "index.html").is_file()
    assert "<svg" in (tmp_path / "site" / "leaderboard.html").read_text()
