"""The device that a command works on, and the settings under which PyTorch is fast, or deterministic, on it."""

import logging
import os
import sys

import torch

logger = logging.getLogger(__name__)

ALLOCATOR_VARIABLES = ('PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF')  # releases before 2.9 know the second alone
AMPERE = (8, 0)  # the first compute capability with bfloat16 and TF32


def choose_device(name: str) -> torch.device:
    """'auto' (cuda, else cpu), 'cpu', 'cuda', 'cuda:N' or 'mps'. Raises ValueError where that is missing.

    A process that torchrun started gets the GPU of its local rank for 'auto' and 'cuda'. CUDA is not initialised.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    kind, _, number = name.partition(':')
    if kind not in ('cpu', 'cuda', 'mps') or (number and not number.isdecimal()):
        raise ValueError(f'device {name}: take auto, cpu, cuda, cuda:N or mps')
    if kind == 'cuda':
        number = number or os.environ.get('LOCAL_RANK', '0')
    present = {'cpu': 1, 'cuda': torch.cuda.device_count(), 'mps': int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= present:
        raise ValueError(f'device {kind}:{number or 0}: there is none here; '
                         f'take --device cpu, or install PyTorch for {kind}')
    return torch.device(kind, int(number)) if number else torch.device(kind)


def prepare_device(name: str, *, fixed_size: bool = False, deterministic: bool = False,
                   mixed_precision: str = '') -> torch.device:
    """Chooses the device and sets PyTorch up for it. Commands call it once, before they use a GPU in any way.

    On CUDA, products of float32 matrices use TF32, and the allocator's segments can grow, unless the environment
    configures the allocator already. Where every image has the same size (`fixed_size`), cuDNN tries its algorithms
    and keeps the quickest. `deterministic` makes equal runs equal to the bit on the same machine and versions; an
    operation that cannot be so raises RuntimeError. With `mixed_precision='no'` the log suggests bfloat16 where the
    GPU computes in it.
    """
    device = choose_device(name)
    if device.type == 'cuda':
        _configure_allocator()
        torch.set_float32_matmul_precision('high')
        torch.backends.cudnn.benchmark = fixed_size and not deterministic
    if deterministic:
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(True)
    if device.type == 'cuda' and mixed_precision == 'no' and torch.cuda.get_device_capability(device) >= AMPERE:
        logger.info('this GPU computes in bfloat16: mixed_precision=bf16 is quicker and takes less memory')
    return device


def _configure_allocator() -> None:
    """Lets segments of GPU memory grow, so that fewer gaps are left. It counts from the first allocation on."""
    if sys.platform != 'linux' or any(name in os.environ for name in ALLOCATOR_VARIABLES):
        return
    current, older = ALLOCATOR_VARIABLES
    os.environ[current if torch.__version__ >= (2, 9) else older] = 'expandable_segments:True'
