"""Shipped configs by name, from any folder, beside whatever else is called `configs`."""

import os
import sys

import pytest
from ml_collections import ConfigDict

from capjax.config import shipped
from configs import shapes_transformer
from tests.helpers.command_line import REPOSITORY, environment, python

OWN = "from configs import base\ndef get_config():\n    return base.get_config()\n"


def capjax(folder, *arguments):
    """The finished command, away from the checkout."""
    env = {**environment(folder), "PYTHONPATH": str(REPOSITORY)}
    return python("-m", "capjax", *arguments, cwd=folder, **env)


def fields_shown(folder, source):
    """Standard output and error of --help of a config."""
    return capjax(folder, "show", "--config", source, "--help")


def test_names_and_first_lines():
    found = shipped.summaries()
    assert found["shapes_transformer"].startswith("The default")
    assert {"base", "coco_transformer"} <= found.keys()
    assert not {"gpt2", "pretrained_encoders", "__init__"} & found.keys()
    assert all(found.values())


def test_get_config_leaves_other_modules_of_the_name():
    before = sys.modules["configs"], sys.modules["configs.shapes_transformer"]
    config = shipped.get_config("shapes_transformer")
    assert isinstance(config, ConfigDict)
    assert config.to_dict() == shapes_transformer.get_config().to_dict()
    assert before == (sys.modules["configs"], sys.modules["configs.shapes_transformer"])
    resnet = shipped.get_config("flickr8k_transformer:resnet50")
    assert resnet.encoder.depth == 50
    with pytest.raises(ValueError, match=r"no config 'shapes'; there are base, coco_bahdanau_gru"):
        shipped.get_config("shapes")


def test_a_name_becomes_a_file_and_a_file_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = os.path.join(shipped.folder(), "shapes_transformer.py")
    assert shipped.resolve("shapes_transformer") == path
    assert shipped.resolve("folder_transformer:./vit").endswith("folder_transformer.py:./vit")
    for other in ("nothing", "a/shapes_transformer", "shapes_transformer.py", "", "../configs/x"):
        assert shipped.resolve(other) == other
    (tmp_path / "shapes_transformer").write_text("a file")
    assert shipped.resolve("shapes_transformer") == "shapes_transformer"


@pytest.mark.parametrize(
    ("source", "files", "batch_size"),
    [
        # A user's config imports the shipped base from anywhere.
        ("mine.py", {"mine.py": OWN}, 64),
        # So does one in a folder of the name that lacks a base of its own.
        ("configs/mine.py", {"configs/mine.py": OWN}, 64),
        # A copied folder is whole.
        (
            "configs/mine.py",
            {
                "configs/mine.py": OWN,
                "configs/base.py": "from ml_collections import ConfigDict\n"
                "def get_config():\n    return ConfigDict({'batch_size': 7})\n",
            },
            7,
        ),
        # A shipped config keeps to the shipped base, whatever lies here.
        ("shapes_transformer", {"configs/base.py": "1 / 0"}, 16),
        ("shapes_transformer", {"configs.py": "1 / 0"}, 16),
        ("shapes_transformer", {"configs/x.yaml": ""}, 16),
    ],
)
def test_configs_are_importable(tmp_path, source, files, batch_size):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    done = fields_shown(tmp_path, source)
    assert done.returncode == 0, done.stderr
    assert f"--config.batch_size={batch_size}\n" in done.stdout


def test_they_are_listed_and_copied(tmp_path):
    def configs(*arguments):
        return capjax(tmp_path, "configs", *arguments)

    assert "\nshapes_transformer " in configs().stdout
    assert configs("--to", "my/configs").returncode == 0
    assert (tmp_path / "my/configs/base.py").read_bytes() == (
        REPOSITORY / "configs/base.py"
    ).read_bytes()
    again = configs("--to", "my/configs")
    assert again.returncode == 1
    assert again.stderr.startswith("error: my/configs/__init__.py exists already")
    assert "a URL, and files are written to local" in configs("--to", "s3://b/configs").stderr
    assert not (tmp_path / "s3:").exists()


def test_an_installation_without_them_says_so(monkeypatch):
    monkeypatch.setattr(shipped, "__file__", "/nowhere/capjax/config/shipped.py")
    with pytest.raises(FileNotFoundError, match="lacks its configs"):
        shipped.folder()
