"""The device that a command works on, and the settings under which PyTorch is fast there.

Or deterministic, where a run is to be repeated to the bit.
"""

import logging
import os
import sys

import torch

logger = logging.getLogger(__name__)

# The name of today and that of releases before 2.9.
ALLOCATOR_VARIABLES = ('PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF')
# Types of autocast, by `mixed_precision`.
AUTOCAST = {'no': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
AMPERE = (8, 0)  # the first compute capability with bfloat16 and TF32


def choose_device(name: str) -> torch.device:
    """Returns the device of that name.

    A process that torchrun started gets the GPU of its local rank for 'auto' and 'cuda'. CUDA is
    not initialised.

    Args:
        name: 'auto' (cuda, else cpu), 'cpu', 'cuda', 'cuda:N' or 'mps'.

    Raises:
        ValueError: there is no such device here.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    kind, _, number = name.partition(':')
    if kind not in ('cpu', 'cuda', 'mps') or (number and not number.isdecimal()):
        raise ValueError(f'device {name}: take auto, cpu, cuda, cuda:N or mps')
    if kind == 'cuda':
        number = number or os.environ.get('LOCAL_RANK', '0')
    index = int(number or 0)
    if index >= _count_devices(kind):
        raise ValueError(f'device {kind}:{index}: there is none here; '
                         f'give cpu as the device, or install PyTorch for {kind}')
    return torch.device(kind, index) if number else torch.device(kind)


def _count_devices(kind: str) -> int:
    if kind == 'cuda':
        return torch.cuda.device_count()
    if kind == 'mps':
        return int(torch.backends.mps.is_available())
    return 1


def prepare_device(
    name: str,
    *,
    fixed_size: bool = False,
    deterministic: bool = False,
    mixed_precision: str = '',
) -> torch.device:
    """Chooses the device and sets PyTorch up for it.

    Commands call it once, before they use a GPU in any way. On CUDA, products of float32 matrices
    use TF32, and the allocator's segments can grow, unless the environment configures the allocator
    already.

    Args:
        name: as of `choose_device`.
        fixed_size: whether every image has the same size. cuDNN then tries its algorithms and keeps
            the quickest.
        deterministic: whether equal runs are equal to the bit on the same machine and versions. An
            operation that cannot be so raises RuntimeError.
        mixed_precision: with 'no' the log suggests bfloat16 where the GPU computes in it.
    """
    device = choose_device(name)
    if device.type == 'cuda':
        _configure_allocator()
        torch.set_float32_matmul_precision('high')
        torch.backends.cudnn.benchmark = fixed_size and not deterministic
    if deterministic:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        torch.use_deterministic_algorithms(True)
    if mixed_precision == 'no' and _has_bfloat16(device):
        logger.info('this GPU computes in bfloat16: '
                    'mixed_precision=bf16 is quicker and takes less memory')
    return device


def _has_bfloat16(device: torch.device) -> bool:
    return device.type == 'cuda' and torch.cuda.get_device_capability(device) >= AMPERE


def _configure_allocator() -> None:
    """Lets segments of GPU memory grow, so that fewer gaps are left.

    It has an effect before the first allocation only.
    """
    is_configured = any(name in os.environ for name in ALLOCATOR_VARIABLES)
    if sys.platform != 'linux' or is_configured:
        return
    current, older = ALLOCATOR_VARIABLES
    # Torch's version compares with tuples, which its types do not say.
    variable = current if torch.__version__ >= (2, 9) else older  # type: ignore[operator]
    os.environ[variable] = 'expandable_segments:True'
