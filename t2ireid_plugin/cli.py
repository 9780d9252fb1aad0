# PYTHON_ARGCOMPLETE_OK
"""Command line: ``t2ireid train | test | search | index | serve | prepare | compare | ablate | export | config …``.

``tools/*.py`` run the same commands without installation. torch and the commands' modules are imported only when a
command runs, so that ``--help`` and errors in arguments come at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import t2ireid_plugin
from t2ireid_plugin.cli_examples import EXAMPLES
from t2ireid_plugin.errors import ConfigError, T2IReIDError
from t2ireid_plugin.utils.console import lasting_console
from t2ireid_plugin.utils.signals import stop_on_signal

_SYNTHETIC_OPTIONS = {  # with default and help
    "train-ids": (1000, "training identities"),
    "val-ids": (100, "validation identities"),
    "test-ids": (100, "test identities"),
    "photos": (6, "images per identity"),
    "captions": (2, "captions per image"),
    "cameras": (6, "cameras"),
    "seed": (0, "random seed; the same seed gives identical files"),
    "outfits": (1, "outfits per test identity, at most 3"),
    "train-outfits": (1, "outfits per training and validation identity, at most 3"),
}
_Run = Callable[[argparse.Namespace, str], int | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0 for success, 2 for an error that the user can fix.

    ``prepare check`` returns 1 if the dataset has errors. A terminal or pipe that closes ends no command.
    """
    with lasting_console() as console:
        status = _main(list(sys.argv[1:] if argv is None else argv))
        console.flush()
        if console.loss:
            print(f"error: standard output: cannot be written ({console.loss}); write it elsewhere", file=sys.stderr)
    return status or (2 if console.loss else 0)


