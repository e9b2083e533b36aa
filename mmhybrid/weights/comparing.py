"""What of a checkpoint fits a model, under the model's names and in its shapes."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from mmhybrid.backbones.family import Backbone, is_backbone
from mmhybrid.weights.entries import in_full_precision, without_wrappers
from mmhybrid.weights.families import recognise
from mmhybrid.weights.matching import backbones_of, fit, match_names
from mmhybrid.weights.report import LoadReport
from mmhybrid.weights.rule import Refusal, Verdict, judge, modules, told_backbone


def compare(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    source: str = "the checkpoint",
    entry: str = "state_dict",
    ema: bool | None = None,
) -> tuple[LoadReport, dict[str, Tensor], Verdict]:
    """What would be loaded, the tensors by their names in the model, and what the rule says."""
    weights = in_full_precision(weights)
    target = {without_wrappers(key): tensor for key, tensor in model.state_dict().items()}
    backbones = backbones_of(model) or {"": model}
    report = LoadReport(source, entry, tensors=len(weights))
    names = match_names(weights, target, backbones, ema)
    ours = {new: weights[old] for new, old in names.items()}
    fitted = dict(ours)
    failed = []
    for prefix, backbone in backbones.items():
        if is_backbone(backbone):
            try:
                fitted = backbone.adapt_state_dict(dict(fitted), prefix)
            except (IndexError, RuntimeError, TypeError, ValueError) as error:
                reason = f"a tensor has a shape that cannot be adapted ({error})"
                failed.append(Refusal(told_backbone(backbone, prefix), reason, True))
    for key in fitted.keys() & target.keys():
        fitted[key] = fit(fitted[key], target[key])
    shapes = {
        key: (tuple(fitted[key].shape), tuple(own.shape))
        for key, own in target.items()
        if key in fitted
    }
    report.mismatched = {key: both for key, both in shapes.items() if both[0] != both[1]}
    verdict = judge(model, backbones, target, fitted, report.mismatched)
    verdict.refusals.extend(failed)

    report.left_out = verdict.left_out
    left_out = {key for key in fitted if key.startswith(tuple(f"{p}." for p in verdict.left_out))}
    allowed = set(verdict.new)
    report.new = [key for key in target if key in allowed]
    report.notes = verdict.notes
    report.mismatched = {k: both for k, both in report.mismatched.items() if k not in left_out}
    for key in target:
        if key not in fitted:
            report.missing_keys.extend([] if key in allowed else [key])
        elif key not in report.mismatched and key not in left_out:
            report.loaded.append(key)
            if key in ours and shapes[key][0] != tuple(ours[key].shape):
                report.adapted.append(key)
                report.adapted_from[key] = (tuple(ours[key].shape), shapes[key][1])
            if names.get(key, key) != key:
                report.renamed[key] = names[key]
    # What a backbone's adapt_state_dict takes out is used up, not unexpected; what it makes of it
    # and the model lacks has a name in the model alone.
    used = {
        old
        for new, old in names.items()
        if (new in target or new not in fitted) and new not in left_out
    }
    report.unexpected_keys = [old for old in weights if old not in used]
    report.unexpected_keys += [key for key in fitted if key not in ours and key not in target]
    verdict.refusals.extend(_lost(backbones, weights, report.unexpected_keys))
    return report, fitted, verdict


def _lost(
    backbones: Mapping[str, nn.Module], weights: Mapping[str, Tensor], left: list[str]
) -> list[Refusal]:
    """Of another class of ours than the backbone's, what that class alone has and the model not.

    Without it the backbone would compute something else, though it seems to be filled.
    """
    family = recognise(weights)
    if family is None or family.backbone is None or family.host:
        return []
    lost = [key for key in left if any(re.search(sign, key) for sign in family.signs)]
    named = ", ".join(modules(lost, weights.keys() - set(left)))
    return [
        Refusal(told_backbone(backbone, prefix), f"{named} of {family.name} have no place", True)
        for prefix, backbone in backbones.items()
        if lost and isinstance(backbone, Backbone) and not isinstance(backbone, family.backbone)
    ]
