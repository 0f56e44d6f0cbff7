"""Where the packages lie; all else of the build is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    # No top-level module `configs` in site-packages: see capjax/config/shipped.py.
    packages=[*find_packages(include=["capjax", "capjax.*"]), "capjax.configs"],
    package_dir={"capjax.configs": "configs"},
)
