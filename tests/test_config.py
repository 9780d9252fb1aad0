import copy
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torchreid import data as torchreid_data
from torchreid import optim as torchreid_optim

from t2ireid_plugin.config import changed_keys, config_names, config_path, dump, get_cfg, image_only, load_cfg, to_dict
from t2ireid_plugin.engine import checks as check
from t2ireid_plugin.engine.checks import OPTIMIZERS, SAMPLERS, SCHEDULERS, check_shares
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.integrations.torchreid import checks as image_checks
from t2ireid_plugin.utils.safe_io import parse_yaml


def check_config(cfg):
    """The check of the training that ``cfg`` describes."""
    (image_checks if image_only(cfg) else check).check_config(cfg)
    if not image_only(cfg):
        check.check_recipe(cfg)


# torchreid's keys and defaults, from its scripts/default_config.py.
TORCHREID = """
model: {name: resnet50, pretrained: true, load_weights: "", resume: ""}
data:
  {type: image, root: reid-data, sources: [market1501], targets: [market1501], workers: 4, split_id: 0, height: 256,
   width: 128, combineall: false, transforms: [random_flip], k_tfm: 1, norm_mean: [0.485, 0.456, 0.406],
   norm_std: [0.229, 0.224, 0.225], save_dir: log, load_train_targets: false}
market1501: {use_500k_distractors: false}
cuhk03: {labeled_images: false, classic_split: false, use_metric_cuhk03: false}
sampler:
  {train_sampler: RandomSampler, train_sampler_t: RandomSampler, num_instances: 4, num_cams: 1, num_datasets: 1}
video: {seq_len: 15, sample_method: evenly, pooling_method: avg}
train:
  {optim: adam, lr: 0.0003, weight_decay: 0.0005, max_epoch: 60, start_epoch: 0, batch_size: 32, fixbase_epoch: 0,
   open_layers: [classifier], staged_lr: false, new_layers: [classifier], base_lr_mult: 0.1, lr_scheduler: single_step,
   stepsize: [20], gamma: 0.1, print_freq: 20, seed: 1}
sgd: {momentum: 0.9, dampening: 0.0, nesterov: false}
rmsprop: {alpha: 0.99}
adam: {beta1: 0.9, beta2: 0.999}
loss: {name: softmax, softmax: {label_smooth: true}, triplet: {margin: 0.3, weight_t: 1.0, weight_x: 0.0}}
test:
  {batch_size: 100, dist_metric: euclidean, normalize_feature: false, ranks: [1, 5, 10, 20], evaluate: false,
   eval_freq: -1, start_eval: 0, rerank: false, visrank: false, visrank_topk: 10}
"""
# Where this package's defaults differ: another task, and size and normalisation that come from the image encoder.
DIFFERENT = {
    "model.name": "t2ireid_vit_mamba",
    "data.sources": ["cuhkpedes"],
    "data.targets": ["cuhkpedes"],
    "data.workers": None,
    "data.height": None,
    "data.width": None,
    "data.norm_mean": None,
    "data.norm_std": None,
    "train.optim": "adamw",
    "train.open_layers": None,
    "loss.name": "terms",
}


def get(cfg, name):
    for part in name.split("."):
        cfg = cfg[part]
    return cfg


def put(cfg, name, value):
    *tables, key = name.split(".")
    for part in tables:
        cfg = cfg[part]
    cfg[key] = value


def flat(table, prefix=""):
    values = {}
    for key, value in table.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        values.update(inner)
    return values


TORCHREID = flat(yaml.safe_load(TORCHREID))


def write(folder, name, **content):
    file = folder / name
    file.write_text(yaml.safe_dump(content))
    return file


def test_torchreids_keys_exist_with_its_defaults():
    assert {name: get(get_cfg(), name) for name in TORCHREID} == {**TORCHREID, **DIFFERENT}


