"""Folders written by `t2ireid export` and `save_pretrained`, loaded with Auto classes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from preloaded import run_python
from safetensors.torch import load_file, save_file
from torchreid import metrics as torchreid_metrics
from transformers import AutoConfig, AutoModel, AutoTokenizer

from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.engine.build import build_datasets, build_model, build_tokenizer
from t2ireid_plugin.errors import CheckpointError, ConfigError, EncoderError, InputError
from t2ireid_plugin.integrations.huggingface.model import T2IReIDConfig, T2IReIDForRetrieval
from t2ireid_plugin.modeling.checkpoint import Checkpoint
from t2ireid_plugin.modeling.encoders.tokenizer import learn_wordpiece
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.stored import Stored, read_stored
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.synthetic import write_synthetic

REPOSITORY = Path(__file__).parents[3]
TEXTS = ["A man in a red coat.", "A woman with long hair and a blue dress carries a bag.", "Somebody"]
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SQUARE = {**WIDTH, "image_size": 32, "patch_size": 16}
FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"}


def run(words, folder=REPOSITORY, **environment):
    """Runs Python in a fresh process."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, **environment}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def images(count=4, height=32, width=32):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def embeddings(model, height=32, width=32):
    """The outputs of all methods of a `T2IReIDModel` or `T2IReIDForRetrieval`."""
    pixels = images(len(TEXTS), height, width)
    fused = model(pixels, TEXTS, TEXTS[::-1])
    return [model.encode_image(pixels), model.encode_text(TEXTS), model.encode_text(TEXTS[0]), *fused]


def assert_same(actual, expected):
    assert len(actual) == len(expected) == 13
    for a, b in zip(actual, expected):
        assert torch.equal(a, b)


def trained_model(folder, num_classes=24):
    """The run's model as the engine builds it."""
    cfg = load_cfg(folder / "config.yaml")
    best = folder / "best.pth"
    stored = read_stored(Checkpoint.read(best))
    return build_model(cfg, build_tokenizer(cfg, (), stored), num_classes).load_param(best).eval()


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    """An exported run with a learned vocabulary."""
    folder = tmp_path_factory.mktemp("exported") / "finder"
    assert main(["export", str(tiny_run.folder), str(folder)]) == 0
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    """A copy to damage."""
    return shutil.copytree(exported, tmp_path / "finder")


def test_files_and_bytes_in_place_of_pixels_are_refused(exported, tmp_path):
    """Bytes would silently become floating point, with other embeddings."""
    Image.new("RGB", (40, 80), "red").save(tmp_path / "a.jpg")
    model = T2IReIDForRetrieval.from_pretrained(exported)
    for image, message in (
        (tmp_path / "a.jpg", "Path is not"),
        (torch.zeros(1, 3, 32, 16, dtype=torch.uint8), "uint8"),
    ):
        for attempt in (model.encode_image, model):
            with pytest.raises(InputError, match=f"{message}.*`read_images`"):
                attempt(image)
    assert model.encode_image(model.read_images([tmp_path / "a.jpg"])).shape == (1, 256)


# Loading in a fresh process

RELOAD = """
import sys, torch
torch.set_num_threads(1)
opened = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
import t2ireid_plugin.integrations.huggingface
from transformers import AutoModel
source, pixels, texts, out, gone = sys.argv[1:]
model = AutoModel.from_pretrained(source)
images = torch.load(pixels)
with torch.no_grad():
    rows = texts.split("|")
    outputs = [model.encode_image(images), model.encode_text(rows), model.encode_text(rows[0])]
    outputs += model(images, rows, rows[::-1])
torch.save([outputs, model.preprocess._asdict()], out)
assert not [path for path in opened if path.startswith(gone)], opened
assert not [path for path in opened if path.endswith((".bin", ".pth", ".pkl"))], opened
"""


def reload(source, tmp_path, height, width, gone, python=run, **environment):
    """Embeddings and preprocessing in another process, which must not open any file under `gone`."""
    pixels, out = tmp_path / "pixels.pt", tmp_path / "outputs.pt"
    torch.save(images(len(TEXTS), height, width), pixels)
    home = {"HF_HOME": str(tmp_path / "empty_home"), **environment}
    python(["-c", RELOAD, source, pixels, "|".join(TEXTS), out, gone], folder=tmp_path, **home)
    return torch.load(out)


