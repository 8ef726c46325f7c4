"""The repository: what a newcomer runs works, and nothing in it names one machine."""

import ast
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = ROOT / "README.md"


def tracked() -> list[Path]:
    """Return every file of the repository that git keeps."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def blocks(text: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a Markdown text, as (language, content)."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """Return the commands of a Markdown text's console blocks, without comments."""
    return [
        line.removeprefix("$ ").split("#")[0].split()
        for language, content in blocks(text)
        for line in content.splitlines()
        if (language == "console" and line.startswith("$ "))
        or (language in ("sh", "bash", "shell") and line.strip() and not line.startswith("#"))
    ]


def targets() -> set[str]:
    """Return the targets that `make` lists."""
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def subcommands() -> set[str]:
    """Return what `outlast` can be asked for."""
    import typer.main  # noqa: PLC0415

    from outlast.cli import app  # noqa: PLC0415

    return set(getattr(typer.main.get_command(app), "commands", {}))


# ── the README ────────────────────────────────────────────────────────────────────────────────


def test_the_readme_comes_to_the_point():
    """Fewer than sixty words stand before the first thing to run."""
    before = re.sub(r"<!--.*?-->", "", README.read_text().split("```")[0], flags=re.DOTALL)
    assert len(re.findall(r"\w[\w'-]*", before)) < 60


def test_the_readme_names_commands_that_exist():
    """Every command of the README exists: with make, with outlast, or on every machine."""
    found = commands(README.read_text())
    assert ["make", "test"] in found
    for words in found:
        program, what = words[0], next((w for w in words[1:] if not w.startswith("-")), "")
        if program == "make":
            assert what in targets(), words
        elif program == "outlast":
            assert what in subcommands(), words
        else:
            assert program in {"cd", "export", "git", "kill", "pip", "python", "python3"}, words


def test_the_readme_names_what_outlast_has():
    """Every Python block of the README compiles, and the names it takes from outlast are public."""
    import outlast  # noqa: PLC0415

    for language, content in blocks(README.read_text()):
        if language == "python":
            for node in ast.walk(ast.parse(content)):
                if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "outlast":
                    assert node.attr in outlast.__all__


# ── make and CI ───────────────────────────────────────────────────────────────────────────────


def test_make_says_what_each_target_does():
    """`make` alone lists every target that is meant for people, each with a sentence."""
    listed = subprocess.check_output(["make", "--no-print-directory"], cwd=ROOT, text=True)
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split())
    assert phony == targets()
    for target in phony:
        assert re.search(rf"^  make {target} +[A-Z].*\.?$", listed, re.MULTILINE)


def test_ci_runs_what_the_readme_says():
    """CI starts the README's own test command, and the linters."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "for target in test lint; do" in script
    assert 'make "${target}"' in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


# ── what is committed ─────────────────────────────────────────────────────────────────────────

REGISTRIES = "|".join(["py" + r"pi\.", "python" + "hosted", r"npm" + r"js\.", "crates" + r"\.io"])
ELSEWHERE = re.compile(
    rf"(?:{REGISTRIES})|--(?:extra-)?index-url|/ho[m]e/\w|/User[s]/\w|/ro[o]t/\w"
)


def test_nothing_names_a_registry_or_a_machine():
    """No tracked file names a package registry's host or a path of somebody's machine."""
    ours = [ROOT, ROOT.parent, Path.home()]
    shared = {Path("/"), Path(tempfile.gettempdir())}
    places = [re.escape(f"{path}/") for path in ours if path not in shared]
    own = re.compile("|".join(rf"(?<![\w.-]){place}" for place in places))
    named = [
        f"{path.relative_to(ROOT)}: {hit[0]}"
        for path in tracked()
        for text in [path.read_bytes().decode(errors="replace")]
        if (hit := ELSEWHERE.search(text) or own.search(text))
    ]
    assert named == []


def test_versions_are_ranges():
    """Each dependency has a lower bound and is not pinned to one version; no lock file is kept."""
    assert not [path for path in tracked() if path.suffix == ".lock"]
    for requirement in PROJECT["project"]["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+", requirement)


def test_the_version_is_one():
    """The package, its metadata and the changelog agree on the version."""
    import outlast  # noqa: PLC0415

    version = PROJECT["project"]["version"]
    assert outlast.__version__ == version
    sections = re.findall(r"^## (.+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {f"[{version}]", f"[Unreleased] ({version})"} & set(sections)


def test_the_changelog_has_a_place_for_what_comes():
    """The newest section of the changelog is the unreleased one."""
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "Unreleased"


# ── the wheel ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    """Build the wheel and return the names of its files."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return set(archive.namelist())


def test_the_wheel_is_complete(wheel):
    """The whole package is in the wheel: types, SQL, the demo's grants and their notice."""
    source = ROOT / "src"
    kept = {str(path.relative_to(source)) for path in tracked() if path.is_relative_to(source)}
    assert kept <= wheel
    assert {"outlast/py.typed", "outlast/demo/grants.jsonl.gz", "outlast/demo/NOTICE.md"} <= wheel
    assert any(name.startswith("outlast/stores/sql/") and name.endswith(".sql") for name in wheel)


def test_the_wheel_carries_nothing_else(wheel):
    """No test, bench or cache is installed with the package."""
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"outlast"}
    assert not [name for name in wheel if "__pycache__" in name]
