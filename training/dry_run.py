"""A dry run: one batch of everything, and what time and memory the whole run would take."""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from dataset import Batch, Size, collate
from runtime.memory import CPU, peak_memory
from training.meter import format_duration, timed
from training.run import Run

logger = logging.getLogger(__name__)

STATE_SIZE = 3  # in checkpoints: weights and two moments


def dry_run(run: Run, largest_size: Size | None) -> None:
    """Loads, trains on, validates and saves one batch each, and logs estimates of the whole run.

    Leaves nothing behind.

    Args:
        run: a run whose folder holds no state.
        largest_size: (width, height) of the largest batch under dynamic sizes.
    """
    # Loading: by the workers, then of one batch by this process alone.
    run.sampler.set_epoch(1)
    _, first_batch_seconds = timed(lambda: next(iter(run.loader)))
    batch, loading_seconds = timed(lambda: _load_batch(run, largest_size))
    num_workers = run.loader.num_workers
    loading_seconds /= max(1, num_workers)

    # Training: the first step also plans and allocates.
    run.trainer.model.train()
    _train_on(run, batch)
    _, step_seconds = timed(lambda: _train_on(run, batch))

    validation_seconds = _time_validation(run)
    checkpoint_gigabytes = _measure_checkpoint(run) / 1e9

    # The report. Workers load while the network trains; without them one waits for the other.
    is_loading_slower = loading_seconds > step_seconds
    remark = ': the loader is the slower one' if is_loading_slower else ''
    logger.info(
        'dry run: the first batch came after %.1f s; a step takes %.2f s and loading its batch '
        '%.2f s%s', first_batch_seconds, step_seconds, loading_seconds, remark)
    if num_workers:
        batch_seconds = max(step_seconds, loading_seconds)
    else:
        batch_seconds = step_seconds + loading_seconds
    _log_time_estimate(run, batch_seconds, validation_seconds)
    _log_memory_estimate(run, checkpoint_gigabytes)


def _load_batch(run: Run, size: Size | None) -> Batch:
    """This rank's first batch at `size`, loaded by this process."""
    keys = next(iter(run.sampler))
    samples = []
    for key in keys:
        key_of_size = key._replace(size=size)
        samples.append(run.loader.dataset[key_of_size])
    return collate(samples)


def _train_on(run: Run, batch: Batch) -> None:
    """Makes a step, and waits for the device by reading its terms."""
    run.trainer.step(batch)
    run.trainer.take_means()


def _time_validation(run: Run) -> float:
    """Seconds of one validation, estimated from one pair on each rank."""
    pairs = run.validator.pairs
    if not pairs:
        return 0.
    ranks = run.world.size
    one_each = pairs[:ranks]
    validator = replace(run.validator, pairs=one_each)
    _, seconds = timed(lambda: validator.score(run.validated_model, run.trainer.autocast()))
    return seconds * len(pairs) / ranks


def _measure_checkpoint(run: Run) -> int:
    """Bytes of a checkpoint on the main rank."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'epoch_1.pth')
        run.save_checkpoint(run.trainer.averaged, path)
        return path.stat().st_size if run.world.is_main else 0


def _log_time_estimate(run: Run, batch_seconds: float, validation_seconds: float) -> None:
    """Logs how long an epoch, a validation and the whole run take, from seconds for one batch."""
    epochs = len(run.plan.trained)
    validations = run.plan.num_validations()
    epoch_seconds = batch_seconds * run.sampler.batches
    total_seconds = epoch_seconds * epochs + validation_seconds * validations
    logger.info('dry run: an epoch takes %s, a validation %s; %d and %d of them %s',
                format_duration(epoch_seconds), format_duration(validation_seconds),
                epochs, validations, format_duration(total_seconds))


def _log_memory_estimate(run: Run, checkpoint_gigabytes: float) -> None:
    """Logs the peaks so far, and what the run will leave on disk."""
    device = run.world.device
    peaks = f'{peak_memory(CPU) / 1e9:.2f} GB of the host'
    if device.type == 'cuda':
        peaks += f' and {peak_memory(device) / 1e9:.2f} GB of the GPU'
    checkpoints = run.plan.num_checkpoints()
    states_gigabytes = 2 * STATE_SIZE * checkpoint_gigabytes
    logger.info('dry run: peak memory %s; on disk %d checkpoints of %.2f GB and the state twice, '
                '%.2f GB', peaks, checkpoints, checkpoint_gigabytes, states_gigabytes)
