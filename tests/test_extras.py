"""A test module can be imported where no optional library is: it skips by name what needs one."""

import ast

from tests.helpers.command_line import REPOSITORY

EXTRAS = {
    *("torch", "torchvision", "timm", "transformers", "huggingface_hub", "keras", "selenium"),
    *("nbclient", "nbformat", "ipykernel", "notebook", "peft"),
    *("starlette", "uvicorn", "python_multipart"),
    *("jax2onnx", "onnxruntime"),
    "grain",
}
FOLDERS = ("tests", "benchmarks")
NEEDS = ("importorskip", "need_")


def imported(statement):
    """Names of modules that a statement imports when it is run; functions' own come later."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        inside = [f"{statement.module}.{alias.name}" for alias in statement.names]
        return [statement.module, *inside]
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return []
    return [name for child in ast.iter_child_nodes(statement) for name in imported(child)]


def unguarded(name, known):
    """Extras that a module imports before it has asked whether there are any."""
    if name in known:
        return known[name]
    known[name] = set()
    file = REPOSITORY.joinpath(*name.split(".")).with_suffix(".py")
    if name.partition(".")[0] not in FOLDERS or not file.is_file():
        return known[name]
    for statement in ast.parse(file.read_text()).body:
        if any(need in ast.unparse(statement) for need in NEEDS) and not isinstance(
            statement, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
        ):
            break
        for module in imported(statement):
            known[name] |= {module.partition(".")[0]} & EXTRAS
            known[name] |= unguarded(module, known)
    return known[name]


def test_test_modules_import_no_extra_unasked():
    known, folder = {}, REPOSITORY / "tests"
    files = [*folder.rglob("test_*.py"), *folder.rglob("conftest.py")]
    assert len(files) > 50
    for file in files:
        name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
        assert not unguarded(name, known), f"{file}: ask by pytest.importorskip before"
    # The control: there are such modules, which those have to ask before.
    assert unguarded("tests.helpers.torch_tutorial", known) == {"torch"}
