"""ONNX files with the native DeformConv operator, and their check against the network."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor
from torch.export import ExportedProgram

from exporting.program import INPUT, OUTPUT, require_torch
from exporting.staging import staged

OPSET = 19  # the first with DeformConv
OLDEST_TORCH = (2, 9)  # the exporter of 2.6 fails at batch norm; 2.7 and 2.8 were not tried
MAX_INSIDE = 2 ** 31 - 2 ** 24  # bytes of weights that fit into one protobuf file beside the graph


def require_support() -> None:
    """Raises ValueError if PyTorch is too old for `save_onnx`. Tracing takes minutes: ask first."""
    require_torch(OLDEST_TORCH, 'an ONNX file')


def save_onnx(
    program: ExportedProgram,
    path: str | os.PathLike,
    check: Callable[[Callable], None],
    external: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a program as ONNX.

    Args:
        program: of `exporting.program.trace`.
        path: the file, which appears only if onnx.checker and `check` raise no error.
        check: gets the file as a function of tensors.
        external: whether to write the weights beside the file, to `<name>.data`.
        metadata: properties of the model.

    Raises:
        ValueError: PyTorch is too old, or there are too many weights for one file.
    """
    require_support()
    weights = program.state_dict.values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights)
    if not external and size > MAX_INSIDE:
        raise ValueError(f'{path}: {size / 2 ** 30:.1f} GiB of weights do not fit inside an ONNX '
                         'file: take --external')
    result = torch.onnx.export(
        program,
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert result is not None
    result.model.metadata_props.update(metadata or {})
    [image] = result.model.graph.inputs
    [output] = result.model.graph.outputs
    _name_axes(image)
    _name_axes(output)

    # The file is moved to its place after both checks.
    with staged(path) as file:
        result.save(file, external_data=external)
        onnx.checker.check_model(str(file), full_check=True)
        check(run_onnx(file))


def _name_axes(value: Any) -> None:
    """Names the dynamic axes of an input or output, which tracing calls e.g. 32*rows."""
    axes = ('batch', 'channels', 'height', 'width')
    named = []
    for size, name in zip(value.shape, axes, strict=True):
        named.append(size if isinstance(size, int) else name)
    value.shape = type(value.shape)(named)


def run_onnx(path: str | os.PathLike, threads: int = 0) -> Callable[[Tensor], Tensor]:
    """Opens a file in ONNX Runtime on the CPU.

    Args:
        path: the file.
        threads: how many it runs on; 0: as many as there are cores.

    Returns:
        A function of tensors: `input_image`, float32 (N, 3, H, W), to `output_image`.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def run(image: Tensor) -> Tensor:
        output: np.ndarray = session.run([OUTPUT], {INPUT: image.numpy()})[0]
        return torch.from_numpy(output)

    return run


def operators(path: str | os.PathLike) -> dict[str, int]:
    """Counts the nodes of each operator in a file, the most frequent first."""
    model = onnx.load(str(path), load_external_data=False)
    counts: Counter[str] = Counter()
    for part in (model.graph, *model.functions):
        counts.update(node.op_type for node in part.node)
    by_name = sorted(counts)
    by_count = sorted(by_name, key=counts.__getitem__, reverse=True)
    return {name: counts[name] for name in by_count}


def bytes_of(path: str | os.PathLike) -> int:
    """Bytes of the file and of the weights beside it."""
    size = Path(path).stat().st_size
    beside = Path(f'{path}.data')
    if beside.exists():
        size += beside.stat().st_size
    return size
