"""Names of ResNets: torchvision's, which timm and mmdetection share, and detectron2's."""

from .rules import Drop, Rule

__all__ = ["classifier_rules", "counter_rules", "resnet_rules"]


def resnet_rules(theirs, ours):
    """Stem and residual blocks, with or without groups, of any depth.

    Not covered are stems of three convolutions, average pooling before a shortcut's convolution,
    and attention inside blocks: detectron2's ResNet has none of them.

    Args:
        theirs, ours (str): what the names begin with on either side.

    Returns:
        list[Rule]:
    """
    block, our_block = f"{theirs}layer{{i}}.{{j}}", f"{ours}res{{i+1}}.{{j}}"
    return [
        Rule(f"{theirs}conv1.{{leaf}}", f"{ours}stem.conv1.{{leaf}}"),
        Rule(f"{theirs}bn1.{{leaf}}", f"{ours}stem.conv1.norm.{{leaf}}"),
        Rule(f"{block}.conv{{k}}.{{leaf}}", f"{our_block}.conv{{k}}.{{leaf}}"),
        Rule(f"{block}.bn{{k}}.{{leaf}}", f"{our_block}.conv{{k}}.norm.{{leaf}}"),
        Rule(f"{block}.downsample.0.{{leaf}}", f"{our_block}.shortcut.{{leaf}}"),
        Rule(f"{block}.downsample.1.{{leaf}}", f"{our_block}.shortcut.norm.{{leaf}}"),
    ]


def counter_rules():
    """The count of batches that a batch norm has seen.

    A frozen norm, which detectron2 uses, has none; for others, loading starts it again.
    """
    return [Drop("{rest}.num_batches_tracked", "counters of batch norms")]


def classifier_rules():
    """The classifier of a network for ImageNet."""
    return [Drop("fc.{leaf}", "classifier of images")]
