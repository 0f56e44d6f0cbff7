"""The kinds of captioners that transformers has, a file each, named as in config.json."""
