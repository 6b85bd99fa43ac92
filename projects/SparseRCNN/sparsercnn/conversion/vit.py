"""Rules for plain ViTs, from the names of MAE's authors and of timm to this project's."""

import math

from .rules import Drop, Rule

__all__ = ["is_vit", "vit_rules"]

_LAYERS = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


def is_vit(names):
    """Whether weights of these names are a plain ViT's."""
    return {"pos_embed", "blocks.0.attn.qkv.weight"} <= set(names)


def vit_rules(ours):
    """Rules for patch embedding, positions and blocks.

    Other tokens than patches are left out, with their positions, and so are the norm after the last
    block, classifiers, and the decoder of MAE's pretraining. Blocks with further parts, such as
    scales of their residuals, are not covered.

    Args:
        ours (str): prefix of our names.
    """
    return [
        Rule("patch_embed.proj.{leaf}", f"{ours}patch_embed.proj.{{leaf}}"),
        Rule("pos_embed", f"{ours}pos_embed", to_ours=_of_patches),
        *(
            Rule(f"blocks.{{i}}.{layer}.{{leaf}}", f"{ours}blocks.{{i}}.{layer}.{{leaf}}")
            for layer in _LAYERS
        ),
        *(Drop(name, "other tokens") for name in ("cls_token", "reg_token", "dist_token")),
        *(Drop(f"{name}.{{leaf}}", "norm after the last block") for name in ("norm", "fc_norm")),
        *(Drop(f"{name}.{{leaf}}", "classifier of images") for name in ("head", "head_dist")),
        *(Drop(name, "decoder of MAE") for name in ("mask_token", "decoder_{rest}")),
    ]


def _of_patches(table, fields):
    """(1, n * n, C) of (1, tokens + n * n, C): the square table of the patches comes last."""
    number = table.shape[1]
    return table[:, number - math.isqrt(number) ** 2 :].clone()
