"""Pages of docs/: commands and snippets run as printed, and what they name exists.

losses.md, ablations.md, encoders.md and frameworks.md are tested beside the code that they describe.
"""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from preloaded import run_python
from torchreid import metrics

from t2ireid_plugin.cli import main
from t2ireid_plugin.data.benchmarks import BENCHMARKS
from t2ireid_plugin.evaluation.protocols import PROTOCOLS
from t2ireid_plugin.prepare.table.table import read_table

REPOSITORY = Path(__file__).parents[1]
PAGES = ("own_data.md", "own_data.zh-CN.md")
# Shortens a sixty-epoch training of large images.
QUICK = "train.max_epoch 1 train.batch_size 16 data.workers 0 data.height 96 data.width 32 use_gpu False"
QUICK += " test.pictures 1 test.bootstrap 0"
OSNET = {"model_type": "torchreid", "architecture": "osnet_x0_25"}  # with random weights
PROGRAMS = {"t2ireid": ["-m", "t2ireid_plugin"], "python": []}


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, synthetic, encoders) -> Path:
    """A folder with the files in the places that own_data.md names: a table, photos, encoders."""
    folder = tmp_path_factory.mktemp("own_data")
    for name in ("tools", "configs"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "weights").mkdir()
    for name in ("vit", "bert"):
        (folder / "weights" / name).symlink_to(getattr(encoders, name))
    drawn = synthetic.root / "CUHK-PEDES"
    (folder / "photos").symlink_to(drawn / "imgs")
    rows = json.loads((drawn / "reid_raw.json").read_text(encoding="utf-8"))
    with open(folder / "people.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "identity", "caption"))
        table.writerows((row["file_path"], f"person {row['id']}", text) for row in rows for text in row["captions"])
    return folder


def run(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    quick = QUICK.split() if command.startswith("t2ireid train") else []
    return run_python([*PROGRAMS[program], *arguments, *quick], folder).stdout


def test_both_pages_have_example_tables() -> None:
    assert [len(blocks(page, "csv")) for page in PAGES] == [len(blocks(page, "json")) for page in PAGES] == [1, 1]


@pytest.mark.slow
def test_the_commands_run(workplace) -> None:
    """In the order of the page: make the dataset, check it, train twice, look at the results."""
    table, check, small, full, results = (line for block in blocks(PAGES[0], "bash") for line in block.splitlines())
    assert re.search(r"^train +128 +32 +256$", run(table, workplace), flags=re.MULTILINE)
    run(check, workplace)
    for command, folder in ((small, "log/own_small"), (full, "log/own")):
        assert re.search(r"R@1 +R@5 +R@10 +mAP +mINP", run(command, workplace))
        assert (workplace / folder / "ranked_custom.png").is_file()
    printed = json.loads(run(results, workplace))
    assert printed["metrics"]["custom"]["t2i"]["queries"] == 4 * 4 * 2


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("language", "suffix"), [("csv", "csv"), ("json", "jsonl")])
def test_the_example_tables_are_read(tmp_path, page, language, suffix) -> None:
    (content,) = blocks(page, language)
    file = tmp_path / f"people.{suffix}"
    file.write_text(content, encoding="utf-8")
    rows = read_table(file).rows
    assert {row.identity for row in rows} == {"anna", "007"}
    assert sum(len(row.texts) for row in rows) == (4 if language == "csv" else 3)


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.DOTALL)


