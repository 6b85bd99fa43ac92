"""Plain vision transformers as backbones: An Image is Worth 16x16 Words (ICLR 2021), with the
windows of Exploring Plain Vision Transformer Backbones for Object Detection (ECCV 2022).

Dimension letters: B images, C channels; H, W size of the map of patches; w side of a window.
Weights have the names of timm and of MAE's authors.
"""

import math

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import Backbone
from torch import nn
from torchvision.ops import StochasticDepth

from ...errors import ConfigError

__all__ = ["ViT", "ViTBlock", "resample_patches", "resample_positions"]

_OUTPUT = "patches"
_EPSILON = 1e-6  # of the norms, as in MAE and timm


class ViT(Backbone):
    """A map of one stride from patches that attend to each other, in windows or globally.

    There are no further tokens, and no norm after the last block: the neck has its own.
    """

    @configurable
    def __init__(
        self,
        *,
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4.0,
        pretrain_size=224,
        window_size=0,
        global_blocks=(),
        drop_path=0.0,
        in_channels=3,
        freeze_at=0,
    ):
        """
        Args:
            patch_size (int): side of a patch in pixels, the stride of the output.
            embed_dim (int): C.
            depth (int): number of blocks.
            num_heads (int): heads of each attention; divides C.
            mlp_ratio (float): hidden width of the MLPs over C.
            pretrain_size (int): side of the images, in pixels, for which the table of positions is
                made; for others it is interpolated (bicubic).
            window_size (int): w, in patches; 0: all blocks are global.
            global_blocks (sequence[int]): blocks, counted from 0, that attend to the whole map.
            drop_path (float): probability of dropping the last block's residuals for an image, in
                training; from 0 at the first block it rises linearly.
            in_channels (int): of the image.
            freeze_at (int): 1: patch embedding and positions are not trained; 2 to 5: nor is the
                first quarter of the blocks, or two, three, all four.

        Raises:
            ConfigError: `num_heads` does not divide `embed_dim`, or there is no such global block.
        """
        super().__init__()
        if embed_dim % num_heads:
            raise ConfigError(
                f"MODEL.VIT.NUM_HEADS {num_heads} does not divide MODEL.VIT.EMBED_DIM {embed_dim}."
            )
        wrong = [i for i in global_blocks if i >= depth]
        if wrong:
            raise ConfigError(
                f"MODEL.VIT.GLOBAL_BLOCKS has {wrong}; the {depth} blocks of MODEL.VIT.DEPTH are "
                f"0 to {depth - 1}."
            )
        self.grid = max(pretrain_size // patch_size, 1)
        self.patch_embed = PatchEmbedding(in_channels, embed_dim, patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, embed_dim))
        self.blocks = nn.ModuleList(
            ViTBlock(
                embed_dim,
                num_heads,
                mlp_ratio,
                window_size=0 if i in global_blocks else window_size,
                drop_path=drop_path * i / max(depth - 1, 1),
            )
            for i in range(depth)
        )
        self._initialize()
        self._freeze(freeze_at)
        # Read by Backbone.output_shape.
        self._out_features = [_OUTPUT]
        self._out_feature_channels = {_OUTPUT: embed_dim}
        self._out_feature_strides = {_OUTPUT: patch_size}

    @classmethod
    def from_config(cls, cfg, input_shape):
        vit = cfg.MODEL.VIT
        return {
            "patch_size": vit.PATCH_SIZE,
            "embed_dim": vit.EMBED_DIM,
            "depth": vit.DEPTH,
            "num_heads": vit.NUM_HEADS,
            "mlp_ratio": vit.MLP_RATIO,
            "pretrain_size": vit.PRETRAIN_SIZE,
            "window_size": vit.WINDOW_SIZE,
            "global_blocks": vit.GLOBAL_BLOCKS,
            "drop_path": vit.DROP_PATH,
            "in_channels": input_shape.channels,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    @property
    def size_divisibility(self):
        return self._out_feature_strides[_OUTPUT]

    def forward(self, x):
        """
        Args:
            x: (B, 3, height, width), of sides that the patch size divides.

        Returns:
            dict[str, Tensor]: "patches", (B, C, H, W).
        """
        x = self.patch_embed(x)
        table = self.pos_embed.view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        # Positions of this very grid are unchanged by it.
        x = x + _resize(table, x.shape[1:3]).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return {_OUTPUT: x.permute(0, 3, 1, 2)}

    def layers(self):
        """Layers for the decay of the learning rate.

        Returns:
            dict[str, int]: by the name of each parameter, 0 for patch embedding and positions, i
            for the i-th block, counted from 1.
        """
        numbers = {}
        for name, _ in self.named_parameters():
            part, *rest = name.split(".")
            numbers[name] = int(rest[0]) + 1 if part == "blocks" else 0
        return numbers

    def undecayed(self):
        """Names (set[str]) of the parameters that weight decay must not pull towards 0."""
        return {"pos_embed"}

    def _initialize(self):
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))
        nn.init.zeros_(self.patch_embed.proj.bias)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def _freeze(self, freeze_at):
        if freeze_at >= 1:
            self.patch_embed.requires_grad_(False)
            self.pos_embed.requires_grad_(False)
        number = math.ceil(len(self.blocks) * max(freeze_at - 1, 0) / 4)
        for block in self.blocks[:number]:
            block.requires_grad_(False)