def test_defaults_cannot_be_changed_through_a_configuration():
    untouched = copy.deepcopy(to_dict(get_cfg()))
    cfg = get_cfg()
    cfg.data.sources.append("other")
    cfg.loss.terms["sdm"] = 1
    assert to_dict(get_cfg()) == untouched


def test_torchreids_yaml_loads_unchanged(tmp_path):
    """The style of torchreid's configuration files: flow lists, exponents, single names for lists."""
    file = tmp_path / "im_osnet_x1_0_softmax_256x128_amsgrad_cosine.yaml"
    file.write_text(
        """
model:
  name: 'osnet_x1_0'
  pretrained: True
data:
  sources: ['market1501']
  targets: ['market1501', 'dukemtmcreid']
  height: 256
  width: 128
  transforms: ['random_flip', 'color_jitter']
loss:
  name: 'softmax'
  softmax:
    label_smooth: True
train:
  optim: 'amsgrad'
  lr: 1e-3
  fixbase_epoch: 10
  open_layers: classifier
  lr_scheduler: 'cosine'
"""
    )
    cfg = load_cfg(file)
    check_config(cfg)
    assert image_only(cfg)
    assert cfg.model.name == "osnet_x1_0"
    assert cfg.train.lr == 0.001
    assert cfg.train.open_layers == ["classifier"]
    assert cfg.data.targets == ["market1501", "dukemtmcreid"]
    assert (cfg.data.height, cfg.data.width) == (256, 128)


def test_torchreids_yaml_has_torchreids_defaults(tmp_path):
    """Except the model's name, data.workers, and size and normalisation, which are None for the model's own."""
    cfg = load_cfg(write(tmp_path, "osnet.yaml", model={"name": "osnet_x1_0"}))
    own = dict.fromkeys(("data.height", "data.width", "data.norm_mean", "data.norm_std", "data.workers"))
    assert {name: get(cfg, name) for name in TORCHREID} == {**TORCHREID, "model.name": "osnet_x1_0", **own}


@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_our_model_with_a_loss_of_torchreids_is_image_only(loss):
    cfg = load_cfg(None, ["loss.name", loss])
    check_config(cfg)
    assert image_only(cfg)
    assert (cfg.model.name, cfg.train.optim, cfg.data.sources) == ("t2ireid_vit_mamba", "adam", ["market1501"])


def test_settings_override_image_only_defaults(tmp_path):
    file = write(tmp_path, "osnet.yaml", model={"name": "osnet_x1_0"}, train={"optim": "sgd"})
    cfg = load_cfg(file, ["data.sources", "msmt17"])
    assert (cfg.train.optim, cfg.data.sources, cfg.data.targets) == ("sgd", ["msmt17"], ["market1501"])


def test_changed_keys_are_those_that_differ_from_the_defaults():
    cfg = load_cfg(None, ["train.lr", "1", "model.vit_config.hidden_size", "32", "test.ranks", "[1, 5, 10, 20]"])
    assert changed_keys(cfg) == {"train.lr": 1.0, "model.vit_config": {"hidden_size": 32}}
    assert changed_keys(get_cfg()) == {}


def test_base_files_form_a_chain(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path, "grandparent.yaml", train={"lr": 0.5, "max_epoch": 7, "seed": 3}, data={"root": "a"})
    write(tmp_path, "parent.yaml", _BASE_="grandparent.yaml", train={"lr": 0.25}, data={"height": 64})
    child = write(tmp_path / "deep", "child.yaml", _BASE_="../parent.yaml", train={"seed": 4})
    cfg = load_cfg(child, ["train.batch_size", "6"])
    assert (cfg.train.lr, cfg.train.max_epoch, cfg.train.seed, cfg.train.batch_size) == (0.25, 7, 4, 6)
    assert (cfg.data.root, cfg.data.height, cfg.data.workers) == ("a", 64, None)
    assert "_BASE_" not in cfg


