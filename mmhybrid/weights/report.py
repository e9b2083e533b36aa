"""What became of the tensors of a checkpoint."""

import warnings
from dataclasses import dataclass, field

from mmhybrid.weights.rule import modules

Mismatch = tuple[tuple[int, ...], tuple[int, ...]]

RENAMED = {"missing": "missing_keys", "left_over": "unexpected_keys"}  # of a report


@dataclass
class LoadReport:
    """What became of the tensors of a checkpoint and of a model.

    Names are those in the model, but for ``unexpected_keys``: those are in the file.

    Attributes:
        source: where the checkpoint came from.
        entry: the part of it that was taken, e.g. ``state_dict_ema``.
        renamed: for those loaded that have another name in the file, that name.
        adapted: what was resized or summed to fit.
        adapted_from: the shapes of these in the file.
        new: what stays as the model was made, by permission.
        missing_keys: what else is not there: counts, or all that ``allow_partial`` lets pass.
        unexpected_keys: what was left over.
        mismatched: the shapes in file and model of what does not fit.
        left_out: necks and heads that the file has others of; they stay new.
        notes: what is to be said of necks and heads.
        tensors: the number of tensors in the file.
    """

    source: str
    entry: str = "state_dict"
    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    adapted: list[str] = field(default_factory=list)
    adapted_from: dict[str, Mismatch] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    mismatched: dict[str, Mismatch] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tensors: int = 0

    def __str__(self) -> str:
        total = len({*self.loaded, *self.new, *self.missing_keys, *self.mismatched})
        numbers = (
            f"{len(self.adapted)} of them adapted, {len(self.new)} new by permission, "
            f"{len(self.missing_keys)} missing; {len(self.unexpected_keys)} of the file's "
            f"{self.tensors} tensors left over"
        )
        where = f"{self.entry} of {self.source}"
        lines = [f"loaded {len(self.loaded)} of {total} tensors from {where}: {numbers}"]
        shapes = [f"{key} {old} -> {new}" for key, (old, new) in self.adapted_from.items()]
        missing = [key for key in self.missing_keys if "num_batches" not in key]
        used = self.renamed.values()
        kept = {key for key in self.loaded if key not in self.renamed} | set(used)
        for what, told in (
            ("adapted in shape", shapes),
            ("new by permission", modules(self.new, self.loaded)),
            ("missing keys", modules(missing, self.loaded)),
            ("left over", modules(self.unexpected_keys, kept)),
        ):
            if told:
                more = f", ... ({len(told)} in all)" if len(told) > 9 else ""
                lines.append(f"{what}: {', '.join(told[:9])}{more}")
        lines.extend(self.notes)
        for key, (theirs, ours) in list(self.mismatched.items())[:8]:
            lines.append(f"does not fit: {key} is {theirs} in the file and {ours} in the model")
        if len(self.mismatched) > 8:
            lines.append(f"... and {len(self.mismatched) - 8} more that do not fit")
        return "\n  ".join(lines)

    @property
    def is_partial(self) -> bool:
        """Whether something stays as it was made that a user may not expect."""
        missing = [key for key in self.missing_keys if "num_batches" not in key]
        return bool(missing or self.mismatched.keys() - set(self.new) or self.left_out)

    def __getattr__(self, old: str) -> list[str]:
        if old not in RENAMED:
            raise AttributeError(f"LoadReport has no attribute {old}")
        warnings.warn(
            f"LoadReport.{old} is now LoadReport.{RENAMED[old]}; the old name goes in version 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(self, RENAMED[old])
