"""Rules for ResNets, from torchvision's names (shared by timm and mmdetection) to detectron2's."""

from .rules import Drop, Rule

__all__ = ["CLASSIFIER", "COUNTERS", "resnet_rules"]

# Of batch norms: detectron2's frozen norms have none; for others, the counter restarts.
COUNTERS = Drop("{rest}.num_batches_tracked", "counters of batch norms")
CLASSIFIER = Drop("fc.{leaf}", "classifier of images")


def resnet_rules(theirs, ours):
    """Rules for stem and residual blocks of any depth, with or without groups.

    Stems of three convolutions, average pooling in shortcuts and attention inside blocks are not
    covered, since detectron2's ResNet has none of them.

    Args:
        theirs, ours (str): prefix of the names on either side.
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
