import pytest

from t2ireid_plugin.ablation.grid import plan, read_grid
from t2ireid_plugin.config import load_cfg
from t2ireid_plugin.errors import ConfigError
from t2ireid_plugin.losses import LossTerms

BASE = """
loss: {terms: {info_nce: {weight: 1.0, tau: 0.2}, cls: {weight: 0.5}}}
train: {lr: 0.01}
"""


@pytest.fixture
def base(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path / "base.yaml"


@pytest.fixture
def grid(tmp_path):
    def write(text):
        (tmp_path / "grid.yaml").write_text(text)
        return read_grid(tmp_path / "grid.yaml")

    return write


def test_rows_are_settings_over_the_configuration(grid, base, tmp_path):
    rows = grid("rows: {plain: {}, slow: {train: {lr: 0.001}}}")
    runs = plan(rows, base, ["train.max_epoch", "3"], [4, 5], tmp_path / "out")
    assert [(run.row, run.seed) for run in runs] == [("plain", 4), ("slow", 4), ("plain", 5), ("slow", 5)]
    settings = [run.cfg for run in runs]
    assert [cfg.train.lr for cfg in settings] == [0.01, 0.001, 0.01, 0.001]
    assert [cfg.train.seed for cfg in settings] == [4, 4, 5, 5]
    assert all(cfg.train.max_epoch == 3 for cfg in settings)
    assert len({cfg.data.save_dir for cfg in settings}) == 4
    plain = load_cfg(base, ["train.max_epoch", "3", "train.seed", "4", "data.save_dir", settings[0].data.save_dir])
    assert settings[0] == plain
    (tmp_path / "recipe.yaml").write_text(runs[0].recipe)
    assert load_cfg(tmp_path / "recipe.yaml") == plain


def test_the_losses_of_a_row_replace_those_of_the_configuration_with_their_arguments(grid, base, tmp_path):
    rows = grid("rows: {a: {loss: {terms: {sdm: {weight: 2.0}, info_nce: {weight: 1.0}}}}, b: {}}")
    run, other = plan(rows, base, [], [1], tmp_path)
    assert run.cfg.loss.terms == {"info_nce": {"weight": 1.0}, "sdm": {"weight": 2.0}}
    assert other.cfg.loss.terms == load_cfg(base).loss.terms


def test_the_rows_of_the_lineage_have_its_terms_with_and_without_its_faults(repository, tmp_path):
    """The lineage: yyykkklll/Instruct-ReID and kelongyan/t2i_reid."""
    folder = repository / "configs" / "ablation"
    runs = plan(read_grid(folder / "grid.yaml"), folder / "drawn.yaml", [], [1], tmp_path)
    weights = {
        "info_nce": 1.0, "cls": 1.0, "bio": 0.5, "cloth": 0.5,
        "cloth_adv": 0.1, "cloth_match": 1.0, "decouple": 0.1, "gate_regularization": 0.01,
    }  # fmt: skip
    contrastive = ["info_nce", "bio", "cloth", "cloth_adv", "cloth_match"]
    for row, targets in (("lineage", "diagonal"), ("corrected", "identity")):
        losses = LossTerms(next(run.cfg for run in runs if run.row == row).loss.terms)
        assert losses.weights == weights
        assert [losses.terms[name].tau for name in contrastive] == [0.1] * 5
        assert [losses.terms[name].targets for name in contrastive] == [targets] * 5
        faulty = row == "lineage"
        assert (losses.terms["decouple"].projections is None) is not faulty
        assert losses.terms["gate_regularization"].of_each is faulty
        assert losses.terms["cloth_match"].wrong_share == 0.5 * faulty
        assert [losses.terms[name].projection.weight.requires_grad for name in ("bio", "cloth")] == [not faulty] * 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {}", "must have rows"),
        ("- a", "must have rows"),
        ("rows: {a: 3}", r"row 'a' must be a table of settings, not 3"),
        ("rows: {'../a': {}}", r"row '\.\./a' becomes a folder's name"),
        ("rows: {a: {}}\nbaseline: b", r"baseline: unknown 'b'; valid: a"),
        ("rows: {a: {}}\nseeds: 3", r"unknown seeds; valid: rows, baseline"),
        ("rows: {a: [}", "not valid YAML"),
    ],
)
def test_an_invalid_grid_is_refused_with_its_file_name(grid, text, message):
    with pytest.raises(ConfigError, match=rf"grid\.yaml.*{message}"):
        grid(text)


def test_a_grid_can_be_limited_to_some_rows_and_the_baseline(grid, tmp_path):
    with pytest.raises(ConfigError, match="no configuration file"):
        read_grid(tmp_path / "grid.yaml")
    grid("rows: {a: {}, b: {}, c: {}}\nbaseline: b")
    assert list(read_grid(tmp_path / "grid.yaml", ["c"]).rows) == ["b", "c"]


def test_an_unknown_key_names_its_row(grid, base, tmp_path):
    with pytest.raises(ConfigError, match=r"row 'b': unknown key 'train\.lrr', did you mean 'train\.lr'"):
        plan(grid("rows: {a: {}, b: {train: {lrr: 1}}}"), base, [], [1], tmp_path)
