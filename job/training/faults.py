"""What ends a computation: too little memory, on the GPU or in the machine, and a GPU that fails."""

import contextlib
import re
from collections.abc import Iterator

import torch

from job.errors import GpuFailed, OutOfMemory
from job.trial import Trial

# What cuBLAS, cuDNN and the driver say; torch has an error type for its own lack of GPU memory alone.
GPU_MEMORY = re.compile("out.of.memory|_ALLOC_FAILED|_ALLOCATION_FAILED", re.IGNORECASE)
# What torch says where malloc or mmap fails, as under `ulimit -v`.
HOST_MEMORY = re.compile("(cannot|can't) allocate memory|not enough memory|std::bad_alloc", re.IGNORECASE)
# Errors of the driver, of cuBLAS, and of cuDNN on a lost device have no type of their own in torch.
BROKEN = re.compile("CUDA (driver )?error|CUDA_ERROR_|CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)")
ASKED_BYTES = re.compile(r"tried to allocate (\d+) bytes")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def kind_of_error(error: BaseException) -> type[OutOfMemory] | type[GpuFailed] | None:
    """Return OutOfMemory for a lack of memory, GpuFailed for any other error of the GPU, None for the rest."""
    if is_host_memory(error) or isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory
    if not isinstance(error, RuntimeError):
        return None
    if GPU_MEMORY.search(str(error)):
        return OutOfMemory
    return GpuFailed if isinstance(error, torch.AcceleratorError) or BROKEN.search(str(error)) else None


def is_host_memory(error: BaseException) -> bool:
    """Return whether an error is a lack of the machine's memory, not the GPU's."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError | OSError)
                                              and bool(HOST_MEMORY.search(str(error))))


def is_fault_at(error: BaseException, num_bytes: int) -> bool:
    """Return whether reading a file of so many bytes failed for want of memory or of a GPU, not because it is damaged.

    A damaged file may ask for any amount of memory.
    """
    asked = ASKED_BYTES.search(str(error))
    return kind_of_error(error) is not None and (not asked or int(asked[1]) <= 2 * num_bytes)


@contextlib.contextmanager
def named_faults(trial: Trial | None = None) -> Iterator[None]:
    """Turn a lack of memory into OutOfMemory and errors of the GPU into GpuFailed, which say what to do about them.

    trial: what is trained, if its settings decide how much memory that takes. After any other error than a lack of
    memory (an illegal access, a lost GPU) CUDA refuses all work of this process. So the process ends, and a fresh one
    resumes the trial.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        kind = kind_of_error(error)
        if kind is OutOfMemory:
            raise OutOfMemory(lack_of_memory(error, trial)) from None
        if kind is GpuFailed:
            raise GpuFailed(f"the GPU failed ({first_line(error)}), and this process cannot use it any more; run the "
                            "same command again, which resumes what has begun. If it fails again, look for Xid in the "
                            "machine's kernel log") from None
        raise


def lack_of_memory(error: BaseException, trial: Trial | None) -> str:
    """Return what happened, and what to change."""
    memory, larger, others = (
        ("memory", "a machine with more memory", "end what else takes memory") if is_host_memory(error) else
        ("GPU memory", "a larger GPU", "end what else uses the GPU, or set TRIALGRID_DEVICE=cpu"))
    at = f" at batch_size {trial.batch_size} and image_size {trial.image_size}" if trial else ""
    remedy = f"set a smaller batch_size or image_size, or use {larger}" if trial else others
    return f"out of {memory}{at} ({first_line(error)}); {remedy}"
