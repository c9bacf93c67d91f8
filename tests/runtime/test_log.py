"""What a run tells, and what is left of it after a kill."""

from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from runtime.log import RunLog


def tell(log: RunLog, step: int) -> None:
    log.write(step=step)
    log.scalars('loss', {'bce': float(step)}, step)
    log.image('a', np.zeros((8, 8, 3), np.uint8), step)


def test_a_log_opened_anew_goes_on_after_its_step(tmp_path: Path):
    killed = RunLog(tmp_path)
    tell(killed, 1)
    position = killed.position
    tell(killed, 2)
    tell(killed, 3)
    killed.close()
    resumed = RunLog(tmp_path, position, step=1)
    tell(resumed, 2)
    resumed.close()
    assert (tmp_path / 'log.jsonl').read_text() == '{"step": 1}\n{"step": 2}\n'
    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert [event.step for event in events.Scalars('loss/bce')] == [1, 2]
    assert [event.step for event in events.Images('pictures/a')] == [1, 2]
