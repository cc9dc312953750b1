"""Every field of an evaluation, with its default. Other configs start from here."""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """Returns the default configuration."""
    config = ml_collections.ConfigDict()

    # What is judged: checkpoint folders, packed files, or names of shipped generators.
    config.generators = ("dcgan", "sngan")
    # Also judged, as they are: images as `reference.images` takes them, or features [m, d].
    config.samples = ()
    config.num_samples = 5_000  # m: images a generator and setting
    config.batch_size = 250  # of sampling; the next multiple of the number of devices
    # Of the latents, below 2^32: one row a seed; the same latents for every setting.
    config.seeds = (0,)
    config.truncation_psi = 1.0  # 0 to 1, 1 is none; families: see `Generator.__call__`
    # What a generator is whose file is not there yet, and how to get it, by the last part of its
    # path; for --dry_run and for error messages, see `configs/ffhq.py`.
    config.expected = ml_collections.ConfigDict()

    # What it is judged against.
    config.reference = ml_collections.ConfigDict()
    # A data set's name, a folder or zip of images, an .npz, .npy or idx file: see
    # `lsh_gan/datasets/paths.py`.
    config.reference.images = "fashion_mnist"
    # Or features [n, d], `.npy` or `.npz`, made with the same network or "given", see below.
    config.reference.features = ""
    # Or uncompressed samples of this generator, drawn with `reference.seed`: then scores say how
    # far compression moves it from itself, and nothing of how good it is.
    config.reference.samples_of = ""
    # Or the file `reference.sketch` of another work folder: no images then, and only metric lsh.
    config.reference.sketch = ""
    config.reference.num_images = 5_000  # n, drawn at random; 0 takes all
    # 0: images as they are; else cropped and resized to this, up to 4096 pixels.
    config.reference.side = 0
    config.reference.background = 255  # grey level below transparent images, 0 black to 255 white
    config.reference.white_level = 0  # of 16-bit files; 0: 65535, and sets far below are refused
    # An image file that cannot be read: 'fail', or 'skip', which decodes all files once before any
    # is drawn, leaves out what is damaged, of given samples too, and reports how many.
    config.reference.on_error = "fail"
    config.reference.seed = 0  # of the draw

    # The answer of a run: the smallest width that keeps this share of precision and of recall.
    config.keep = 0.95

    # The space in which images are compared.
    config.features = ml_collections.ConfigDict()
    config.features.name = "efficientnet_lite0"  # or "given": both sides are features, of any d
    config.features.side = 64  # input side, pixels
    config.features.weights = ""  # weight file; "" takes the one of the installed package
    config.features.batch_size = 0  # 0 lets the backend choose

    # How generators are compressed: the product of the four tuples, and full precision.
    config.compression = ml_collections.ConfigDict()
    config.compression.bits = (8, 7, 6, 5, 4, 3, 2)  # 1 to 16; () for full precision alone
    # Or percentile, std, kl, aciq, aciq_gauss, aciq_laplace.
    config.compression.clipping = ("none", "mse")
    config.compression.granularity = ("per_channel",)  # or per_tensor, per_group
    config.compression.scheme = ("symmetric",)  # or affine
    config.compression.full_precision = True  # also judge the generator as it is
    # Inputs of layers: 0 leaves them in float32, (0, 8) measures both, 8 alone gives W8A8, W4A8 ...
    config.compression.activation_bits = (0,)
    config.compression.activation_clipping = "mse"  # of their ranges, which are affine
    # Corrections that need samples of the generator itself, but no training.
    config.compression.correct_biases = False  # each layer's mean output as at full precision
    config.compression.reestimate_batch_norms = False  # statistics of the compressed generator
    config.compression.num_calibration = 256  # latents for both, other ones than the judged
    config.compression.layerwise = False  # one layer at a time, the others at full precision
    config.compression.group_size = 0  # of per_group
    config.compression.percentile = 99.99  # of clipping percentile
    config.compression.num_stds = 3.0  # of clipping std
    # Ordered overrides by path, the first match wins, for example
    # ("params/to_image/kernel: skip", "params/project/.*: bits=8 clipping=none").
    config.compression.rules = ()

    # Search for the smallest mixed-precision setting, see `configs/search.py`.
    config.search = ml_collections.ConfigDict()
    config.search.share = 0.0  # of precision and recall to keep; 0 does not search
    config.search.num_samples = 2_000  # n and m of a measurement inside the search
    config.search.seed = 1_000  # of the latents inside the search; not among `seeds`

    # How the two sets of features are compared.
    config.metrics = ("knn", "lsh_knn", "lsh")  # and kid, fid: in the features of the run
    config.k = 3  # neighbours that define a radius
    config.inclusive = True  # a distance equal to the radius counts as inside
    config.memory_mb = 256  # for tiles of distances; features of a set that LSH alone does not hold
    config.extended = False  # knn: also authenticity, clipped density and clipped coverage
    config.hash = ml_collections.ConfigDict()
    config.hash.family = "pstable"  # or affine, hyperplane
    config.hash.num_tables = 32
    # Bits a table; "auto" brings the ceiling to its target.
    config.hash.num_bits = config_dict.FieldReference("auto", field_type=object)
    config.hash.ceiling_target = 0.85
    config.hash.radius_bins = 8  # 0 turns them off
    config.hash.width = 1.5  # of a digit of pstable, in standard deviations
    config.hash.num_directions = 128  # of the pool that tables draw from
    config.hash.min_count = 1  # reference points that a bucket must hold
    # Of lsh: how much company a sample needs, in standard deviations above normal; None: any.
    config.hash.min_level = config_dict.FieldReference(-0.5, field_type=object)
    # Share of tables that must agree; None: the mean over tables.
    config.hash.votes = config_dict.FieldReference(0.5, field_type=object)
    config.hash.seed = 0
    config.lsh_knn = ml_collections.ConfigDict()
    config.lsh_knn.num_tables = 12
    config.lsh_knn.bucket_rows = 24  # candidates of each set in a bucket, at the most

    config.num_columns = 10  # images a row of the sample grids
    config.profile = ""  # a folder for a jax.profiler trace of the first row that is measured
    return config
