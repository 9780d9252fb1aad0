"""Small real files for all tests: drawn pedestrians, folders with tiny encoders, and one trained run."""

import contextlib
import functools
import gc
import importlib.util
import io
import json
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from t2ireid_plugin.cli import main
from t2ireid_plugin.losses import LOSSES
from t2ireid_plugin.synthetic import write_synthetic
from t2ireid_plugin.synthetic.layouts import LAYOUTS

REPOSITORY = Path(__file__).resolve().parent.parent
COUNTS = {"train_ids": 24, "val_ids": 8, "test_ids": 8, "photos": 4, "captions": 2}

# The demo's model made tiny: one epoch of two losses, no intervals, no pictures, and no fusion, which is most of a
# checkpoint and which neither loss trains.
TINY = {
    "use_gpu": "False",
    "model.vit_config.image_size": "[32, 16]",
    "model.vit_config.patch_size": "8",
    "model.vit_config.hidden_size": "32",
    "model.vit_config.num_hidden_layers": "1",
    "model.vit_config.intermediate_size": "32",
    "model.bert_config.vocab_size": "300",
    "model.bert_config.hidden_size": "32",
    "model.bert_config.num_hidden_layers": "1",
    "model.bert_config.intermediate_size": "32",
    "model.fusion.type": "none",
    "data.height": "32",
    "data.width": "16",
    "data.workers": "0",
    "sampler.num_instances": "4",
    "train.batch_size": "32",
    "train.max_epoch": "1",
    "test.eval_freq": "1",
    **{f"loss.terms.{name}.weight": "0" for name in LOSSES},
    "loss.terms.info_nce.weight": "0.5",
    "loss.terms.cls.weight": "0.5",
    "test.bootstrap": "0",
    "test.pictures": "0",
}
# What a full run adds: the fusion, every loss term, a second epoch, intervals and pictures.
FULL = {
    "model.fusion.type": "enhanced_mamba",
    "train.max_epoch": "2",
    **{f"loss.terms.{name}.weight": "0.5" for name in LOSSES},
    **{f"loss.terms.{name}.weight": "0" for name in ("cross_outfit", "composed_query")},  # people in one outfit
    **{f"loss.terms.{name}.weight": "0" for name in ("irr", "tal_selected")},  # for CLIP
    "data.min_word_count": "20",
    "loss.terms.mlm.dim": "16",  # its scan over all tokens would take most of the time
    "test.bootstrap": "2000",
    "test.pictures": "6",
}

# Sums are rounded differently with several threads, so processes that are compared use one each. PyTorch reads this
# when it is imported, which is not here: the process that hands out the tests needs none of the heavy packages.
os.environ["OMP_NUM_THREADS"] = "1"
settings.register_profile("fast", deadline=None, max_examples=20, derandomize=True)
settings.register_profile("all", deadline=None, max_examples=40, derandomize=True)


def pytest_configure(config):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, by child processes too
    signal.signal(signal.SIGINT, signal.default_int_handler)  # likewise in a shell's background
    settings.load_profile("fast" if config.getoption("markexpr") == "not slow" else "all")


def pytest_collection_modifyitems(items):
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(skip)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # else each full collection would go through everything that all test files import


