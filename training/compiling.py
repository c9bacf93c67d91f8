"""torch.compile, of which a part may fail: on Windows, without a C++ compiler, on new hardware."""

import logging
import re

import torch

logger = logging.getLogger(__name__)

FAILED = "WON'T CONVERT"  # how torch begins its report of what it runs as it is
REASON = re.compile(r'^[\w.]*(?:Error|Exception|Unsupported)\b.*', re.MULTILINE)


def run_uncompiled_what_fails() -> None:
    """Lets what cannot be compiled run as it is, which one line reports.

    Torch's own report holds the whole traceback and all that a compiler has printed.
    """
    torch._dynamo.config.suppress_errors = True
    reports = logging.getLogger('torch._dynamo.convert_frame')
    reports.addFilter(_short_reports)  # which is added once, however often


class ShortReports(logging.Filter):
    """Filter of torch's reports: logs the reason of a failure in its place, each reason once.

    Without a compiler every part of the network fails of the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether torch's record is logged; it is not if it reports a failure."""
        text = record.getMessage()
        if not text.startswith(FAILED):
            return True
        found = REASON.search(text)
        reason = found[0] if found else text.partition('\n')[0]
        if reason not in self._said:
            self._said.add(reason)
            logger.warning('torch.compile: parts of the network run as they are, more slowly (%s)',
                           reason[:200])
        return False


_short_reports = ShortReports()
