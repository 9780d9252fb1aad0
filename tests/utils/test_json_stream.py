import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2ireid_plugin.utils.json_stream import json_elements

TEXT = st.text(st.sampled_from('{}[]:,"\\ a\n') | st.characters(exclude_categories=["Cs"]), max_size=8)
BLOCKS = st.sampled_from([1, 2, 3, 7, 40, 300])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(TEXT, TEXT | st.lists(TEXT, max_size=2) | st.dictionaries(TEXT, TEXT), max_size=3))


@given(ROWS | st.lists(VALUE, max_size=5) | st.dictionaries(TEXT, VALUE, max_size=5), BLOCKS, st.data())
def test_the_same_as_json_load_wherever_blocks_end(content, block, data) -> None:
    options = {"indent": data.draw(st.sampled_from([None, 1])), "ensure_ascii": data.draw(st.booleans())}
    encoded = data.draw(st.sampled_from(["utf-8", "utf-8-sig"])), json.dumps(content, **options)
    found = list(json_elements(io.BytesIO(encoded[1].encode(encoded[0])), block))
    assert repr(found) == repr(list(content.items()) if isinstance(content, dict) else content)


@given(ROWS | st.lists(VALUE, min_size=1, max_size=3), BLOCKS, st.data())
def test_what_json_load_refuses(content, block, data) -> None:
    """A text of a list that is cut, or in which a character is replaced."""
    text = json.dumps(content)
    place = data.draw(st.integers(0, len(text) - 1))
    broken = text[:place] + data.draw(st.sampled_from(["", text[place + 1 :], f",{text[place:]}", f"{text[place:]}]"]))
    try:
        expected = json.loads(broken)
        refused = not isinstance(expected, list | dict)
    except ValueError:
        refused = True
    if refused:
        with pytest.raises(ValueError, match=r"."):
            list(json_elements(io.BytesIO(broken.encode()), block))
    else:
        found = list(json_elements(io.BytesIO(broken.encode()), block))
        assert repr(found) == repr(list(expected.items()) if isinstance(expected, dict) else expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it must begin with"),
        (b'"text"', "it must begin with"),
        (b'[{"a": 1}, {"b": ', "element 1: "),
        (b"[1 2]", "element 1: '2' in place of ',' or ']'"),
        (b"[1", "element 1: 'the end of the file' in place of"),
        (b"[1]]", "more text after the ']' that ends it"),
        (b'[{"a": 1}, []], [{"a": 1}, 2]', "more text after the ']'"),
        (b"{1: 2}", "element 0: not a key with a value"),
        (b"[NaN]", "element 0: NaN is not a JSON number"),
        (b'["\xff"]', "invalid start byte"),
    ],
)
def test_errors_name_the_element(content, message) -> None:
    for block in (2, 300):
        with pytest.raises(ValueError, match=message.replace("[", r"\[")):
            list(json_elements(io.BytesIO(content), block))
