"""A run says on what it began, where that is no longer so."""

import json

from capjax.run.workdir import Workdir


def test_changes_are_said_in_one_line(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.environment_changes() == ""  # Of an imported run.
    workdir.save_environment()
    assert workdir.environment_changes() == ""
    file = tmp_path / "environment.json"
    began = json.loads(file.read_text())
    now = began["processors"]
    file.write_text(json.dumps({**began, "processors": 96, "jax": "0.1"}))
    assert workdir.environment_changes() == (
        f"continuing with {now} processors where the run began with 96, jax {began['jax']} where "
        "the run began with 0.1: results may differ in the last bits"
    )
    file.write_text("{")
    assert workdir.environment_changes() == ""