def test_base_merges_loss_terms_by_name(tmp_path):
    write(tmp_path, "base.yaml", loss={"terms": {"sdm": {"weight": 1, "tau": 0.5}, "cls": {"weight": 1}}})
    cfg = load_cfg(write(tmp_path, "top.yaml", _BASE_="base.yaml", loss={"terms": {"sdm": {"weight": 2}}}))
    assert to_dict(cfg.loss.terms) == {"sdm": {"weight": 2, "tau": 0.5}, "cls": {"weight": 1}}


def test_lists_with_commas_or_brackets_are_equal():
    for sources, ranks in (("a,b", "1,5"), ("[a, b]", "[1, 5]"), ("a, b", "(1, 5)")):
        cfg = load_cfg(None, ["data.sources", sources, "test.ranks", ranks])
        assert (cfg.data.sources, cfg.test.ranks) == (["a", "b"], [1, 5])
    with pytest.raises(ConfigError, match=r"test\.ranks': each value must be int, not str \('x'\)"):
        load_cfg(None, ["test.ranks", "x,1"])


def test_a_packaged_configuration_is_read_by_name_from_any_folder(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in config_names():
        if "grid" not in name and "fastreid" not in name and name != "ablation/second":
            expected = load_cfg(repository / "configs" / f"{name}.yaml")
            assert load_cfg(name) == load_cfg(f"{name}.yaml") == expected
    assert config_path("fastreid/cuhkpedes").samefile(repository / "configs" / "fastreid" / "cuhkpedes.yml")
    write(tmp_path, "t2i_vit_mamba.yaml", train={"lr": 7.0})
    assert load_cfg("t2i_vit_mamba.yaml").train.lr == 7
    assert load_cfg("t2i_vit_mamba").train.lr != 7
    with pytest.raises(ConfigError, match="no configuration file 't2i_vit_manba'; did you mean t2i_vit_mamba"):
        load_cfg("t2i_vit_manba")
    with pytest.raises(ConfigError, match="did you mean recipes/irra"):
        load_cfg("irra")


def test_cyclic_bases_are_refused(tmp_path):
    write(tmp_path, "a.yaml", _BASE_="b.yaml")
    write(tmp_path, "b.yaml", _BASE_="a.yaml")
    with pytest.raises(ConfigError, match=r"a\.yaml' is its own _BASE_"):
        load_cfg(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("_BASE_: absent.yaml", r"no configuration file .*absent\.yaml' \(No such file"),
        ("_BASE_: /dev/zero", "not a file but a pipe, socket or device"),
        ("train: {lr: 0.1", r"file\.yaml' is not valid YAML: line 1, column 16"),
        ("a: 1\n---\nb: 2", r"file\.yaml' is not valid YAML: .*another document"),
        ("train: \0", "special characters are not allowed"),
        (
            "# Größe\ntrain: {lr: 1}".encode("latin-1"),
            r"file\.yaml' is not valid YAML: line 1: not UTF-8 \(byte 0xf6\)",
        ),
        (b"train:\n  lr: \xff", r"YAML: line 2: not UTF-8 \(byte 0xff\); save it as UTF-8"),
        ("- train", r"file\.yaml' must hold settings"),
        ("[]", r"file\.yaml' must hold settings such as .*, not \[\]"),
        ("false", r"file\.yaml' must hold settings such as .*, not False"),
        ("train:", r"file\.yaml: 'train' is a table of settings, not None"),
        ("train: {lr: .inf}", r"file\.yaml: 'train\.lr' must be a finite number, not inf"),
        ("train: 5", r"file\.yaml: 'train' is a table of settings, not 5"),
        ("train: {lr: {a: 1}}", r"file\.yaml: 'train\.lr' must be float, not dict"),
        ("1: 2", r"file\.yaml: unknown key '1'"),
        ("train: {lr: 0.1, lr: 0.2}", "line 1, column 18: duplicate key 'lr'"),
        ("train: {lr: 0.1}\ntrain: {seed: 1}", "line 2, column 1: duplicate key 'train'"),
        ("x" * (2**20 + 1), "1,048,577 bytes exceed the limit of 1,048,576"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    (tmp_path / "file.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message) as error:
        load_cfg(tmp_path / "file.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [MARK]",
        "!strange x",
    ],
)
def test_yaml_tags_run_no_code(tmp_path, tag):
    mark = tmp_path / "made"
    value = f"{{a: {tag.replace('MARK', str(mark))}}}"
    (tmp_path / "x.yaml").write_text(f"model: {{vit_config: {value}}}")
    for arguments in ((tmp_path / "x.yaml",), (None, ["model.vit_config", value])):
        with pytest.raises(ConfigError, match="could not determine a constructor for the tag"):
            load_cfg(*arguments)
    assert not mark.exists()


def test_yaml_anchors_and_merge_keys_work():
    text = "a: &a {lr: 0.5, seed: 3}\ntrain:\n  <<: *a\n  seed: 4\nlist: [*a, *a]\n"
    assert parse_yaml(text) == yaml.safe_load(text)


def test_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert to_dict(load_cfg(tmp_path / "empty.yaml")) == to_dict(get_cfg())


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.lr", "1e-4", 0.0001),
        ("train.lr", "1", 1.0),
        ("test.eval_freq", "-1", -1),
        ("use_gpu", "False", False),
        ("test.ranks", "[1, 5]", [1, 5]),
        ("test.ranks", "1", [1]),
        ("data.transforms", "[random_flip, random_erase]", ["random_flip", "random_erase"]),
        ("data.transforms", "['random_flip']", ["random_flip"]),
        ("data.transforms", "random_erase", ["random_erase"]),
        ("data.transforms", "[]", []),
        ("data.height", "null", None),
        ("data.height", "None", None),
        ("data.norm_mean", "[0.5, 0, 1e-1]", [0.5, 0.0, 0.1]),
        ("data.root", "2024", "2024"),
        ("model.vit_config.image_size", "[32, 16]", [32, 16]),
        ("model.bert_config.hidden_act", "gelu", "gelu"),
        ("loss.terms.sdm.weight", "1e-4", 0.0001),
    ],
)
def test_values_from_the_command_line(key, text, value):
    parsed = get(load_cfg(None, [key, text]), key)
    assert parsed == value
    assert type(parsed) is type(value)


def test_whole_tables_from_the_command_line():
    cfg = load_cfg(None, ["loss.terms", "{sdm: {weight: 1e-4}}", "model.fusion", "{num_layers: 3}"])
    assert to_dict(cfg.loss.terms) == {"sdm": {"weight": 0.0001}}
    assert (cfg.model.fusion.num_layers, cfg.model.fusion.dim) == (3, 256)


def test_the_command_line_can_unset_values_of_a_file(tmp_path):
    file = write(tmp_path, "file.yaml", data={"height": 224, "val": ["cuhkpedes_val"]})
    cfg = load_cfg(file, ["data.height", "null", "data.val", "[]"])
    assert cfg.data.height is None
    assert cfg.data.val == []


def test_pairs_with_and_without_an_equals_sign():
    cfg = load_cfg(None, ["data.root=a=b", "train.lr", "1e-3", "data.save_dir", "c=d", "test.ranks=[1, 2]"])
    assert (cfg.data.root, cfg.train.lr, cfg.data.save_dir, cfg.test.ranks) == ("a=b", 0.001, "c=d", [1, 2])


def test_later_values_win(tmp_path):
    assert load_cfg(None, ["train.lr", "1", "train.lr", "2"]).train.lr == 2.0
    file = write(
        tmp_path, "file.yaml", loss={"terms": {"sdm": {"weight": 1.5}}}, model={"vit_config": {"size": [2, 3]}}
    )
    cfg = load_cfg(file, ["loss.terms.sdm.weight", "0", "loss.terms.sdm.tau", "1e-2", "model.vit_config.size", "4"])
    assert to_dict(cfg.loss.terms) == {"sdm": {"weight": 0, "tau": 0.01}}
    assert cfg.model.vit_config.size == 4
    cfg = load_cfg(file, ["model.vit_config.size", "{width: 4}", "model.vit_config.size.height", "2"])
    assert cfg.model.vit_config.size == {"width": 4, "height": 2}
    cfg = load_cfg(None, ["model.vit_config.a", "'true'", "model.vit_config.b", "true"])
    assert (cfg.model.vit_config.a, cfg.model.vit_config.b) == ("true", True)


def test_a_key_without_a_value():
    with pytest.raises(ConfigError, match=r"'train\.seed' has no value; settings are pairs"):
        load_cfg(None, ["train.lr", "1", "train.seed"])


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("train.lrr", "train.lr"), ("trian.lr", "train"), ("maxepoch", "train.max_epoch"), ("qqq", ""), ("", "")],
)
def test_unknown_keys_are_named_with_the_nearest(key, nearest):
    with pytest.raises(ConfigError, match=r"^command line: unknown key '") as error:
        load_cfg(None, [key, "1"])
    message = str(error.value)
    assert (f"did you mean '{nearest}'" in message) == bool(nearest)
    assert ("did you mean" in message) == bool(nearest)
    assert "valid here: " in message