@pytest.mark.slow
def test_embeddings_in_a_fresh_process_are_bit_identical(tiny_run, exported, synthetic, tmp_path):
    """With a learned vocabulary, and image size and normalisation from the configuration."""
    outputs, preprocess = reload(exported, tmp_path, 32, 16, str(tiny_run.folder))
    assert_same(outputs, embeddings(trained_model(tiny_run.folder), 32, 16))
    assert preprocess == {"height": 32, "width": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        text = (exported / name).read_text()
        assert str(tiny_run.folder) not in text
        assert str(synthetic.root) not in text


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "clip"])
def test_an_export_does_not_need_the_encoders_folders(family, request, encoders, synthetic, tmp_path):
    """Trained and exported with the command line; the encoders are deleted before the export is loaded."""
    here = tmp_path / "weights"
    if family == "bert":
        vit, bert = shutil.copytree(encoders.vit, here / "vit"), shutil.copytree(encoders.bert, here / "bert")
    else:
        vit = bert = shutil.copytree(request.getfixturevalue("clip"), here / "clip")
    log = tmp_path / "log"
    settings = {
        "data.root": synthetic.root,
        "data.save_dir": log,
        "model.vit_pretrained": vit,
        "model.bert_base_path": bert,
        "model.freeze_text": family == "bert",
        "model.max_length": 40,
        "data.height": 64,
        "data.width": 32,
        "data.workers": 0,
        "train.max_epoch": 1,
        "train.batch_size": 32,
        "test.bootstrap": 0,
        "test.pictures": 0,
        "use_gpu": False,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    run_python(["tools/train_net.py", "--config-file", "configs/t2i_vit_mamba.yaml", *words])
    expected = embeddings(trained_model(log), 64, 32)
    run_python(["-m", "t2ireid_plugin", "export", log, tmp_path / "finder"])
    shutil.rmtree(here)
    shutil.rmtree(log)
    outputs, preprocess = reload(tmp_path / "finder", tmp_path, 64, 32, str(here), run_python)
    assert_same(outputs, expected)
    assert (preprocess["height"], preprocess["width"]) == (64, 32)
    assert str(here) not in (tmp_path / "finder" / "config.json").read_text()


@pytest.mark.slow
def test_a_hub_id(tiny_run, exported, tmp_path):
    """From transformers' cache, laid out as after a download."""
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--somebody--finder"
    shutil.copytree(exported, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    outputs, _ = reload("somebody/finder", tmp_path, 32, 16, str(exported), HF_HUB_CACHE=str(tmp_path / "hub"))
    assert_same(outputs, embeddings(trained_model(tiny_run.folder), 32, 16))


def test_the_folder_holds_safetensors_and_no_pickle(exported):
    names = {path.name for path in exported.iterdir()}
    assert names - {"special_tokens_map.json"} == FILES | {"README.md"}  # transformers 4 writes one more
    assert "id_classifier.weight" in load_file(exported / "model.safetensors")
    for name in names - {"model.safetensors"}:
        (exported / name).read_text(encoding="utf-8")  # text, all of it


# Auto classes


def test_auto_classes(exported):
    config = AutoConfig.from_pretrained(exported)
    assert type(config) is T2IReIDConfig
    assert (config.vision_config.model_type, config.text_config.model_type) == ("vit", "bert")
    assert (config.num_classes, config.max_text_length, config.freeze_text) == (24, 64, True)
    model, info = AutoModel.from_pretrained(exported, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(model) is T2IReIDForRetrieval
    assert not model.training
    assert type(model.model) is T2IReIDModel
    assert not any(p.requires_grad for p in model.model.text_encoder.parameters())
    assert all(p.requires_grad for name, p in model.named_parameters() if "text_encoder" not in name)
    assert not model.train().model.text_encoder.training


@pytest.mark.slow
def test_tokenizer_and_image_processor_load_without_this_package(exported, tiny_run, tmp_path):
    """Token ids equal the model's own; pixels of an image that needs no resizing follow the formula."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    code = (
        "import json, sys; from PIL import Image; from transformers import AutoImageProcessor, AutoTokenizer\n"
        "folder, photo, texts = sys.argv[1:]\n"
        "ids = AutoTokenizer.from_pretrained(folder)(texts.split('|'), padding='max_length', truncation=True)\n"
        "made = AutoImageProcessor.from_pretrained(folder)(Image.open(photo), return_tensors='pt')\n"
        "assert 't2ireid_plugin' not in sys.modules\n"
        "print(json.dumps([ids['input_ids'], ids['attention_mask'], made['pixel_values'].tolist()]))"
    )
    ids, mask, values = json.loads(
        run(["-c", code, exported, tmp_path / "photo.png", "|".join(TEXTS)]).splitlines()[-1]
    )
    own = trained_model(tiny_run.folder).text_cache(TEXTS)
    assert ids == own[0].tolist()
    assert mask == own[1].tolist()
    np.testing.assert_allclose(values[0], (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5, atol=1e-6)


def test_read_images_preprocesses_as_in_evaluation(exported, synthetic):
    model = AutoModel.from_pretrained(exported)
    photos = sorted((synthetic.root / "CUHK-PEDES" / "imgs").rglob("*.*"))[:3]
    transform = TestTransform(32, 16, (0.5,) * 3, (0.5,) * 3)
    expected = torch.stack([transform.tensor(transform.load(photo)) for photo in photos])
    assert torch.equal(model.read_images(photos), expected)


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"torch_dtype": "bfloat16"}, {"dtype": "auto"}])
def test_dtype(exported, options):
    """bfloat16 has 8 bits of precision: cosine similarities stay above 0.99."""
    model = AutoModel.from_pretrained(exported, **options)
    assert model.dtype == (torch.float32 if options == {"dtype": "auto"} else torch.bfloat16)
    expected = embeddings(AutoModel.from_pretrained(exported), 32, 16)
    for a, b in zip(embeddings(model, 32, 16)[:2], expected[:2]):
        assert (a.float() * b).sum(dim=1).min() > 0.99


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}], ids=str)
def test_device_map(exported, device_map):
    model = AutoModel.from_pretrained(exported, device_map=device_map)
    if device_map != "auto":  # on a GPU
        assert_same(embeddings(model, 32, 16), embeddings(AutoModel.from_pretrained(exported), 32, 16))


def test_attention_implementation(exported):
    model = AutoModel.from_pretrained(exported, attn_implementation="eager")
    assert model.model.visual_encoder.config._attn_implementation == "eager"
    assert model.model.text_encoder.config._attn_implementation == "eager"


def test_another_number_of_classes_gets_a_new_classifier(exported, capfd, caplog):
    """Initialised as PyTorch's linear layers; all other weights are loaded."""
    model = AutoModel.from_pretrained(exported, num_classes=5, ignore_mismatched_sizes=True)
    assert "LOAD REPORT" not in capfd.readouterr().err
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [f"'{exported / 'model.safetensors'}': the classifier has another size and starts anew"]
    assert model.config.num_classes == 5
    weight = model.model.id_classifier.weight
    assert weight.shape == (5, 32)
    assert weight.std() > 0.01
    assert weight.abs().max() <= 32**-0.5  # uniform within 1 / sqrt(width)
    expected = embeddings(AutoModel.from_pretrained(exported), 32, 16)
    assert_same(embeddings(model, 32, 16)[:6] * 2 + [expected[0]], expected[:6] * 2 + [expected[0]])


@pytest.fixture
def uploads(monkeypatch, tmp_path):
    """Folders that would have been uploaded to the hub, by repository."""

    class Sent(dict):
        options: dict

    sent = Sent()

    def upload(self, working_dir, repo_id, *_, **options):
        sent.options = options
        sent[repo_id] = shutil.copytree(working_dir, tmp_path / "hub" / repo_id)

    class Repository:
        repo_id = "me/finder"

    class Card:
        def save(self, path):
            Path(path).write_text("card")

    monkeypatch.setattr("transformers.utils.hub.PushToHubMixin._upload_modified_files", upload)
    monkeypatch.setattr("transformers.utils.hub.create_repo", lambda *_, **__: Repository, raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: Repository)
    monkeypatch.setattr("transformers.utils.hub.create_and_tag_model_card", lambda *_, **__: Card())
    return sent


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_push_to_hub(exported, uploads, tmp_path, way):
    """Uploads a complete model."""
    model = AutoModel.from_pretrained(exported)
    if way == "push_to_hub":
        model.push_to_hub("me/finder")
    else:
        model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="me/finder", revision="dev", tags=["reid"])
        assert {path.name for path in (tmp_path / "saved").iterdir()} >= FILES
        assert uploads.options["revision"] == "dev"
    again = AutoModel.from_pretrained(uploads["me/finder"])
    assert_same(embeddings(again, 32, 16), embeddings(model, 32, 16))


def test_a_given_state_dict_is_saved_under_the_same_names(exported, tmp_path):
    """As transformers' Trainer passes one."""
    model = AutoModel.from_pretrained(exported)
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(exported / "model.safetensors").keys()


# Encoder families, and loading back into T2IReIDModel

FAMILIES = {
    "vit": (SQUARE, WIDTH),
    "clip": (
        {**SQUARE, "model_type": "clip_vision_model"},
        {**WIDTH, "model_type": "clip_text_model", "hidden_size": 24, "bos_token_id": 2, "eos_token_id": 3},
    ),
    "siglip": ({**SQUARE, "model_type": "siglip_vision_model"}, {**WIDTH, "model_type": "siglip_text_model"}),
    "siglip2": (
        {**WIDTH, "model_type": "siglip2_vision_model", "num_patches": 4, "patch_size": 16},
        {**WIDTH, "model_type": "siglip2_text_model"},
    ),
    "dinov2": ({**SQUARE, "model_type": "dinov2"}, WIDTH),
    "dinov2 with registers": ({**SQUARE, "model_type": "dinov2_with_registers"}, WIDTH),
    "dinov3": ({**SQUARE, "model_type": "dinov3_vit"}, WIDTH),
}


def tiny_model(vision, text, **settings):
    """A model with all parameters and statistics away from their initial values."""
    tokenizer = learn_wordpiece(TEXTS * 2)
    text = {**text, "vocab_size": len(tokenizer)}
    torch.manual_seed(0)
    model = T2IReIDForRetrieval(T2IReIDConfig(vision, text, num_classes=7, **settings), tokenizer).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor))
    return model