ALL_PAGES = [*(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("*.md")]


@pytest.mark.parametrize("page", sorted(str(path.relative_to(REPOSITORY)) for path in ALL_PAGES))
def test_links_exist(page) -> None:
    text = prose(page)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        file = (REPOSITORY / page).parent / (name or Path(page).name)
        assert file.exists(), f"{page} links to {target}"
        if heading:  # GitHub's anchors: lower case, no punctuation, blanks as dashes
            headings = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            names = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}
            assert heading in names, f"{page}: {target}"


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    named = re.findall(r"^ +- (\S+\.md)$", (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert not {path.name.replace("README", "index") for path in ALL_PAGES} - set(named)


@pytest.mark.parametrize("page", sorted(str(path.relative_to(REPOSITORY)) for path in ALL_PAGES))
def test_paths_and_modules_exist(page) -> None:
    """Those in code spans; a file name alone may be in any folder."""
    text = prose(page) if page != "CHANGELOG.md" else ""  # it names former modules
    for span in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(r"(?:t2ireid_plugin|tests|tools|benchmarks|configs)/[\w./-]*", span):
            assert (REPOSITORY / span).exists(), span
        elif re.fullmatch(r"test_\w+\.py", span):
            assert list((REPOSITORY / "tests").rglob(span)), span
        elif re.fullmatch(r"t2ireid_plugin(?:\.\w+)+", span):
            path = REPOSITORY / span.replace(".", "/")
            if not path.is_dir() and not path.with_suffix(".py").is_file():  # a name in a module
                assert re.search(rf"\b{path.name}\b", path.parent.with_suffix(".py").read_text(encoding="utf-8")), span


# docs/parts.md


@pytest.mark.parametrize("number", range(4))
def test_each_part_works_alone(number, capsys) -> None:
    snippets = blocks("parts.md", "python")
    assert len(snippets) == 4
    torch.manual_seed(0)
    exec(compile(snippets[number], "parts.md", "exec"), {})
    printed = capsys.readouterr().out
    promised = [line.split("# ")[1] for line in snippets[number].splitlines() if line.startswith("print(")]
    for shape in re.findall(r"\[[\d, ]+\]", promised[0] if promised else ""):
        assert shape in printed


@pytest.mark.slow
def test_the_plain_baseline_runs(workplace, synthetic) -> None:
    (command,) = blocks("parts.md", "bash")
    run(f"{command.strip()} data.root {synthetic.root}", workplace)
    assert (workplace / "log" / "t2i_vit_plain" / "results.json").is_file()


# docs/benchmarks.md


def test_every_benchmark_is_on_its_page() -> None:
    page = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8").partition("## Protocols")[0]
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == list(BENCHMARKS)
    for name in re.findall(r"`(t2i_\w+)` \|$", page, flags=re.MULTILINE):
        assert (REPOSITORY / "configs" / f"{name}.yaml").is_file()


@pytest.mark.slow
def test_the_commands_of_the_benchmarks_run(workplace, benchmark_root, preloaded_trainings, monkeypatch) -> None:
    (workplace / "reid-data").mkdir(exist_ok=True)  # the page of own data writes there too
    for name in ("icfgpedes", "rstpreid"):
        folder = BENCHMARKS[name].folder
        (workplace / "reid-data" / folder).symlink_to(benchmark_root(name) / folder)
    lines = [line for block in blocks("benchmarks.md", "bash") for line in block.splitlines()]
    check, train, transfer = *lines[:2], lines[-1]
    assert "icfgpedes" in run(check, workplace)
    run(train, workplace)
    results = json.loads((workplace / "log" / "t2i_vit_mamba_icfgpedes" / "results.json").read_text())
    assert list(results["metrics"]) == ["icfgpedes"]
    monkeypatch.chdir(workplace)
    assert main([*shlex.split(transfer)[1:], *QUICK.split()]) == 0
    assert (workplace / "log" / "transfer" / "transfer.png").is_file()


@pytest.mark.slow
def test_the_commands_of_people_who_change_clothes_and_of_track_4_run(
    workplace, tiny_run, tmp_path, monkeypatch, capsys
) -> None:
    """On the drawn people of the page's last command but one."""
    monkeypatch.chdir(tmp_path)
    answer, check, train, test, draw = (
        shlex.split(line)[1:] for block in blocks("benchmarks.md", "bash")[1:-1] for line in block.splitlines()
    )
    assert main([*draw, "--train-ids", "20", "--val-ids", "4", "--test-ids", "4", "--photos", "4"]) == 0
    Path("reid-data").symlink_to(tmp_path / "data" / "clothes")
    Path("weights").symlink_to(workplace / "weights")
    masked = tmp_path / "data" / "clothes" / "PAB" / "name-masked_test-set"
    masked.mkdir(parents=True)
    (masked / "gallery").symlink_to(tmp_path / "data" / "clothes" / "ITCPR" / "Celeb-reID")
    (masked / "query_text.json").write_text('{"query_index": "A1", "caption": "A man in a red coat."}\n')
    (masked / "query_index.txt").write_text("A1\r\n")
    for name in ("t2i_vit_mamba_pab", "t2i_vit_mamba_icfgpedes"):
        shutil.copytree(tiny_run.folder, Path("log") / name)
    assert main(check) == 0
    assert main([*train, *QUICK.split(), "data.height", "32", "data.width", "32", "test.bootstrap", "0"]) == 0
    for name in ("t2i_vit_mamba_syncpr", "t2i_vit_mamba_icfgpedes/test/itcpr"):
        if name.endswith("itcpr"):
            assert main([*test, "test.bootstrap", "0", "test.pictures", "0"]) == 0
        metrics = json.loads((Path("log") / name / "results.json").read_text())["metrics"]["itcpr"]
        assert metrics["composed"]["queries"] == 8
    assert main(answer) == 0
    assert len(Path("answer.txt").read_text().split()) == 10


# docs/codebases.md


def test_the_loop_and_timms_names_work(capsys) -> None:
    torch.manual_seed(0)
    loop, registry, _ = blocks("codebases.md", "python")
    exec(compile(loop, "codebases.md", "exec"), {})
    losses = [float(line) for line in capsys.readouterr().out.split()]
    assert losses[-1] < losses[0]
    exec(compile(registry.replace('"torchreid:osnet_x0_25"', repr(OSNET)), "codebases.md", "exec"), {})
    assert re.findall(r"\[[\d, ]+\]", capsys.readouterr().out) == re.findall(r"# .*(\[.*\])", registry)


def test_the_backbone_of_an_export_is_read(tiny_run, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(tiny_run.folder), "weights/finder"]) == 0
    capsys.readouterr()
    exec(compile(blocks("codebases.md", "python")[2], "codebases.md", "exec"), {})
    assert capsys.readouterr().out == "[32] ('last',)\n"


# docs/visualize.md


@pytest.mark.slow
def test_the_visualize_command_runs(tiny_run, tiny_settings, tmp_path) -> None:
    """As printed, but with a tiny model in place of the one that `make demo` writes."""
    (command,) = blocks("visualize.md", "bash")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    (tmp_path / "log" / "demo").mkdir(parents=True)
    (tmp_path / "log" / "demo" / "best.pth").symlink_to(tiny_run.folder / "best.pth")
    printed = run(f"{command.strip()} test.pictures 2", tmp_path)
    folder = tmp_path / "log" / "demo" / "test" / "cuhkpedes" / "visualize_cuhkpedes"
    assert printed.splitlines()[-1] == f"Open in a browser: {(folder / 'report.html').as_uri()}"
    written = {path.relative_to(folder).parts[0] for path in folder.rglob("*.*")}
    for page in ("visualize.md", "visualize.zh-CN.md"):
        text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
        named = re.findall(r"^\| `(.*?)` \|", text, flags=re.MULTILINE)
        assert {name.split("/")[0].replace("<protocol>", "t2i") for name in named} == written


# docs/results.md


def test_every_key_of_results_is_documented_and_every_documented_key_is_there(tiny_run) -> None:
    """The table's first column, against the file of a real run."""
    text = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    table = text.split("## results.json")[1].split("##")[0]
    documented = {
        name.replace("… ", "metrics.<target>.<protocol>").removesuffix(".<metric>")
        for row in re.findall(r"^\| (.*?) \|", table, flags=re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    }
    results = tiny_run.results
    metrics = {f"metrics.<target>.<protocol>.{key}" for key in results["metrics"]["cuhkpedes"]["t2i"]}
    keys = {"metrics.<target>.<protocol>", *metrics, "datasets.<set>.<split>", "chosen.val.<target>"}
    keys |= {f"metrics.<target>.<protocol>.{key}" for key in ("weight", "weight_chosen")}
    keys |= {"checkpoint", "changed"}  # of a test
    keys |= {f"chosen.{key}" for key in results["chosen"] if key != "val"}
    keys |= {f"parameters.{key}" for key in results["parameters"]}
    keys |= set(results) - {"metrics", "datasets", "chosen", "parameters"}
    assert keys - {"metrics.<target>.<protocol>.R@10"} == documented


def test_protocols_are_documented() -> None:
    for page in ("results.md", "results.zh-CN.md"):
        text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
        rows = re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|$", text, flags=re.MULTILINE)
        assert rows == list(PROTOCOLS)


def test_the_ranks_of_another_program_are_compared(tmp_path, monkeypatch) -> None:
    """Those that the snippet writes; torchreid's evaluator is the oracle of R@1 and mAP."""
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("results.md", "python")
    rng, pids = np.random.default_rng(0), np.repeat(np.arange(30), 4)
    queries = {"images": [f"cam_a/{i}.jpg" for i in range(120)], "captions": [f"caption {i}" for i in range(120)]}
    sides = []
    for name in ("run_a", "other"):
        similarity = rng.normal(size=(120, 120)) + (pids[:, None] == pids)
        arrays = {"q_pids": pids, "g_pids": pids, "similarity": similarity}
        exec(snippet.replace("log/other", f"log/{name}"), {**queries, **arrays})
        sides.append(metrics.evaluate_rank(-similarity, pids, pids, pids * 0 - 1, pids * 0, max_rank=10))
    _, command, _ = blocks("results.md", "bash")
    assert main([*shlex.split(command)[1:], "--json", "out.json"]) == 0
    (test,) = json.loads(Path("out.json").read_text())["tests"]
    assert (test["target"], test["protocol"], test["identities"]) == ("cuhkpedes", "t2i", 30)
    for name, (cmc, mean_ap) in zip("ab", sides):
        assert test["metrics"]["R@1"][name] == pytest.approx(cmc[0])
        assert test["metrics"]["mAP"][name] == pytest.approx(mean_ap)


@pytest.mark.slow
def test_the_compare_command_runs(tiny_run, tiny_settings, tmp_path) -> None:
    command, *_ = blocks("results.md", "bash")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "run_a").symlink_to(tiny_run.folder)
    assert main(["test", str(tiny_run.folder / "last.pth"), "data.save_dir", str(tmp_path / "test")]) == 0
    (tmp_path / "log" / "run_b").symlink_to(tmp_path / "test" / "test" / "cuhkpedes")
    printed = run(command.strip(), tmp_path)
    assert "R@1" in printed
    assert "mAP" in printed


@pytest.mark.slow
def test_the_probe_commands_run(tiny_run, tiny_settings, synthetic, tmp_path) -> None:
    draw, probe = blocks("results.md", "bash")[-1].strip().splitlines()
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    run(f"{draw} --train-ids {synthetic.train_ids} --val-ids 2 --test-ids 20 --photos 4", tmp_path)
    (tmp_path / "log" / "demo").mkdir(parents=True)
    (tmp_path / "log" / "demo" / "best.pth").symlink_to(tiny_run.folder / "best.pth")
    printed = run(probe, tmp_path)
    assert "mean above chance" in printed
    text = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+_outfit)` \|", text, flags=re.MULTILINE)
    probes = json.loads((tmp_path / "log" / "demo" / "probes_cuhkpedes.json").read_text())
    assert list(probes["outfits"]) == documented
    assert all(name in printed for name in documented)
