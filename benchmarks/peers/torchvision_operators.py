"""The operators that torchvision names when it is imported, declared: its compiled part needs the CUDA build of torch.

fluke imports torchvision for its ready-made data sets, which no workload here uses.
"""

from __future__ import annotations

import torch

for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