@pytest.mark.parametrize(("vision", "text"), FAMILIES.values(), ids=FAMILIES)
def test_round_trip_of_encoder_families(vision, text, tmp_path):
    """Saved, loaded, saved again, and read by `T2IReIDModel.load_param`."""
    first = tiny_model(vision, text, freeze_text=False)
    expected = embeddings(first)
    assert_same(embeddings(first.model), expected)
    first.save_pretrained(tmp_path / "a")
    second = AutoModel.from_pretrained(tmp_path / "a")
    assert_same(embeddings(second), expected)
    assert all(p.requires_grad for p in second.model.text_encoder.parameters())
    second.save_pretrained(tmp_path / "b")
    for name in ("a", "b"):
        plain = T2IReIDModel({**first.config.net_config(), "tokenizer": first.tokenizer}).eval()
        plain.load_param(tmp_path / name / "model.safetensors")
        assert [plain.load_report.missing, plain.load_report.unexpected, plain.load_report.mismatched] == [[], [], []]
        assert_same(embeddings(plain), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"fusion": None},
        {"fusion": {"type": "gated_mamba", "num_layers": 1}},
        {"fusion": {"type": "sequence_mamba"}},
        {"disentangle": {"tokens": "window", "window": 3}, "max_text_length": 9},
    ],
    ids=str,
)
def test_settings_are_saved_and_loaded(settings, tmp_path):
    model = tiny_model(SQUARE, WIDTH, **settings)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    for key, value in settings.items():
        assert getattr(again.config, key) == value
    with torch.no_grad():
        for a, b in zip(model(images(2), TEXTS[:2], TEXTS[1:]), again(images(2), TEXTS[:2], TEXTS[1:])):
            assert (a is None and b is None) or torch.equal(a, b)


