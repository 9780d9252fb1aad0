"""Images with texts: FastReID's trainer, samplers, loaders and evaluation loop with our model, losses and ranking."""

import json

import numpy as np
import pytest
import torch
from fastreid.modeling import build_model
from fastreid.utils.events import EventStorage

from t2ireid_plugin.cli import main as t2ireid
from t2ireid_plugin.integrations.fastreid.loaders import build_test_loader, build_train_loader
from t2ireid_plugin.integrations.fastreid.meta_arch import T2IReIDBaseline
from t2ireid_plugin.losses import LOSSES, LossInputs, LossTerms
from t2ireid_plugin.losses.base import RUN_INPUTS
from t2ireid_plugin.modeling.ranking import Ranking
from t2ireid_plugin.modeling.training_passes import forward_masked

METRICS = (("R@1", "Rank-1"), ("R@5", "Rank-5"), ("R@10", "Rank-10"), ("mAP", "mAP"), ("mINP", "mINP"))
TERMS = ("info_nce", "cloth_match", "fused_query")  # of configs/fastreid/synthetic_cpu.yml

TERMS_HERE = [name for name in LOSSES if name != "irr" and not {*LOSSES[name].needs} & {*RUN_INPUTS}]


@pytest.fixture
def at_synthetic(synthetic, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", str(synthetic.root))
    return synthetic


def every_term():
    """All but those that FastReID's batches lack the inputs of."""
    return [word for name in TERMS_HERE for word in (f"T2IREID.LOSSES.{name}.weight", "0.5")]


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


# Training


def test_training_writes_fastreids_files(text_image_run) -> None:
    folder = text_image_run.folder
    for name in ("config.yaml", "log.txt", "metrics.json", "model_best.pth", "model_final.pth", "last_checkpoint"):
        assert (folder / name).is_file(), name
    losses = [line for line in lines(folder) if "total_loss" in line]
    assert losses
    for line in losses:
        assert {name for name in line if name.startswith("loss_")} == {f"loss_{name}" for name in TERMS}
    assert set(text_image_run.results) == {"cuhkpedes_val", "cuhkpedes"}


def test_the_best_checkpoint_is_chosen_on_val(text_image_run) -> None:
    names = ("model_0000", "model_final", "model_best")
    first, final, best = (torch.load(text_image_run.folder / f"{name}.pth", weights_only=True) for name in names)
    assert final["metric"] == pytest.approx(text_image_run.results["cuhkpedes_val"]["metric"])
    assert final["metric"] != pytest.approx(text_image_run.results["cuhkpedes"]["metric"])
    assert best["metric"] == max(first["metric"], final["metric"])
    chosen = first if first["metric"] >= final["metric"] else final
    assert all(torch.equal(value, best["model"][name]) for name, value in chosen["model"].items())


def test_training_reduces_the_loss(run_tool, synthetic, text_image_yaml, tmp_path) -> None:
    """The loss of a few people falls far, which it could not with constant weights."""
    words = ("SOLVER.MAX_EPOCH", 12, "SOLVER.BASE_LR", 3e-3, "TEST.EVAL_PERIOD", 12, "SOLVER.CHECKPOINT_PERIOD", 12)
    run_tool(synthetic.root, text_image_yaml, "OUTPUT_DIR", tmp_path, *words)
    losses = [line["total_loss"] for line in lines(tmp_path) if "total_loss" in line]
    assert losses[-1] < 0.75 * losses[0]


def test_training_resumes_from_a_checkpoint(run_tool, synthetic, text_image_yaml, tmp_path) -> None:
    words = ("OUTPUT_DIR", tmp_path, "SOLVER.MAX_EPOCH")
    run_tool(synthetic.root, text_image_yaml, *words, 2)
    first = torch.load(tmp_path / "model_final.pth", weights_only=True)
    run_tool(synthetic.root, text_image_yaml, "--resume", *words, 4)
    last = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (first["epoch"], last["epoch"]) == (1, 3)
    steps = [{float(state["step"]) for state in file["optimizer"]["state"].values()} for file in (first, last)]
    assert steps[1].pop() == 2 * steps[0].pop()
    assert first["tokenizer"] == last["tokenizer"]


def test_losses_equal_our_weighted_terms(at_synthetic, make_cfg, text_image_yaml) -> None:
    """A batch of FastReID's loader in our meta-architecture, against the model and `LossTerms` called directly."""
    cfg = make_cfg(text_image_yaml, "MODEL.HEADS.NUM_CLASSES", str(at_synthetic.train_ids), *every_term())
    torch.manual_seed(0)
    arch = build_model(cfg).train()
    assert isinstance(arch, T2IReIDBaseline)
    batch = next(iter(build_train_loader(cfg)))
    before = batch["images"].clone()
    torch.manual_seed(1)
    with EventStorage(0) as storage:
        storage.epoch = 3
        losses = arch(batch)
    assert torch.equal(batch["images"], before)  # FastReID normalises in place
    assert set(losses) == {f"loss_{name}" for name in TERMS_HERE}

    torch.manual_seed(1)
    terms: LossTerms = arch.heads.losses
    photos = torch.tensor([batch["img_paths"].index(path) for path in batch["img_paths"]])
    output, masked = forward_masked(
        arch.backbone, (batch["images"] / 127.5) - 1, batch["cloth_texts"], batch["id_texts"], terms.hidden_share
    )
    inputs = LossInputs(
        pids=batch["targets"],
        photos=photos,
        scale=arch.backbone.scale,
        epoch=3.0,
        **output._asdict(),
        **masked,
    )
    total, values = terms(inputs)
    assert sum(losses.values()).item() == pytest.approx(total.item(), rel=1e-4)
    for name, value in values.items():
        assert losses[f"loss_{name}"].item() == pytest.approx(0.5 * value.item(), rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize(("done", "fused"), [(2, False), (3, True)])
def test_a_term_of_every_fourth_step(at_synthetic, make_cfg, text_image_yaml, done, fused) -> None:
    """The step is FastReID's; the others do not fuse."""
    words = ("MODEL.HEADS.NUM_CLASSES", str(at_synthetic.train_ids), *every_term())
    cfg = make_cfg(
        text_image_yaml, *words, "T2IREID.LOSSES.fused_query.every", "4", "T2IREID.PROJECTION_DROPOUT", "0.0"
    )
    arch, calls = build_model(cfg).train(), []
    assert {part.p for part in arch.backbone.image_mlp if isinstance(part, torch.nn.Dropout)} == {0}
    arch.backbone.fusion.register_forward_hook(lambda *_: calls.append(1))
    with EventStorage(done) as storage:
        storage.epoch = 0
        losses = arch(next(iter(build_train_loader(cfg))))
    assert ("loss_fused_query" in losses, len(calls)) == (fused, int(fused))
    assert set(losses) == {f"loss_{name}" for name in TERMS_HERE if fused or name != "fused_query"}


def test_settings_reach_the_model(make_cfg, text_image_yaml, at_synthetic) -> None:
    pool = ("POOL", "stripes", "STRIPES", "2", "CROSS", "own")
    words = [word for key, value in zip(pool[::2], pool[1::2]) for word in (f"T2IREID.DISENTANGLE.{key}", value)]
    words += ["T2IREID.IDENTITY_WEIGHT", "0.25", "MODEL.HEADS.NUM_CLASSES", "24"]
    model = build_model(make_cfg(text_image_yaml, *words)).eval()
    assert {key: model.backbone.pooling[key] for key in ("pool", "stripes", "cross")} == {
        "pool": "stripes", "stripes": 2, "cross": "own",
    }  # fmt: skip
    assert model.backbone.ranking == Ranking("both", 0.25)
    caption = build_model(make_cfg(text_image_yaml, *words, "T2IREID.ID_INSTRUCTION", "caption")).eval()
    assert caption.backbone.ranking == Ranking("caption", 0.25)
    with torch.no_grad():
        assert model({"captions": ["A man in a red coat."]}).shape == (1, 512)
        assert caption({"captions": ["A man in a red coat."]}).shape == (1, 256)


def test_the_optimizer_has_every_trained_parameter(at_synthetic, make_cfg, text_image_yaml) -> None:
    from t2ireid_plugin.integrations.fastreid.trainer import TextImageTrainer

    words = ("T2IREID.ENCODER_LR_FACTOR", "0.1", "SOLVER.HEADS_LR_FACTOR", "2.0", "MODEL.HEADS.NUM_CLASSES", "24")
    cfg = make_cfg(text_image_yaml, *words, *every_term())
    model = build_model(cfg)
    optimizer, _ = TextImageTrainer.build_optimizer(cfg, model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    assert set(rates) == set(names.values())
    base = cfg.SOLVER.BASE_LR
    assert rates[names["backbone.visual_encoder.embeddings.cls_token"]] == pytest.approx(0.1 * base)
    assert rates[names["backbone.shared_mlp.weight"]] == pytest.approx(base)
    assert rates[names["heads.losses.terms.bio.projection.weight"]] == pytest.approx(2 * base)
    assert not any(name.startswith("backbone.text_encoder") for name in names)  # frozen


def test_every_parameter_has_a_gradient_on_several_gpus(at_synthetic, make_cfg, text_image_yaml, monkeypatch, tmp_path):
    """FastReID's DistributedDataParallel fails in the second step if a parameter has none."""
    cfg = make_cfg(text_image_yaml, "MODEL.HEADS.NUM_CLASSES", str(at_synthetic.train_ids))
    model, batch = build_model(cfg).train(), next(iter(build_train_loader(cfg)))

    def two_steps():
        parallel = torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        with EventStorage(0) as storage:
            storage.epoch = 0
            for _ in range(2):
                sum(parallel(batch).values()).backward()

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with monkeypatch.context() as alone:
            alone.setattr("fastreid.utils.comm.get_world_size", lambda: 1)
            with pytest.raises(RuntimeError, match="finished reduction"):
                two_steps()
        monkeypatch.setattr("fastreid.utils.comm.get_world_size", lambda: 2)
        two_steps()
    finally:
        torch.distributed.destroy_process_group()


# Data


@pytest.mark.parametrize("sampler", ["TrainingSampler", "NaiveIdentitySampler", "BalancedIdentitySampler"])
def test_fastreids_samplers_draw_captions(at_synthetic, make_cfg, text_image_yaml, sampler) -> None:
    loader = iter(build_train_loader(make_cfg(text_image_yaml, "DATALOADER.SAMPLER_TRAIN", sampler)))
    for _ in range(3):
        batch = next(loader)
        assert batch["images"].shape == (32, 3, 32, 16)
        assert batch["images"].max() > 200  # FastReID's models take 0 to 255
        pids, counts = np.unique(batch["targets"].numpy(), return_counts=True)
        assert set(pids) <= set(range(at_synthetic.train_ids))
        if sampler != "TrainingSampler":
            assert (counts % 4 == 0).all()
        for name in ("captions", "id_texts", "cloth_texts", "img_paths"):
            assert len(batch[name]) == 32
            assert all(batch[name])


def test_a_flip_swaps_left_and_right_in_the_texts(cuhk, make_cfg, text_image_yaml, monkeypatch) -> None:
    for row in cuhk.rows:
        row["captions"] = ["She holds a bag in her left hand.", "Right of her is a car."]
    monkeypatch.setenv("FASTREID_DATASETS", str(cuhk.save()))
    small = ("SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_INSTANCE", "2")
    plain = build_train_loader(make_cfg(text_image_yaml, *small, "INPUT.FLIP.ENABLED", "False")).dataset
    flipped = build_train_loader(make_cfg(text_image_yaml, *small, "INPUT.FLIP.PROB", "1.0")).dataset
    for index in range(len(plain)):
        assert torch.equal(plain[index]["images"].flip(-1), flipped[index]["images"])
    assert [plain[index]["captions"] for index in range(2)] == cuhk.rows[0]["captions"]
    swapped = ["She holds a bag in her right hand.", "Left of her is a car."]
    assert [flipped[index]["captions"] for index in range(2)] == swapped


def test_augmentation_follows_input(at_synthetic, make_cfg, text_image_yaml) -> None:
    words = ["INPUT.FLIP.ENABLED", "False", "INPUT.REA.ENABLED", "True", "INPUT.REA.PROB", "1.0"]
    erased = build_train_loader(make_cfg(text_image_yaml, *words, "INPUT.REA.VALUE", "[1.0, 2.0, 3.0]")).dataset[0]
    painted = (erased["images"] == torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)).all(dim=0)
    assert painted.float().mean() > 0.01


def test_the_test_loader_yields_every_image_once_and_every_caption(at_synthetic, make_cfg, text_image_yaml) -> None:
    loader, queries = build_test_loader(make_cfg(text_image_yaml), "cuhkpedes")
    assert queries == at_synthetic.test_ids * at_synthetic.photos * at_synthetic.captions
    batches = list(loader)
    assert len(batches) == len(loader)
    photos = [path for batch in batches if "images" in batch for path in batch["img_paths"]]
    texts = [text for batch in batches if "images" not in batch for text in batch["captions"]]
    assert len(photos) == len(set(photos)) == at_synthetic.test_ids * at_synthetic.photos
    assert len(texts) == queries
    assert len(loader.dataset) == len(photos) + queries


# Evaluation


def test_evaluation_equals_our_engines(tiny_run, run_tool, synthetic, text_image_yaml, tmp_path) -> None:
    """Weights and ranking of our engine evaluated by FastReID, against the run's results.json."""
    weights = ("MODEL.WEIGHTS", tiny_run.folder / "best.pth")
    tests = ("DATASETS.TESTS", "('cuhkpedes',)")
    results = run_tool(synthetic.root, text_image_yaml, "--eval-only", "OUTPUT_DIR", tmp_path, *weights, *tests)
    expected = tiny_run.results["metrics"]["cuhkpedes"]["t2i"]
    for ours, theirs in METRICS:
        assert results[theirs] == pytest.approx(100 * expected[ours], abs=1e-9), ours
    assert results["metric"] == pytest.approx((results["Rank-1"] + results["mAP"]) / 2)
    log = (tmp_path / "log.txt").read_text()
    assert f"ranking, the checkpoint's: by both branches, identity {expected['weight']:g} and clothing" in log


def test_our_engine_gives_the_same_metrics_for_fastreids_weights(text_image_run, tiny_settings, tmp_path) -> None:
    words = tiny_settings(tmp_path, model__load_weights=text_image_run.folder / "model_final.pth")
    assert t2ireid(["test", *words]) == 0
    results = json.loads((tmp_path / "test" / "cuhkpedes" / "results.json").read_text())["metrics"]["cuhkpedes"]["t2i"]
    for ours, theirs in METRICS:
        assert 100 * results[ours] == pytest.approx(text_image_run.results["cuhkpedes"][theirs], abs=1e-9), ours


def test_val_is_held_out_if_a_dataset_has_none(
    benchmark_root, run_tool, text_image_yaml, make_cfg, monkeypatch
) -> None:
    monkeypatch.setenv("FASTREID_DATASETS", str(benchmark_root("icfgpedes")))
    names = ("DATASETS.NAMES", "('icfgpedes',)", "DATASETS.TESTS")
    alone = build_train_loader(make_cfg(text_image_yaml, *names, "('icfgpedes',)")).dataset
    shared = build_train_loader(make_cfg(text_image_yaml, *names, "('icfgpedes_val', 'icfgpedes')")).dataset
    held_out, _ = build_test_loader(make_cfg(text_image_yaml, *names, "('icfgpedes_val',)"), "icfgpedes_val")
    assert shared.num_classes < alone.num_classes
    trained = {path for path, *_ in shared.items}
    assert trained.isdisjoint(path for path, *_ in held_out.loaders[0].dataset.items)


# Images alone


def test_evaluation_on_images_alone_is_refused(at_synthetic) -> None:
    from fastreid.data.datasets import DATASET_REGISTRY

    from t2ireid_plugin.errors import ConfigError

    dataset = DATASET_REGISTRY.get("cuhkpedes")(root=str(at_synthetic.root))
    assert len(dataset.train) == at_synthetic.train_ids * at_synthetic.photos
    assert {len(item) for item in dataset.train} == {3}
    with pytest.raises(ConfigError, match="are texts"):
        dataset.show_test()
