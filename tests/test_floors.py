"""A folder imports only folders on floors below it, by the table of docs/architecture.md."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "capjax"
# Old names of commands, which run the module of capjax/cli/ that has them now.
FORWARDERS = {
    "capjax.convert_encoder",
    "capjax.import_tutorial",
    "capjax.data.show",
    "capjax.pretrained.export",
    "capjax.pretrained.convert_show_attend_tell",
}
# Files that belong to no floor: the package's public names, imported at first use.
FACES = {"capjax.__init__", "capjax.__main__"}
TENSORFLOW = {
    "capjax/data/pipeline.py",
    "capjax/data/tfds_source.py",
    "capjax/data/shapes/builder.py",
}


def table():
    """(floor, names of modules, what they hold) of each row of the table."""
    for line in (REPOSITORY / "docs/architecture.md").read_text().splitlines():
        if match := re.match(r"\| (\d+) \| ([^|]*) \| ([^|]*) \|", line):
            places = re.findall(r"`(capjax/[^`]*)`", match[2])
            names = [place.removesuffix(".py").strip("/").replace("/", ".") for place in places]
            yield int(match[1]), names, match[3]


FLOORS = {name: floor for floor, names, _ in table() for name in names}


def files():
    return sorted(PACKAGE.rglob("*.py"))


def imports(file):
    """(module, line) of every import, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write imports in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def place(module):
    """`capjax.models` of `capjax.models.encoders.vit`."""
    return ".".join(module.split(".")[:2])


def module_of(file):
    return ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)


def test_every_file_is_on_a_floor():
    places = {place(module_of(file)) for file in files()} - FACES
    assert places - FORWARDERS == FLOORS.keys()


@pytest.mark.parametrize("file", files(), ids=module_of)
def test_imports_go_down(file):
    here = module_of(file)
    for module, line in imports(file):
        assert not module.startswith(("experiments", "configs", "benchmarks")), f"{file}:{line}"
        if not module.startswith("capjax.") or here in FACES | FORWARDERS:
            continue
        inside = place(module) == place(here)
        assert inside or FLOORS[place(module)] < FLOORS[place(here)], f"{file}:{line}: {module}"
        assert module not in FORWARDERS, f"{file}:{line}: {module}"


def test_tensorflow_is_imported_by_three_files():
    for file in files():
        if str(file.relative_to(REPOSITORY)) not in TENSORFLOW:
            for module, line in imports(file):
                top = module.split(".")[0]
                assert top not in ("tensorflow", "tensorflow_datasets"), f"{file}:{line}"


def test_one_file_says_pmap():
    users = [str(file) for file in files() if ".pmap" in file.read_text()]
    assert users == [str(PACKAGE / "parallel" / "devices.py")]


def test_few_modules_are_loose():
    loose = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__"}
    assert len(loose) <= 6, loose


def test_forwarders_only_forward():
    for module in FORWARDERS:
        tree = ast.parse((REPOSITORY / f"{module.replace('.', '/')}.py").read_text())
        kinds = [type(node) for node in tree.body]
        # The docstring, imports and a call.
        assert [kind for kind in kinds if kind is not ast.Import] == [
            ast.Expr,
            ast.ImportFrom,
            ast.If,
        ], module


def test_the_readme_has_the_same_map():
    readme = (REPOSITORY / "README.md").read_text()
    for floor, names, holds in table():
        places = ", ".join(f"`{name.removeprefix('capjax.')}`" for name in names)
        row = f"| {places} | {holds} |"
        assert row in readme, f"floor {floor} of docs/architecture.md is not in the README: {row}"


@pytest.mark.parametrize("folder", ["capjax", "configs", "experiments", "tests", "benchmarks"])
def test_files_are_small(folder):
    for file in (REPOSITORY / folder).rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 400, f"{file}: is it two things?"
