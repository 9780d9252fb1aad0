import base64
import io
import re
from html.parser import HTMLParser
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from PIL import Image


@pytest.fixture
def read_page():
    """`read_page(path)`: a page as a browser would read it, checked to execute and fetch nothing."""

    def read(path):
        page = Page(path.read_text(encoding="utf-8"))
        assert_self_contained(page)
        return page

    return read


class Page(HTMLParser):
    """Start tags with their attributes, and all text between tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)
        self.close()
        self.words = "".join(self.texts)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def images(self):
        """Alternative text and content of each image, which must be in the page; of a plot, its SVG element."""
        images = []
        for tag, attributes in self.tags:
            if tag == "img":
                kind, data = re.fullmatch(
                    r"data:image/(png|jpeg|svg\+xml);base64,([\w+/=]+)", attributes["src"]
                ).groups()
                if kind == "svg+xml":
                    images.append((attributes["alt"], read_plot(base64.b64decode(data))))
                    continue
                picture = Image.open(io.BytesIO(base64.b64decode(data)))
                picture.load()
                assert picture.format.lower() == kind
                assert (str(picture.width), str(picture.height)) == (attributes["width"], attributes["height"])
                images.append((attributes["alt"], picture))
        return images


def read_plot(svg):
    """The root of an SVG file, checked to execute and fetch nothing."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        assert not element.tag.endswith(("script", "image", "foreignObject"))
        assert all(value.startswith("#") for name, value in element.attrib.items() if name.endswith("href"))
    return root


def assert_self_contained(page):
    """Only plain tags, without scripts, styles of their own or links to other files."""
    allowed = "html head meta title style body h1 h2 h3 p div table tr th td small img figure figcaption b span ol li"
    allowed = {*allowed.split(), "nav", "a", "dl", "dt", "dd", "details", "summary", "pre"}
    assert {tag for tag, _ in page.tags} <= allowed
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action")]
        for name in ("src", "href"):
            if name in attributes:
                anchor = attributes[name].startswith("#") and attributes[name][1:] in anchors
                assert anchor or urlsplit(attributes[name]).scheme == "data"
    (style,) = [text for text in page.texts if "color-scheme" in text]
    assert not re.search(r"@import|url\(", style)
