"""The command line: ``t2ireid train | test | probe | prepare | compare | ablate | export``.

``tools/*.py`` are the same commands without installing.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from t2ireid_plugin.errors import T2IReIDError

_TRAIN_EXAMPLES = """examples:
  %(prog)s --config-file configs/t2i_synthetic_cpu.yaml
  %(prog)s --config-file configs/t2i_vit_mamba.yaml data.root DIR train.batch_size 128
  %(prog)s --config-file configs/t2i_vit_mamba.yaml --eval-only model.load_weights log/run/best.pth
  %(prog)s --config-file configs/t2i_synthetic_cpu.yaml --eval-only --visualize
  %(prog)s --config-file configs/market1501_t2ireid.yaml --root DIR
  %(prog)s --config-file configs/market1501_t2ireid.yaml -s market1501 -t msmt17 --transforms random_flip
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0 when the work was done, 2 for an error that the user can mend.

    ``prepare check`` returns 1 when it has found something broken.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="t2ireid", description="Text-to-image person re-identification.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_LateParser)
    _add_train(commands, "train", "train, choose the checkpoint on val, test")
    _add_train(commands, "test", "test a checkpoint (train --eval-only)")
    _add_probe(commands)
    _add_prepare(commands)
    _add_compare(commands)
    _add_ablate(commands)
    _add_export(commands)
    options = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace, str], int | None] = options.run
    try:
        return run(options, shlex.join(["t2ireid", *arguments])) or 0
    except T2IReIDError as error:
        print(f"error: {_first_hand(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:  # a run's own says by which signal, see stopping.py
        print(str(interruption) or "interrupted", file=sys.stderr)
        return getattr(interruption, "status", 130)


def _add_train(commands: argparse._SubParsersAction, name: str, description: str) -> None:
    parser = commands.add_parser(
        name,
        help=description,
        description=description,
        epilog=_TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_settings(parser)
    _add_data(parser)
    parser.add_argument("--eval-only", action="store_true", default=name == "test", help="test, do not train")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the newest checkpoint of data.save_dir, if there is one"
    )
    parser.add_argument(
        "--visualize", action="store_true", help="draw ranked lists, failures, plots and attention, and a report.html"
    )
    parser.set_defaults(run=_train)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", metavar="FILE", help="YAML configuration")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="settings over the file's, such as train.lr 1e-4")


def _add_data(parser: argparse.ArgumentParser) -> None:
    """torchreid's short forms for the data; as there, settings go over them."""
    data = parser.add_argument_group("data, as in torchreid's scripts/main.py")
    data.add_argument("--root", metavar="DIR", help="data.root")
    data.add_argument("-s", "--sources", nargs="+", metavar="NAME", help="data.sources")
    data.add_argument("-t", "--targets", nargs="+", metavar="NAME", help="data.targets")
    data.add_argument("--transforms", nargs="+", metavar="NAME", help="data.transforms")


def _settings(options: argparse.Namespace) -> list[str]:
    """The short forms as ``KEY VALUE``, and the settings that follow the last name of a list, which has no end mark."""
    short, rest = ["data.root", options.root] if options.root else [], []
    for name in ("sources", "targets", "transforms"):
        words: list[str] = getattr(options, name) or []
        end = next((i for i, word in enumerate(words) if "." in word), len(words))
        short += [f"data.{name}", str(words[:end])] if end else []
        rest += words[end:]
    return [*short, *options.opts, *rest]


def _train(options: argparse.Namespace, command: str) -> None:
    from t2ireid_plugin.config import load_cfg

    cfg = load_cfg(options.config_file, _settings(options))
    from t2ireid_plugin.engine.train import run_job

    run_job(cfg, command, eval_only=options.eval_only, resume=options.resume, pictures=options.visualize)


def _add_probe(commands: argparse._SubParsersAction) -> None:
    description = "what a run's embeddings tell of identity and clothing, on drawn people"
    parser = commands.add_parser("probe", help=description, description=description)
    _add_settings(parser)
    parser.set_defaults(run=_probe)


def _probe(options: argparse.Namespace, command: str) -> None:
    from t2ireid_plugin.config import load_cfg

    cfg = load_cfg(options.config_file, options.opts)
    from t2ireid_plugin.probing.run import run_probes

    run_probes(cfg, command)


class _LateParser(argparse.ArgumentParser):
    """Gets its arguments when its command is chosen: no command waits for the modules of another."""

    module = ""  # has ``add_arguments`` and ``run``

    def parse_known_args(self, *args: Any, **options: Any) -> Any:
        if self.module:
            command = importlib.import_module(self.module)
            command.add_arguments(self)
            self.set_defaults(run=command.run)
            self.module = ""
        return super().parse_known_args(*args, **options)


def _add_late(commands: Any, name: str, module: str, description: str) -> None:
    commands.add_parser(name, help=description, description=description).module = f"t2ireid_plugin.{module}"


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    prepare = commands.add_parser("prepare", help="make and check datasets").add_subparsers(dest="what", required=True)
    _add_synthetic(prepare)
    _add_late(prepare, "table", "prepare.table", "your own photos and sentences, from a table")
    _add_late(prepare, "check", "prepare.check", "look for everything that is wrong with a dataset's files")


def _add_compare(commands: argparse._SubParsersAction) -> None:
    _add_late(commands, "compare", "evaluation.compare", "how far two runs differ on the same queries, with intervals")


def _add_ablate(commands: argparse._SubParsersAction) -> None:
    # Not yet the command itself, which loads torch.
    from t2ireid_plugin.ablation.options import add_arguments

    description = "train a grid of recipes over seeds and compare them"
    parser = commands.add_parser("ablate", help=description, description=description)
    add_arguments(parser)
    parser.set_defaults(run=_ablate)


def _ablate(options: argparse.Namespace, command: str) -> None:
    from t2ireid_plugin.ablation.command import run

    run(options, command)


def _add_export(commands: argparse._SubParsersAction) -> None:
    description = "write a trained model as a Hugging Face folder, with a model card"
    parser = commands.add_parser("export", help=description, description=description)
    parser.add_argument(
        "source", metavar="RUN_OR_CHECKPOINT", help="a run's folder (its best.pth), or a .pth file in it"
    )
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument(
        "opts", nargs="*", metavar="KEY VALUE", help="settings over the run's, where encoders have moved"
    )
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace, command: str) -> None:
    from t2ireid_plugin.integrations.huggingface.export import run

    run(options, command)


