"""What a device could do at most: dense BF16 tensor FLOP/s with FP32 accumulation, and bytes/s to its memory.

MFU = rate of FLOPs / `flops_per_s`; MBU = rate of bytes read and written / `bytes_per_s`. Datasheets that count sparsity
are halved. An FP8 or FP4 model does its products at two or four times this peak, so its MFU can pass 1.
"""

from __future__ import annotations

from typing import NamedTuple


class Peak(NamedTuple):
    flops_per_s: float
    bytes_per_s: float
    source: str
    """The maker's document with these figures."""


# A fragment of NVML's device name -> peak; the first match counts, so the longer name stands before the shorter.
_PEAKS: tuple[tuple[str, Peak], ...] = (
    ("GB200", Peak(2500e12, 8.0e12, "NVIDIA GB200 NVL72 datasheet, a GPU of 72")),
    ("B200", Peak(2250e12, 8.0e12, "NVIDIA HGX B200 datasheet")),
    ("GH200 144G", Peak(989.4e12, 4.9e12, "NVIDIA GH200 datasheet, HBM3e")),
    ("GH200", Peak(989.4e12, 4.0e12, "NVIDIA GH200 datasheet, HBM3")),
    ("H200 NVL", Peak(835.5e12, 4.8e12, "NVIDIA H200 datasheet, NVL")),
    ("H200", Peak(989.4e12, 4.8e12, "NVIDIA H200 datasheet, SXM")),
    ("H100 PCIe", Peak(756e12, 2.0e12, "NVIDIA H100 datasheet, PCIe")),
    ("H100 NVL", Peak(835.5e12, 3.9e12, "NVIDIA H100 datasheet, NVL")),
    ("H100", Peak(989.4e12, 3.35e12, "NVIDIA H100 datasheet, SXM5 with HBM3")),
    ("A100-SXM4-80GB", Peak(312e12, 2.039e12, "NVIDIA A100 datasheet, 80 GB SXM")),
    ("A100 80GB PCIe", Peak(312e12, 1.935e12, "NVIDIA A100 datasheet, 80 GB PCIe")),
    ("A100", Peak(312e12, 1.555e12, "NVIDIA A100 datasheet, 40 GB")),
    ("A30", Peak(165e12, 0.933e12, "NVIDIA A30 datasheet")),
    ("A40", Peak(149.7e12, 0.696e12, "NVIDIA A40 datasheet")),
    ("A10G", Peak(70e12, 0.6e12, "NVIDIA A10G datasheet")),
    ("A10", Peak(125e12, 0.6e12, "NVIDIA A10 datasheet")),
    ("L40S", Peak(362.05e12, 0.864e12, "NVIDIA L40S datasheet")),
    ("L40", Peak(181.05e12, 0.864e12, "NVIDIA L40 datasheet")),
    ("L4", Peak(121e12, 0.3e12, "NVIDIA L4 datasheet")),
    ("RTX 5090", Peak(209.5e12, 1.792e12, "NVIDIA RTX Blackwell architecture whitepaper")),
    ("RTX 4090", Peak(165.2e12, 1.008e12, "NVIDIA Ada GPU architecture whitepaper")),
    ("RTX 3090", Peak(71e12, 0.936e12, "NVIDIA Ampere GA102 architecture whitepaper")),
    # The datasheet's 1 PFLOP is sparse FP4; dense BF16 is an eighth of it by the ratios of the architecture.
    ("GB10", Peak(125e12, 0.273e12, "NVIDIA DGX Spark datasheet; FLOPs derived from its sparse FP4 figure")),
)


def peak_of(device: str) -> Peak | None:
    """The peak of a device by NVML's name, None when the table lacks it.

    MIG slices and laptop parts carry the name of a bigger device, so they have none.
    """
    if "MIG" in device or "Laptop" in device:
        return None
    words = f" {device} ".replace("-", " ")
    return next((peak for name, peak in _PEAKS if f" {name.replace('-', ' ')} " in words), None)
