"""`Encoder` against the model's own methods and evaluation's protocols; ONNX files against PyTorch."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from tiny_models import CAPTIONS, images, tiny_model
from transformers import AutoTokenizer

from t2ireid_plugin.cli import main
from t2ireid_plugin.data.transforms import TestTransform
from t2ireid_plugin.errors import CheckpointError, ConfigError, DataError, DependencyError, EncoderError, InputError
from t2ireid_plugin.evaluation.protocols import PROTOCOLS, Embeddings
from t2ireid_plugin.modeling import onnx_export
from t2ireid_plugin.modeling.encoders.tokenizer import CachedTokenizer
from t2ireid_plugin.modeling.onnx_export import ImageSide, fingerprint
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel
from t2ireid_plugin.search.encoder import About, Encoder
from t2ireid_plugin.search.onnx_sides import OnnxSides
from t2ireid_plugin.search.torch_sides import TorchSides

TEXTS = [*CAPTIONS[:4], "A tall man.", "A red coat.", "Walking.", "一名穿红色外套的女子"]


def encoder_of(model, sum_weight=1.0):
    about = About(fingerprint(model), model.ranking, model.preprocess, sum_weight, model.score_dim)
    return Encoder(TorchSides(model, sum_weight), about)


@pytest.fixture(scope="module")
def photos(synthetic):
    return sorted((synthetic.root / "CUHK-PEDES" / "imgs").rglob("*.jpg"))[:6]


def pixels(model, photos):
    transform = TestTransform(*model.preprocess)
    return torch.stack([transform.tensor(transform.load(photo)) for photo in photos])


@pytest.mark.parametrize("parts", [{}, {"projection": "none", "fusion": None}], ids=["256 wide", "as the tokens"])
@pytest.mark.parametrize("ranking", [Ranking(), Ranking("both", 0.3), Ranking("both", 0.8, "caption")], ids=str)
def test_scores_are_those_of_the_model(ranking, parts, photos):
    model = tiny_model(**parts)
    model.ranking = ranking
    encoder = encoder_of(model)
    with torch.no_grad():
        expected = model.encode_query(TEXTS) @ model.encode_gallery(pixels(model, photos)).T
    stored = encoder.encode_images(photos)
    assert stored.dtype == np.float32
    assert stored.shape == (len(photos), encoder.dim)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS) @ stored.T, expected, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_query(TEXTS[5]) @ stored.T, expected[5], atol=1e-6)
    if ranking.by == "both":
        assert encoder.weight == ranking.weight
        model.ranking = ranking._replace(weight=0.9)
        with torch.no_grad():
            expected = model.encode_query(TEXTS) @ model.encode_gallery(pixels(model, photos)).T
        np.testing.assert_allclose(encoder.encode_texts(TEXTS, weight=0.9) @ stored.T, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fusion", "by"),
    [
        ({"type": "residual"}, "both"),
        ({"type": "gated_mamba", "num_layers": 1}, "both"),
        ({"type": "gated_mamba", "num_layers": 1}, "caption"),
        (None, "both"),
        (None, "caption"),
    ],
    ids=str,
)
def test_a_photo_with_a_sentence_is_a_query_of_ti2i(fusion, by, photos):
    model = tiny_model(fusion=fusion)
    model.ranking = Ranking(by, 0.3)
    encoder, texts = encoder_of(model, sum_weight=0.5), TEXTS[: len(photos)]
    with torch.no_grad():
        output = model(pixels(model, photos), fuse=False)
        sides = model.ranking.parts(texts) if by == "both" else (texts, texts)
        identity, clothing = (model.encode_text(side) for side in sides)
        if by == "both":
            identity, clothing = model.ranking.without_missing(texts, identity, clothing)
        inputs = output.image_embeds, identity, output.cloth_image_embeds, clothing
        fused = model.fuse(*inputs)[0] if fusion else None
    rows, cloth = np.arange(len(photos)), output.cloth_image_embeds
    parts = {"captions": identity, "identity_parts": identity, "clothing_parts": clothing, "cloth_images": cloth}
    embeddings = Embeddings(output.image_embeds, rows, rows, rows, model.ranking, fused=fused, **parts)
    task = PROTOCOLS["ti2i" if fusion else "ti2i_sum"].build_task(embeddings, 0.5)
    queries = np.stack([encoder.encode_query(text, photo) for text, photo in zip(texts, photos)])
    np.testing.assert_allclose(queries @ encoder.encode_images(photos).T, task.queries @ task.gallery.T, atol=1e-6)


def test_a_photo_alone_and_less_a_sentence(photos):
    model = tiny_model()
    model.ranking = Ranking("both", 0.3)
    encoder = encoder_of(model)
    stored = encoder.encode_images(photos)
    with torch.no_grad():
        gallery = model.encode_gallery(pixels(model, photos)).numpy()
    np.testing.assert_allclose(encoder.encode_query(image=photos[2]) @ stored.T, gallery[2] @ gallery.T, atol=1e-6)
    less = encoder.encode_query(TEXTS[0], minus=TEXTS[1]) @ stored.T
    expected = (encoder.encode_query(TEXTS[0]) - encoder.encode_query(TEXTS[1])) @ stored.T
    np.testing.assert_allclose(less, expected, atol=1e-6)


def test_files_pillow_images_and_arrays_are_the_same_photo(photos):
    encoder = encoder_of(tiny_model())
    with Image.open(photos[0]) as image:
        vectors = encoder.encode_images([image, np.array(image), encoder.read(np.array(image))])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[0], vectors[2])


def test_a_turned_photo_is_read_upright_from_a_file_and_from_pillow(photos, tmp_path):
    encoder = encoder_of(tiny_model())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    with Image.open(photos[0]) as image:
        image.save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as turned:
        vectors = encoder.encode_images([tmp_path / "turned.jpg", turned])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


@pytest.fixture(scope="module")
def by_both():
    """A model that ranks by both branches, its encoder, and `one(photo)`: the model's own embeddings of a file."""
    model = tiny_model()
    model.ranking = Ranking("both", 0.3)

    def one(photo):
        with torch.no_grad():
            return torch.cat(model.encode_branches(pixels(model, [photo])), dim=1)[0].numpy()

    return SimpleNamespace(model=model, encoder=encoder_of(model), one=one)


