"""What a wheel holds: capjax alone, with the shipped configs inside."""

import subprocess
import sys

from tests.helpers.command_line import REPOSITORY


def test_the_wheel_has_one_top_level_package(tmp_path):
    # Nothing is written into the checkout.
    built = tmp_path / "built"
    command = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(built)]
    done = subprocess.run(
        [sys.executable, "setup.py", "--quiet", *command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in built.iterdir()] == ["capjax"]
    assert (built / "capjax" / "py.typed").is_file()
    # A folder without __init__.py would be left out.
    for package, source in (("capjax/configs", "configs"), ("capjax", "capjax")):
        there = {path.relative_to(built / package) for path in (built / package).rglob("*.py")}
        folder = REPOSITORY / source
        assert {path.relative_to(folder) for path in folder.rglob("*.py")} <= there
