import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from t2ireid_plugin.utils import fonts
from t2ireid_plugin.utils.language import use_language
from t2ireid_plugin.visualization import plots
from t2ireid_plugin.visualization.plots import plot_cmc, plot_file, plot_for_page, plot_similarities

GREEN, RED, BLUE, ORANGE = (34, 160, 70), (208, 48, 48), (0, 114, 178), (213, 94, 0)


def pixels(figure):
    with Image.open(io.BytesIO(plot_file(figure, "png"))) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def places(image, colour):
    """Rows and columns of the pixels of nearly this colour, without the legend's, which is in a corner."""
    return np.argwhere((np.abs(image - colour) < 12).all(axis=-1))


@pytest.fixture
def axes(monkeypatch):
    """The axes of each plot that is drawn."""
    axes, figure = [], plots._figure

    def record():
        drawn = figure()
        axes.append(drawn[1])
        return drawn

    monkeypatch.setattr(plots, "_figure", record)
    return axes


def test_each_curve_is_drawn_with_its_values(axes):
    curves = {"t2i": np.array([0.2, 0.5, 1.0]), "i2t": np.array([0.1, 0.1, 0.4])}
    image = pixels(plot_cmc(curves))
    assert image.shape == (400, 640, 3)
    axis = axes[0]
    assert [line.get_ydata().tolist() for line in axis.lines] == [[0.2, 0.5, 1.0], [0.1, 0.1, 0.4]]
    assert [line.get_xdata().tolist() for line in axis.lines] == [[1, 2, 3]] * 2
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["t2i", "i2t"]
    assert len(places(image, BLUE)) > 50
    assert len(places(image, ORANGE)) > 50


@pytest.mark.parametrize(("lowest", "floor"), [(0.0, 0.0), (0.59, 0.0), (0.72, 0.6), (0.95, 0.9), (1.0, 0.9)])
def test_the_axis_begins_at_zero_unless_all_is_high(axes, lowest, floor):
    plot_cmc({"a": np.array([lowest, 1.0])})
    assert axes[0].get_ylim()[0] == pytest.approx(floor)


def test_right_pairs_are_green_and_wrong_ones_red(axes):
    # Ten bins of 0.2: non-matching pairs around -0.1, matching ones around 0.7.
    image = pixels(
        plot_similarities(np.array([0, 0, 0, 0, 0, 0, 0, 1, 3, 0]), np.array([0, 0, 0, 10, 30, 0, 0, 0, 0, 0]))
    )
    assert places(image, RED)[:, 1].mean() < places(image, GREEN)[:, 1].mean()
    drawn = {patch.get_label(): patch.get_data().values.tolist() for patch in axes[0].patches if patch.get_label()}
    # Both scaled to 1; means by hand: (0.5 + 3 * 0.7) / 4 and (-0.3 - 3 * 0.1) / 4.
    assert drawn["same person, mean 0.65"] == [0, 0, 0, 0, 0, 0, 0, 0.25, 0.75, 0]
    assert drawn["different people, mean −0.15"] == [0, 0, 0, 0.25, 0.75, 0, 0, 0, 0, 0]


def test_one_kind_of_pairs_alone(axes):
    plot_similarities(np.array([0, 1]), np.array([0, 0]))
    plot_similarities(np.array([0, 0]), np.array([0, 1]))
    plot_similarities(np.array([1, 3]), np.array([3, 1]))
    assert axes[2].get_legend().get_title().get_text() == "overlap 50.0 %"
    first, second = ([text.get_text() for text in axis.get_legend().get_texts()] for axis in axes[:2])
    assert (first, second) == (["same person, mean 0.50"], ["different people, mean 0.50"])


@pytest.mark.parametrize(("name", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_equal_plots_are_equal_files(name, start):
    first, second = (plot_file(plot_cmc({"t2i": np.array([0.2, 1.0])}), name) for _ in range(2))
    assert first.startswith(start)
    assert first == second


def test_ink_on_a_page_follows_the_colour_scheme():
    figure = plot_cmc({str(number): np.array([0.2, 1.0]) for number in range(7)})  # the seventh is drawn in ink
    assert b"#000000" in plot_file(figure, "svg")
    page = plot_for_page(figure).decode()
    assert "#000000" not in page
    assert "#ffffff" not in page
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page


@pytest.mark.skipif(fonts.chinese_font(12) is None, reason="needs a Chinese font")
def test_labels_are_chinese_where_there_is_a_font(axes, monkeypatch, recwarn):
    with use_language("zh"):
        plot_file(plot_similarities(np.array([1, 3]), np.array([3, 1])), "png")
        monkeypatch.setattr(fonts, "CHINESE_FONTS", ())
        plot_cmc({"t2i": np.array([0.2, 1.0])})
    assert axes[0].get_legend().get_title().get_text() == "重叠 50.0 %"
    assert axes[1].get_xlabel() == "rank k"
    assert not [str(one.message) for one in recwarn if "missing" in str(one.message)]


@pytest.mark.slow
def test_matplotlib_is_imported_only_to_plot():
    code = "import sys, t2ireid_plugin.visualization.plots as p; print('matplotlib' in sys.modules)"
    code += "; p.plot_cmc({'a': p.np.ones(1)}); print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["False", "True", "False"]