def test_evaluation_of_an_exported_folder_equals_that_of_the_run(tiny_run, exported, tiny_settings, tmp_path):
    """On other people, whose captions would give another vocabulary."""
    write_synthetic(
        tmp_path / "others", train_ids=24, val_ids=2, test_ids=8, photos=2, captions=1, seed=5, progress=False
    )
    metrics = {}
    for name, weights in (("run", tiny_run.folder / "best.pth"), ("folder", exported / "model.safetensors")):
        save_dir = tmp_path / name
        others = {"data__root": tmp_path / "others", "model__load_weights": weights}
        assert main(["test", *tiny_settings(save_dir, full=True, **others)]) == 0
        metrics[name] = json.loads((save_dir / "test" / "cuhkpedes" / "results.json").read_text())["metrics"]
    assert metrics["run"] == metrics["folder"]
    assert metrics["run"]["cuhkpedes"]["t2i"]["queries"] == 16
    cfg = load_cfg(None, ["data.root", str(tmp_path / "others"), "model.bert_config.vocab_size", "300"])
    stored = AutoTokenizer.from_pretrained(exported).get_vocab()
    assert build_tokenizer(cfg, build_datasets(cfg).values(), Stored()).get_vocab() != stored  # so it matters
    assert read_stored(Checkpoint.read(exported / "model.safetensors")).tokenizer.get_vocab() == stored


