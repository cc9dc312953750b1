r"""Trains small generators of 32×32 images on a CPU, with or without classes.

    python -m checkpoints_tools.fetch mnist
    python -m checkpoints_tools.train_gan --config=configs/train.py:dcgan_mnist \
        --workdir=training/dcgan_mnist --output=checkpoints/dcgan_mnist

The method: hinge loss (Lim & Ye 2017), spectrally normalised discriminator, Adam, exponential
moving average of the generator. Every step is a function of (seed, step), and the work folder gets
checkpoints, so that an interrupted run continues with the same numbers. At the end the averaged
generator is exported with its configuration and training curve.
"""

import dataclasses
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp
from absl import app, flags
from rich.progress import track

from checkpoints_tools.discriminators import DCGANDiscriminator, SNGANDiscriminator
from configs import train as train_config
from lsh_gan import datasets, generators
from lsh_gan.compression import reestimate_batch_norms
from lsh_gan.compression.rules import compare_shapes
from lsh_gan.errors import check_int, choose
from lsh_gan.experiment import configuration
from lsh_gan.experiment.settings import LAST_SEED
from lsh_gan.generators import checkpoints

DISCRIMINATORS = {"convolutional": DCGANDiscriminator, "residual": SNGANDiscriminator}


class TrainState(NamedTuple):
    """Everything that one step reads and writes."""

    step: jax.Array
    generator: dict  # variables: params, batch_stats
    average: dict  # moving average of the generator's params
    discriminator: dict  # variables: params, spectral
    generator_moments: optax.OptState
    discriminator_moments: optax.OptState


