"""The documentation: links lead somewhere, files that it names exist, figures are measured ones."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
every_page = pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem
)

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
        linked = page.parent / path if path else page
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
    forward, training, *_ = tables((DOCS / "speed.md").read_text())
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


def test_tables_of_the_models_are_those_of_the_index() -> None:
    spec = importlib.util.spec_from_file_location("write_models", DOCS / "write_models.py")
    write_models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(write_models)
    for path in sorted(write_models.FOLDER.glob("*.md")):
        assert path.read_text() == write_models.page(path), "run: python docs/write_models.py"
    metafiles = (ROOT / "configs" / "metafiles").glob("*.yml")
    assert {one.stem for one in metafiles} == {one.stem for one in write_models.FOLDER.glob("*.md")}


QUESTIONS = {
    "own data": ("own_data.md", "tools/train.py configs/.* --data"),
    "other classes": ("fine_tuning.md#other-classes", "num_classes=2"),
    "few images": ("own_data.md#few-images", "EMA"),
    "CPU only": ("training.md#without-a-gpu", "--quick"),
    "no compiler": ("install.md#without-a-compiler", "mmcv-lite"),
    "ONNX": ("export.md", "tools/export.py"),
    "resume": ("recovery.md#resume", "--resume"),
    "out of memory": ("training.md#memory", "with_cp=True"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_most_users_ask_is_a_click_from_the_front_pages(question: str) -> None:
    target, answer = QUESTIONS[question]
    assert f"]({target})" in (DOCS / "index.md").read_text()
    assert f"](docs/{target})" in (ROOT / "README.md").read_text()
    path, _, anchor = target.partition("#")
    sections = re.split(r"^(?=##? )", (DOCS / path).read_text(), flags=re.MULTILINE)
    named = [one for one in sections if not anchor or anchor in anchors(one)]
    assert re.search(answer, "".join(named))


@pytest.mark.process
def test_the_site_builds_without_a_warning(run_python, tmp_path: Path) -> None:
    """Links within it included; `make links` asks for the addresses of others."""
    words = ["-q", "-W", "--keep-going", "-d", tmp_path / "cache"]
    run_python("-m", "sphinx", *words, DOCS, tmp_path / "site")
    page = (tmp_path / "site" / "leaderboard.html").read_text()
    assert "href='charts.html'" in page
    assert "<svg" in (tmp_path / "site" / "charts.html").read_text()
    assert (tmp_path / "site" / "searchindex.js").is_file()
