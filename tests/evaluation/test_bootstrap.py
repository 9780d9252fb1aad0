import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from t2ireid_plugin.errors import DataError
from t2ireid_plugin.evaluation import bootstrap
from t2ireid_plugin.evaluation.bootstrap import (
    Difference,
    difference_over_seeds,
    format_interval,
    intervals,
    paired_difference,
)
from t2ireid_plugin.evaluation.ranking import QueryScores, score_queries, summarize
from t2ireid_plugin.evaluation.ranks import PositiveRanks


def random_scores(rng, queries):
    figures = rng.uniform(0.01, 1, (2, queries))
    return QueryScores(np.arange(queries), rng.integers(1, 15, queries).astype(np.int32), *figures)


def random_case(seed, queries=40, people=8):
    rng = np.random.default_rng(seed)
    pids = rng.integers(0, people, queries) * 7 - 11
    return random_scores(rng, queries), random_scores(rng, queries), pids


def shuffled(scores, pids, order):
    return QueryScores(np.arange(len(order)), *(column[order] for column in scores[1:])), pids[order]


def naive_samples(scores, pids, samples, seed, ranks=(1, 5, 10)):
    """The metrics of each sample, by loops over drawn identities and their queries; same draws as the package's."""
    rng = np.random.default_rng(seed)
    people = sorted({int(pids[query]) for query in scores.query_index})
    found = []
    for _ in range(samples):
        drawn = []
        for number in rng.integers(len(people), size=len(people)):
            drawn += [i for i, query in enumerate(scores.query_index) if pids[query] == people[number]]
        hits = [sum(scores.first_rank[i] <= k for i in drawn) for k in ranks]
        sums = [*hits, sum(scores.AP[i] for i in drawn), sum(scores.INP[i] for i in drawn)]
        found.append([total / len(drawn) for total in sums])
    return np.array(found)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 8), st.integers(1, 40))
def test_intervals_equal_a_loop_over_the_drawn_queries(seed, queries, people, samples):
    scores, _, pids = random_case(seed, queries, people)
    found = intervals(scores, pids, samples=samples, level=0.9, seed=seed)
    expected = np.quantile(naive_samples(scores, pids, samples, seed), [0.05, 0.95], axis=0)
    assert list(found) == ["R@1", "R@5", "R@10", "mAP", "mINP"]
    np.testing.assert_allclose(np.array(list(found.values())), expected.T, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 8), st.integers(1, 40))
def test_differences_equal_two_loops_with_the_same_draws(seed, queries, people, samples):
    a, b, pids = random_case(seed, queries, people)
    found = paired_difference(a, b, pids, samples=samples, level=0.9, seed=seed)
    by_loop = [naive_samples(scores, pids, samples, seed) for scores in (a, b)]
    ends = np.quantile(by_loop[1] - by_loop[0], [0.05, 0.95], axis=0)
    np.testing.assert_allclose([[row.low, row.high] for row in found.values()], ends.T, atol=1e-12)
    assert found["mAP"].a == pytest.approx(a.AP.mean())
    assert found["mAP"].b == pytest.approx(b.AP.mean())
    assert found["R@5"].value == pytest.approx((b.first_rank <= 5).mean() - (a.first_rank <= 5).mean())
    difference = (by_loop[1] - by_loop[0])[:, 3]
    other = difference <= 0 if found["mAP"].value > 0 else difference >= 0
    assert found["mAP"].opposite == pytest.approx(other.mean())


def test_draws_in_parts_are_the_same_draws(monkeypatch):
    a, b, pids = random_case(3)
    whole = paired_difference(a, b, pids, samples=50)
    monkeypatch.setattr(bootstrap, "_CELLS", 20)  # two samples of the 8 identities at once
    parts = paired_difference(a, b, pids, samples=50)
    for name, row in whole.items():
        assert parts[name] == pytest.approx(row, abs=1e-12)


@given(st.integers(0, 10**6))
def test_intervals_are_around_the_metric(seed):
    """With as many samples as these, the median of the samples is near the metric and between the ends."""
    scores, _, pids = random_case(seed)
    found = intervals(scores, pids, samples=400)
    for name, value in (("R@5", (scores.first_rank <= 5).mean()), ("mAP", scores.AP.mean())):
        low, high = found[name]
        assert 0 <= low <= value <= high <= 1


@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_a_higher_level_is_never_narrower(seed, level):
    scores, _, pids = random_case(seed)
    small = intervals(scores, pids, samples=200, level=level)
    large = intervals(scores, pids, samples=200, level=level + 0.09)
    for name, (low, high) in small.items():
        assert large[name][0] <= low <= high <= large[name][1]