class Trainer:
    """The networks, the optimizer and the jitted step of one configuration, see `configs/train.py`.

    An unknown generator or discriminator, or a seed out of range, is a ValueError.
    """

    def __init__(self, config: ml_collections.ConfigDict):
        self.config = config
        self.generator = generators.build(config.generator, config.options.to_dict())
        discriminator = choose("discriminator", config.discriminator, DISCRIMINATORS)
        self.discriminator = discriminator(**config.discriminator_options.to_dict())
        self.generator_optimizer = self._adam(config.generator_learning_rate)
        self.discriminator_optimizer = self._adam(config.discriminator_learning_rate)
        self.key = jax.random.key(check_int("seed", config.seed, 0, LAST_SEED))
        self.draw_networks = jax.jit(self._draw_networks)
        self.step = jax.jit(self._step, donate_argnums=0)

    def _adam(self, rate: float) -> optax.GradientTransformation:
        half = self.config.steps // 2
        schedule = optax.linear_schedule(rate, 0.0, half, transition_begin=half)
        return optax.adam(schedule, b1=self.config.beta1, b2=self.config.beta2)

    def init(self) -> TrainState:
        """Returns the state before the first step; raises as `_last_state`."""
        config = self.config
        generator, discriminator = self.draw_networks()
        if config.first_generator:
            generator = _last_state(config.first_generator, "generator", generator)
        if config.first_discriminator:
            discriminator = _last_state(config.first_discriminator, "discriminator", discriminator)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            generator=generator,
            average=jax.tree.map(jnp.copy, generator["params"]),
            discriminator=discriminator,
            generator_moments=self.generator_optimizer.init(generator["params"]),
            discriminator_moments=self.discriminator_optimizer.init(discriminator["params"]),
        )

    def _draw_networks(self) -> tuple[dict, dict]:
        """Returns fresh variables of the generator and of the discriminator."""
        keys = jax.random.split(jax.random.fold_in(self.key, 2**31 - 1), 2)
        inputs = self._draw(keys[0])
        generator = self.generator.init(keys[0], **inputs, train=True)
        shape = (self.config.batch_size, 32, 32, self.generator.image_channels)
        discriminator = self.discriminator.init(
            keys[1], jnp.zeros(shape), update=True, **self._classes(inputs)
        )
        return generator, discriminator

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 for an unconditional generator."""
        return getattr(self.generator, "num_classes", 0)

    def _draw(self, key: jax.Array) -> dict[str, jax.Array]:
        """Draws a batch of latents and, for a conditional generator, of uniform classes."""
        n = self.config.batch_size
        inputs = {"z": jax.random.normal(key, (n, self.generator.latent_size))}
        if self.num_classes:
            key = jax.random.fold_in(key, 0)
            inputs["labels"] = jax.random.randint(key, (n,), 0, self.num_classes)
        return inputs

    def _classes(self, inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the inputs of the discriminator besides the images."""
        if not self.num_classes:
            return {}
        return {"classes": jax.nn.one_hot(inputs["labels"], self.num_classes)}

    def _generate(self, params: dict, state: TrainState, inputs: dict[str, jax.Array]):
        variables = {**state.generator, "params": params}
        return self.generator.apply(variables, **inputs, train=True, mutable=["batch_stats"])

    def _score(self, params: dict, state: TrainState, images, inputs, key, *, update: bool):
        variables = {**state.discriminator, "params": params}
        images = translate(images, key, self.config.translate)
        return self.discriminator.apply(
            variables, images, update=update, mutable=["spectral"], **self._classes(inputs)
        )

    def _step(
        self, state: TrainState, images: jax.Array, labels: jax.Array | None
    ) -> tuple[TrainState, dict]:
        """Updates the discriminator once, then the generator once.

        Args:
            state: The state before the step.
            images: The whole training set, uint8 `[n, 32, 32, c]`; a batch is drawn from it.
            labels: Its classes, integer `[n]`; None for an unconditional generator.

        Returns:
            The state after the step, and the two losses.
        """
        keys = jax.random.split(jax.random.fold_in(self.key, state.step), 4)
        index = jax.random.randint(keys[0], (self.config.batch_size,), 0, len(images))
        real = images[index].astype(jnp.float32) / 127.5 - 1.0
        real_inputs = {"labels": labels[index]} if self.num_classes else {}
        inputs = self._draw(keys[2])
        fake, _ = self._generate(state.generator["params"], state, inputs)
        moves = jax.random.split(keys[1], 3)

        def discriminator_loss(params):
            real_score, _ = self._score(params, state, real, real_inputs, moves[0], update=False)
            fake_score, spectral = self._score(params, state, fake, inputs, moves[1], update=True)
            loss = jnp.mean(jax.nn.relu(1.0 - real_score)) + jnp.mean(jax.nn.relu(1.0 + fake_score))
            return loss, spectral

        (d_loss, spectral), grads = jax.value_and_grad(discriminator_loss, has_aux=True)(
            state.discriminator["params"]
        )
        updates, moments = self.discriminator_optimizer.update(grads, state.discriminator_moments)
        params = optax.apply_updates(state.discriminator["params"], updates)
        state = state._replace(
            discriminator={"params": params, **spectral}, discriminator_moments=moments
        )

        inputs = self._draw(keys[3])

        def generator_loss(params):
            fake, statistics = self._generate(params, state, inputs)
            critic = state.discriminator["params"]
            score, _ = self._score(critic, state, fake, inputs, moves[2], update=False)
            return -jnp.mean(score), statistics

        (g_loss, statistics), grads = jax.value_and_grad(generator_loss, has_aux=True)(
            state.generator["params"]
        )
        updates, moments = self.generator_optimizer.update(grads, state.generator_moments)
        params = optax.apply_updates(state.generator["params"], updates)
        # At first the average is over few steps, so that it soon forgets the initial weights.
        decay = jnp.minimum(self.config.ema_decay, (1 + state.step) / (10 + state.step))
        average = optax.incremental_update(params, state.average, 1 - decay)
        state = state._replace(
            step=state.step + 1,
            generator={"params": params, **statistics},
            average=average,
            generator_moments=moments,
        )
        return state, {"discriminator_loss": d_loss, "generator_loss": g_loss}

    def averaged(self, state: TrainState) -> dict:
        """Returns the variables of the averaged generator, with its own batch statistics.

        Averaged weights have other activations than the weights of any step, so their batch
        statistics are estimated anew ("standing statistics", Brock et al. 2019).
        """
        keys = jax.random.split(jax.random.fold_in(self.key, 2**30), self.config.standing_batches)
        inputs = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.vmap(self._draw)(keys))
        variables = {**state.generator, "params": state.average}
        latents, labels = inputs["z"], inputs.get("labels")
        return reestimate_batch_norms(self.generator, variables, latents, labels=labels)


def translate(images: jax.Array, key: jax.Array, reach: int) -> jax.Array:
    """Shifts each image at random by up to `reach` pixels along both axes, and pads with black.

    It is applied to all images that the discriminator sees, and makes small training sets
    sufficient (Zhao et al. 2020, arXiv:2006.10738).

    Args:
        images: Float `[n, h, w, c]`, black is -1.
        key: From `jax.random.key`.
        reach: Largest shift in pixels; 0 shifts none.
    """
    if not reach:
        return images
    pad = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = jnp.pad(images, pad, constant_values=-1.0)
    starts = jax.random.randint(key, (len(images), 2), 0, 2 * reach + 1)
    move = lambda x, start: jax.lax.dynamic_slice(x, (*start, 0), images.shape[1:])  # noqa: E731
    return jax.vmap(move)(padded, starts)


def train(config: ml_collections.ConfigDict, workdir: Path) -> dict:
    """Trains to the last step, continuing from the newest checkpoint in `workdir`.

    Args:
        config: See `configs/train.py`.
        workdir: Folder for `checkpoints/` and `curve.csv` (step and losses).

    Returns:
        Variables of the averaged generator.

    Raises:
        ValueError: Unknown generator, or a file without images.
        FileNotFoundError: The file of images does not exist.
        FloatingPointError: A loss became NaN or Inf.
    """
    trainer = Trainer(config)
    images, labels = load_training_images(config, trainer.num_classes)
    workdir.mkdir(parents=True, exist_ok=True)
    state = trainer.init()
    with _checkpoints(workdir) as manager:
        if manager.latest_step() is not None:
            restore = ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
            state = manager.restore(manager.latest_step(), args=restore)
        start, stop = int(state.step), config.stop or config.steps
        steps = track(range(start, stop), "training", total=stop, completed=start)
        for step in steps:
            state, losses = trainer.step(state, images, labels)
            if (step + 1) % config.log_every == 0:
                _log(workdir / "curve.csv", step + 1, jax.device_get(losses))
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == stop:
                manager.save(step + 1, args=ocp.args.StandardSave(state))
    return trainer.averaged(state)


