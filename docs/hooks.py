"""MkDocs hooks: adds the pages that are not in docs/, and fits the links to the site."""

import ast
import re
from pathlib import Path
from posixpath import normpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
# Pages of the site from files outside docs/; all pages of the site are in one folder.
PAGES = {
    "index.md": "README.md",
    "index.zh-CN.md": "README.zh-CN.md",
    **{name: name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")},
}
# The API reference: packages whose `__all__` names what is public, and modules that are public as a whole.
PACKAGES = ("t2ireid_plugin", "t2ireid_plugin.search", "t2ireid_plugin.losses", "t2ireid_plugin.synthetic")
MODULES = [f"t2ireid_plugin.evaluation.{name}" for name in ("protocols", "metrics", "ranks", "bootstrap", "compare")]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `PAGES` and the API reference."""
    for name, source in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "api.md", content=_api_page()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Fits the links of a page to the site."""
    folder = "." if page.file.src_uri in PAGES else "docs"
    return LINK.sub(lambda link: _fit(link, folder), markdown)


def _fit(link: re.Match[str], folder: str) -> str:
    """A link from a file in ``folder`` as a link between pages of the site; plain text if its target is not there."""
    mark, text, target, anchor = link.groups(default="")
    path = normpath(f"{folder}/{target}")
    if "://" in target or not (ROOT / path).exists():
        return link[0]
    places = {source: name for name, source in PAGES.items()}
    place = places.get(path) or path.removeprefix("docs/")
    return f"{mark}[{text}]({place}{anchor})" if path in places or path.startswith("docs/") else text


def _api_page() -> str:
    lines = ["# Python API"]
    for package in PACKAGES:
        tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
        assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
        (names,) = (ast.literal_eval(node.value) for node in assigned if ast.unparse(node.targets[0]) == "__all__")
        public = [name for name in names if name != "__version__"]
        lines += [f"## `{package}`", ast.get_docstring(tree), *(f"::: {package}.{name}" for name in public)]
    for module in MODULES:
        lines += [f"## `{module}`", f"::: {module}\n    options: {{show_root_heading: false}}"]
    return "\n\n".join(lines)