@given(st.integers(0, 10**6), st.randoms())
def test_order_of_queries_is_of_no_account(seed, random):
    a, b, pids = random_case(seed)
    order = np.array(random.sample(range(len(pids)), len(pids)))
    (other_a, other_pids), (other_b, _) = shuffled(a, pids, order), shuffled(b, pids, order)
    expected = paired_difference(a, b, pids, samples=100)
    found = paired_difference(other_a, other_b, other_pids, samples=100)
    for name, row in expected.items():
        assert found[name][:4] == pytest.approx(row[:4], abs=1e-12)
    assert intervals(other_a, other_pids, samples=100)["mAP"] == pytest.approx(
        intervals(a, pids, samples=100)["mAP"], abs=1e-12
    )


@given(st.integers(0, 10**6))
def test_swapped_models_change_the_sign(seed):
    a, b, pids = random_case(seed)
    forth, back = paired_difference(a, b, pids, samples=100), paired_difference(b, a, pids, samples=100)
    for name, row in forth.items():
        assert (-back[name].high, -back[name].low) == pytest.approx((row.low, row.high), abs=1e-12)
        assert (back[name].opposite, back[name].excludes_zero) == (row.opposite, row.excludes_zero)


@given(st.integers(0, 10**6))
def test_a_model_does_not_differ_from_itself(seed):
    scores, _, pids = random_case(seed)
    for row in paired_difference(scores, scores, pids, samples=100).values():
        assert (row.value, row.low, row.high, row.opposite) == (0.0, 0.0, 0.0, 1.0)
        assert not row.excludes_zero


def test_the_seed_decides():
    scores, _, pids = random_case(0)
    assert intervals(scores, pids, seed=1) == intervals(scores, pids, seed=1)
    assert intervals(scores, pids, seed=1) != intervals(scores, pids, seed=2)


def simulate(rng, people=60, shift=0.0):
    """AP of two models on captions of people who are more or less easy for both; people have unequal numbers."""
    counts = rng.integers(1, 7, people)
    pids = np.repeat(np.arange(people), counts)
    easy = rng.normal(0, 0.1, people)[pids]
    both = [0.5 + easy + rng.normal(0, 0.05, len(pids)) + by for by in (0.0, shift)]
    a, b = (
        QueryScores(np.arange(len(pids)), np.where(figure > 0.5, 1, 20).astype(np.int32), figure, figure)
        for figure in both
    )
    return a, b, pids


def test_coverage_of_a_known_truth():
    """Mean AP of the simulated population is 0.5 and R@1 one half; the paired difference of mAP is 0.01."""
    rng = np.random.default_rng(7)
    covered = []
    for seed in range(300):
        a, b, pids = simulate(rng, shift=0.01)
        found = intervals(a, pids, samples=400, seed=seed)
        difference = paired_difference(a, b, pids, samples=400, seed=seed)["mAP"]
        ends = [(0.5, *found["mAP"]), (0.5, *found["R@1"]), (0.01, difference.low, difference.high)]
        covered.append([low <= truth <= high for truth, low, high in ends])
    for share in np.mean(covered, axis=0):
        assert 0.90 <= share <= 0.99


def test_resampling_queries_instead_would_cover_too_little():
    """Why identities are drawn: taken one by one, captions of a person look like evidence that they are not."""
    rng = np.random.default_rng(7)
    covered = []
    for seed in range(100):
        scores, _, pids = simulate(rng)
        low, high = intervals(scores, np.arange(len(pids)), samples=200, seed=seed)["mAP"]
        covered.append(low <= 0.5 <= high)
    assert np.mean(covered) < 0.8


def test_pairing_is_narrower_where_models_find_the_same_people_hard():
    a, b, pids = simulate(np.random.default_rng(0), shift=0.01)
    paired = paired_difference(a, b, pids)["mAP"]
    unpaired = [intervals(scores, pids, seed=seed)["mAP"] for seed, scores in enumerate((a, b))]
    assert paired.high - paired.low < 0.5 * min(high - low for low, high in unpaired)


def test_few_identities_cover_too_little_as_documented():
    rng = np.random.default_rng(0)
    shares = {}
    for people in (10, bootstrap.FEW):
        covered = []
        for seed in range(1000):
            figure = rng.normal(0.5, 0.1, people)
            scores = QueryScores(np.arange(people), np.ones(people, np.int32), figure, figure)
            low, high = intervals(scores, np.arange(people), samples=200, seed=seed)["mAP"]
            covered.append(low <= 0.5 <= high)
        shares[people] = np.mean(covered)
    assert shares[10] == pytest.approx(0.90, abs=0.025)
    assert shares[bootstrap.FEW] == pytest.approx(0.93, abs=0.025)


def test_one_identity_has_no_width():
    scores, other, pids = random_case(0, people=1)
    for name, value in (("R@5", (scores.first_rank <= 5).mean()), ("mAP", scores.AP.mean())):
        assert intervals(scores, pids, samples=20)[name] == pytest.approx((value, value))
    row = paired_difference(scores, other, pids, samples=20)["mINP"]
    assert (row.low, row.high) == pytest.approx((row.value, row.value))


