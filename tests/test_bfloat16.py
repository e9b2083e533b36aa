"""Training in bfloat16 on a CPU."""

import pytest
import torch
from mmengine.config import Config

from mmhybrid.engine.runner.prepare_config import with_bfloat16
from mmhybrid.errors import UserError


@pytest.mark.train
def test_losses_are_near_those_of_float32(toy_config: Config, train) -> None:
    toy_config.randomness = dict(seed=0)
    losses = []
    for cfg in (toy_config, with_bfloat16(toy_config)):
        cfg = cfg.copy()
        cfg.work_dir += str(len(losses))
        runner = train(cfg)
        losses.append(torch.tensor(runner.message_hub.get_scalar("train/loss").data[0]))
        assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
    exact, found = losses
    assert not torch.equal(exact, found)  # it was in bfloat16
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.05)


def test_what_a_gpu_would_be_given_is_left_out() -> None:
    optimizer = dict(type="AdamW")
    given = dict(type="AmpOptimWrapper", dtype="float16", loss_scale=2.0, optimizer=optimizer)
    cfg = with_bfloat16(Config(dict(optim_wrapper=given)))
    expected = dict(type="mmhybrid.Bfloat16OptimWrapper", optimizer=optimizer)
    assert cfg.optim_wrapper == expected
    assert (
        with_bfloat16(with_bfloat16(Config(dict(optim_wrapper=given)))).optim_wrapper.to_dict()
        == expected
    )
    with pytest.raises(UserError, match="--amp works with type='OptimWrapper'"):
        with_bfloat16(Config(dict(optim_wrapper=dict(type="ApexOptimWrapper"))))
