"""Every field of an evaluation, with its default. Other configs start from here."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """Returns the default configuration."""
    config = ml_collections.ConfigDict()

    # Generators to score: checkpoint folders, packed files, or names of shipped generators.
    config.generators = ("dcgan", "sngan")
    # Samples to score as given: images of any kind in `reference.images`, or features [m, d].
    config.samples = ()
    config.num_samples = 5_000  # m: images per generator and setting
    config.batch_size = 250  # of sampling; rounded up to a multiple of the number of devices
    # Seeds of the latents, below 2^32: one row per seed. All settings use the same latents.
    config.seeds = (0,)
    config.truncation_psi = 1.0  # 0 to 1, 1 is none; its meaning: see `Generator.__call__`
    # Descriptions of generators whose files do not exist yet, and how to get them, by the last part
    # of their paths; for --dry_run and error messages, see `configs/ffhq.py`.
    config.expected = ml_collections.ConfigDict()

    # The reference that generators and samples are compared with.
    config.reference = ml_collections.ConfigDict()
    # The name of a data set, a folder or zip of images, an .npz, .npy or idx file: see
    # `lsh_gan/datasets/paths.py`.
    config.reference.images = "fashion_mnist"
    # Or features [n, d], `.npy` or `.npz`, from the network in `features.name`, or "given".
    config.reference.features = ""
    # Or uncompressed samples of this generator, drawn with `reference.seed`: scores then say how
    # far compression moves the generator from itself, and nothing about its quality.
    config.reference.samples_of = ""
    # Or the file `reference.sketch` of another work folder, without images, for metric lsh only.
    config.reference.sketch = ""
    config.reference.num_images = 5_000  # n, drawn at random; 0 takes all
    # Crops and resizes images to this side, up to 4096 pixels; 0 leaves them as they are.
    config.reference.side = 0
    config.reference.background = 255  # grey level behind transparent images, 0 black to 255 white
    config.reference.white_level = 0  # of 16-bit files; 0: 65535, and much darker sets are refused
    # For an unreadable image file: 'fail', or 'skip'. 'skip' decodes all files once before any is
    # drawn, leaves out damaged ones, also of given samples, and reports how many.
    config.reference.on_error = "fail"
    config.reference.seed = 0  # of the draw

    # The answer of a run is the smallest width that keeps this share of precision and of recall.
    config.keep = 0.95

    # The feature space in which images are compared.
    config.features = ml_collections.ConfigDict()
    config.features.name = "efficientnet_lite0"  # or MODULE:FUNCTION, or "given": features of any d
    config.features.side = 64  # input side of the network, pixels
    config.features.weights = ""  # weight file; "" takes the one of the installed package
    config.features.batch_size = 0  # images per step; 0 lets the backend choose

    # How generators are compressed: full precision, and each combination of bits, clipping,
    # granularity, scheme and activation_bits.
    config.compression = ml_collections.ConfigDict()
    config.compression.bits = (8, 7, 6, 5, 4, 3, 2)  # 1 to 16; () for full precision only
    # Or percentile, std, kl, aciq, aciq_gauss, aciq_laplace.
    config.compression.clipping = ("none", "mse")
    config.compression.granularity = ("per_channel",)  # or per_tensor, per_group
    config.compression.scheme = ("symmetric",)  # or affine
    config.compression.full_precision = True  # also score the uncompressed generator
    # Of the inputs of layers: 0 leaves them in float32, (0, 8) measures both, (8,) gives W8A8, ...
    config.compression.activation_bits = (0,)
    config.compression.activation_clipping = "mse"  # of the ranges of inputs, which are affine
    # Corrections that need samples of the generator itself, but no training.
    config.compression.correct_biases = False  # restores each layer's mean output
    config.compression.reestimate_batch_norms = False  # statistics of the compressed generator
    config.compression.num_calibration = 256  # latents for the above, which are not scored
    config.compression.layerwise = False  # one layer at a time, the others at full precision
    config.compression.group_size = 0  # inputs per group, for per_group
    config.compression.percentile = 99.99  # for clipping percentile
    config.compression.num_stds = 3.0  # for clipping std
    # Ordered overrides by path, the first match wins, for example
    # ("params/to_image/kernel: skip", "params/project/.*: bits=8 clipping=none").
    config.compression.rules = ()

    # Search for the smallest mixed-precision setting, see `configs/search.py`.
    config.search = ml_collections.ConfigDict()
    config.search.share = 0.0  # of precision and recall to keep; 0 turns the search off
    config.search.num_samples = 2_000  # n and m of a measurement inside the search
    config.search.seed = 1_000  # of the latents inside the search; not among `seeds`

    # How the two sets of features are compared.
    config.metrics = ("knn", "lsh_knn", "lsh")  # also kid, fid, in the features of the run
    config.k = 3  # number of neighbours that define a radius
    config.inclusive = True  # a distance equal to the radius counts as inside
    # MiB for tiles of distances; with lsh only, larger sets of features are streamed, not held.
    config.memory_mb = 256
    config.extended = False  # knn: also authenticity, clipped density and clipped coverage
    config.hash = ml_collections.ConfigDict()
    config.hash.family = "pstable"  # or affine, hyperplane
    config.hash.num_tables = 32  # of lsh
    # Digits per table, of 3 bits for pstable, else of 1; "auto" brings the ceiling to its target.
    config.hash.num_bits = config_dict.FieldReference("auto", field_type=object)
    config.hash.ceiling_target = 0.85  # share of the reference that recognises itself, for "auto"
    config.hash.radius_bins = 8  # 0 turns them off
    config.hash.width = 1.5  # of a pstable digit, in standard deviations
    config.hash.num_directions = 128  # in the pool that all tables share
    config.hash.min_count = 1  # lsh: reference points that a bucket must hold for a hit
    # lsh: the level that a sample needs, in standard deviations above normal; None turns it off.
    config.hash.min_level = config_dict.FieldReference(-0.5, field_type=object)
    # Share of tables that must have a hit; None, for lsh only, takes the mean over tables.
    config.hash.votes = config_dict.FieldReference(0.5, field_type=object)
    config.hash.seed = 0
    config.lsh_knn = ml_collections.ConfigDict()
    config.lsh_knn.num_tables = 12  # in place of `hash.num_tables`
    config.lsh_knn.bucket_rows = 24  # largest number of candidates per set and bucket

    config.num_columns = 10  # images per row of the sample grids
    config.profile = ""  # a folder for a jax.profiler trace of the first row that is measured
    return config
