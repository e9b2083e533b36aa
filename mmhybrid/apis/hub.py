"""A model as a folder that others can load, on a disk or on the Hugging Face Hub."""

import glob
import json
import shutil
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from pprint import pformat
from typing import Any

from mmengine.config import Config
from torch import nn

from mmhybrid.apis.inferencer import dataset_meta
from mmhybrid.apis.models import init_model, model_of
from mmhybrid.apis.redaction import redacted
from mmhybrid.engine.runner.checkpoint_config import (
    config_of,
    describe_config,
    plain,
    published_config,
    read_description,
)
from mmhybrid.engine.runner.results import write_json
from mmhybrid.engine.runner.run_config import existing_file
from mmhybrid.errors import UserError
from mmhybrid.weights import CheckpointError, load_checkpoint
from mmhybrid.weights.json_text import dumps
from mmhybrid.weights.loading import whole_models
from mmhybrid.weights.writing import durable_file, sha256_of_file

WEIGHTS = "model.safetensors"


def publish(
    checkpoint: str,
    folder: str | Path,
    *,
    cfg: Config | None = None,
    result: str | Path | None = None,
    images: Iterable[str | Path] = (),
    deploy: str | Path | None = None,
    license: str | None = None,
) -> Path:
    """Writes a folder that the Hugging Face Hub and :func:`from_pretrained` take.

    It has the weights with their description (``model.safetensors``), the config as a file of plain
    values (``config.py``), all else that is known (``config.json``) and a card (``README.md``).
    Of the config, it has what a test reads, without ``backend_args``; users and queries of
    addresses are left out, and values of tokens, keys, passwords and secrets in commands.

    Args:
        checkpoint: File or address. Averaged weights are taken where there are some.
        folder: To write to.
        cfg: Defaults to the config that the checkpoint holds.
        result: What ``tools/test.py CHECKPOINT --result FILE`` wrote. Defaults to ``result.json``
            beside the checkpoint, where that is of this file.
        images: To show in the card.
        deploy: Folder of ``tools/export_onnx.py`` to go along.
        license: SPDX identifier of the weights' licence. Defaults to None: the card names none.

    Returns:
        The folder.

    Raises:
        UserError: A file is missing, the weights do not fit the config, that holds what is no plain
            data, or the result is of other weights.

    Example:
        >>> from mmhybrid.apis import publish
        >>> publish("work_dirs/NAME/best.pth", "NAME", license="Apache-2.0")  # doctest: +SKIP
    """
    _check_installed("safetensors", "huggingface_hub")
    from safetensors.torch import save

    from mmhybrid.apis.model_card import make_card

    existing_file(checkpoint, "checkpoint")
    images = [existing_file(str(image), "image") for image in images]
    if deploy and not Path(deploy).is_dir():
        raise UserError(f"there is no folder {deploy}")
    record = redacted(_record(checkpoint, result))
    try:
        given = {} if cfg is None else describe_config(cfg)
    except TypeError as error:
        raise UserError(f"{cfg.filename or 'cfg'} cannot be published: {error}") from error
    cfg = config_of(checkpoint) if cfg is None else cfg
    try:
        described = read_description(checkpoint) | given
    except OSError as error:
        raise UserError(str(error)) from error
    described["config"] = published_config(described["config"])
    described = redacted(described | plain(dataset_meta(cfg, checkpoint)))
    model = model_of(cfg)
    try:
        with whole_models():
            load_checkpoint(model, checkpoint)
    except (CheckpointError, OSError) as error:
        raise UserError(str(error)) from error
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Of their own each: safetensors takes no tensors that share memory.
    tensors = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    with durable_file(folder / WEIGHTS) as file:
        file.write(save(tensors, {"format": "pt", "mmhybrid": dumps(described)}))
    values = (
        f"{k} = {pformat(v, width=100, compact=True, sort_dicts=False)}"
        for k, v in described["config"].items()
    )
    (folder / "config.py").write_text("\n".join(values) + "\n", encoding="utf-8")
    shown = _copied(images, folder / "images")
    files = [WEIGHTS, "config.py", "config.json", "README.md", *(f"images/{one}" for one in shown)]
    if deploy:
        shutil.copytree(deploy, folder / "deploy", dirs_exist_ok=True)
        copied = (one for one in Path(deploy).rglob("*") if one.is_file())
        files += [f"deploy/{one.relative_to(deploy).as_posix()}" for one in copied]
    about = {key: value for key, value in described.items() if key != "config"}
    about |= dict(model_type="mmhybrid", result=record, files=files)
    write_json(folder / "config.json", about)
    card = make_card(model, described, record, shown, license, redacted(checkpoint))
    card.save(folder / "README.md")
    return folder


