"""``--data FOLDER``: a config that trains on whatever lies in a folder."""

from collections.abc import Iterable

from mmengine.config import Config
from mmengine.logging import print_log

from mmhybrid.datasets.prepared_data import PreparedData
from mmhybrid.engine.runner.classes import OURS, task_of
from mmhybrid.engine.runner.own_data import with_own_data
from mmhybrid.engine.runner.run_config import by_first_process
from mmhybrid.errors import UserError


def with_folder(
    cfg: Config, folder: str, ignore: Iterable[str] = ()
) -> tuple[Config, PreparedData]:
    """A config of the data in a folder, whose annotations are written to ``WORK_DIR/data``.

    What was found is logged. A split that was drawn for the same ``work_dir`` before is kept. Of
    several connected processes the first reads and writes.

    Args:
        cfg (Config): With ``work_dir``. It stays as it is.
        folder (str): In one of the formats of ``docs/formats.md``.
        ignore (Iterable[str]): Codes of problems to go on in spite of.

    Raises:
        UserError: Nothing is recognised, the labels do not serve the config, or training on them
            would be wasted.
    """
    prepared = by_first_process(lambda: _prepare(cfg, folder, ignore))
    return with_own_data(cfg, prepared), prepared


def _prepare(cfg: Config, folder: str, ignore: Iterable[str]) -> PreparedData:
    # pycocotools and others, which only this needs.
    from mmhybrid.datasets.folders import TaskError, describe, read_folder, write_dataset

    task = task_of(cfg)
    try:
        data = read_folder(folder, task)
    except TaskError as error:
        others = [f"{OURS[offer]} learns {offer} from them" for offer in error.offers]
        raise UserError(". ".join([str(error), *others])) from error
    errors = [one for one in data.findings if one.severity == "error" and one.code not in ignore]
    if errors:
        codes = " ".join(dict.fromkeys(one.code for one in errors))
        raise UserError(
            f"training on these data would be wasted:\n{describe(data)}\n"
            f"Mend them, or train in spite of it with --ignore {codes}"
        )
    prepared = write_dataset(data, cfg.work_dir)
    print_log(describe(data), logger="current")
    return prepared