def test_unknown_key_lists_its_neighbours(tmp_path):
    file = write(tmp_path, "file.yaml", sgd={"momentun": 0.5})
    with pytest.raises(ConfigError) as error:
        load_cfg(file)
    assert str(error.value) == (
        f"{file}: unknown key 'sgd.momentun', did you mean 'sgd.momentum'; valid here: momentum, dampening, nesterov"
    )


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("train.max_epoch", "ten", "must be int, not str"),
        ("train.max_epoch", "True", "must be int, not bool"),
        ("train.lr", "fast", "must be float, not str"),
        ("train.lr", "null", "must be float, not empty"),
        ("use_gpu", "1", "must be bool, not int"),
        ("test.ranks", "[one]", "each value must be int, not str"),
        ("test.ranks", "[1, 2.5]", "each value must be int, not float"),
        ("data.sources", "[1]", "each value must be str, not int"),
        ("data.transforms", "[unclosed", "cannot read the value"),
        ("train.lr", "{{}: 1}", "cannot read the value"),
        ("train.lr", "nan", "must be float, not str"),
        ("train.lr", "1e999", "must be a finite number, not inf"),
        ("train", "5", "is a table of settings"),
    ],
)
def test_wrong_types_are_named(key, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_cfg(None, [key, text])
    assert key in str(error.value) or text in str(error.value)


# No line breaks of YAML other than newlines: PyYAML reads them back as spaces.
TEXT = st.text(st.characters(exclude_characters="\0\x85\u2028\u2029", exclude_categories=["Cs"]))


def values_like(default):
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    if isinstance(default, list):
        return st.lists(values_like(default[0]), max_size=4)
    kinds = {bool: st.booleans(), int: st.integers(-(2**63), 2**63 - 1), float: numbers, str: TEXT}
    return kinds[type(default)]


LEAVES = {name: value for name, value in flat(to_dict(get_cfg())).items() if value not in (None, {})}


@given(st.data())
def test_a_dumped_configuration_loads_unchanged(tmp_path_factory, data):
    names = data.draw(st.lists(st.sampled_from(sorted(LEAVES)), max_size=8, unique=True))
    cfg = get_cfg()
    for name in names:
        put(cfg, name, data.draw(values_like(LEAVES[name])))
    weights = data.draw(st.dictionaries(st.text(string.ascii_lowercase, min_size=1), st.floats(0, 10), max_size=3))
    cfg.loss.terms.update({name: {"weight": weight} for name, weight in weights.items()})
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_text(dump(cfg), encoding="utf-8")
    assert to_dict(load_cfg(file)) == to_dict(cfg)


@given(st.sampled_from([n for n, v in LEAVES.items() if not isinstance(v, (str, list))]), st.data())
def test_a_number_on_the_command_line_is_that_number(name, data):
    value = data.draw(values_like(LEAVES[name]))
    parsed = get(load_cfg(None, [name, repr(value)]), name)
    assert parsed == value
    assert type(parsed) is type(value)


@given(st.sampled_from([n for n, v in LEAVES.items() if isinstance(v, str)]), TEXT)
def test_a_text_on_the_command_line_is_that_text(name, text):
    assert get(load_cfg(None, [name, text]), name) == text
    assert get(load_cfg(None, [f"{name}={text}"]), name) == text


@given(st.sampled_from(sorted(LEAVES)), st.text(st.sampled_from("[]{}():,'\"0123456789-e.ab#\\ \n\0"), max_size=12))
def test_odd_values_are_accepted_or_a_config_error(name, text):
    try:
        value = get(load_cfg(None, [name, text]), name)
    except ConfigError as error:
        assert name in str(error) or repr(text) in str(error)  # noqa: PT017 both ends are tested
    else:
        assert type(value) is type(LEAVES[name])


def test_every_configuration_file_is_valid(repository):
    files = sorted((repository / "configs").glob("*.yaml"))
    assert {"t2i_synthetic_cpu.yaml", "t2i_vit_mamba.yaml", "t2i_clip_mamba.yaml"} < {file.name for file in files}
    for file in files:
        check_config(load_cfg(file))


@pytest.fixture(scope="module")
def full(repository):
    return repository / "configs" / "t2i_vit_mamba.yaml"


def test_the_full_configuration_is_the_specifications(full):
    """The settings that the specification gives by number."""
    cfg = load_cfg(full)
    assert cfg.model.vit_pretrained == "google/vit-base-patch16-224"
    assert cfg.model.bert_base_path == "bert-base-uncased"
    assert (cfg.data.height, cfg.data.width) == (224, 224)
    assert to_dict(cfg.model.fusion) == {
        "type": "enhanced_mamba",
        "dim": 256,
        "d_state": 16,
        "d_conv": 4,
        "num_layers": 2,
        "output_dim": 256,
        "dropout": 0.1,
    }


@pytest.mark.parametrize(
    ("key", "value", "valid"),
    [
        ("model.name", "osnet_x10", "osnet_x1_0"),
        ("model.fusion.type", "enhanced_mambo", "enhanced_mamba"),
        ("data.sources", "cuhk-pedes", "cuhkpedes, cuhkpedes_val"),
        ("data.targets", "market", "cuhkpedes, cuhkpedes_val"),
        ("data.val", "cuhkpedes_dev", "cuhkpedes, cuhkpedes_val"),
        ("data.transforms", "random_flop", "random_flip, random_flip_image"),
        ("data.id_instruction", "id", "caption, identity"),
        ("data.cloth_instruction", "cloth", "clothing"),
        ("sampler.train_sampler", "RandomIdSampler", "RandomIdentitySampler"),
        ("data.on_bad_image", "ignore", "error, skip"),
        ("train.precision", "half", "fp32, bf16, fp16"),
        ("train.optim", "lamb", "adamw, adam, amsgrad, radam, sgd, rmsprop"),
        ("train.lr_scheduler", "exp", "warmup_cosine, single_step, multi_step, cosine, poly, linear"),
        ("test.evaluator", "mine", "exact, torchreid"),
        ("loss.name", "softmaxx", "terms, softmax, triplet"),
    ],
)
def test_unknown_names_are_refused_with_the_valid_ones(full, key, value, valid):
    with pytest.raises(ConfigError) as error:
        check_config(load_cfg(full, [key, value]))
    message = str(error.value)
    assert message.startswith(f"{key}: unknown '{value}'; valid: ")
    assert valid in message


def test_offered_names_exist_in_torchreid():
    assert set(SAMPLERS) == set(torchreid_data.sampler.AVAI_SAMPLERS)
    assert set(SCHEDULERS) - {"warmup_cosine", "poly", "linear"} == set(torchreid_optim.lr_scheduler.AVAI_SCH)
    assert set(OPTIMIZERS) - {"adamw"} == set(torchreid_optim.optimizer.AVAI_OPTIMS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss.terms.quadruplet.weight", "1"], "loss: unknown 'quadruplet'; valid: info_nce, cls"),
        (["loss.terms.sdm.temperature", "1"], "loss 'sdm': unknown temperature; valid: weight, tau"),
        (["loss.terms.sdm.weight", "heavy"], "weight"),
        (["loss.terms.sdm", "1"], r"'loss\.terms\.sdm' is a table of settings"),
        (
            ["loss.terms.fused_query.weight", "1", "sampler.train_sampler", "RandomSampler"],
            r"loss 'fused_query' compares photos of one person, .*sampler\.num_instances to at least 2",
        ),
        (["train.batch_size", "1"], r"train\.batch_size: 1 must be at least 2"),
        (["train.batch_size", "30"], r"train\.batch_size: 30 must be a multiple of sampler\.num_instances 4"),
        (["data.sources", "[]"], r"data\.sources and data\.targets must each name a dataset"),
        (["test.ranks", "[5, 10]"], r"test\.ranks: \[5, 10\] must include 1"),
        (["test.ranks", "[0, 1]"], r"test\.ranks: \[0, 1\] must be at least 1"),
        (["train.lr", "-1"], r"train\.lr: -1\.0 must be at least 0"),
        (["train.print_freq", "0"], r"train\.print_freq: 0 must be at least 1"),
        (["data.workers", "-2"], r"data\.workers: -2 must be at least 0"),
        (["data.k_tfm", "2"], r"data\.k_tfm: 2"),
        (["train.layer_decay", "0"], r"train\.layer_decay: 0\.0 must be above 0 and at most 1"),
        (["train.layer_decay", "1.01"], r"train\.layer_decay: 1\.01 must be above 0 and at most 1"),
        (["adam.beta1", "1"], r"adam\.beta1: 1\.0 must be at least 0 and below 1"),
        (["adam.beta2", "-0.1"], r"adam\.beta2: -0\.1 must be at least 0 and below 1"),
        (["train.seed", "4294967296"], r"train\.seed: 4294967296 must be at least 0 and below 4294967296"),
        (["train.gamma", "-1"], r"train\.gamma: -1\.0 must be at least 0"),
        (["train.base_lr_mult", "-1"], r"train\.base_lr_mult: -1\.0 must be at least 0"),
        (["train.fixbase_epoch", "-1"], r"train\.fixbase_epoch: -1 must be at least 0"),
        (["train.stepsize", "[5, 0]"], r"train\.stepsize: \[5, 0\] must be at least 1"),
        (["train.stepsize", "[]", "train.lr_scheduler", "single_step"], r"train\.stepsize: \[\] must name the epoch"),
        (["data.height", "0"], r"data\.height: 0 must be at least 1 and below 4097"),
        (["data.width", "1000000"], r"data\.width: 1000000 must be at least 1 and below 4097"),
        (["data.norm_std", "[1, 1]"], r"data\.norm_std: \[1\.0, 1\.0\] must be three numbers"),
        (["data.norm_std", "[0, 1, 1]"], r"data\.norm_std: \[0\.0, 1\.0, 1\.0\] must be above 0"),
        (["model.fusion.d_conv", "0"], r"fusion\.d_conv: 0 must be a whole number of at least 1"),
        (["model.fusion.output_dim", "100"], r"fusion\.output_dim: 100 must be 256"),
        (["model.fusion.num_layers", "-1"], r"fusion\.num_layers: -1 must be"),
        (["model.fusion.dropout", "2"], r"fusion\.dropout: 2\.0 must be from 0 to below 1"),
        (["train.ema_decay", "1"], r"train\.ema_decay: 1\.0 must be at least 0 and below 1"),
        (["train.ema_decay", "-0.1"], r"train\.ema_decay: -0\.1 must be at least 0"),
        (["data.bad_image_share", "1.5"], r"data\.bad_image_share: 1\.5 must be at least 0 and at most 1"),
        (["data.targets", "market1501"], "unknown 'market1501'; valid: .*; to train on images without texts"),
        (["loss.name", "softmax"], r"data\.sources: 'cuhkpedes' has texts as queries, which t2ireid_vit_mamba"),
        (["model.pretrained", "False"], r"model\.pretrained: False has no effect .*model\.vit_pretrained ''"),
        (["data.type", "video"], r"data\.type: 'video' has no effect"),
        (["data.split_id", "3"], r"data\.split_id: 3 has no effect"),
        (["data.load_train_targets", "True"], r"data\.load_train_targets: True has no effect"),
        (["sampler.train_sampler_t", "SequentialSampler"], r"train_sampler_t: 'SequentialSampler' has no effect"),
        (
            ["train.new_layers", "[fusion]", "train.staged_lr", "False"],
            r"train\.new_layers: \['fusion'\] has no effect with train\.staged_lr False; it is for True",
        ),
        (["test.visrank", "True"], r"test\.visrank: True has no effect .*--visualize"),
        (["sgd.momentum", "0.8"], r"sgd\.momentum: 0\.8 has no effect with train\.optim adamw; it is for sgd, rmsprop"),
        (["adam.eps", "1e-3", "train.optim", "sgd"], r"adam\.eps: 0\.001 has no effect with train\.optim sgd"),
        (
            ["train.gamma", "0.5"],
            r"train\.gamma: 0\.5 has no effect with train\.lr_scheduler warmup_cosine",
        ),
        (
            ["train.lr_scheduler", "poly", "train.final_lr_mult", "0.1"],
            r"train\.final_lr_mult: 0\.1 has no effect",
        ),
        (["train.lr_scheduler", "poly", "train.warmup_epochs", "0.5"], r"train\.warmup_epochs: 0\.5 must be a whole"),
        (["train.optim", "sgd", "sgd.nesterov", "True", "sgd.momentum", "0"], r"sgd\.nesterov: True needs sgd\.mom"),
        (["video.seq_len", "3"], r"video\.seq_len"),
        (["loss.triplet.margin", "0.1"], r"loss\.triplet\.margin: 0\.1 has no effect .*loss\.terms"),
    ],
)
def test_settings_that_cannot_work_are_refused(full, words, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_cfg(full, words))


@pytest.mark.parametrize(
    ("processes", "words", "message"),
    [
        (3, [], r"train\.batch_size: 64 is the batch of all 3 processes together; it must give each the same number"),
        (32, [], r"the images of one identity must stay in one process"),
        (64, [], r"train\.batch_size: 64 is the batch of all 64 processes together; .*, at least 2"),
        (2, ["sampler.num_instances", "64"], r"gives each of 2 processes 32 samples, which is not a multiple of .* 64"),
    ],
)
def test_batches_that_do_not_divide_among_processes_are_refused(full, monkeypatch, processes, words, message):
    monkeypatch.setattr("t2ireid_plugin.utils.distributed.world_size", lambda: processes)
    settings = ["train.batch_size", "64", "sampler.train_sampler", "RandomIdentitySampler"]
    with pytest.raises(ConfigError, match=message):
        check_shares(load_cfg(full, [*settings, *words]))
    monkeypatch.setattr("t2ireid_plugin.utils.distributed.world_size", lambda: 2)
    check_shares(load_cfg(full, settings))


def test_a_configuration_without_losses_is_refused():
    with pytest.raises(ConfigError, match="no loss has a weight above 0"):
        check_config(get_cfg())