def load_training_images(
    config: ml_collections.ConfigDict, num_classes: int
) -> tuple[jax.Array, jax.Array | None]:
    """Reads `config.images`, uint8 `[n, 32, 32, c]`, and, with classes, their labels `[n]`."""
    if datasets.is_named(config.images):
        images, labels = datasets.load_named(config.images)
    else:
        images, labels = datasets.load_images(config.images), None
    found = 0 if labels is None else int(labels.max()) + 1
    if num_classes and found != num_classes:
        raise ValueError(f"{config.images}: has {found} classes; the generator has {num_classes}")
    return jnp.asarray(datasets.pad_to(images, 32)), jnp.asarray(labels) if num_classes else None


def _checkpoints(workdir: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    return ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options)


def _last_state(workdir: str, network: str, fresh: dict) -> dict:
    """Reads the variables of one network from the newest checkpoint of another run.

    Raises FileNotFoundError if there is none, ValueError if the shapes differ.
    """
    if not (Path(workdir) / "checkpoints").is_dir():
        raise FileNotFoundError(f"{workdir}: no checkpoints of a finished run to begin from")
    with _checkpoints(Path(workdir)) as manager:
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    compare_shapes(state[network], fresh, source=f"{workdir} {network}")
    return jax.tree.map(jnp.asarray, state[network])


def _log(path: Path, step: int, losses: dict) -> None:
    """Adds a line to the curve; replaces lines that an interrupted run wrote from this step on."""
    if not all(np.isfinite(loss) for loss in losses.values()):
        raise FloatingPointError(f"step {step}: the losses are {losses}")
    lines = path.read_text().splitlines() if path.exists() else ["step," + ",".join(losses)]
    lines = [lines[0], *(line for line in lines[1:] if int(line.split(",")[0]) < step)]
    values = ",".join(f"{loss:.5f}" for loss in losses.values())
    path.write_text("\n".join([*lines, f"{step},{values}"]) + "\n")


def export(config: ml_collections.ConfigDict, variables: dict, workdir: Path, output: Path) -> None:
    """Writes the checkpoint folder `output`, with the training configuration and curve.

    It first applies `widen` with `latent_factor` and `image_factor` of the configuration.
    """
    module = generators.build(config.generator, config.options.to_dict())
    variables = widen(variables, module.latent_size, config.latent_factor, config.image_factor)
    options = {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)
        if field.name not in ("parent", "name")
    }
    images = config.images
    licence = datasets.find_named(images).licence if datasets.is_named(images) else None
    metadata = {
        "name": output.absolute().name,
        "family": config.generator,
        "options": options,
        "source": f"trained by checkpoints_tools/train_gan.py on {images}",
        "licence_of_images": licence,
        "training": json.loads(config.to_json()),
        "versions": {"jax": jax.__version__},
    }
    checkpoints.save(output, metadata, variables)
    shutil.copy(workdir / "curve.csv", output / "curve.csv")


def widen(variables: dict, latent_size: int, latents: float, images: float) -> dict:
    """Scales the latents and the last layer of a DCGAN, by scaling its kernels.

    Wider latents than in training (narrower ones are known as truncation) and images of more
    contrast trade recall for precision.

    Args:
        variables: Variables of a `DCGAN`.
        latent_size: Number of rows of the first kernel that belong to the latent; rows of classes
            keep their values.
        latents: Factor of the latents.
        images: Factor of the input of the tanh.
    """
    if latents == images == 1:
        return variables
    params = dict(variables["params"])
    rows = jnp.arange(len(params["project"]["kernel"])) < latent_size
    factors = jnp.where(rows, latents, 1.0)[:, None, None, None]
    params["project"] = {"kernel": params["project"]["kernel"] * factors}
    params["to_image"] = {"kernel": params["to_image"]["kernel"] * images}
    return {**variables, "params": params}


def main(arguments: list[str]) -> None:
    """Trains and exports."""
    del arguments
    checkpoints.quiet_libraries()
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    try:
        variables = train(config, workdir)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    export(config, variables, workdir, Path(flags.FLAGS.output))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of checkpoints and curve.")
    flags.DEFINE_string("output", None, "Folder of the trained generator.")
    flags.mark_flags_as_required(["workdir", "output"])
    options = {"config": train_config.get_config(), "source": "configs/train.py"}
    app.run(main, flags_parser=partial(configuration.parse_or_exit, **options))
