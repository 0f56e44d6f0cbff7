"""Where the packages lie; all else is in pyproject.toml, which can't name a folder of one of them."""

from setuptools import find_packages, setup

setup(
    # No top-level module `configs` in site-packages: see capjax/config/shipped.py.
    packages=[*find_packages(include=["capjax", "capjax.*"]), "capjax.configs"],
    package_dir={"capjax.configs": "configs"},
)
