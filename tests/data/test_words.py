from t2ireid_plugin.data.words import frequent_words, word_targets
from t2ireid_plugin.modeling.instructions import content_words

TEXTS = ["A man in a red coat, wearing red shoes.", "The Woman with a red bag", "她穿着红色的外套"]


def test_content_words_are_lower_case_without_stop_words():
    assert content_words(TEXTS[0]) == ["man", "red", "coat", "red", "shoes"]
    assert content_words(TEXTS[1]) == ["woman", "red", "bag"]
    assert content_words(TEXTS[2]) == ["红色", "外套"]
    assert content_words("") == []


def test_frequent_words_count_every_occurrence():
    assert frequent_words(TEXTS, 3) == ["red"]
    assert frequent_words([*TEXTS, TEXTS[1]], 2) == ["bag", "red", "woman"]
    assert frequent_words(TEXTS, 5) == []


def test_targets_are_one_where_a_text_has_the_word():
    assert word_targets(TEXTS, ["bag", "coat", "red"]).tolist() == [[0, 1, 1], [1, 0, 1], [0, 0, 0]]