def test_queries_without_a_positive_change_nothing():
    """Nor do identities that have only such queries: they are not drawn."""
    ranks = PositiveRanks(np.array([1, 4, 2, 3], np.int32), np.array([0, 2, 2, 3, 3, 4]))
    scores = score_queries(ranks)
    with_all = intervals(scores, [5, 5, 6, 99, 7], samples=50)
    valid = QueryScores(np.arange(3), *scores[1:])
    assert with_all == intervals(valid, [5, 6, 7], samples=50)
    assert scores.AP.mean() == summarize(ranks).mAP


@given(st.integers(0, 10**6), st.lists(st.integers(1, 20), min_size=1, max_size=4, unique=True))
def test_any_ranks(seed, ranks):
    a, b, pids = random_case(seed)
    assume((a.first_rank <= max(ranks)).any())
    found = paired_difference(a, b, pids, ranks=ranks, samples=20)
    assert list(found) == [*(f"R@{k}" for k in ranks), "mAP", "mINP"]
    for k in ranks:
        assert found[f"R@{k}"].a == (a.first_rank <= k).mean()
    assert list(intervals(a, pids, ranks=ranks, samples=20)) == list(found)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"level": 1.0}, "level must be between 0 and 1, got 1.0"),
        ({"level": float("nan")}, "level must be between 0 and 1, got nan"),
    ],
)
def test_numbers_out_of_range(changed, message):
    a, b, pids = random_case(0)
    with pytest.raises(DataError, match=message):
        intervals(a, pids, **changed)
    with pytest.raises(DataError, match=message):
        paired_difference(a, b, pids, **changed)


def test_scores_that_cannot_be_resampled():
    a, b, pids = random_case(0)
    with pytest.raises(DataError, match="nothing to resample"):
        intervals(QueryScores(*(column[:0] for column in a)), pids)
    with pytest.raises(ValueError, match="39 pids, but scores of query 39"):
        intervals(a, pids[:-1])
    with pytest.raises(ValueError, match="not of the same queries"):
        paired_difference(a, QueryScores(*(column[:-1] for column in b)), pids)


def test_values_are_plain_numbers():
    a, b, pids = random_case(0)
    assert {type(end) for ends in intervals(a, pids, samples=9).values() for end in ends} == {float}
    assert {type(end) for row in paired_difference(a, b, pids, samples=9).values() for end in row} == {float}


@pytest.mark.parametrize(
    ("low", "high", "excluded"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)]
)
def test_zero_at_an_end_is_inside(low, high, excluded):
    assert Difference(0.5, 0.6, low, high, 0.0).excludes_zero is excluded


def test_text_of_an_interval():
    assert format_interval(0.551, 0.539, 1.0) == "55.10 [53.90, 100.00]"
    assert format_interval(0.012, -0.001, 0.025, signed=True) == "+1.20 [-0.10, +2.50]"
    assert format_interval(-1e-9, -1e-9, 0.0, signed=True) == "+0.00 [+0.00, +0.00]"


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 8))
def test_one_seed_is_a_paired_difference(seed, queries, people):
    a, b, pids = random_case(seed, queries, people)
    found = difference_over_seeds([a], [b], pids, samples=30)
    for name, expected in paired_difference(a, b, pids, samples=30).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_means_over_seeds(seed, seeds):
    rng = np.random.default_rng(seed)
    pids = rng.integers(0, 5, 20)
    a, b = ([random_scores(rng, 20) for _ in range(seeds)] for _ in "ab")
    found = difference_over_seeds(a, b, pids, samples=20)
    assert found["mAP"].a == pytest.approx(np.mean([scores.AP.mean() for scores in a]))
    assert found["R@5"].b == pytest.approx(np.mean([(scores.first_rank <= 5).mean() for scores in b]))


def test_seeds_that_disagree_widen_the_interval():
    """People that all gain 0.3 with one seed and lose 0.3 with the other have no variance but that of the seeds."""
    pids = np.arange(50)
    flat = QueryScores(pids, np.ones(50, np.int32), np.full(50, 0.5), np.full(50, 0.5))
    up, down = flat._replace(AP=np.full(50, 0.8)), flat._replace(AP=np.full(50, 0.2))
    same, apart = (difference_over_seeds([flat] * 2, b, pids)["mAP"] for b in ([up, up], [up, down]))
    assert (same.low, same.high) == (pytest.approx(0.3), pytest.approx(0.3))
    # Of two seeds drawn twice, a quarter of the samples has only the one, a quarter only the other.
    assert (apart.low, apart.high) == (pytest.approx(-0.3), pytest.approx(0.3))
    assert apart.value == pytest.approx(0)


def test_seeds_that_cannot_be_compared():
    a, b, pids = random_case(0)
    with pytest.raises(ValueError, match="2 and 1 seeds"):
        difference_over_seeds([a, b], [a], pids)
    with pytest.raises(ValueError, match="not of the same queries"):
        difference_over_seeds([a], [QueryScores(*(column[1:] for column in b))], pids)
