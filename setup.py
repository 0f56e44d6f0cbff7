"""Names the folders of the packages; pyproject.toml, which has the rest, cannot."""

from setuptools import find_packages, setup

setup(
    # No top-level module `configs` in site-packages: see capjax/config/shipped.py.
    packages=[
        *find_packages(include=["capjax", "capjax.*"]),
        "capjax.configs",
        "capjax.serve.page.examples",  # Images alone; setuptools asks that it is named.
    ],
    package_dir={"capjax.configs": "configs"},
)