class PatchEmbedding(nn.Module):
    """One vector for each patch."""

    def __init__(self, in_channels, embed_dim, patch_size):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x):
        """(B, 3, height, width) to (B, H, W, C)."""
        return self.proj(x).permute(0, 2, 3, 1)


class ViTBlock(nn.Module):
    """y = x + Attention(LN(x)), and y + MLP(LN(y)); attention in windows or over the map."""

    def __init__(self, dim, num_heads, mlp_ratio, *, window_size=0, drop_path=0.0):
        """
        Args:
            dim (int): C.
            num_heads, mlp_ratio: see :class:`ViT`.
            window_size (int): w; 0: the whole map.
            drop_path (float): probability of dropping a residual for an image, in training.
        """
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim, eps=_EPSILON)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=_EPSILON)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, x):
        """(B, H, W, C) to the same shape."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x):
        if not self.window_size:
            return self.attn(x.flatten(1, 2)).view(x.shape)
        B, H, W, C = x.shape
        w = self.window_size
        # Not -(-H // w): ONNX divides towards zero.
        rows, columns = (H + w - 1) // w, (W + w - 1) // w
        # Beyond the map zeros take part, as in ViTDet, whose weights have learned with them.
        x = F.pad(x, (0, 0, 0, columns * w - W, 0, rows * w - H))
        x = x.view(B, rows, w, columns, w, C).transpose(2, 3).reshape(-1, w * w, C)
        x = self.attn(x)
        x = x.view(B, rows, columns, w, w, C).transpose(2, 3)
        return x.reshape(B, rows * w, columns * w, C)[:, :H, :W]


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        """(B, N, C) to the same shape, among the N tokens of each of the B maps or windows."""
        B, N, C = x.shape
        query, key, value = (
            self.qkv(x).view(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        )
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class MLP(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim, hidden_dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x):
        """(..., C) to the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


def resample_positions(table, number):
    """Interpolate a square table of positions (bicubic).

    Args:
        table: (1, n * n, C), in row-major order.
        number (int): m * m, of positions wanted.

    Returns:
        Tensor: (1, m * m, C).
    """
    old, new = math.isqrt(table.shape[1]), math.isqrt(number)
    square = table.float().view(1, old, old, -1).permute(0, 3, 1, 2)
    return _resize(square, (new, new)).flatten(2).transpose(1, 2).to(table.dtype)


def resample_patches(weight, size):
    """Make a patch embedding fit patches of another size: FlexiViT (CVPR 2023), equation 6.

    The new weights give to patches that were resized (bilinear) what the old ones gave to the
    originals, exactly where patches grow, else as closely as can be.

    Args:
        weight: (C, 3, p, p).
        size (int): q.

    Returns:
        Tensor: (C, 3, q, q).
    """
    p = weight.shape[-1]
    basis = torch.eye(p * p).view(p * p, 1, p, p)
    resized = F.interpolate(basis, (size, size), mode="bilinear", antialias=size < p)
    solution = torch.linalg.pinv(resized.flatten(1)) @ weight.float().flatten(2).transpose(1, 2)
    return solution.transpose(1, 2).reshape(*weight.shape[:2], size, size).to(weight.dtype)


def _resize(x, size):
    """(1, C, n, n) to (1, C, *size)."""
    return F.interpolate(x, tuple(size), mode="bicubic", align_corners=False)
