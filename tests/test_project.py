"""The project as a whole: the house, what is installed, and what its texts say."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
LINKED = ("benchmarks", "operators", "problems")

needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


def tracked() -> dict[str, str]:
    """Tracked path -> its mode in git."""
    lines = subprocess.run(
        ["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {line.split("\t", 1)[1]: line.split(maxsplit=1)[0] for line in lines}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def entries(section: str, key: str) -> list[str]:
    return [line for line in setup_cfg()[section][key].splitlines() if line and not line.startswith("#")]


def entry_points() -> list[tuple[str, str, str]]:
    """(group, name, target) of every entry point in setup.cfg."""
    section = "options.entry_points"
    pairs = [(group, line.partition("=")) for group in setup_cfg()[section] for line in entries(section, group)]
    return [(group, name.strip(), target.strip()) for group, (name, _, target) in pairs]


def requirement_name(line: str) -> str:
    """The name in a requirement, spelled as package indexes compare it."""
    match = re.match(r"[A-Za-z0-9._-]+", line)
    assert match, line
    return re.sub(r"[-_.]+", "-", match[0]).lower()


# --- the house ---


def documented_floors() -> dict[int, set[str]]:
    """Floor -> modules, from the table in ARCHITECTURE.md; ``emomc/__init__.py`` is what holds the others."""
    floors: dict[int, set[str]] = {}
    for line in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines():
        row = re.match(r"\|\s*(\d+)\s*\|([^|]*)\|", line)
        if row:
            names = {Path(place).stem for place in re.findall(r"`([^`]+)`", row[2])}
            floors.setdefault(int(row[1]), set()).update(names - {"__init__"})
    return floors


def contract_floors() -> dict[int, set[str]]:
    """Floor -> modules, from the layers contract in pyproject.toml."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    return {floor: set(re.findall(r"\w+", layer)) for floor, layer in enumerate(reversed(layers))}


def test_the_floors_documented_are_the_floors_checked():
    assert documented_floors() == contract_floors()


def test_every_module_stands_on_a_floor():
    present = {
        place.stem
        for place in (ROOT / "emomc").iterdir()
        if place.suffix == ".py" or (place.is_dir() and any(place.glob("*.py")))
    }
    assert present - {"__init__", "__main__"} <= set().union(*contract_floors().values())


@needs_git
@pytest.mark.parametrize("name", LINKED)
def test_linked_folders_are_links(name):
    link = ROOT / "emomc" / name
    assert tracked()[f"emomc/{name}"] == "120000"
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name
    assert (link / "__init__.py").is_file()


@needs_git
@pytest.mark.parametrize("name", LINKED)
def test_linked_folders_are_the_package_that_is_imported(name):
    module = importlib.import_module(f"emomc.{name}")
    assert Path(module.__file__).resolve() == (ROOT / name / "__init__.py").resolve()


def test_every_folder_with_code_is_a_package():
    """`find:` and import-linter pass over a folder without ``__init__.py`` in silence."""
    code = [place for name in ("emomc", *LINKED) for place in (ROOT / name).rglob("*.py")]
    assert code
    assert [str(place.parent) for place in code if not (place.parent / "__init__.py").is_file()] == []


# --- what is installed ---


@pytest.mark.parametrize(("group", "name", "target"), entry_points())
def test_entry_points_resolve(group, name, target):
    module, _, attribute = target.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute)), f"{group}: {name}"


def test_the_installed_package_is_the_one_described():
    """Fails where setup.cfg changed after the last installation: `make install` mends it."""
    installed = importlib.metadata.distribution("emomc")
    described = setup_cfg()
    assert installed.version == described["metadata"]["version"]
    groups = set(described["options.entry_points"])
    found = {(point.group, point.name, point.value) for point in installed.entry_points if point.group in groups}
    assert found == set(entry_points())
    assert {name.split("/")[0] for name in (installed.read_text("top_level.txt") or "emomc").split()} == {"emomc"}


def test_what_is_pinned_is_what_is_required():
    pins = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1].isalnum()]
    assert all(re.fullmatch(r'[\w-]+==[\w.]+(; python_version (>=|<) "3\.11")?', pin) for pin in pins), pins
    required = entries("options", "install_requires")
    extras = [line for extra in ("test", "dev") for line in entries("options.extras_require", extra)]
    assert {requirement_name(line) for line in required + extras} <= {requirement_name(pin) for pin in pins}


def imported_names(place: Path) -> set[str]:
    """Top-level names of the absolute imports in a file."""
    nodes = list(ast.walk(ast.parse(place.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    sources = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in plain | sources}


def test_what_is_imported_is_what_is_required():
    """What an extra brings may be imported as well, but where it is used, not with the module."""
    code = {place for name in ("emomc", *LINKED) for place in (ROOT / name).rglob("*.py")}
    imported = set().union(*(imported_names(place) for place in code)) - set(sys.stdlib_module_names) - {"emomc"}
    # Python 3.10 finds only packages that say their names in a file, which scikit-learn does not
    owners = {"sklearn": ["scikit-learn"], **importlib.metadata.packages_distributions()}
    required = {requirement_name(line) for line in entries("options", "install_requires")}
    missing = {
        name for name in imported if not {requirement_name(owner) for owner in owners.get(name, [name])} & required
    }
    extras = [line for extra in ("onnx", "shrink") for line in entries("options.extras_require", extra)]
    optional = {requirement_name(line) for line in extras}
    assert {name for name in missing if requirement_name(name) not in optional} == set()
    starts = [line for place in code for line in place.read_text(encoding="utf-8").splitlines() if line[:1].isalpha()]
    assert not [line for line in starts if re.match(r"(import|from) (ml_dtypes|onnx|torch_pruning)", line)]


def test_import_is_light():
    """`import emomc` loads neither torch nor another of the libraries that take their time."""
    heavy = ("torch", "torchvision", "pymoo", "matplotlib", "sklearn", "scipy")
    program = f"import sys, emomc; print(*[name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert found == []


# --- what the texts say ---

TEXT = {"", ".cfg", ".cff", ".csv", ".html", ".in", ".json", ".md", ".py", ".svg", ".toml", ".txt", ".yaml", ".yml"}
OF_ONE_MACHINE = {
    "a path of one machine": re.compile(r"(?<![\w.:/-])/(?:work|home|root|Users|mnt|opt)/\w"),
    "a package index": re.compile(r"(?:extra-)?index-url|find-links|file://", re.IGNORECASE),
}


@needs_git
@pytest.mark.parametrize("what", OF_ONE_MACHINE)
def test_texts_name_nothing_of_one_machine(what):
    pattern, here = OF_ONE_MACHINE[what], Path(__file__).resolve()
    places = [ROOT / path for path, mode in tracked().items() if mode != "120000"]
    texts = [place for place in places if place.suffix in TEXT and place.is_file() and place.resolve() != here]
    assert texts
    found = [str(place.relative_to(ROOT)) for place in texts if pattern.search(place.read_text(encoding="utf-8"))]
    assert found == []


@needs_git
def test_links_in_documents_lead_somewhere():
    documents = [ROOT / path for path in tracked() if path.endswith(".md")]
    links = {
        document.parent / target
        for document in documents
        if document.is_file()
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:", target)
    }
    assert links
    assert {link for link in links if not link.exists()} == set()