def test_batches_give_the_vectors_of_one_by_one(by_both, photos):
    encoder, expected = by_both.encoder, np.stack([by_both.one(photo) for photo in photos])
    for size in (1, 4, 64):
        vectors = encoder.encode_images((photo for photo in photos), batch_size=size)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        queries = encoder.encode_texts(iter(TEXTS), batch_size=size)
        np.testing.assert_allclose(queries, [encoder.encode_query(text) for text in TEXTS], atol=1e-6)
    for vectors in (encoder.encode_images([]), encoder.encode_texts([])):
        assert (vectors.shape, vectors.dtype) == ((0, 512), np.float32)


def test_one_item_gives_one_vector(by_both, photos):
    encoder, expected = by_both.encoder, by_both.one(photos[1])
    with Image.open(photos[1]) as image:
        array = np.array(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for photo in (photos[1], str(photos[1]), image, array, tensor, pixels(by_both.model, [photos[1]])[0]):
        np.testing.assert_allclose(encoder.encode_images(photo), expected, atol=1e-6)
    assert encoder.encode_texts(TEXTS[0]).shape == (512,)
    np.testing.assert_allclose(encoder.encode_texts(TEXTS[0]), encoder.encode_query(TEXTS[0]), atol=1e-6)


def test_tensors_of_pixels_and_of_preprocessed_photos(by_both, tmp_path):
    """As for torchreid's FeatureExtractor, floating point is taken as it is."""
    arrays = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), np.uint8)
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, array in zip(files, arrays):
        Image.fromarray(array).save(file)
    expected = np.stack([by_both.one(file) for file in files])
    preprocessed = pixels(by_both.model, files).double().requires_grad_()
    for batch in (arrays, torch.from_numpy(arrays).permute(0, 3, 1, 2), preprocessed):
        np.testing.assert_allclose(by_both.encoder.encode_images(batch), expected, atol=1e-6)
    mirrored = by_both.encoder.encode_images([array[:, ::-1] for array in arrays])  # not contiguous in memory
    np.testing.assert_allclose(mirrored, by_both.encoder.encode_images(arrays[:, :, ::-1].copy()), atol=1e-6)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (torch.zeros(2, 3, 64, 32), r"normalised photos \[B, 3, 32, 32\], not \['B', 3, 64, 32\]"),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8), r"uint8 arrays \[H, W, 3\] of RGB, not uint8 \[32, 3, 32\]"),
        (np.zeros((32, 32, 3)), r"not float64 \[32, 32, 3\]"),
        (np.zeros((0, 32, 3), np.uint8), r"not uint8 \[0, 32, 3\]"),
        ([None], "not NoneType"),
        (".", "'.' is a folder; give a list of its files"),
    ],
    ids=str,
)
def test_photos_that_cannot_be_read_are_refused(by_both, photo, message):
    with pytest.raises(InputError, match=message):
        by_both.encoder.encode_images(photo)


