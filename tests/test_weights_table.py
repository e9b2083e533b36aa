"""The table of what becomes of published files."""

import pytest

from benchmarks.weights import File, files, measure
from mmhybrid.weights import CheckpointError

pytest.importorskip("mmhybrid.weights.report", reason="reports do not count what is new yet")
SWIN = "DWSwinTransformer(arch={'embed_dims': 24, 'depths': (1, 1, 1, 1)})"


def test_a_row_counts_tensors_and_measures_the_difference() -> None:
    (row,) = measure([File("own", SWIN, dict, (SWIN,))])
    name, model, tensors, loaded, adapted, new, left_over, difference = row
    assert (name, model) == ("own", SWIN)
    assert tensors == loaded > 90
    assert (adapted, new, left_over, difference) == (0, 0, 0, "0.0e+00")


def test_a_file_that_a_model_does_not_take_is_an_error() -> None:
    def without_a_block(weights: dict) -> dict:
        return {k: v for k, v in weights.items() if not k.startswith("layers.1.blocks.0.")}

    with pytest.raises(CheckpointError, match="not there"):
        list(measure([File("own", SWIN, without_a_block, (SWIN,))]))


def test_every_type_of_file_is_in() -> None:
    names = [(file.name, model) for file in files() for model in file.models]
    assert len(set(names)) == len(names) > 50
