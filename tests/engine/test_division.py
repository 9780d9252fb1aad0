"""The division of pairs, and training of configs/recipes/rde.yaml on tiny towers and noisy pairs."""

import numpy as np
import pytest
import torch
from states import differences, saved
from test_recipes import mean_ap_in_training

import t2ireid_plugin
from t2ireid_plugin.cli import main
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.data.item_table import PATH
from t2ireid_plugin.engine import division
from t2ireid_plugin.engine.build import build_run
from t2ireid_plugin.engine.checks import check_config, check_recipe
from t2ireid_plugin.engine.division import confident, consensus, pair_losses
from t2ireid_plugin.errors import ConfigError, DataError, EncoderError
from t2ireid_plugin.modeling.t2ireid import T2IReIDModel

MIXTURE = {"max_iter": 10, "tol": 1e-2, "reg_covar": 5e-4}


def settings(root, clip, folder, *more):
    """A tiny training of the recipe, as words of the command line."""
    words = f"data.root {root} data.save_dir {folder} model.vit_pretrained {clip} model.bert_base_path {clip}"
    words += " data.height 64 data.width 32 data.workers 0 data.keep_images True data.val [] use_gpu False"
    words += " train.precision fp32 train.batch_size 40 train.lr 1e-3 adam.eps 1e-8 model.token_selection.dim 32"
    words += " test.bootstrap 0 test.pictures 0 test.batch_size 64"
    return [*words.split(), *map(str, more)]


@pytest.fixture(scope="module")
def build(synthetic, clip, tmp_path_factory):
    """`build(…)`: an engine of the recipe, with a fifth of the pairs noisy and no augmentation."""
    folder = tmp_path_factory.mktemp("rde")

    def engine(*more):
        words = settings(synthetic.root, clip, folder, "data.noisy_rate", 0.2, "data.transforms", "[]", *more)
        return build_run(load_cfg("recipes/rde", words))

    return engine


# --- the division -----------------------------------------------------------------------------------------------------


def test_pairs_of_low_loss_count_and_chance_decides_where_the_terms_differ() -> None:
    chance = np.random.RandomState(0)
    both, one = chance.normal(0.1, 0.02, (600, 2)), chance.normal(0.1, 0.02, (200, 2))
    one[:, 0] += 1
    losses = np.concatenate([both, one, chance.normal(1.1, 0.02, (200, 2)), [[np.nan, 0.1]]]).astype(np.float32)
    clean = consensus(losses, 1, **MIXTURE)
    assert clean[:600].all()
    assert not clean[800:].any()
    assert 60 < clean[600:800].sum() < 140
    assert np.array_equal(clean, consensus(losses, 1, **MIXTURE))
    assert not np.array_equal(clean, consensus(losses, 2, **MIXTURE))


def test_a_hundredth_is_left_out_where_all_seem_clean(monkeypatch) -> None:
    class Confident:
        means_ = np.array([[0.1], [0.9]])

        def __init__(self, *_, **__):
            pass

        def fit(self, values):
            return self

        def predict_proba(self, values):
            return np.concatenate([1 - values / 4, values / 4], axis=1)

    chance, losses = np.random.RandomState(0), np.linspace(2, 3, 200, dtype=np.float32)
    assert confident(np.full(50, 0.3, np.float32), chance, **MIXTURE).all()  # no mixture can be fitted
    monkeypatch.setattr("sklearn.mixture.GaussianMixture", Confident)
    assert np.array_equal(confident(losses, chance, **MIXTURE), np.arange(200) < 197)  # above the third lowest odds


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("model.projection none", "token_selection.ratio: 0.3 needs projection encoder, not none"),
        ("model.token_selection.ratio 1.5", "ratio: 1.5 must be a share of the tokens from 0 to 1"),
        ("model.token_selection.ratio 0", "loss 'tal_selected' needs model.token_selection.ratio above 0"),
        ("loss.terms.irr.weight 1", "loss 'tal_selected' excludes 'irr'"),
        ("train.compile True", "ratio: 0.3 excludes train.compile True"),
        ("model.freeze_image True data.transforms [] data.image_feature_cache memory", "image_feature_cache 'memory'"),
        ("test.protocols [t2i,both] model.disentangle.type attention", "both reads the clothing branch"),
        ("model.disentangle.type attention data.id_instruction identity", "ranks by whole captions"),
        ("loss.terms.tal.weight 0 loss.terms.tal_selected.weight 0 loss.terms.sdm.weight 1", "by tal or tal_selected"),
        ("loss.ccd.enabled False loss.ccd.max_iter 5", "loss.ccd.max_iter: 5 has no effect with loss.ccd.enabled"),
        ("loss.terms.tal.reduction all", "unknown 'all'; valid: mean, sum"),
        ("data.noisy_rate 0.2 data.noisy_file some.npy", "set data.noisy_rate 0 and name one dataset"),
    ],
)
def test_what_cannot_work_is_refused_early(words, message) -> None:
    cfg = load_cfg("recipes/rde", words.split())
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        check_recipe(cfg) if check_config(cfg) is None else None


# --- training ---------------------------------------------------------------------------------------------------------


