"""What a wheel holds: capjax alone, with the shipped configs inside."""

from tests.helpers.command_line import REPOSITORY, python

PACKAGE = REPOSITORY / "capjax"


def test_the_wheel_has_one_top_level_package(tmp_path):
    # Nothing is written into the checkout.
    built = tmp_path / "built"
    command = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(built)]
    done = python("setup.py", "--quiet", *command)
    assert done.returncode == 0, done.stderr
    assert "absent from" not in done.stderr
    assert [path.name for path in built.iterdir()] == ["capjax"]
    assert (built / "capjax" / "py.typed").is_file()
    # What pages load lies beside the code that says where.
    for pages in ("evaluate/caption_view", "serve/page"):
        files = {
            path.relative_to(PACKAGE)
            for path in (PACKAGE / pages).rglob("*.*")
            if path.suffix not in (".py", ".pyc")
        }
        assert len(files) >= 2
        assert all((built / "capjax" / file).is_file() for file in files)
    # A folder without __init__.py would be left out.
    for package, source in (("capjax/configs", "configs"), ("capjax", "capjax")):
        there = {path.relative_to(built / package) for path in (built / package).rglob("*.py")}
        folder = REPOSITORY / source
        assert {path.relative_to(folder) for path in folder.rglob("*.py")} <= there
