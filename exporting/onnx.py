"""ONNX files with the native DeformConv operator, and their check against the network."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

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
    """Raises ValueError if PyTorch is too old for `save_onnx`. Tracing takes minutes: ask before it."""
    require_torch(OLDEST_TORCH, 'an ONNX file')


def save_onnx(program: ExportedProgram, path: str | os.PathLike, check: Callable[[Callable], None],
              external: bool = False, metadata: Mapping[str, str] | None = None) -> None:
    """Writes `program` as ONNX, its weights inside, or beside it in `<name>.data` if `external`.

    The file appears only once onnx.checker and `check`, which gets it as a function of tensors, have passed it.
    Raises ValueError if PyTorch is too old, or if the weights are too many to be inside.
    """
    require_support()
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if not external and size > MAX_INSIDE:
        raise ValueError(f'{path}: {size / 2 ** 30:.1f} GiB of weights do not fit inside an ONNX file: take --external')
    result = torch.onnx.export(program, input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, dynamo=True,
                               verbose=False)
    result.model.metadata_props.update(metadata or {})
    _name_axes(result.model.graph.inputs[0], result.model.graph.outputs[0])
    with staged(path) as file:
        result.save(file, external_data=external)
        onnx.checker.check_model(str(file), full_check=True)
        check(run_onnx(file))


def _name_axes(*values) -> None:
    """Gives the dynamic axes their names, which tracing calls by expressions such as 32*rows."""
    for value in values:
        value.shape = type(value.shape)(
            [dim if isinstance(dim, int) else name
             for dim, name in zip(value.shape, ('batch', 'channels', 'height', 'width'), strict=True)])


def run_onnx(path: str | os.PathLike, threads: int = 0) -> Callable[[Tensor], Tensor]:
    """The file as a function of tensors, run by ONNX Runtime on the CPU, on as many `threads` (0: all cores)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def run(image: Tensor) -> Tensor:
        output: np.ndarray = session.run([OUTPUT], {INPUT: image.numpy()})[0]
        return torch.from_numpy(output)

    return run


def operators(path: str | os.PathLike) -> dict[str, int]:
    """How many nodes of each operator the file holds, the most frequent first."""
    model = onnx.load(str(path), load_external_data=False)
    counts = Counter(node.op_type for node in model.graph.node)
    for function in model.functions:
        counts.update(node.op_type for node in function.node)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def bytes_of(path: str | os.PathLike) -> int:
    """Bytes of the file and of the weights beside it."""
    beside = Path(f'{path}.data')
    return Path(path).stat().st_size + (beside.stat().st_size if beside.exists() else 0)
