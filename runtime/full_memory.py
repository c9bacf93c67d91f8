"""Errors that say that memory is full, of Python, PyTorch and OpenCV, in one sentence."""

import re

import cv2


def full_memory_reason(error: BaseException) -> str | None:
    """Says that memory is full, and what to do, if that is what an error means; else None.

    PyTorch raises an error of its own for GPUs, and a RuntimeError for the CPU. PyTorch is not
    imported for this, since the evaluator does without it.
    """
    text = str(error)
    is_of_gpu = type(error).__name__ == 'OutOfMemoryError'
    is_of_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in text
    is_of_opencv = isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem
    if not (isinstance(error, MemoryError) or is_of_gpu or is_of_cpu or is_of_opencv):
        return None

    # All but Python's own say how much they failed to allocate, within a long text.
    amount = re.search(r'to allocate ([\d.]+ \w+)', text)
    detail = f'allocating {amount.group(1)} failed' if amount else text
    where = "the GPU's memory" if is_of_gpu else 'the memory'
    said = f' ({detail})' if detail else ''
    return f'{where} is full{said}; use a smaller size or batch'
