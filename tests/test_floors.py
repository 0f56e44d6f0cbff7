"""A folder imports only folders on floors below it."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PACKAGE = REPOSITORY / "capjax"
FLOORS = {
    "parallel": 0,
    "command": 0,
    "processes": 0,
    "data": 1,
    "models": 2,
    "pretrained": 3,
    "decode": 4,
    "metrics": 5,
    "evaluate": 6,
    "train": 7,
}
TOP = 8  # The files beside the folders: wiring and command lines.
# Programs that stand among the parts that they are about: they import what command lines may, and
# nothing imports them.
PROGRAMS = {"capjax.pretrained.export"}
TENSORFLOW = {
    "capjax/data/pipeline.py",
    "capjax/data/datasets/tfds.py",
    "capjax/data/shapes/builder.py",
}


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


def floor(module):
    parts = module.split(".")
    assert parts[0] == "capjax"
    if module in PROGRAMS:
        return TOP
    return FLOORS.get(parts[1], TOP) if len(parts) > 1 else TOP


def module_of(file):
    return ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)


@pytest.mark.parametrize("file", files(), ids=module_of)
def test_imports_go_down(file):
    here = floor(module_of(file))
    for module, line in imports(file):
        if module.startswith("capjax."):
            folder = module.split(".")[1]
            assert floor(module) <= here, f"{file}:{line}: floor {here} imports {module}"
            if here not in (TOP, 0) and floor(module) == here:
                assert folder == module_of(file).split(".")[1], f"{file}:{line}: {module}"
        assert not module.startswith(("experiments", "configs", "benchmarks")), f"{file}:{line}"


def test_nothing_imports_a_program():
    assert {*map(module_of, files())} >= PROGRAMS
    for file in files():
        for module, line in imports(file):
            assert not any(f"{module}.".startswith(f"{p}.") for p in PROGRAMS), f"{file}:{line}"


@pytest.mark.parametrize("file", files(), ids=module_of)
def test_tensorflow_is_named_by_two_files_and_the_builder(file):
    if str(file.relative_to(REPOSITORY)) in TENSORFLOW:
        return
    for module, line in imports(file):
        assert module.split(".")[0] not in ("tensorflow", "tensorflow_datasets"), f"{file}:{line}"


def test_only_parallel_says_pmap():
    users = [str(file) for file in files() if ".pmap" in file.read_text()]
    assert users == [str(PACKAGE / "parallel.py")]


@pytest.mark.parametrize("folder", ["capjax", "configs", "experiments", "tests", "benchmarks"])
def test_files_are_small(folder):
    for file in (REPOSITORY / folder).rglob("*.py"):
        assert len(file.read_text().splitlines()) <= 400, f"{file}: is it two things?"