def _add_synthetic(prepare: argparse._SubParsersAction) -> None:
    parser = prepare.add_parser("synthetic", help="drawn pedestrians in CUHK-PEDES's format")
    parser.add_argument("out", metavar="OUT", help="folder to write CUHK-PEDES/ into")
    for name, default, description in (
        ("train-ids", 1000, "training identities"),
        ("val-ids", 100, "validation identities"),
        ("test-ids", 100, "test identities"),
        ("photos", 6, "photos an identity"),
        ("captions", 2, "captions a photo"),
        ("cameras", 6, "cameras"),
        ("seed", 0, "the same seed gives the same bytes"),
        ("outfits", 1, "outfits a test identity, up to 3"),
        ("train-outfits", 1, "outfits a training or validation identity"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{description} ({default})")
    parser.set_defaults(run=_prepare_synthetic)


def _prepare_synthetic(options: argparse.Namespace, command: str) -> None:
    from t2ireid_plugin.synthetic import write_synthetic

    names = ("train_ids", "val_ids", "test_ids", "photos", "captions", "cameras", "seed", "outfits", "train_outfits")
    write_synthetic(options.out, **{name: getattr(options, name) for name in names})


def _first_hand(message: str) -> str:
    """The error itself, without the traceback that a data worker process wraps around it."""
    if "Original Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].partition(": ")[2]
