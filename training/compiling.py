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
    reports.addFilter(shorten_report)  # which is added once, however often


def shorten_report(record: logging.LogRecord) -> bool:
    """Filter of torch's reports: logs the reason of a failure in its place."""
    text = record.getMessage()
    if not text.startswith(FAILED):
        return True
    found = REASON.search(text)
    reason = found[0] if found else text.partition('\n')[0]
    logger.warning('torch.compile: a part of the network runs as it is, more slowly (%s)',
                   reason[:200])
    return False
