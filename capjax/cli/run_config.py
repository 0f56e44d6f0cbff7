"""The config of a run that a command line names by its folder, as the file of a --config."""

from ml_collections import ConfigDict

from capjax.run.workdir import Workdir


def get_config(folder: str) -> ConfigDict:
    """Loads the config that lies in a workdir; raises WorkdirError where there is none."""
    return Workdir(folder).load_config()
