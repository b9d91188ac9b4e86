"""The model in training with its batches, optimizer and random state, and how it is saved and restored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from wisesr_cli.config.schedules import PlateauOptions, plateau_factor
from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import PhaseConfig
from wisesr_cli.data.pixels import epoch_order
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.files import replacing
from wisesr_cli.machine.keras_start import Device
from wisesr_cli.machine.memory import return_freed_memory
from wisesr_cli.machine.threads import worker_count
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.model_files.loading import copy_weights, use_statistics
from wisesr_cli.model_files.saving import save_model
from wisesr_cli.models.build import Classifier, build_classifier
from wisesr_cli.models.image_sizes import naming_size
from wisesr_cli.models.other_size import at_size, check_size
from wisesr_cli.models.scaling import Scaling
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.results.training import EpochResult
from wisesr_cli.run.progress import Circumstances, Progress, config_for_comparison
from wisesr_cli.run.state import write_state
from wisesr_cli.training.arrays import Arrays, named_arrays, restore_arrays
from wisesr_cli.training.augmentation import seed_states, seed_variables
from wisesr_cli.training.batches import Batches, example_weights
from wisesr_cli.training.devices.distribution import ALONE, Distribution
from wisesr_cli.training.devices.mirrored import as_on_one_device, mirror_of
from wisesr_cli.training.devices.sharded import sharded_over
from wisesr_cli.training.examples import Examples
from wisesr_cli.training.features import AtInference, FrozenFeatures, augmented_pixels
from wisesr_cli.training.freezing import check_layers, freeze_layers
from wisesr_cli.training.objective import MixedModel, build_loss, build_loss_and_metrics, build_metric, mix
from wisesr_cli.training.optimizers import build_optimizer


class Trainer:
    """A classifier with its augmentation, optimizer and progress.

    The trained model is `augmentation -> classifier`, or only the head if the feature maps of a frozen backbone are
    cached; only the classifier is ever saved. `scaling`: the pixel scaling of a resumed run; None for a new one.
    """

    def __init__(
        self,
        config: Config,
        examples: Examples,
        device: Device,
        distribution: Distribution = ALONE,
        *,
        scaling: Scaling | None = None,
    ) -> None:
        self.config, self.examples, self.device, self.distribution = config, examples, device, distribution
        self.mirror, self.sharded = mirror_of(distribution), sharded_over(distribution)
        classes, size = len(examples.index.class_names), config.train.batch_size
        self.batches = Batches(
            examples.train,
            examples.labels("train"),
            classes=classes,
            batch_size=size,
            seed=config.seed,
            smoothing=config.train.label_smoothing,
            weights=example_weights(config, examples.index.class_names, examples.index.splits["train"]),
        )
        self.validation = None
        if examples.validation is not None:
            labels = examples.labels("validation")
            self.validation = Batches(examples.validation, labels, classes=classes, batch_size=size)
        self.classifier = self._build(config.model, scaling)
        check_layers(self.classifier.backbone, config.phases)
        is_saved_itself = config.train.precision == "float32" and distribution.processes == 1
        self.float32_classifier = self.classifier if is_saved_itself else self._build_float32()
        self.image_size = config.data.image_size
        self.is_as_built = True  # not rebuilt for an image size yet
        # Those of the saved model, as the parameters of `depthwise` depend on the size of the feature map.
        self.parameters, self.head_parameters = self.classifier.parameters, self.classifier.head_parameters
        if config.changes_image_size:
            for number, phase in enumerate(config.phases):
                if phase.image_size is not None:
                    with naming_size(f"train.phases.{number}.image_size", phase.image_size):
                        check_size(self.classifier.model, phase.image_size)
        self.whole = self.model = self._with_augmentation()
        self.features: FrozenFeatures | None = None
        self.rate_factor = 1.0  # multiplies the learning rate after plateaus
        self.progress = Progress(planned_epochs=config.train.epochs)

    def _build(self, model: ModelConfig, scaling: Scaling | None) -> Classifier:
        return build_classifier(
            model,
            image_size=self.config.data.image_size,
            classes=len(self.examples.index.class_names),
            seed=self.config.seed,
            steps_per_epoch=self.batches.num_batches,
            class_names=self.examples.index.class_names,
            scaling=scaling,
            channels=self.config.data.pixel_channels,
        )

    def _build_float32(self) -> Classifier:
        """Build the copy that is saved, so that model files never need mixed precision or several processes."""
        keras.config.set_dtype_policy("float32")
        with self.distribution.apart():
            twin = self._build(self.config.model.without_weights(), self.classifier.scaling)
        keras.config.set_dtype_policy(self.config.train.precision)
        return twin

    def _with_augmentation(self, phase: PhaseConfig | None = None) -> Any:
        """Return the model to train; a frozen backbone runs in inference mode, including its dropout."""
        pixels, images = augmented_pixels(self.config, self.image_size, phase)
        targets = mixed = None
        if self.config.augmentation.mixes:
            is_plain = phase is not None and phase.augment == "none"
            seed, classes = self.config.seed, self.batches.classes
            targets, images, mixed = mix(
                self.config.augmentation, images, classes=classes, seed=seed, is_plain=is_plain
            )
        if phase is not None and phase.freeze == "backbone":
            logits = self.classifier.head(AtInference(self.classifier.extractor)(images))
        else:
            logits = self.classifier.model(images)
        if mixed is not None:
            return MixedModel([pixels, targets], [logits, mixed], name="training")
        if self.mirror is not None:
            return self.mirror.build_model(pixels, logits)
        if self.sharded is not None:
            return self.sharded.build_model(pixels, logits)
        return keras.Model(pixels, logits, name="training")

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one epoch."""
        return self.batches.num_batches

    def use_size(self, image_size: tuple[int, int], listener: Listener) -> None:
        """Switch the model (with its weights) and its images to another size.

        Raises a `DataError` if one can no longer be read.
        """
        self.rebuild(image_size)
        self.examples.open_at(image_size, listener)
        self.batches.pixels = self.examples.train
        if self.validation is not None and self.examples.validation is not None:
            self.validation.pixels = self.examples.validation

    def rebuild(self, image_size: tuple[int, int]) -> None:
        """Rebuild the model, with its weights, for images of another size.

        If phases differ in size, the model is rebuilt once even for its original size, so that names and order of the
        weights do not depend on the phase in which training was resumed.
        """
        if image_size != self.image_size or (self.config.changes_image_size and self.is_as_built):
            rebuilt = replace(self.classifier, model=at_size(self.classifier.model, image_size))
            if self.float32_classifier is self.classifier:
                self.float32_classifier = rebuilt  # a float32 twin keeps the size at which it is saved
            self.classifier, self.image_size, self.is_as_built = rebuilt, image_size, False
            self.whole = self.model = self._with_augmentation()

    @property
    def is_at_full_size(self) -> bool:
        """Whether images have the model's own size; epochs at other sizes never count as the best."""
        return self.image_size == self.config.data.image_size

    def frozen_features(self, phase: PhaseConfig, first_epoch: int, listener: Listener) -> FrozenFeatures | None:
        """Return the feature maps for a phase to train on; None if its backbone is trained or they are not cached.

        Raises:
            DataError: an image can no longer be read.
        """
        if phase.freeze != "backbone" or self.config.train.feature_cache == "none":
            return None
        if (mixes := self.config.augmentation.mixes) and phase.augment is None:
            listener.note(f"feature maps of the frozen backbone are not cached, as augment.{mixes[0]} mixes the images")
            return None
        if self.distribution.is_shared:
            listener.note("feature maps of the frozen backbone are not cached when several devices train together")
            return None
        features = FrozenFeatures(
            self.config, self.classifier, self.examples, phase, first_epoch=first_epoch, device=self.device.name
        )
        return features if features.start(self.progress.epoch, listener) else None

    def begin_phase(self, phase: PhaseConfig, features: FrozenFeatures | None = None) -> None:
        """Recompile with a new optimizer and the phase's layers frozen; with `features`, only the head on them."""
        freeze_layers(self.classifier.backbone, phase, is_loaded=self.classifier.loaded_tensors is not None)
        self.features, self.rate_factor = features, 1.0
        self.whole = self._with_augmentation(phase)
        self.model = self.whole if features is None else self.classifier.head
        if features is not None:
            self.batches.pixels = features.train(self.progress.epoch)  # Keras looks at a batch before the first epoch
            if self.validation is not None and features.validation is not None:
                self.validation.pixels = features.validation
        self.model.compile(
            optimizer=build_optimizer(self.config, phase, self.steps_per_epoch),
            loss=build_loss(self.config, self.examples.index),
            metrics=[build_metric(self.examples.index)],
            jit_compile=self.uses_xla,
        )
        self.model.optimizer.build(self.model.trainable_variables)
        build_loss_and_metrics(self.model, keras.ops.convert_to_tensor(self.batches.targets(self.batches.labels[:1])))

    @property
    def uses_xla(self) -> bool:
        """Whether XLA compiles the training step.

        TensorFlow cannot if augmentation moves or mixes pixels, or if several devices train together.
        """
        possible = self.mirror is None and all(layer.supports_jit for layer in self.model.layers)
        return keras_start.uses_xla(self.config.train.jit_compile) and possible

    @property
    def _own_optimizer(self) -> Any:
        """The optimizer without loss scaling."""
        return getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)

    def slow_down(self, phase: PhaseConfig, rows: Iterable[EpochResult]) -> None:
        """Set the next epoch's learning rate if its schedule depends on earlier epochs of the phase."""
        schedule = phase.schedule or self.config.train.schedule
        if isinstance(schedule, PlateauOptions):
            base = phase.learning_rate or self.config.train.optimizer.learning_rate
            self.rate_factor = plateau_factor(schedule, base, (getattr(row, schedule.monitor) for row in rows))
            self._own_optimizer.factor.assign(self.rate_factor)

    def begin_epoch(self, epoch: int) -> None:
        """Set the order of the examples and all random state of an epoch from (seed, epoch) alone."""
        if self.features is not None:
            self.batches.pixels = self.features.train(epoch)
        self.batches.begin_epoch(epoch)
        variables = seed_variables(self.whole)
        for variable, state in zip(variables, self._seed_states(epoch), strict=True):
            variable.assign(state.astype(variable.dtype))
            if self.mirror is not None:
                self.mirror.diversify_seed(variable)

    def _seed_states(self, epoch: int) -> list[NDArray[np.uint32]]:
        """Return each seed generator's state at the start of an epoch, uint32 (2,)."""
        return seed_states(self.config.seed, epoch, len(seed_variables(self.whole)))

    def random_draws(self, epoch: int) -> Arrays:
        """Return the states of the seed generators and a hash of the example order at the start of an epoch."""
        order = epoch_order(len(self.batches.labels), seed=self.config.seed, epoch=epoch)
        digest = hashlib.sha256(order.astype("<i8").tobytes()).digest()
        states = self._seed_states(epoch)
        seeds = {f"{number:05d} seed generator": state for number, state in enumerate(states)}
        return {**seeds, "order of examples": np.frombuffer(digest, np.uint8)}

    def fit(self, callback: keras.callbacks.Callback, *, first: int, last: int) -> None:
        """Train the epochs from `first` (from 0) to before `last`.

        Raises a `DataError` if an image can no longer be read, and a `MemoryError` if a step does not fit.
        """
        try:
            self.model.fit(
                **self._data(range(first, last)),
                initial_epoch=first,
                epochs=last,
                shuffle=False,  # `Batches` determines the order
                callbacks=[callback],
                verbose=0,
            )
        except Exception as error:
            errors = [batches.error for batches in (self.batches, self.validation) if batches and batches.error]
            if errors:
                raise errors[0] from None
            if isinstance(error, MemoryError) or keras_start.is_out_of_memory(error):
                size = self.config.train.batch_size
                raise MemoryError(
                    f"a step of {size} images does not fit in memory; start over with a --batch-size below {size}, a "
                    "smaller --image-size, or --precision mixed_bfloat16; what earlier epochs wrote is kept"
                ) from error
            raise

    def _data(self, epochs: range) -> dict[str, Any]:
        if self.mirror is not None:
            return self.mirror.data(self.batches, self.validation, epochs)
        if self.sharded is not None:
            return self.sharded.data(self.batches, self.validation)
        return {"x": self.batches, "validation_data": self.validation}

    def train_one_step(self) -> float:
        """Train on the first batch and return its loss."""
        if self.mirror is not None:
            return self.mirror.train_one_step(self.model, self.batches)
        if self.sharded is not None:
            return self.sharded.train_one_step(self.model, self.batches)
        batch = self.batches[0]
        weights = batch[2] if len(batch) == 3 else None
        return float(self.model.train_on_batch(batch[0], batch[1], sample_weight=weights, return_dict=True)["loss"])

    def difference_after_reload(self, engine: KerasEngine) -> float:
        """Return the largest difference of logits between a reloaded model and this one, on a few images."""
        pixels = self.batches[0][0][:4]
        here = keras.ops.convert_to_numpy(self.float32_classifier.model(pixels, training=False))
        return float(np.max(np.abs(here - engine.logits(pixels))))

    def learning_rate(self, epoch_in_phase: int) -> float:
        """Return the learning rate of the last step of an epoch of the current phase, from 0."""
        rates = self._own_optimizer.schedule.rates
        return float(rates[min(len(rates), (epoch_in_phase + 1) * self.steps_per_epoch) - 1]) * self.rate_factor

    def swap_averages(self) -> None:
        """Swap the weights with their averages, if any; swapping twice restores every bit."""
        for row in self._own_optimizer.rows if self.config.train.ema is not None else ():
            weights = keras.ops.convert_to_numpy(row.variable)
            row.variable.assign(row.average)
            row.average.assign(weights)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the averages of the weights, if any, within the block."""
        self.swap_averages()
        yield
        self.swap_averages()

    def release(self) -> None:
        """Free the memory of the model, its compiled steps and its optimizer; nothing can be trained afterwards."""
        del self.classifier, self.float32_classifier, self.whole, self.model
        del self.features, self.batches, self.validation  # feature maps, too
        return_freed_memory()

    def arrays(self) -> dict[str, Arrays]:
        """Return all weights, all optimizer variables, and the random state of the next epoch.

        If weights are averaged, also return all weights with the averages swapped in, to restore a lost `best.keras`.
        """
        found = {
            "model": named_arrays(self.classifier.model.weights),
            "optimizer": named_arrays(self.model.optimizer.variables),
            "random": self.random_draws(self.progress.epoch),
        }
        if self.config.train.ema is not None:
            with self.averaged():
                found["averaged"] = named_arrays(self.classifier.model.weights)
        return found

    def restore(self, group: str, arrays: Arrays) -> None:
        """Restore all weights, or all optimizer variables, from what `arrays` returned.

        Raises a `RunError` if names, shapes or types differ.
        """
        restore_arrays(self.classifier.model.weights if group == "model" else self.model.optimizer.variables, arrays)
        if group == "model":
            use_statistics(self.classifier.model)

    def weights_are_finite(self) -> bool:
        """Return whether no weight is NaN or infinite."""
        return all(np.isfinite(array).all() for array in named_arrays(self.classifier.model.weights).values())

    def save_best(self, path: Path, epoch: int) -> None:
        """Write the current classifier in float32, with its `ModelInfo`."""
        if self.float32_classifier is not self.classifier:
            copy_weights(self.float32_classifier.model, self.classifier.model)
        info = ModelInfo(
            class_names=self.examples.index.class_names,
            image_size=self.config.data.image_size,
            preparation=self.config.data.preparation,
            background=BACKGROUND,
            backbone=self.config.model.backbone,
            head=self.config.model.head.name,
            epoch=epoch,
            versions=keras_start.package_versions(),
            thresholds=(0.5,) * self.batches.classes if self.examples.index.separator else None,
        )
        with replacing(path) as temporary, as_on_one_device(self.float32_classifier.model):
            save_model(self.float32_classifier.model, temporary, info)

    def circumstances(self) -> Circumstances:
        """Return what must be unchanged to resume."""
        return Circumstances(
            config=config_for_comparison(self.config),
            classes=self.examples.index.class_names,
            data=self.examples.training_record,
            versions=keras_start.package_versions(),
            backend=keras_start.backend_name(),
            threads=worker_count(),
            device="; ".join(filter(None, (self.device.name, str(self.distribution)))),
        )

    def write_state(self, folder: Path) -> None:
        """Write everything that resuming needs."""
        record = {"circumstances": self.circumstances().to_json(), "progress": self.progress.to_json()}
        write_state(folder, self.progress.epoch, self.arrays(), record)
