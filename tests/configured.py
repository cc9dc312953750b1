"""Configurations with some fields changed, rows as a run leaves them, and image files."""

from PIL import Image

from configs import smoke


def changed(config, **changes):
    """Sets fields, named as in `hash__seed`."""
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def tiny(count=8, **changes):
    """One row, of so many samples of the DCGAN in full precision, by KNN."""
    config = smoke.get_config()
    config.generators, config.metrics, config.compression.bits = ("dcgan",), ("knn",), ()
    config.compression.clipping = ("none",)  # which compiles fast
    config.num_samples = config.batch_size = config.reference.num_images = count
    return changed(config, **changes)


def scored_row(bits=None, clipping="mse", granularity="per_channel", seed=0, **fields):
    """A row of one metric, `lsh`."""
    return {
        "row_hash": f"{bits}{clipping}{seed}", "generator": "known", "bits": bits, "seed": seed,
        "clipping": bits and clipping, "granularity": bits and granularity,
        "scheme": bits and "symmetric", "n": 300, "m": 300, "features": {"name": "net"},
        "bytes": 1_000 * (bits or 32), "ratio": 32 / (bits or 32), "seconds": {}, "tensors": [],
        "lsh_precision": 0.5, "lsh_recall": 0.25, "lsh_precision_ceiling": 0.9,
        "lsh_recall_ceiling": 0.8, **fields,
    }  # fmt: skip


def save_images(folder, images):
    """Saves images `[n, h, w]` or `[n, h, w, 3]` as numbered PNG files; returns the folder."""
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return folder
