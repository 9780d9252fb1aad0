"""Pages in Chinese beside the same pages in English: commands, snippets, numbers and links agree.

The commands and snippets of the English pages are executed by other tests.
"""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
PAGES = [*(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("README*.md")]
CHINESE = sorted(page for page in PAGES if page.name.endswith(".zh-CN.md"))
EXECUTED = ("bash", "sh", "python", "yaml", "diff", "text")  # tables and listings have words in the reader's language
REFERENCE = "config.md"  # its YAML is printed by `t2ireid config`; the Chinese page links to it
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)


def english(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh-CN", ""))


def snippets(page: Path) -> list[tuple[str, str]]:
    """Language and content of each block, without comments."""
    found = FENCED.findall(page.read_text(encoding="utf-8"))
    return [
        (language, re.sub(r"\s*# .*", "", content))
        for language, content in found
        if language in EXECUTED and not (page.name == REFERENCE and language == "yaml")
    ]


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def table_rows(page: Path) -> list[Counter[str]]:
    """Numbers of each row of the tables, in any order within the row; headings are left out."""
    lines = prose(page).splitlines()
    heads = {i - 1 for i, line in enumerate(lines) if re.fullmatch(r"\|[ :|-]+\|", line)}
    rows = [line for i, line in enumerate(lines) if line.startswith("|") and i not in heads]
    return [Counter(NUMBER.findall(row)) for row in rows if re.search(r"\w", row)]


def decimals(page: Path) -> set[str]:
    return {number for number in NUMBER.findall(prose(page)) if "." in number or "," in number}


pages = pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name.split(".")[0])


def test_every_page_is_in_both_languages() -> None:
    assert {english(page) for page in CHINESE} == {page for page in PAGES if page not in CHINESE}


@pages
def test_both_languages_have_the_same_commands_and_snippets(page) -> None:
    assert snippets(page) == snippets(english(page))


@pages
def test_the_tables_of_both_languages_have_the_same_numbers(page) -> None:
    if page.name != "config.zh-CN.md":  # its table lists the sections of the reference
        assert table_rows(page) == table_rows(english(page))


def test_the_chinese_page_of_settings_has_every_section() -> None:
    page = REPOSITORY / "docs" / "config.zh-CN.md"
    (reference,) = (text for language, text in FENCED.findall(english(page).read_text("utf-8")) if language == "yaml")
    rows = re.findall(r"^\| (`.*?) \|", prose(page), flags=re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == yaml.safe_load(reference).keys()


@pages
def test_both_languages_name_the_same_measured_numbers(page) -> None:
    assert decimals(page) == decimals(english(page))


@pages
def test_both_languages_link_to_each_other_at_the_top(page) -> None:
    other = english(page)
    for first, second in ((page, other), (other, page)):
        head = first.read_text(encoding="utf-8").split("\n## ")[0]
        assert f"]({second.name})" in head


@pages
def test_links_of_chinese_pages_lead_to_chinese_pages(page) -> None:
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)#]+\.md)", prose(page)):
        chinese = (page.parent / target).with_suffix(".zh-CN.md")
        assert text.startswith("English") or text == "英文页" or not chinese.exists(), f"{text}: {target}"