def _check_installed(*packages: str) -> None:
    if missing := [name for name in packages if find_spec(name) is None]:
        raise UserError(f"the Hub needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def _copied(files: list[str], folder: Path) -> list[str]:
    """Names in the folder, with a number where another file has the name."""
    contents = [Path(file).read_bytes() for file in files]  # some may lie in the folder
    names: list[str] = []
    for number, (file, content) in enumerate(zip(files, contents, strict=True)):
        name = Path(file).name
        while name in names:
            name = f"{number}_{name}"
        names.append(name)
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return names


def _record(checkpoint: str, result: str | Path | None) -> Mapping[str, Any] | None:
    """The result of this file; None where there is none.

    That of a training has the figures of its last evaluation, hence is of the last checkpoint.
    """
    file = Path(result or Path(checkpoint).with_name("result.json"))
    if result and not file.is_file():
        raise UserError(f"there is no result {result}")
    try:
        record = json.loads(file.read_text("utf-8"))
        parts = (record["origin"]["type"], record["dataset"], record["quick"], record["metrics"])
        if [*map(type, parts)] != [str, str, bool, dict]:
            raise TypeError
        saved = {k: v for k, v in record.get("checkpoints", {}).items() if k[:4] != "best"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if not result:
            return None
        raise UserError(f"{result} is no result of tools/test.py --result") from error
    digest = sha256_of_file(Path(checkpoint)) if Path(checkpoint).is_file() else None
    tested = record.get("sha256") or record["origin"].get("sha256")
    if digest and digest in (tested, *saved.values()):
        return record
    if not result:
        return None
    if digest is None:
        raise UserError(f"results are of files: download {checkpoint} to publish it with {result}")
    raise UserError(
        f"{result} is the result of other weights than {checkpoint}, or does not say of which: "
        "write it with tools/test.py CHECKPOINT --result FILE"
    )


def upload(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Uploads what :func:`publish` wrote to the Hub, to a repository that is made if need be.

    Args:
        folder: The folder. Other files in it stay here.
        repo: ``NAME`` or ``ORGANISATION/NAME``. The token is huggingface_hub's.
        private: Whether a new repository is private. Defaults to False.

    Returns:
        The address of the commit.

    Raises:
        UserError: The folder is no such folder, or the Hub cannot be reached or refuses it.

    Example:
        >>> upload("NAME", "me/NAME")  # doctest: +SKIP
    """
    from huggingface_hub import HfApi, ModelCard
    from huggingface_hub.errors import HfHubHTTPError

    try:
        files = json.loads((Path(folder) / "config.json").read_text("utf-8"))["files"]
        names = [glob.escape(name) for name in files]
        card = ModelCard.load(Path(folder) / "README.md")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} is no folder of tools/publish.py") from error
    api = HfApi()
    # Among the bases is the HTTPError of the library beneath, which is no OSError if that is httpx.
    refusals = (OSError, ValueError, *HfHubHTTPError.__bases__)
    try:
        card.validate()  # asks the Hub
        made = api.create_repo(repo, private=private, exist_ok=True).repo_id
        return api.upload_folder(repo_id=made, folder_path=folder, allow_patterns=names).commit_url
    except refusals as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = ". Log in by: hf auth login" if status == 401 else ""
        raise UserError(f"{folder} was not uploaded to {repo}: {error}{hint}") from error


def from_pretrained(name: str | Path, *, revision: str | None = None) -> nn.Module:
    """The model of a folder of :func:`publish`, or of such a repository of the Hub.

    Nothing that is read is executed: the config is data, whose types must be registered classes.
    Tools take the file ``model.safetensors`` of the folder as they take any checkpoint.

    Args:
        name: Folder, or name of the repository.
        revision: Branch, tag or commit of the repository. Defaults to None: the newest.

    Returns:
        The model with its weights, in evaluation mode; ``dataset_meta`` has the classes.

    Raises:
        UserError: There is no such folder or repository, or it holds no such model; or a revision
            is asked for of a folder.

    Example:
        >>> from_pretrained("no folder")
        Traceback (most recent call last):
        mmhybrid.errors.UserError: no folder is no folder, and not found on the Hub: ...
        >>> mmhybrid.from_pretrained("NAME")  # doctest: +SKIP
    """
    file = Path(name) / WEIGHTS
    if revision and Path(name).is_dir():
        raise UserError(f"a revision is of a repository of the Hub, and {name} is a folder here")
    if not Path(name).is_dir():
        _check_installed("huggingface_hub")
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )

        try:
            file = Path(hf_hub_download(str(name), WEIGHTS, revision=revision))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise UserError(f"{name} is no folder, and not found on the Hub: {error}") from error
    model = init_model(str(existing_file(str(file), "model")))
    described = read_description(str(file))
    model.dataset_meta = {key: described.get(key) for key in ("classes", "palette")}
    return model