def test_each_pair_has_the_losses_of_its_batch(build) -> None:
    """In batches of the whole training set, so that the order of the pairs does not count."""
    engine = build("train.batch_size", 192)
    train = engine.train_loader.dataset
    images = torch.stack([train.tensor(item[PATH]) for item in train.train])
    with torch.no_grad():
        queries = engine.model.eval().encode_query([item[4] for item in train.train]).chunk(3, dim=1)
        gallery = engine.model.encode_gallery(images).chunk(3, dim=1)
    assert queries[0].shape == (192, 16)  # of 16 + 32
    first, second = (torch.cat(side[1:], 1) for side in (queries, gallery))
    scores = 2 * queries[0] @ gallery[0].T, 2 * first @ second.T
    pids = torch.tensor([item[1] for item in train.train])
    same = pids[:, None] == pids
    expected = []
    for cosines in scores:
        total = 0
        for s in (cosines, cosines.T):
            positive = ((s / 0.015).exp() * same / ((s / 0.015).exp() * same).sum(1, keepdim=True) * s).sum(1)
            total = total + (0.1 - positive + 0.015 * ((s / 0.015).exp() * ~same).sum(1).log()).clamp(min=0)
        expected.append(total)
    torch.testing.assert_close(pair_losses(engine), torch.stack(expected, 1), rtol=1e-3, atol=1e-4)


def test_a_replaced_image_says_nothing_about_a_pair(build, monkeypatch) -> None:
    """Its own pairs have no loss, and those of the image in its place do not depend on which process read it last."""
    engine = build("data.on_bad_image", "skip")
    train = engine.train_loader.dataset
    bad, load = train.train[0][0], train.transform.load
    monkeypatch.setattr(train, "_images", None)

    def load_others(path):
        if path == bad:
            raise DataError(path)
        return load(path)

    monkeypatch.setattr(train.transform, "load", load_others)
    losses = pair_losses(engine)
    assert losses.isnan().all(1).tolist() == [item[0] == bad for item in train.train]
    monkeypatch.setattr(division, "all_gather_list", lambda found: found[::-1])
    torch.testing.assert_close(pair_losses(engine), losses, rtol=0, atol=0, equal_nan=True)


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_run_killed_within_or_between_epochs_is_bit_identical(build, tmp_path) -> None:
    """The labels of a resumed epoch are those that it began with."""
    folders = [tmp_path / name for name in ("whole", "within", "between")]
    for folder in folders:
        folder.mkdir()
    run = {"max_epoch": 2, "print_freq": 1}
    build("train.save_steps", 1).run(save_dir=str(folders[0]), **run)
    for folder, place in zip(folders[1:], ((1, 2), (1, 0)), strict=True):
        engine = build("train.save_steps", 1)
        step = engine.forward_backward

        def dies(data, engine=engine, step=step, place=place):
            if (engine.epoch, engine.batch_idx) == place:
                raise Killed
            return step(data)

        engine.forward_backward = dies
        with pytest.raises(Killed):
            engine.run(save_dir=str(folder), **run)
        heir = build("train.save_steps", 1)
        assert heir.resume(folder / "last.pth") == place
        heir.run(save_dir=str(folder), **run)
        assert differences(saved(folders[0]), saved(folder), "last.pth") == []
        assert (folder / "metrics.jsonl").read_text() == (folders[0] / "metrics.jsonl").read_text()
    clean = saved(folders[0])["division"]["clean"]
    assert 0 < clean.sum() < len(clean) == 192


@pytest.mark.slow
def test_it_learns_from_noisy_pairs_with_random_towers(build) -> None:
    """These need higher rates, a temperature at which more than the hardest negative counts, and more of 8 patches."""
    words = "train.lr 3e-3 train.lr_factors.token_selection 3 train.warmup_epochs 1 train.max_epoch 70"
    words += " train.batch_size 32 model.token_selection.ratio 0.6"
    for term in ("tal", "tal_selected"):
        words += f" loss.terms.{term}.tau 0.3 loss.terms.{term}.margin 0.3"
    engine = build(*words.split())
    untrained = mean_ap_in_training(engine)
    for epoch in range(10):
        engine.epoch, engine.max_epoch = epoch, 70
        engine.train(print_freq=100)
        engine.scheduler.step()
    assert mean_ap_in_training(engine) > 1.5 * untrained


@pytest.mark.slow
def test_search_and_export_rank_by_both_embeddings(synthetic, clip, tmp_path) -> None:
    """A run by command with the recipe's augmentation; ONNX files are refused."""
    folder = tmp_path / "log"
    words = settings(synthetic.root, clip, folder, "data.noisy_rate", 0.2, "train.max_epoch", 1)
    assert main(["train", "--recipe", "rde", *words]) == 0
    model = T2IReIDModel.from_checkpoint(folder / "best.pth")
    texts, height, width = ["a man in a red coat", "a woman"], *model.preprocess[:2]
    images = torch.randn(3, 3, height, width)
    with torch.no_grad():
        expected = model.encode_query(texts) @ model.encode_gallery(images).T
    assert main(["export", str(folder), str(tmp_path / "export")]) == 0
    for source in (folder, tmp_path / "export"):
        searching = t2ireid_plugin.load(source)
        scores = searching.encode_texts(texts) @ searching.encode_images(images).T
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert searching.dim == model.score_dim == 48
    with pytest.raises(EncoderError, match="token_selection reads the attention"):
        searching.save(tmp_path / "onnx")
