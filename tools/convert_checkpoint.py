#!/usr/bin/env python
"""Convert a checkpoint: the authors' weights to our names or back, to safetensors, for publishing.

Only weights are kept: averaged (EMA) ones where there are any, without optimizer and the like. The
first eight digits of the file's SHA-256 go into its name, as in OpenMMLab's model zoos.
"""

import argparse
import sys
from pathlib import Path

from command_line import make_parser, prepare

EXAMPLES = """examples:
  The authors' weights under our names:
    python tools/convert_checkpoint.py transx-t.pth.tar transxnet_t.pth
  What training left, for publishing; writes transxnet_t-1234abcd.safetensors:
    python tools/convert_checkpoint.py work_dirs/transxnet_t_imagenet/epoch_310.pth \\
        transxnet_t.safetensors
  Ours for the authors' code:
    python tools/convert_checkpoint.py transxnet_t.pth transx-t.pth --to authors --no-hash
"""
SHOWN = 12


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument("checkpoint", help="file or address: .pth, .safetensors, ...")
    parser.add_argument("out", help="file to write, ending in .pth or .safetensors")
    parser.add_argument(
        "--to", choices=["ours", "authors"], default="ours", help="names to write (default: ours)"
    )
    parser.add_argument(
        "--no-ema",
        action="store_true",
        help="take the weights that were trained, not their average",
    )
    parser.add_argument("--no-hash", action="store_true", help="write to OUT as it is called")
    parser.add_argument(
        "--image-size",
        type=int,
        default=224,
        help="of the images that the authors' DW-Swin takes (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    prepare()
    args = parse_args()
    from mmhybrid.weights import CheckpointError
    from mmhybrid.weights.converting import to_authors, to_ours
    from mmhybrid.weights.entries import find_weights, without_wrappers
    from mmhybrid.weights.loading import read_address

    out = Path(args.out)
    if out.suffix not in (".pth", ".safetensors"):
        sys.exit(f"error: {out} must end in .pth or .safetensors")
    if args.no_hash and out.resolve() == Path(args.checkpoint).resolve():
        sys.exit(f"error: {out} is the file to read, whose optimizer and the like would be lost")
    try:
        checkpoint = read_address(args.checkpoint, "cpu")
        ema = False if args.no_ema else None
        entry, weights, averaged = find_weights(checkpoint, ema, args.checkpoint)
        weights = {without_wrappers(key): tensor for key, tensor in weights.items()}
        ours = args.to == "ours"
        result = to_ours(weights) if ours else to_authors(weights, args.image_size)
        written = write(result.weights, meta_of(checkpoint), out, hashed=not args.no_hash)
    except (CheckpointError, OSError) as error:
        sys.exit(f"error: {error}")

    print(f"read {len(weights)} tensors from {entry} of {args.checkpoint}")
    if averaged:
        print("these are the averaged (EMA) weights")
    print(f"family: {result.family}")
    read = {*weights, entry.split(".")[0], "meta"}
    show("left out of the file", [key for key in checkpoint if key not in read])
    prefix = "backbone."
    moved = [k for k, new in result.renamed.items() if prefix + k == new or k == prefix + new]
    if moved:
        print(f"{'given' if ours else 'stripped of'} the prefix {prefix!r}: {len(moved)}")
    others = {old: new for old, new in result.renamed.items() if old not in set(moved)}
    show("renamed", [f"{old} -> {new}" for old, new in others.items()])
    show("of another shape", result.changed)
    show("left out", result.left_out)
    print(f"written: {written} ({written.stat().st_size / 2**20:.1f} MiB)")


def show(what: str, names: list[str]) -> None:
    """Prints the number of names, and the first of them."""
    if names:
        print(f"{what} ({len(names)}):")
        print("\n".join(f"  {name}" for name in names[:SHOWN]))
        if len(names) > SHOWN:
            print("  ...")


def meta_of(checkpoint: dict) -> dict:
    """Classes and palette of the data set, which inferencers draw with."""
    meta = checkpoint.get("meta")
    told = isinstance(meta, dict) and "dataset_meta" in meta
    return {"dataset_meta": meta["dataset_meta"]} if told else {}


def write(weights: dict, meta: dict, out: Path, hashed: bool) -> Path:
    """Writes the file and gives it its name."""
    from mmhybrid.weights.writing import durable_file, sha256_of_file, write_checkpoint

    weights = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    # The hash is known at the end; until then a file called OUT stays as it is.
    path = out.with_name(f"{out.stem}.unnamed{out.suffix}") if hashed else out
    if out.suffix == ".pth":
        write_checkpoint({"state_dict": weights, "meta": meta}, path)
    else:
        from safetensors.torch import save

        with durable_file(path) as file:
            file.write(save({k: v.clone() for k, v in weights.items()}, {"format": "pt"}))
    if not hashed:
        return out
    return path.replace(out.with_name(f"{out.stem}-{sha256_of_file(path)[:8]}{out.suffix}"))


if __name__ == "__main__":
    main()