@stop_on_signal()
def _main(arguments: list[str]) -> int:
    parser = _build_parser()
    with contextlib.suppress(ImportError):  # completes words in the shell, where it is installed
        importlib.import_module("argcomplete").autocomplete(parser)
    options, rest = parser.parse_known_args(arguments)
    # argparse takes KEY VALUE only before or after options such as --visualize, not on both sides.
    if rest and (not hasattr(options, "opts") or any(re.match(r"-\D", word) for word in rest)):
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.opts += rest
    if not hasattr(options, "run"):  # `t2ireid` or `t2ireid prepare` alone
        options.parser.print_help(sys.stderr)
        return 2
    try:
        return options.run(options, shlex.join(["t2ireid", *arguments])) or 0
    except T2IReIDError as error:
        print(f"error: {_without_worker_traceback(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:  # `Stopped` names the signal and has its exit status
        print(str(interruption) or "interrupted", file=sys.stderr)
        return getattr(interruption, "status", 130)


def _build_parser() -> argparse.ArgumentParser:
    parser = _LazyParser(prog="t2ireid", description="Text-to-image person re-identification.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {t2ireid_plugin.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_train(commands, "train", "train a model, select the best checkpoint on val and evaluate it on test")
    _add_train(commands, "test", "evaluate a run or a checkpoint; same as train --eval-only")
    probe = _add(commands, "probe", "measure identity and clothing information in embeddings of drawn people", _probe)
    _add_config(probe, with_run=True)
    parser_of_prepare = commands.add_parser("prepare", help="create and check datasets")
    prepare = parser_of_prepare.add_subparsers(dest="what", metavar="WHAT")
    _add_synthetic(prepare)
    _add_lazy(prepare, "table", "prepare.table.write", "convert your own photos and captions, listed in a table")
    _add_lazy(prepare, "check", "prepare.check.command", "check a dataset's files for problems")
    _add_lazy(commands, "compare", "evaluation.compare", "compare two runs query by query, with confidence intervals")
    ablate = _deferred("ablation.command")
    add_ablate_options(_add(commands, "ablate", "train several settings with several seeds and compare them", ablate))
    _add_lazy(commands, "transfer", "ablation.transfer", "train on each of several datasets and test on all of them")
    _add_export(commands)
    _add_lazy(commands, "search", "search.command", "search photos and videos with a sentence or a photo")
    _add_lazy(commands, "index", "search.index_command", "make and change an index of photos and videos")
    _add_lazy(commands, "serve", "search.serve.command", "search an index on a page in the browser")
    _add(commands, "configs", "list the configurations that --config-file finds by name", _configs)
    config = _add(commands, "config", "print all settings of a training with their comments, as YAML", _config)
    _add_config(config)
    return parser


class _LazyParser(argparse.ArgumentParser):
    """Imports the module of its command, which defines the arguments, when that command is chosen.

    The parsed options name the parser of the command.
    """

    module = ""  # has the functions ``add_arguments`` and ``run``

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        command = self.prog.partition(" ")[2]
        if command in EXAMPLES:
            self.epilog = "\n  ".join(["examples:", *(f"{self.prog} {words}".rstrip() for words in EXAMPLES[command])])
            self.formatter_class = argparse.RawDescriptionHelpFormatter

    def load(self) -> None:
        """Defines the arguments, if that has not been done."""
        if self.module:
            command = importlib.import_module(self.module)
            command.add_arguments(self)
            self.set_defaults(run=command.run)
            self.module = ""

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        self.load()
        options, rest = super().parse_known_args(*args, **kwargs)
        options.parser = getattr(options, "parser", self)
        return options, rest


def _add(commands: Any, name: str, description: str, run: _Run) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    return parser


def _add_lazy(commands: Any, name: str, module: str, description: str) -> None:
    parser: _LazyParser = commands.add_parser(name, help=description, description=description)
    parser.module = f"t2ireid_plugin.{module}"
    if "_ARGCOMPLETE" in os.environ:  # set by a shell that completes words, for which all arguments must be defined
        parser.load()


def _deferred(module: str) -> _Run:
    """The function ``run`` of a module that is imported when it is called."""
    return lambda options, command: importlib.import_module(f"t2ireid_plugin.{module}").run(options, command)


def _config_names(**_: Any) -> list[str]:
    from t2ireid_plugin.config import config_names

    return config_names()


def _recipe_names(**_: Any) -> list[str]:
    return [name.removeprefix("recipes/") for name in _config_names() if name.startswith("recipes/")]


def _add_config(parser: argparse.ArgumentParser, with_run: bool = False) -> None:
    group = parser.add_mutually_exclusive_group()
    text = "YAML file, or the name of a configuration, see t2ireid configs"
    option = group.add_argument("--config-file", metavar="FILE", help=text)
    option.completer = _config_names  # type: ignore[attr-defined]  # which argcomplete reads; bash adds files
    text = "a published recipe, as irra: the same as --config-file recipes/NAME"
    option = group.add_argument("--recipe", dest="config_file", type="recipes/{}".format, metavar="NAME", help=text)
    option.completer = _recipe_names  # type: ignore[attr-defined]
    if not with_run:
        text = "override settings in the file, as train.lr 1e-4"
        parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help=text)
        return
    text = "a run's folder (its best.pth) or a checkpoint, then settings that differ from the run's, as data.root DIR"
    parser.add_argument("opts", nargs="*", metavar="RUN KEY VALUE", help=text)


def _add_train(commands: Any, name: str, description: str) -> None:
    parser = _add(commands, name, description, _train)
    _add_config(parser, with_run=name == "test")
    data = parser.add_argument_group("data, as in torchreid's scripts/main.py")
    data.add_argument("--root", metavar="DIR", help="data.root")
    for short, key in (("-s", "sources"), ("-t", "targets"), (None, "transforms")):
        flags = [short, f"--{key}"] if short else [f"--{key}"]
        data.add_argument(*flags, nargs="+", metavar="NAME", help=f"data.{key}")
    parser.add_argument("--eval-only", action="store_true", default=name == "test", help="evaluate only, no training")
    if name == "train":
        start = parser.add_mutually_exclusive_group()
        help_text = "continue from the last checkpoint in data.save_dir, if any"
        start.add_argument("--resume", action="store_true", help=help_text)
        start.add_argument("--overwrite", action="store_true", help="replace a run in data.save_dir")
    parser.add_argument(
        "--visualize", action="store_true", help="write ranked lists, failure cases, plots, attention maps, report.html"
    )


def _settings(options: argparse.Namespace) -> list[str]:
    """torchreid's options as ``KEY VALUE``, then the settings, which override them.

    Settings that follow a list of names have been read into it; the first one is recognised by its dot.
    """
    data_options, rest = ["data.root", options.root] if options.root else [], []
    for name in ("sources", "targets", "transforms"):
        words: list[str] = getattr(options, name) or []
        end = next((i for i, word in enumerate(words) if "." in word or "/" in word), len(words))
        data_options += [f"data.{name}", ",".join(words[:end])] if end else []
        rest += words[end:]
    words = [*options.opts, *rest]
    run = words[:1] if options.eval_only and _split_run(words)[0] else []
    return [*run, *data_options, *words[len(run) :]]


def _split_run(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Separates a run's folder or checkpoint, if that is the first word, from ``KEY VALUE …``."""
    from t2ireid_plugin.config import get_cfg

    first = words[0] if words else ""
    table = re.split("[.=]", first)[0]
    is_setting = table in get_cfg() and ("=" in first or not Path(first).exists())
    return (None, list(words)) if not first or is_setting else (first, list(words[1:]))


def _train(options: argparse.Namespace, command: str) -> None:
    from t2ireid_plugin.config import load_cfg

    if options.eval_only:
        _test(options, command)
        return
    cfg = load_cfg(options.config_file, _settings(options))
    if cfg.test.evaluate:  # torchreid's key for --eval-only
        _test(options, command)
        return
    _check(cfg, testing=False, encoders=not options.resume)
    from t2ireid_plugin.run import run_training

    run_training(cfg, command, resume=options.resume, overwrite=options.overwrite, pictures=options.visualize)


def _test(options: argparse.Namespace, command: str) -> None:
    source, cfg, settings = _to_test(options, _settings(options))
    from t2ireid_plugin.run import run_test

    run_test(source, cfg, command, settings, pictures=options.visualize)


def _check(cfg: Any, testing: bool, encoders: bool = True) -> None:
    """Refuses wrong names, sizes and paths before PyTorch and torchreid are imported, which takes seconds."""
    from t2ireid_plugin.config import image_only

    texts = not image_only(cfg)
    checks = importlib.import_module(f"t2ireid_plugin.{'engine' if texts else 'integrations.torchreid'}.checks")
    checks.check_config(cfg)
    checks.check_files(checks.for_testing(cfg) if testing and texts else cfg, encoders)
    if texts and not testing:
        checks.check_recipe(cfg)


def _probe(options: argparse.Namespace, command: str) -> None:
    source, cfg, settings = _to_test(options, options.opts)
    from t2ireid_plugin.probing.run import run_probes

    run_probes(source, cfg, command, settings)


def _to_test(options: argparse.Namespace, words: Sequence[str]) -> tuple[str | None, Any, list[str]]:
    """The run to test, the configuration unless it is the run's own, and the settings typed by the user."""
    from t2ireid_plugin.config import load_cfg

    source, settings = _split_run(words)
    if source is not None:
        _check_exists(source)
    if source is not None and options.config_file is None:
        return source, None, settings
    cfg = load_cfg(options.config_file, settings)
    _check(cfg, testing=True)
    return source, cfg, settings


def _configs(options: argparse.Namespace, command: str) -> None:
    from t2ireid_plugin.show_config import describe_configs

    print(describe_configs())


def _config(options: argparse.Namespace, command: str) -> None:
    from t2ireid_plugin.config import load_cfg
    from t2ireid_plugin.show_config import annotated

    print(annotated(load_cfg(options.config_file, options.opts)))


def _export(options: argparse.Namespace, command: str) -> int | None:
    _check_exists(options.source)
    if not options.onnx:
        return _deferred("integrations.huggingface.export")(options, command)
    if options.opts:
        raise ConfigError(f"{options.opts[0]}: --onnx writes the model as it was trained; leave this setting out")
    from t2ireid_plugin.search.encoder import Encoder

    Encoder.load(options.source).save(options.out)
    print(f"Exported to '{options.out}'; onnx.json names inputs, outputs and the largest difference from PyTorch")
    return None


def _check_exists(run: str) -> None:
    if not Path(run).exists():
        raise ConfigError(f"no run or checkpoint at '{run}'")


def add_ablate_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``t2ireid ablate``, here because the command's own module imports torch."""
    parser.add_argument("--config-file", metavar="FILE", required=True, help="configuration that the rows change")
    parser.add_argument("--grid", metavar="FILE", required=True, help="YAML file with the rows")
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="folder for the runs and the table")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="train only these rows and the baseline")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="train.seed of each run")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads per run (1)")
    parser.add_argument("--jobs", type=int, metavar="N", help="parallel runs (as many as the cores allow)")
    parser.add_argument("--target", metavar="NAME", help="target of the table, if the runs have several")
    parser.add_argument(
        "--probe",
        nargs="*",
        metavar="KEY VALUE",
        help="probe each run as well (t2ireid probe), with settings such as data.root DIR of people who change clothes",
    )
    parser.add_argument("--opts", nargs="*", default=[], metavar="KEY VALUE", help="settings of all rows")


