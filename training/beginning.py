"""Which epoch a run begins with, where it starts from the weights of another."""

import logging
from pathlib import Path

from utils import epoch_of

logger = logging.getLogger(__name__)


def first_epoch_after(weights: Path, epochs: int) -> int:
    """Returns the epoch behind that of `weights`, from which a run counts on to `epochs`.

    That is how the publication counts: `epochs=294` after epoch 244 trains 50.

    Raises:
        ValueError: the file's name holds no epoch, or no epoch is left.
    """
    done = epoch_of(weights)
    if done is None:
        raise ValueError(f'continue_epochs: the name of {weights} holds no epoch to count on from; '
                         'weights=FILE alone counts from 1')
    if done >= epochs:
        raise ValueError(f'continue_epochs: {weights} is of epoch {done}, so that epochs={epochs} '
                         f'leaves none to train; epochs={done + 20} trains 20 more, and '
                         'weights=FILE alone counts from 1')
    logger.info('%s is of epoch %d: epochs %d to %d are trained', weights, done, done + 1, epochs)
    return done + 1


def report_counting_from_1(weights: Path, epochs: int) -> None:
    """Logs what is trained; warns where the publication would take `epochs` for another number."""
    done = epoch_of(weights)
    if done is None or done >= epochs:
        logger.info('starting from %s: epochs 1 to %d are trained', weights, epochs)
        return
    logger.warning(
        'starting from %s: epochs are counted from 1, so that %d are trained. The published code '
        'counts on from %d and would train %d: for that give epochs=%d, or continue_epochs=true',
        weights, epochs, done, epochs - done, epochs - done)
