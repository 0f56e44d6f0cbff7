"""The notebook runs from its top to its bottom, with a few updates in place of its hundreds."""

from pathlib import Path

import pytest

from tests.helpers.command_line import REPOSITORY, environment

NOTEBOOK = REPOSITORY / "experiments" / "tour.ipynb"
FEWER = {"num_steps = 600": "num_steps = 4", "eval_every = 300": "eval_every = 4"}
FEWER |= {
    "log_every = 20": "log_every = 1",
    "warmup_steps = 100": "warmup_steps = 1",
    # And small models, which compile in seconds, as do AdamW's updates and one shape of batches.
    "num_samples = 2": "num_samples = 0; config.optimizer.kind = 'adamw'; "
    "config.encoder.update(widths=(8,), stem_stride=8); "
    "config.decoder.update(width=16, num_layers=1, num_heads=2)",
    "base.get_config().decoding": "base.get_config().decoding; "
    "config.decoding.update(num_beams=1, max_length=12); config.dataset.length_bucket = 0",
    "width=256, embed_dim=128, attention_dim=128": "width=16, embed_dim=16, attention_dim=16",
    "images=100": "images=5",
}


@pytest.fixture(scope="module", name="notebook")
def read_notebook():
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module", name="executed")
def execute(notebook, home, tmp_path_factory):
    nbformat, nbclient = map(pytest.importorskip, ("nbformat", "nbclient"))
    text = nbformat.writes(notebook)
    for there, fewer in FEWER.items():
        assert text.count(there) == 1
        text = text.replace(there, fewer)
    folder = tmp_path_factory.mktemp("tour")
    made = nbformat.reads(text, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(made, timeout=None, resources=resources)
    # Its packages are those of the checkout, wherever another one is installed.
    client.execute(env={**environment(home), "PYTHONPATH": str(REPOSITORY)})
    return folder, made


def printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def cell_with(notebook, text):
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and text in cell.source)
    return cell


@pytest.mark.slow(reason="executes a notebook, whose parts have tests of their own")
def test_the_notebook_runs(executed):
    folder, made = executed
    assert "of 2 runs 0 failed" in printed(cell_with(made, "experiments.sweep"))
    assert "index.html" in printed(cell_with(made, "write_report("))
    assert (folder / "runs/tour/report/index.html").is_file()
    pictures = [
        cell
        for cell in made.cells
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    ]
    assert len(pictures) >= 6
    (table,) = cell_with(made, "results.md").outputs
    assert "gru" in table.data["text/markdown"]


def test_it_is_stored_as_it_was_executed(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert Path(NOTEBOOK).stat().st_size < 1_500_000
    # Nothing of the machine that it was executed on.
    assert "/site-packages/" not in NOTEBOOK.read_text(encoding="utf-8")
