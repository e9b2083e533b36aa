"""The table of whole models against OpenMMLab's inferencers."""

import json
from pathlib import Path

import pytest

from benchmarks import whole_models


def test_a_stopped_run_goes_on_where_it_was(monkeypatch, tmp_path: Path) -> None:
    measured = []

    def rows(name: str, place: Path, files: list[Path]) -> list[dict]:
        measured.append(name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        ours = dict(way="onnxruntime", images_a_second=4.0, times_as_fast=2.0, peak_mib=500.0)
        return [dict(way=whole_models.THEIRS, images_a_second=2.0, times_as_fast=1.0), ours]

    monkeypatch.setattr(whole_models, "_rows", rows)
    monkeypatch.setattr(whole_models, "_exported", lambda name, place, image: place)
    for folder in whole_models.MODELS.values():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "a.jpg").touch()
    places = (tmp_path, tmp_path / "out", tmp_path / "graphs", dict(threads=2))
    (tmp_path / "out").mkdir()
    first, second, third = whole_models.MODELS
    with pytest.raises(KeyboardInterrupt):
        whole_models.measure_whole(*places)
    page = whole_models.measure_whole(*places)
    assert measured == [first, second, second, third]
    results = json.loads((tmp_path / "out" / "whole_models.json").read_text())
    assert list(results["models"]) == [first, second, third]
    assert page == (tmp_path / "out" / "whole_models.md").read_text()
    table = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row] for row in table]
    assert cells[3] == [first, "onnxruntime", "4.00", "2.00", "500"]
