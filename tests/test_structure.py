"""Rules of the tree that nothing else checks: sizes, parameter lists, docstrings, names in docs."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sidmill", "flows", "pipelines", "training", "tokenizer", "storage", "learning", "plugins", "infra")
LONGEST_FILE, MAX_MODULES, LONGEST_TEST = 350, 12, 70
MAX_PARAMETERS = 6
LONG_LISTS = {
    "scaled_dot_product_attention": "is called where PyTorch's function of this name would be, with its parameters",
    "assign_level": "is what quantizers of other packages call; prices and prefixes are optional, by name",
}
"""Parameters that a function may have, and why functions outside verbs and flows have more."""
QUESTIONS, MAX_QUESTIONS = ("Who", "What", "How", "Which", "Where", "Whether", "When", "Why"), 9
UNSHIPPED = ("bench", "examples", "tests")
"""Folders that are in no wheel. Their docstrings follow the rules of the packages."""
PAGES = ("README.md", "CONTRIBUTING.md", "docs/design.md", "docs/glossary.md", "docs/trie.md", "docs/operations.md")
PATH = re.compile(r"`((?:\w+/)*\w+/[\w./-]+\.(?:py|md|toml|yaml))`")
NAME = re.compile(rf"`((?:{'|'.join(PACKAGES[1:])})(?:\.\w+)+)`")  # `sidmill.*` are events and groups of entry points
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources(*folders: str) -> list[Path]:
    """Source files of folders, by default of the packages, without those that an editor or a run has left."""
    found = (path for name in folders or PACKAGES for path in (ROOT / name).rglob("*.py"))
    return sorted(path for path in found if "__pycache__" not in path.parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions() -> Iterator[tuple[Path, Function]]:
    for path in sources():
        for node in ast.walk(tree(path)):
            if isinstance(node, Function):
                yield path, node


def test_no_file_is_long_and_no_folder_has_many_modules() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FILE} == {}
    modules = Counter(path.parent.name for path in sources() if path.parent.parent == ROOT and path.stem[0] != "_")
    assert {name: count for name, count in modules.items() if count > MAX_MODULES} == {}


def test_no_two_test_files_have_one_name() -> None:
    """pytest imports them by their names alone."""
    names = Counter(path.name for path in sources("tests") if path.name.startswith("test_"))
    assert [name for name, files in names.items() if files > 1] == []


def test_no_two_classes_have_one_name() -> None:
    """A reader, a search and a message know a class by its name alone. Aliases of types count as classes."""
    places: dict[str, list[str]] = {}
    for path in sources():
        for name in class_names(tree(path)):
            places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def class_names(module: ast.Module) -> Iterator[str]:
    """Yield the public classes and aliases of a module; an alias is a constant that is named like a class."""
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name[0] != "_":
            yield node.name
        for target in node.targets if isinstance(node, ast.Assign) else ():
            if isinstance(target, ast.Name) and target.id[0].isupper() and not target.id.isupper():
                yield target.id


def test_long_parameter_lists_do_not_come_back() -> None:
    """The options of a verb and the parameters of a flow are its form."""
    found = []
    for path, node in functions():
        given = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in given if name not in ("self", "cls")])
        flow = any("flow" in ast.unparse(each) for each in node.decorator_list)
        if count > MAX_PARAMETERS and "cli" not in path.parts and not flow:
            found.append((node.name, f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {count} parameters"))
    assert [each for name, each in found if name not in LONG_LISTS] == []
    assert {name for name, _ in found} == LONG_LISTS.keys(), "a reason that is no longer needed goes"


def test_no_test_is_a_long_story() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in sources("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, Function) and node.name.startswith("test_")
        if (node.end_lineno or 0) - node.lineno >= LONGEST_TEST
    ]
    assert found == []


def test_few_docstrings_begin_with_a_question_word() -> None:
    found = []
    for path in sources(*PACKAGES, *UNSHIPPED):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Module | ast.ClassDef | Function):
                text = ast.get_docstring(node) or ""
                if re.split(r"\W", text, maxsplit=1)[0] in QUESTIONS:
                    found.append(f"{path.relative_to(ROOT)}: {text.splitlines()[0]}")
    assert len(found) <= MAX_QUESTIONS, "\n".join(found)


def pages() -> list[str]:
    return [*PAGES, *(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "decisions").glob("*.md"))]


@pytest.mark.parametrize("page", pages())
def test_files_and_names_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    wrong = [path for path in PATH.findall(text) if "NAME" not in path and not is_file(path)]
    wrong += [name for name in NAME.findall(text) if not exists(name)]
    assert wrong == []


def is_file(path: str) -> bool:
    """Return whether a path of a page is a file, from the root or from a package that the sentence names."""
    places = (ROOT, *(ROOT / name for name in (*PACKAGES, "docs")), ROOT / "pipelines" / "sources")
    return any((place / path).exists() for place in places)


def exists(name: str) -> bool:
    """Return whether a dotted name is a module, or a name that a module defines or imports."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base, rest = ROOT.joinpath(*parts[:length]), parts[length:]
        if base.with_suffix(".py").exists() and not base.is_dir():
            return not rest or rest[0] in defined(base.with_suffix(".py"))
        if base.is_dir():
            return not rest or rest[0] in defined(base / "__init__.py")
    return False


def defined(path: Path) -> set[str]:
    nodes = list(ast.walk(tree(path))) if path.exists() else []
    names = {node.name for node in nodes if isinstance(node, Function | ast.ClassDef)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name)}
    return names | {(node.asname or node.name).split(".")[-1] for node in nodes if isinstance(node, ast.alias)}


def test_a_wrong_name_is_found() -> None:
    assert exists("storage.runs.lease.Lease")
    assert not exists("storage.runs.lease.Nothing")
    assert not exists("storage.nothing")
    assert is_file("storage/runs/lease.py")
    assert not is_file("storage/runs/nothing.py")
