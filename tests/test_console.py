"""What a run shows on the screen, and what goes to its log file alone."""

import io
import logging
import sys
import warnings
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger, print_log
from mmengine.runner import Runner

from mmhybrid.engine import ProgressHook, console
from mmhybrid.engine.console import ProgressLine, readable_console


def said_by(module: str, statement: str, **names: object) -> None:
    """Runs a statement as if it stood in a module of this name."""
    exec(compile(statement, f"{module}.py", "exec"), dict(names, __name__=module))


@pytest.fixture
def logger(tmp_path: Path) -> MMLogger:
    """With a log file; the one that ``print_log(..., 'current')`` takes."""
    return MMLogger.get_instance(f"console {tmp_path}", log_file=str(tmp_path / "run.log"))


LOG = "logger.log(level, text)"
PRINT_LOG = "print_log(text, 'current', level)"


@pytest.mark.parametrize("how", [LOG, PRINT_LOG])
@pytest.mark.parametrize(
    ("module", "level", "text", "shown"),
    [
        ("mmengine.runner.runner", logging.INFO, "Config:\nmodel = dict()", False),
        ("mmengine.runner.runner", logging.INFO, "Load checkpoint from a.pth", True),
        ("mmengine.registry", logging.WARNING, "Failed to search registry with scope", False),
        ("mmengine.fileio", logging.WARNING, '"FileClient" will be deprecated', False),
        ("mmengine.runner.checkpoint", logging.WARNING, "size mismatch for head", True),
        ("mmdet.datasets", logging.ERROR, "Failed to search registry, and lost", True),
        ("mmdet.evaluation.metrics.coco_metric", logging.INFO, "a table", False),
        ("mmhybrid.engine.hooks.non_finite_hook", logging.WARNING, "Update left out", True),
        ("mmhybrid.engine.runner.prepare_config", logging.INFO, "SyncBN works between GPUs", True),
        ("my_project.hooks", logging.INFO, "my own note", True),
    ],
)
def test_who_says_what_decides(
    logger, tmp_path, capsys, how: str, module: str, level: int, text: str, shown: bool
) -> None:
    with readable_console():
        said_by(module, how, logger=logger, print_log=print_log, text=text, level=level)
    output = capsys.readouterr().out
    prefix = "" if level == logging.INFO else logging.getLevelName(level).lower() + ": "
    assert output == (f"{prefix}{text}\n" if shown else "")
    assert text in (tmp_path / "run.log").read_text()


def test_tables_are_shown_where_they_are_asked_for(logger, capsys) -> None:
    with readable_console(tables=True):
        said_by("mmseg.evaluation.metrics", "logger.info('a table')", logger=logger)
        said_by("mmseg.models", "logger.info('another')", logger=logger)
    assert capsys.readouterr().out == "a table\n"


def test_what_libraries_print_goes_to_the_log_file(logger, tmp_path: Path, capsys) -> None:
    with readable_console():
        said_by("pycocotools.coco", "print('creating index...'); print('done')")
        said_by("my_project", "print('mine')")
        print("ours", end="")
        sys.stdout.flush()
    assert capsys.readouterr().out == "mine\nours"
    assert "creating index..." in (tmp_path / "run.log").read_text()


def test_warnings_of_installed_packages_go_to_the_log_file(logger, tmp_path: Path, capsys) -> None:
    with readable_console():
        for path in ("site-packages/mmseg/loss.py", "site-packages/mmhybrid/a.py", "/me/hooks.py"):
            warnings.warn_explicit(f"avg_non_ignore of {path}", UserWarning, path, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "warning: UserWarning: avg_non_ignore of site-packages/mmhybrid/a.py",
        "warning: UserWarning: avg_non_ignore of /me/hooks.py",
    ]
    assert "avg_non_ignore of site-packages/mmseg" in (tmp_path / "run.log").read_text()


def test_nothing_stays_behind(logger) -> None:
    def state() -> list:
        handlers = [list(one.handlers) for one in MMLogger._instance_dict.values()]
        return [sys.stdout, MMLogger.__init__, warnings.showwarning, warnings.filters[:], handlers]

    before = state()

    def interrupted_run() -> None:
        with readable_console():
            assert state() != before
            warnings.filterwarnings("ignore", message="of this run alone")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    assert state() == before
    with readable_console():
        made = MMLogger.get_instance(f"made inside {id(before)}")
    assert [type(one) for one in made.handlers] == [logging.StreamHandler]
    assert made.handlers[0].stream is sys.stdout


