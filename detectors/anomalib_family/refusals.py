"""Models of anomalib 2.7.0 that are not offered, and why. `tests/detectors/test_anomalib_refused.py` measures it."""

from __future__ import annotations

_NO_NETWORK = "no such network comes as a package, and there is no small one to put in its place."

REFUSED: dict[str, str] = {
    "anomaly_dino": f"it asks the hub for vit_small_patch14_dinov2; {_NO_NETWORK}",
    "anomalyvfm": "it is one network, loaded whole from the hub (MaticFuc/anomalyvfm_radio) and not trained.",
    "cfm": "it scores a photograph together with a point cloud, and RADBench has photographs alone.",
    "dinomaly": f"it asks the hub for vit_base_patch14_reg4_dinov2; {_NO_NETWORK}",
    "dsr": (
        "its gradient, opened, is wrong by 100 % of its size (finite differences): it scores quantised codes, a "
        "staircase with a straight-through gradient; its codebook is a download, too."
    ),
    "efficient_ad": (
        "it has no gradient to the image (measured: None), and its teacher and the ImageNet pictures that its training "
        "needs are downloads without which there is nothing to open."
    ),
    "foundad": f"it asks the hub for vit_base_patch14_dinov2; {_NO_NETWORK}",
    "general_ad": f"it asks the hub for vit_large_patch14_dinov2; {_NO_NETWORK}",
    "inp_former": f"it asks the hub for vit_base_patch14_reg4_dinov2; {_NO_NETWORK}",
    "l2bt": f"it asks the hub for vit_base_patch14_reg4_dinov2; {_NO_NETWORK}",
    "rad": f"it asks the hub for vit_base_patch16_dinov3; {_NO_NETWORK}",
    "super_add": f"it asks the hub for vit_huge_plus_patch16_dinov3; {_NO_NETWORK}",
    "uninet": (
        "its score and its map are detached (measured: no graph), and it is made of two WideResNet-50-2 of "
        "torchvision, one of them trained, whose widths no small network has."
    ),
    "vlm_ad": "it asks a language model for words about a file: there is no score with a gradient to the image.",
    "winclip": "it scores by a CLIP from the hub, through a package (open_clip) that anomalib does not bring.",
}