def test_texts_that_are_not_sentences_are_refused(by_both):
    for texts, message in (
        (["A man.", float("nan")], "sentence 2 must be a string, not float"),
        ("", "1 is empty"),
    ):
        with pytest.raises(InputError, match=message):
            by_both.encoder.encode_texts(texts)


def test_a_batch_size_below_one_is_refused(by_both):
    with pytest.raises(InputError, match="batch_size: 0 must be at least 1"):
        by_both.encoder.encode_texts(["A man."], batch_size=0)


def test_long_lists_report_progress(by_both, capsys):
    encoder, photo = encoder_of(by_both.model), np.zeros((32, 32, 3), np.uint8)
    encoder.sides = SimpleNamespace(embed_images=lambda images: np.zeros((len(images), 512), np.float32))
    encoder.encode_images([photo] * 99)
    encoder.encode_images([photo] * 100, progress=False)
    assert capsys.readouterr().err == ""
    encoder.encode_images([photo] * 100)
    assert capsys.readouterr().err.splitlines()[-1] == "embedding: 100 of 100"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, InputError, "sentence or a photo"),
        ({"text": "  "}, InputError, "sentence 1 is empty"),
        ({"text": "A man.", "weight": 0.5}, ConfigError, "ranks by one branch"),
        ({"image": "gone.jpg"}, DataError, r"gone\.jpg"),
        ({"image": np.zeros((4, 4), np.uint8)}, InputError, r"uint8 \[4, 4\]"),
    ],
    ids=str,
)
def test_queries_that_cannot_work_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        encoder_of(tiny_model()).encode_query(**arguments)


