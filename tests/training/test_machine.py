"""The precision that `auto` chooses."""

import torch

from job.training.machine import choose_machine, cpu_has_bf16


def test_precision_auto_follows_the_processor() -> None:
    assert choose_machine("fp32").precision == "fp32" and choose_machine("bf16").precision == "bf16"
    if not torch.cuda.is_available():
        assert choose_machine("auto").precision == ("bf16" if cpu_has_bf16() else "fp32")