# Ranking


def test_an_export_ranks_as_its_run(tiny_run, exported, synthetic):
    """`encode_query` and `encode_gallery` of the test split, evaluated by torchreid, give the run's figures."""
    expected, model = tiny_run.results["metrics"]["cuhkpedes"]["t2i"], AutoModel.from_pretrained(exported)
    ranking = Ranking("both", expected["weight"], chosen=True)
    assert expected["weight"] == tiny_run.results["chosen"]["protocol_weights"]["t2i"]
    plain = T2IReIDModel.from_checkpoint(tiny_run.folder / "best.pth")
    again = T2IReIDModel.from_checkpoint(exported / "model.safetensors")
    assert model.model.ranking == plain.ranking == again.ranking == ranking
    base = synthetic.root / "CUHK-PEDES"
    rows = [row for row in json.loads((base / "reid_raw.json").read_text()) if row["split"] == "test"]
    captions, pids = zip(*((caption, row["id"]) for row in rows for caption in row["captions"]))
    with torch.no_grad():
        gallery = model.encode_gallery(model.read_images([base / "imgs" / row["file_path"] for row in rows]))
        queries = model.encode_query(captions)
    assert (queries.shape, gallery.shape) == ((64, 512), (32, 512))
    labels = np.array(pids), np.array([row["id"] for row in rows]), np.full(64, -1), np.zeros(32)
    cmc, mean_ap = torchreid_metrics.evaluate_rank((1 - queries @ gallery.T).numpy(), *labels, max_rank=10)
    assert [cmc[0], cmc[4], cmc[9], mean_ap] == pytest.approx([expected[k] for k in ("R@1", "R@5", "R@10", "mAP")])


@pytest.mark.parametrize(
    ("texts", "ranking"),
    [({"id_instruction": "caption"}, Ranking()), ({"id_instruction": "identity"}, Ranking("both")), ({}, Ranking())],
    ids=str,
)
def test_an_older_export_ranks_by_the_texts_of_its_training(folder, texts, ranking, tmp_path):
    """Its config.json has no ranking, or not even the texts."""
    config = json.loads((folder / "config.json").read_text())
    for name in ("ranking", "id_instruction", "cloth_instruction"):
        del config[name]
    texts = {**texts, "cloth_instruction": "clothing"} if texts else {}
    (folder / "config.json").write_text(json.dumps({**config, **texts}))
    model = AutoModel.from_pretrained(folder)
    assert model.model.ranking == ranking
    assert T2IReIDModel.from_checkpoint(folder / "model.safetensors").ranking == ranking
    plain = T2IReIDModel({**model.config.net_config(), "tokenizer": model.tokenizer})
    assert plain.load_param(folder / "model.safetensors").ranking == ranking
    model.model.ranking = Ranking("both", 0.2)
    model.save_pretrained(tmp_path / "saved")
    assert AutoModel.from_pretrained(tmp_path / "saved").model.ranking == Ranking("both", 0.2)