def test_a_weight_beyond_one_is_refused():
    model = tiny_model()
    model.ranking = Ranking("both")
    with pytest.raises(ConfigError, match=r"1\.5 must be a number from 0 to 1"):
        encoder_of(model).encode_query("A man.", weight=1.5)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has none of best\.pth, model\.safetensors, onnx\.json"):
        Encoder.load(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        Encoder.load(tmp_path / "gone")


# ONNX


@pytest.mark.slow
def test_onnx_files_give_the_vectors_of_the_run(tiny_run, onnx_folder, photos):
    run, files = Encoder.load(tiny_run.folder), Encoder.load(onnx_folder)
    for name in ("fingerprint", "dim", "ranking", "weight"):
        assert getattr(run, name) == getattr(files, name)
    for n in (1, 2, 5):
        np.testing.assert_allclose(files.encode_images(photos[:n]), run.encode_images(photos[:n]), atol=1e-5)
        np.testing.assert_allclose(files.encode_texts(TEXTS[:n]), run.encode_texts(TEXTS[:n]), atol=1e-5)
    longest = " ".join(CAPTIONS)  # truncated
    np.testing.assert_allclose(files.encode_texts([longest]), run.encode_texts([longest]), atol=1e-5)
    query = TEXTS[0], photos[0]
    np.testing.assert_allclose(files.encode_query(*query), run.encode_query(*query), atol=1e-5)


@pytest.mark.slow
def test_batch_and_length_are_free_in_the_files(tiny_run, onnx_folder):
    about = json.loads((onnx_folder / "onnx.json").read_text())
    assert about["weights"] == tiny_run.results["weights"]
    expected = {
        "image.onnx": {"pixel_values": ["batch", 3, 32, 16], "embeds": ["batch", 512]},
        "text.onnx": {
            "input_ids": ["batch", "length"],
            "attention_mask": ["batch", "length"],
            "embeds": ["batch", 256],
        },
        "fusion.onnx": {
            "image_embeds": ["batch", 512],
            "text_embeds": ["batch", 512],
            "embeds": ["batch", 256],
        },
    }
    for name, shapes in expected.items():
        graph = onnx.load(onnx_folder / name).graph
        values = [*graph.input, *graph.output]
        read = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        assert read == about["files"][name]["shapes"] == shapes
        assert about["files"][name]["max_difference"] <= 1e-5


WITHOUT_PYTORCH = """
import sys
from t2ireid_plugin.search import Encoder
encoder = Encoder.load(sys.argv[1])
encoder.encode_query("a woman in a red jacket")
encoder.encode_images([sys.argv[2]])
print(sorted({"torch", "transformers", "torchreid", "huggingface_hub"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_onnx_files_need_neither_pytorch_nor_transformers(onnx_folder, photos, repository):
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", WITHOUT_PYTORCH, str(onnx_folder), str(photos[0])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_an_exported_folder_has_the_run_s_fingerprint(tiny_run, tmp_path):
    assert main(["export", str(tiny_run.folder), str(tmp_path / "out")]) == 0
    folder, run = Encoder.load(tmp_path / "out"), Encoder.load(tiny_run.folder / "best.pth")
    assert folder.fingerprint == run.fingerprint != Encoder.load(tiny_run.other).fingerprint


@pytest.mark.slow
def test_onnx_files_of_a_model_with_clips_projection_have_a_free_batch(clip, tmp_path):
    parts = {"projection": "encoder", "fusion": None, "disentangle": {"type": "none"}, "max_length": 77}
    torch.manual_seed(0)
    model = T2IReIDModel({"vit_pretrained": str(clip), "bert_base_path": str(clip), "num_classes": 2, **parts}).eval()
    encoder = encoder_of(model)
    encoder.save(tmp_path / "onnx")
    for texts in (TEXTS[:1], TEXTS):
        vectors = Encoder.load(tmp_path / "onnx").encode_texts(texts)
        np.testing.assert_allclose(vectors, encoder.encode_texts(texts), atol=1e-5)


def test_onnx_files_of_clip_read_repaired_texts(clip, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(clip)
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    read = {}
    monkeypatch.setattr(OnnxSides, "_run", lambda self, side, **inputs: read.update(inputs))
    OnnxSides(tmp_path, attends_padding=False, device=None).embed_texts(["the man’s &quot;red&quot; coat"])
    (expected,) = CachedTokenizer(tokenizer, 77).ids(['the man\'s "red" coat'])
    assert read["input_ids"][0].tolist() == list(expected)


@pytest.mark.slow
def test_texts_are_not_baked_into_a_graph(tmp_path):
    file = tmp_path / "model.onnx"
    with pytest.raises(Exception, match="torch") as caught:
        torch.onnx.export(tiny_model(), (images(3), None, CAPTIONS[:3]), str(file), dynamo=True, verbose=False)
    assert isinstance(caught.value.__cause__, InputError)
    assert "t2ireid export RUN OUT --onnx" in str(caught.value.__cause__)
    assert not file.exists()


@pytest.mark.slow
def test_the_demo_s_encoder_is_exported(tmp_path):
    model = tiny_model(vit_pretrained={"model_type": "conv_stack", "hidden_size": 32, "channels": [8, 8, 8, 8]})
    with torch.no_grad():
        written = onnx_export._export(ImageSide(model).eval(), tmp_path / "image.onnx")
        assert written["shapes"]["pixel_values"] == ["batch", 3, 96, 48]
        assert onnx_export._difference(ImageSide(model), tmp_path / "image.onnx") <= 1e-5
        model.image_mlp[0].weight.add_(0.01)  # other weights than those in the file
        with pytest.raises(EncoderError, match=r"image\.onnx: differs from PyTorch by .*, more than 0\.0001"):
            onnx_export._difference(ImageSide(model), tmp_path / "image.onnx")


def test_damaged_and_newer_files_are_refused(tmp_path):
    (tmp_path / "onnx.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not as export writes it"):
        Encoder.load(tmp_path)
    (tmp_path / "preprocess.json").write_text("{}")
    (tmp_path / "onnx.json").write_text('{"format": 2}')
    with pytest.raises(ConfigError, match="format 2 is newer than 1"):
        Encoder.load(tmp_path)


def test_other_folders_are_not_replaced(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ConfigError, match="holds something other than ONNX files"):
        encoder_of(tiny_model()).save(tmp_path)


def test_export_to_onnx_takes_no_settings(tiny_run, tmp_path, capsys):
    assert main(["export", str(tiny_run.folder), str(tmp_path / "out"), "--onnx", "data.root", "x"]) == 2
    assert "data.root: --onnx writes the model as it was trained" in capsys.readouterr().err


def test_export_to_onnx_names_the_missing_package(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "_PACKAGES", ("torch", "absent-package"))
    with pytest.raises(DependencyError, match="export to ONNX needs absent-package; pip install onnx onnxscript"):
        encoder_of(tiny_model()).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