def test_verbose_and_debug_show_everything(tmp_path: Path, capsys) -> None:
    with readable_console(verbose=True):
        logger = MMLogger.get_instance(f"verbose {tmp_path}")
        said_by("mmengine.runner", "logger.info('Config:')", logger=logger)
    assert capsys.readouterr().out.endswith(" - Config:\n")
    with readable_console():
        debug = MMLogger.get_instance(f"debug {tmp_path}", log_level="DEBUG")
        said_by("mmengine.runner", "logger.info('Config:')", logger=debug)
    assert capsys.readouterr().out == "Config:\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_one_line_on_a_terminal_and_lines_now_and_then_elsewhere(monkeypatch, stream) -> None:
    now = 0.0
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    monkeypatch.setattr(console.tqdm, "_time", lambda: now, raising=False)
    line = ProgressLine(total=100, desc="train", mininterval=0)
    line._time = lambda: now
    line.start_t = line.last_print_t = now
    for _ in range(100):
        now += 1
        line.set_postfix_str("loss 0.5", refresh=False)
        line.update()
    inner = ProgressLine(total=2, desc="evaluate")
    with ProgressLine.external_write_mode(file=stream):
        pass
    inner.close()
    line.close()
    text = stream.getvalue()
    if stream.isatty():
        assert text.count("\r") > 90
    else:
        lines = text.splitlines()
        assert 4 <= len(lines) <= 7
        assert "\r" not in text
        assert "\x1b" not in text
        assert lines[0] == "train 15/100, loss 0.5, 1.00it/s, 01:25 left"


def test_the_line_of_a_resumed_run_begins_where_it_was(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    line = ProgressLine(total=100, desc="train", initial=84, mininterval=0)
    assert stream.getvalue() == ""  # no time has passed yet
    line.printed -= 20
    line.update()
    line.close()
    assert stream.getvalue().startswith("train 85/100, ")


@pytest.mark.train
def test_a_run_shows_its_metrics_and_what_it_saved(toy_config: Config, tmp_path, capsys) -> None:
    toy_config.default_hooks.checkpoint.update(save_best="accuracy", rule="greater")
    with readable_console():
        runner = Runner.from_cfg(toy_config)
        runner.register_hook(ProgressHook())
        runner.train()
    lines = capsys.readouterr().out.splitlines()
    run = tmp_path / "run"
    assert lines[0] == f"Training for 24 iterations; the whole log: {runner.logger.log_file}"
    for epoch in range(1, 5):
        assert f"Saved {run}/epoch_{epoch}.pth" in lines
    shown = [float(line.split()[-1]) for line in lines if line.startswith("Iteration ")]
    buffer = runner.message_hub.get_scalar("val/accuracy")
    assert shown == pytest.approx(buffer.data[0].tolist(), abs=1e-3)
    best = [line for line in lines if line.startswith(f"Saved {run}/best_accuracy")]
    assert 1 <= len(best) <= 4
    assert len(lines) == 1 + 4 + 4 + len(best)
    log = Path(runner.logger.log_file).read_text()
    assert "Epoch(train) [4][6/6]" in log
    assert set(lines) <= {line.rpartition(" - ")[2] for line in log.splitlines()}


@pytest.mark.train
def test_a_warm_up_that_is_longer_than_the_run_is_told(toy_config: Config, capsys) -> None:
    toy_config.param_scheduler[0].end = 500
    toy_config.train_cfg.max_epochs = 1
    with readable_console():
        runner = Runner.from_cfg(toy_config)
        runner.register_hook(ProgressHook())
        runner.train()
    assert "warning: The warm-up takes 500 iterations, and the run has 6" in capsys.readouterr().out


@pytest.mark.process
def test_no_screen_no_mmengine(run_python, tmp_path: Path) -> None:
    """As a tool runs: errors whole, MMEngine's lines in the file."""
    (tmp_path / "go.py").write_text(
        "from mmengine.logging import MMLogger\n"
        "from mmhybrid.engine.console import readable_console\n"
        "with readable_console():\n"
        "    logger = MMLogger.get_instance('a', log_file='a.log')\n"
        "    logger.info('mine')\n"
        "    exec('logger.info(1); print(2)', dict(logger=logger, __name__='mmdet.x'))\n"
    )
    assert run_python("go.py") == "mine\n"
    assert (tmp_path / "a.log").read_text().splitlines()[-1].endswith("2")
