"""Configurations with some fields changed."""


def changed(config, **changes):
    """Sets fields, named as in `hash__seed`."""
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config