def pytest_terminal_summary(terminalreporter):
    file = Path(importlib.util.find_spec("torchreid").origin)
    (version,) = re.findall("^__version__ = ['\"](.+)['\"]$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    layout = "PyPI's" if (file.parent / "reid").is_dir() else "GitHub's"
    terminalreporter.write_line(f"tested with torchreid {version}, {layout} layout, from {file.parent}")


@pytest.fixture(scope="session")
def repository():
    return REPOSITORY


@pytest.fixture(scope="session")
def make_once(tmp_path_factory):
    """`make_once(name, make)`: the folder `name`, filled by `make(folder)` in the first test process that needs it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name, make):
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def synthetic(make_once):
    """`synthetic.root` for data.root, and the numbers of people, photos and captions in it."""
    root = make_once("synthetic", lambda folder: write_synthetic(folder, **COUNTS, progress=False))
    return SimpleNamespace(root=root, **COUNTS)


@pytest.fixture(scope="session")
def two_outfits(make_once):
    """The folder of drawn people in two outfits each, for data.root, also as LTCC, PRCC, ITCPR and SynCPR."""
    people = {**COUNTS, "outfits": 2, "train_outfits": 2, "layouts": list(LAYOUTS), "progress": False}
    return make_once("two_outfits", lambda folder: write_synthetic(folder, **people))


@pytest.fixture(scope="session")
def tiny_settings(synthetic):
    """`tiny_settings(save_dir, full=False, **others)`: command line words for a tiny model on the drawn people.

    In the names of others `__` stands for the dot.
    """

    def words(save_dir, full=False, **others):
        changed = {name.replace("__", "."): str(value) for name, value in others.items()}
        settings = {**TINY, **FULL} if full else TINY
        pairs = {**settings, "data.root": str(synthetic.root), "data.save_dir": str(save_dir), **changed}
        config = str(REPOSITORY / "configs" / "t2i_synthetic_vit_cpu.yaml")
        return ["--config-file", config, *(word for pair in pairs.items() for word in pair)]

    return words


@pytest.fixture(scope="session")
def tiny_run(tiny_settings, make_once):
    """The one full training: `folder`, what it `printed`, its `results`, and the command line `words`.

    `other` is a checkpoint of an epoch that is not the best one.

    All test processes share it, so nothing may write into its folder.
    """

    def train(folder):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(["train", *tiny_settings(folder / "log", full=True)]) == 0
        (folder / "printed.txt").write_text(printed.getvalue(), encoding="utf-8")

    base = make_once("tiny_run", train)
    folder, printed = base / "log", (base / "printed.txt").read_text(encoding="utf-8")
    results = json.loads((folder / "results.json").read_text())
    other = folder / ("last.prev.pth" if results["chosen"]["epoch"] == 2 else "last.pth")
    words = tiny_settings(folder, full=True)
    return SimpleNamespace(folder=folder, words=words, printed=printed, results=results, other=other)


@pytest.fixture(scope="module")
def preloaded_trainings():
    """Trainings that `ablate` and `transfer` start from this process have the packages loaded."""
    from preloaded import Child

    from t2ireid_plugin.ablation import runs

    def start(command, env, stdout, **_):
        return Child(command, {name: env[name] for name in env if name != "T2IREID_END_WITH_PARENT"}, stdout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "subprocess", SimpleNamespace(Popen=start, PIPE=None, STDOUT=None))
        yield


@pytest.fixture(scope="session")
def encoders(synthetic, tmp_path_factory):
    """Folders as Hugging Face writes them: `encoders.vit` for 32 x 32 pixels, `encoders.bert` with its vocabulary."""
    import torch
    from transformers import ViTConfig, ViTModel

    base = tmp_path_factory.mktemp("encoders")
    vit, bert = base / "vit", base / "bert"
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=32, patch_size=16, **small)).save_pretrained(vit)
    normal = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 32, "width": 32}}
    (vit / "preprocessor_config.json").write_text(json.dumps(normal))
    rows = json.loads((synthetic.root / "CUHK-PEDES" / "reid_raw.json").read_text())
    words = sorted({word.strip(".,").lower() for row in rows for text in row["captions"] for word in text.split()})
    vocabulary = save_bert(bert, words, small)
    return SimpleNamespace(vit=vit, bert=bert, vocabulary=vocabulary)


@pytest.fixture(scope="session")
def clip(synthetic, tmp_path_factory):
    """A folder with a tiny CLIP as openai/clip-vit-base-patch16 has it: both towers, the tokenizer, the image size.

    The towers differ in width, as CLIP's do.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip") / "clip"
    rows = json.loads((synthetic.root / "CUHK-PEDES" / "reid_raw.json").read_text())
    captions = [text for row in rows for text in row["captions"]]
    tokenizer = CLIPTokenizer().train_new_from_iterator(captions, 400, show_progress=False)
    tokenizer.save_pretrained(folder)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    config = CLIPConfig(
        vision_config={**layers, "hidden_size": 32, "image_size": 32, "patch_size": 16},
        text_config={**layers, "hidden_size": 24, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        projection_dim=16,
    )
    config.text_config.bos_token_id, config.text_config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    CLIPModel(config).save_pretrained(folder)
    settings = {"crop_size": 32, "size": 32, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def chinese_bert(tmp_path_factory):
    """A folder with a tiny BERT that knows some Chinese characters, each a token as in bert-base-chinese."""
    folder = tmp_path_factory.mktemp("chinese") / "bert"
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    save_bert(folder, sorted(set("一名男女子人穿着红绿蓝黄白黑色外套上衣裤照片里的身和这个是背包，。")), small)
    return folder


def save_bert(folder, words, sizes):
    """Writes a BERT of these sizes whose vocabulary are the words; returns the vocabulary."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab_file=str(folder / "vocab.txt"))
    if len(tokenizer) != len(vocabulary):  # transformers 5 calls the argument otherwise
        tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
    return vocabulary


@pytest.fixture(scope="session")
def benchmark_root(synthetic, tmp_path_factory):
    """`benchmark_root(name)`: the drawn people laid out as each benchmark is, with its quirks."""
    return functools.cache(lambda name: write_layout(name, synthetic.root, tmp_path_factory.mktemp(name)))


def write_layout(name, source, root):
    """Writes the people of `source` under `root` in the files, names and numbers of the benchmark `name`."""
    base = source / "CUHK-PEDES"
    rows = json.loads((base / "reid_raw.json").read_text())
    ids = {pid: i for i, pid in enumerate(sorted({row["id"] for row in rows}))}
    folder, file, images, key, first_id, has_val = {
        "cuhkpedes": ("CUHK-PEDES", "reid_raw.json", "imgs", "file_path", 1, True),
        "icfgpedes": ("ICFG-PEDES", "ICFG_PEDES.json", "imgs", "file_path", 0, False),
        "rstpreid": ("RSTPReid", "data_captions.json", "imgs", "img_path", 0, True),
        "ufine6926": ("UFine6926", "annotation.json", "images", "file_path", 1, False),
        "custom": ("custom", "reid_raw.json", "imgs", "file_path", 1, True),
    }[name]
    written = []
    for number, row in enumerate(rows):
        pid, camera = ids[row["id"]], Path(row["file_path"]).stem.split("_")[1][1:]
        other = "test" if number % 3 else "train"  # ICFG-PEDES's folders are not the splits
        path = {
            "icfgpedes": f"{other}/{pid:04}/{pid:04}_{number:03}_0{camera}_0303morning_8.jpg",
            "rstpreid": f"{pid:04}_c{camera}_{number:04}.jpg",
            "ufine6926": f"{number + 1}.jpg",
        }.get(name, row["file_path"])
        split = row["split"] if has_val or row["split"] != "val" else "train"
        captions = row["captions"][:1] if name == "icfgpedes" else list(row["captions"])
        if name == "cuhkpedes" and number % 11 == 0:
            captions += [f"{captions[0]} A third description.", "And a fourth, shorter one."]
        if name == "ufine6926":
            captions = [" ".join([caption] * 5) for caption in captions]
        new = {"id": pid + first_id, key: path, "captions": captions, "split": split.upper() if number % 2 else split}
        written.append(new if name in ("rstpreid", "ufine6926") else {**new, "processed_tokens": []})
        target = root / folder / images / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(base / "imgs" / row["file_path"], target)
    (root / folder / file).write_text(json.dumps(written))
    return root


@pytest.fixture(scope="session")
def reid_data(synthetic, tmp_path_factory):
    """A folder for data.root with the drawn people as Market-1501 and as MSMT17, the first photo of each a query."""
    root = tmp_path_factory.mktemp("reid-data")
    imgs = synthetic.root / "CUHK-PEDES" / "imgs"
    rows = json.loads((imgs.parent / "reid_raw.json").read_text())
    write_market1501(root, imgs, rows)
    write_msmt17(root, imgs, rows)
    return root


def numbered_photos(rows):
    """Each row with the number of the photo among those of its person, which serves as camera, from 1."""
    seen = Counter()
    for row in rows:
        seen[row["id"]] += 1
        yield row, seen[row["id"]]


def write_market1501(root, imgs, rows):
    folder = root / "market1501" / "Market-1501-v15.09.15"
    for part in ("bounding_box_train", "bounding_box_test", "query"):
        (folder / part).mkdir(parents=True)
    for row, number in numbered_photos(rows):
        tested = "query" if number == 1 else "bounding_box_test"
        part = {"train": "bounding_box_train", "test": tested}.get(row["split"])
        if part:
            shutil.copy(imgs / row["file_path"], folder / part / f"{row['id']:04}_c{number}s1_{number:06}_00.jpg")
    for name in ("0000_c1s1_000900_00", "-1_c2s1_000901_00"):  # background, and what is left out altogether
        shutil.copy(imgs / rows[0]["file_path"], folder / "bounding_box_test" / f"{name}.jpg")


def write_msmt17(root, imgs, rows):
    folder = root / "msmt17" / "MSMT17_V1"
    lists = {name: [] for name in ("train", "val", "query", "gallery")}
    ids = {}
    for row, number in numbered_photos(rows):
        part = "train" if row["split"] == "train" else "test"
        pid = ids.setdefault(part, {}).setdefault(row["id"], len(ids[part]))
        path = f"{pid:04}/{pid:04}_{number:03}_{number:02}_0303morning_0008_0.jpg"
        (folder / part / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(imgs / row["file_path"], folder / part / path)
        tested = "query" if number == 1 else "gallery"
        lists[tested if part == "test" else "train"].append(f"{path} {pid}\n")
    lists["val"] = lists["train"][:4]
    for name, lines in lists.items():
        (folder / f"list_{name}.txt").write_text("".join(lines))


class CuhkFolder:
    """A folder in CUHK-PEDES's format under construction: good by default, and broken by whoever tests that."""

    def __init__(self, root):
        self.root = Path(root)
        self.base = self.root / "CUHK-PEDES"
        self.file = self.base / "reid_raw.json"
        self.rows = []

    def add(self, split, pid, path, captions=("A man in a red coat.",), **more):
        """A row and its image, 8 x 16 noise."""
        image = self.image(path)
        if not image.exists():
            image.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(len(self.rows)).integers(0, 256, (16, 8, 3), dtype=np.uint8)
            Image.fromarray(noise).save(image)
        row = {"split": split, "captions": list(captions), "file_path": path, "processed_tokens": [], "id": pid}
        self.rows.append({**row, **more})
        return self.rows[-1]

    def image(self, path):
        return self.base / "imgs" / path

    def save(self):
        self.base.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.rows), encoding="utf-8")
        return self.root


@pytest.fixture
def cuhk(tmp_path):
    """Two people of two photos in train, one each in val and test, with file names as in the real set."""
    folder = CuhkFolder(tmp_path / "data")
    for pid, split in ((11, "train"), (7, "train"), (12, "val"), (3, "test")):
        for number in range(2):
            captions = (f"Person {pid} in photo {number}.", f"Again person {pid}, photo {number}.")
            folder.add(split, pid, f"cam_{'ab'[number]}/{pid:04}_{number}.png", captions)
    folder.save()
    return folder


@pytest.fixture(scope="session")
def new_cuhk():
    """`new_cuhk(root)`: an empty folder of the kind that `cuhk` is."""
    return CuhkFolder