def _add_export(commands: Any) -> None:
    description = "write a trained model as a Hugging Face folder with a model card, or as ONNX files"
    parser = _add(commands, "export", description, _export)
    parser.add_argument(
        "source", metavar="RUN_OR_CHECKPOINT", help="a run's folder (exports its best.pth) or a .pth file in it"
    )
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--onnx", action="store_true", help="write ONNX files instead, which need no PyTorch")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="override the run's settings, as encoder paths")


def _add_synthetic(commands: Any) -> None:
    parser = _add(commands, "synthetic", "draw synthetic pedestrians with captions, in CUHK-PEDES's format", _synthetic)
    parser.add_argument("out", metavar="OUT", help="folder to write CUHK-PEDES/ into")
    for name, (default, text) in _SYNTHETIC_OPTIONS.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} ({default})")
    parser.add_argument(
        "--language", default="en", choices=("en", "zh"), help="of the captions: English or Chinese (en)"
    )
    parser.add_argument(
        "--layouts",
        nargs="+",
        default=(),
        choices=("ltcc", "prcc", "itcpr", "syncpr"),
        help="also write the same people in the layouts of these benchmarks",
    )


def _synthetic(options: argparse.Namespace, command: str) -> None:
    from t2ireid_plugin.synthetic import write_synthetic

    names = [*(name.replace("-", "_") for name in _SYNTHETIC_OPTIONS), "language", "layouts"]
    write_synthetic(options.out, **{name: getattr(options, name) for name in names})


def _without_worker_traceback(message: str) -> str:
    """The error itself, without the traceback that PyTorch puts around an error in a data loader's worker."""
    return message.strip().splitlines()[-1].partition(": ")[2] if "Original Traceback" in message else message


if __name__ == "__main__":
    sys.exit(main())
