"""A self-contained HTML page, without scripts or links to other files; text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from t2ireid_plugin.utils.fonts import printable
from t2ireid_plugin.utils.language import language

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --faint: #5c5c5c; --page: #fff; --card: #f5f5f3; --rule: #d9d9d6;
  --right: #22a046; --wrong: #d03030; --right-ink: #17752f; --wrong-ink: #b32222; --query: #787878; --link: #0b5cad }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --faint: #a5a5a2; --page: #161617; --card: #202122;
  --rule: #3a3b3d; --right-ink: #55cf79; --wrong-ink: #ff8080;
  --link: #7ab8ff } }
* { box-sizing: border-box }
body { max-width: 1152px; margin: 0 auto; padding: 16px; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", sans-serif }
h1 { margin: 16px 0 4px; font-size: 28px; line-height: 1.2 }
h2 { margin: 40px 0 8px; padding-top: 12px; border-top: 2px solid var(--rule); font-size: 22px }
h3 { margin: 24px 0 8px; font-size: 17px }
h1, h2, h3, p, dd, td, th { overflow-wrap: anywhere }
p { margin: 4px 0 }
.faint { color: var(--faint); font-size: 14px }
a { color: var(--link) }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 12px 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 5px 18px 5px 0; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top;
  white-space: nowrap }
th.name, td.name { text-align: left }
td small { display: block; color: var(--faint); font-size: 12px }
img { height: auto; max-width: 100% }
.plot { display: block; width: 640px; aspect-ratio: 8 / 5; margin: 12px 0 }
.attention { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start }
.attention img { border: 1px solid var(--rule); border-radius: 6px; background: var(--card) }
.list { margin: 12px 0; padding: 12px; background: var(--card); border-radius: 8px }
.caption { font-size: 16px; unicode-bidi: isolate }
.photos { display: flex; flex-wrap: wrap; gap: 8px; margin-top: 8px }
figure { margin: 0; width: 80px; font-size: 12px; line-height: 1.4; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere }
figure div { display: flex; align-items: center; justify-content: center; width: 80px; height: 168px;
  border: 4px solid var(--query); background: var(--page) }
figure img { display: block }
figcaption { display: flex; justify-content: space-between }
.query { margin-right: 12px }
.beyond { margin-left: 12px }
.texts { display: flex; gap: 12px; align-items: flex-start; margin-top: 8px }
.texts ol { flex: 1; margin: 0; padding: 0; list-style: none }
.texts li { margin: 0 0 6px; padding: 4px 10px; border-left: 4px solid; overflow-wrap: anywhere }
.texts li span { margin: 0 12px 0 6px; font-variant-numeric: tabular-nums; color: var(--faint) }
li.right, .right div { border-color: var(--right) }
li.wrong, .wrong div { border-color: var(--wrong) }
.right b { color: var(--right-ink) }
.wrong b { color: var(--wrong-ink) }
pre { overflow-x: auto; padding: 12px; background: var(--card); border-radius: 8px; font-size: 13px; line-height: 1.4 }
summary { cursor: pointer; font-weight: 600 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 8px 0 }
dt { color: var(--faint) }
dd { margin: 0 }
@media (max-width: 600px) {  /* a table becomes a card for each row */
  table, tbody, td { display: block }
  tr { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px 12px; padding: 8px 0;
    border-bottom: 1px solid var(--rule) }
  tr:has(th), td:empty { display: none }
  td { padding: 0; border: 0; text-align: left }
  td.name { grid-column: 1 / -1; font-weight: 600 }
  td:not(.name)::before { content: attr(data-column); display: block; color: var(--faint); font-size: 12px }
  .photos { display: grid; grid-template-columns: repeat(4, 1fr); gap: 6px }
  .photos figure, .photos figure div { width: auto; margin: 0 }
  .photos figure div { height: auto; aspect-ratio: 1 / 2 }
  .photos img { max-height: 100% }
  dl { grid-template-columns: 1fr }
  dd { margin-bottom: 6px }
}
"""


def page(title: str, body: str) -> str:
    """A whole page; ``body`` is HTML, ``title`` is text."""
    return f"""<!DOCTYPE html>
<html lang="{"zh-CN" if language() == "zh" else "en"}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape_line(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def escape_line(text: str) -> str:
    """``text`` on one line, for use between tags or in an attribute."""
    return escape(printable(text))


def escape_lines(text: str) -> str:
    """``text`` with its lines and their indentation."""
    return "\n".join(line[: len(line) - len(line.lstrip(" "))] + escape_line(line) for line in text.splitlines())


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the first column to the left, the others (numbers) to the right.

    On a narrow screen each row is shown as a card, with the columns' names beside its cells.
    """
    first, *others = header
    parts = [f'<tr><th class="name">{first}</th>{"".join(f"<th>{cell}</th>" for cell in others)}</tr>']
    for name, *row in rows:
        cells = (f'<td data-column="{column}">{cell}</td>' for column, cell in zip(others, row))
        parts.append(f'<tr><td class="name">{name}</td>{"".join(cells)}</tr>')
    return '<div class="scroll"><table>\n' + "\n".join(parts) + "\n</table></div>"


def definitions(pairs: Mapping[str, str]) -> str:
    """A list of names and values, both text."""
    items = (f"<dt>{escape_line(name)}</dt><dd>{escape_line(value)}</dd>" for name, value in pairs.items())
    return f"<dl>{''.join(items)}</dl>"


def image(content: bytes, alt: str) -> str:
    """An ``<img>`` with a PNG, JPEG or SVG file (a plot) inside; ``alt`` is text that describes it."""
    if content.startswith(b"<?xml"):
        return f'<img class="plot" src="{_data("svg+xml", content)}" alt="{escape_line(alt)}">'
    with Image.open(io.BytesIO(content)) as picture:
        kind, size = str(picture.format).lower(), f'width="{picture.width}" height="{picture.height}"'
    return f'<img src="{_data(kind, content)}" {size} alt="{escape_line(alt)}" title="{escape_line(alt)}">'


def _data(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
