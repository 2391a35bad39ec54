"""GPU models by size: the API counts a size's GPUs and does not name them.

From Microsoft's pages on the NC, ND, NG and NV series (learn.microsoft.com/azure/virtual-machines/sizes/gpu-accelerated),
as of November 2026. A series that is not here has a model that is not known, and nothing else is wrong with it.
"""

import re
from typing import Final

# Pattern of the size's name, model, the least vCPUs of a size with a whole GPU (smaller ones share it).
_SERIES: Final = (
    (r"NC\d+as_T4_v3", "T4", 0),
    (r"NC\d+ads_A100_v4", "A100", 0),
    (r"NCC?\d+ad(i|)s_H100_v5", "H100", 0),
    (r"NC\d+r?s_v3", "V100", 0),
    (r"ND\d+am?sr(_A100)?_v4", "A100", 0),
    (r"ND\d+isr_H100_v5", "H100", 0),
    (r"ND\d+isr_H200_v5", "H200", 0),
    (r"ND\d+isr?_MI300X_v5", "MI300X", 0),
    (r"ND\d+isr_NDR_GB200_v6", "GB200", 0),
    (r"ND\d+rs_v2", "V100", 0),
    (r"NV\d+ad(m|)s_A10_v5", "A10", 36),
    (r"NG\d+ad(m|)s_V620_v1", "V620", 32),
    (r"NV\d+as_v4", "MI25", 32),
    (r"NV\d+s_v3", "M60", 0),
)


def model(size: str) -> str:
    """The model of this size's GPUs; empty for one that this table does not know."""
    return next((model for pattern, model, _ in _SERIES if _is(pattern, size)), "")


def whole(size: str, vcpus: int, counted: int) -> int:
    """How many whole GPUs the size has: a slice of one is none."""
    least = next((least for pattern, _, least in _SERIES if _is(pattern, size)), 0)
    return counted if vcpus >= least else 0


def _is(pattern: str, size: str) -> bool:
    return re.fullmatch(rf"(?i:Standard_{pattern})", size) is not None