# Errors


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fusion": {"type": "mambo"}}, ConfigError, r"finder/config\.json'.*fusion.type.*mambo"),
        ({"max_text_length": 9000}, ConfigError, r"finder/config\.json'.*9000 exceeds"),
        ({"vision_config": {"model_type": "vitt"}}, ConfigError, r"vision_config: unknown model_type 'vitt'"),
        ({"vision_config": {"hidden_size": "wide"}}, ConfigError, "vision_config: "),
        ({"num_classes": 25}, CheckpointError, r"finder/model\.safetensors'.*id_classifier"),
        ({"vision_config": {"num_hidden_layers": 2}}, CheckpointError, r"finder/model\.safetensors'.*config\.json"),
        ({"fusion": None}, CheckpointError, r"finder/model\.safetensors'.*config\.json"),
        ({"text_config": {"num_hidden_layers": -1}}, ConfigError, r"finder/config\.json': .*num_hidden_layers -1"),
        ({"text_config": {"num_hidden_layers": 0}}, CheckpointError, r"finder/model\.safetensors'.*config\.json"),
        ({"ranking": {"by": "sum"}}, ConfigError, r"finder/config\.json': ranking.by: unknown 'sum'"),
        ({"ranking": "both"}, ConfigError, r"finder/config\.json': ranking: "),
        ({"text_config": {"vocab_size": 999}}, EncoderError, r"finder/tokenizer\.json'.*tokens.*999"),
    ],
    ids=str,
)
def test_config_that_cannot_work_is_refused(folder, change, error, message, capfd):
    file = folder / "config.json"
    settings = json.loads(file.read_text())
    for key, value in change.items():
        nested = isinstance(value, dict) and key.endswith("_config")
        settings[key] = {**settings[key], **value} if nested else value
    file.write_text(json.dumps(settings))
    with pytest.raises(error, match=message):
        AutoModel.from_pretrained(folder)
    with pytest.raises(error, match=message):
        T2IReIDForRetrieval.from_pretrained(folder)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_config_that_is_not_json_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(OSError, match=r"finder/config\.json"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("names", [["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json"]], ids=len)
def test_missing_tokenizer_is_refused(folder, names):
    for name in names:
        (folder / name).unlink()
    with pytest.raises(EncoderError, match=r"finder/tokenizer\.json'.*token"):
        AutoModel.from_pretrained(folder)


def test_tokenizer_of_another_model_is_refused(folder):
    learn_wordpiece(["Other words"] * 2).save_pretrained(folder)
    with pytest.raises(EncoderError, match=r"finder/tokenizer\.json'.* tokens, but text_config.vocab_size is"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("content", [None, "{", "{}", '{"size": 3, "image_mean": [0], "image_std": [1]}'], ids=str)
def test_missing_preprocessing_is_refused(folder, content):
    file = folder / "preprocessor_config.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(EncoderError, match=r"finder/preprocessor_config\.json' must hold"):
        AutoModel.from_pretrained(folder)


@pytest.mark.parametrize("damage", ["truncated", "missing", "unexpected"])
def test_damaged_weights_are_refused(folder, damage):
    file = folder / "model.safetensors"
    state = load_file(file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "missing":
        del state["shared_mlp.weight"]
        save_file(state, file, metadata={"format": "pt"})
    else:
        save_file({**state, "shared_mlp.more": torch.ones(1)}, file, metadata={"format": "pt"})
    reason = "cannot be loaded" if damage == "truncated" else r".*config\.json.*shared_mlp"
    with pytest.raises(CheckpointError, match=rf"finder/model\.safetensors'.*{reason}"):
        AutoModel.from_pretrained(folder)


def test_pickled_weights_are_not_read(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(folder)


def test_a_model_needs_a_tokenizer():
    with pytest.raises(EncoderError, match="tokenizer"):
        T2IReIDForRetrieval(T2IReIDConfig(SQUARE, {**WIDTH, "vocab_size": 30}))


# The command and the model card


def cells(row):
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def test_the_card_reports_results_json(tiny_run, exported):
    card = (exported / "README.md").read_text(encoding="utf-8")
    front = card.split("---\n")[1]
    assert "library_name: transformers" in front
    metrics = tiny_run.results["metrics"]["cuhkpedes"]["t2i"]
    rows = card.splitlines()
    head = next(row for row in rows if "R@1" in row and row.startswith("|"))
    values = dict(zip(cells(head), cells(rows[rows.index(head) + 2])))
    for key in ("R@1", "R@5", "R@10", "mAP", "mINP"):
        assert float(values[key].split()[0]) == pytest.approx(100 * metrics[key], abs=0.005 + 1e-9), key
    assert [values[key] for key in ("queries", "gallery", "identities")] == ["64", "32", "8"]
    counts = tiny_run.results["datasets"]["cuhkpedes"]["train"]
    assert f"| cuhkpedes | train | {counts['images']} | {counts['ids']} | {counts['captions']} |" in card
    assert tiny_run.results["command"] in card
    for name, version in tiny_run.results["versions"].items():
        assert f"{name} {version}" in card
    assert "- training identities: 24\n" in card
    assert f"- ranking: by both branches, identity {metrics['weight']:g} and clothing" in card
    assert "synthetic drawings, not photographs" in card
    assert "$" not in card.replace(tiny_run.results["command"], "")


def copy_of_run(tiny_run, folder, *names):
    folder.mkdir()
    for name in names:
        shutil.copy(tiny_run.folder / name, folder / name)
    return folder


def test_without_results_the_card_has_no_metrics(tiny_run, tmp_path, capsys):
    run_folder = copy_of_run(tiny_run, tmp_path / "log", "best.pth", "config.yaml")
    assert main(["export", str(run_folder), str(tmp_path / "out")]) == 0
    assert "shards" not in capsys.readouterr().err  # transformers' progress bar
    card = (tmp_path / "out" / "README.md").read_text()
    assert "No results are available for these weights." in card
    assert "R@1" not in card


def test_results_of_other_weights_are_not_in_the_card(tiny_run, tmp_path):
    """Of last.pth or a copied best.pth, for example; one weight is enough."""
    run_folder = copy_of_run(tiny_run, tmp_path / "log", "best.pth", "results.json")
    content = torch.load(run_folder / "best.pth", weights_only=True)
    content["state_dict"]["scale"] += 1e-3
    torch.save(content, run_folder / "other.pth")
    assert main(["export", str(run_folder / "other.pth"), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`results.json` belongs to other weights than these." in card
    assert "R@1" not in card


@pytest.mark.parametrize(
    ("names", "words", "message"),
    [
        ((), [], r"no checkpoint at .*best\.pth"),
        (("best.pth",), ["model.fusion.num_layers", "2"], r"model\.fusion\.num_layers: export writes the model as"),
    ],
)
def test_export_refuses_what_it_cannot_load(tiny_run, tmp_path, capsys, names, words, message):
    run_folder = copy_of_run(tiny_run, tmp_path / "log", *names)
    capsys.readouterr()
    assert main(["export", str(run_folder), str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_export_to_a_file_is_refused(tiny_run, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert main(["export", str(tiny_run.folder), str(tmp_path / "out")]) == 2
    assert f"'{tmp_path / 'out'}' cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_the_pages_commands_and_snippet_run(tiny_run, synthetic, tmp_path):
    """In the order of docs/frameworks.md."""
    text = (REPOSITORY / "docs" / "frameworks.md").read_text(encoding="utf-8")
    text = text.split("\n## Hugging Face\n")[1].split("\n## ")[0]
    export, back = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "tools").symlink_to(REPOSITORY / "tools")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "demo").symlink_to(tiny_run.folder)
    (tmp_path / "photos").mkdir()
    for name, photo in zip("ab", sorted((synthetic.root / "CUHK-PEDES" / "imgs").rglob("*.*"))):
        Image.open(photo).save(tmp_path / "photos" / f"{name}.jpg")
    (of_export, *export_words), (of_test, *test_words) = shlex.split(export), shlex.split(back)
    assert of_export == of_test == "t2ireid"
    run_python(["-m", "t2ireid_plugin", *export_words], tmp_path)
    assert "tensor" in run_python(["-c", snippet], tmp_path).stdout
    assert (tmp_path / "weights" / "copy" / "model.safetensors").is_file()
    run_python(["-m", "t2ireid_plugin", *test_words], tmp_path)
    again = json.loads((tmp_path / "log" / "again" / "test" / "cuhkpedes" / "results.json").read_text())
    assert again["metrics"] == tiny_run.results["metrics"]
