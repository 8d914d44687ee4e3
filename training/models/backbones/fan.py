"""FAN, a fully attentional network (Zhou et al., "Understanding the robustness in vision transformers", ICML 2022).

The hybrid form, which the authors use for detection: two ConvNeXt stages, then blocks that attend over tokens and over
channels. What differs from FAN-S-Hybrid of the authors:
- the class attention blocks and the class token are left out: a detector reads the maps;
- the last 3 of the 10 attention blocks work at stride 32, after an overlapping 3x3 patch embedding, so that there are
  four strides; a layer norm ends the maps of strides 16 and 32;
- stochastic depth and dropout are left out; the channel query has no bias, which its softmax would cancel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.models.backbones.convnext import ChannelNorm, ConvNeXtBlock, init_transformer

EPS = 1e-6
HEAD_CHANNELS = 48  # FAN-S: 8 heads of 384 channels
MLP_RATIO = 4
WAVES = 32  # per axis, in the position encoding


class TokenAttention(nn.Module):
    """Multi-head self-attention over all tokens; (B, N, C) -> the same."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


class LocalMlp(nn.Module):
    """An MLP on tokens with two depthwise 3x3 convolutions inside, on the (h, w) map that the tokens are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.local = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden),
            nn.GELU(),
            nn.BatchNorm2d(hidden),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden),
        )
        self.gamma = nn.Parameter(torch.ones(hidden))
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        x = self.fc1(x)
        local = self.local(x.transpose(1, 2).unflatten(2, (h, w))).flatten(2).transpose(1, 2)
        return self.fc2(x + self.gamma * local)


class ChannelAttention(nn.Module):
    """Efficient channel attention (ECA) in place of a transformer block's MLP; (B, N, C) -> the same.

    Each channel's weight is how well its distribution over the tokens, softmax(W_Q Z), matches that of its head's mean
    channel: sigmoid(softmax(W_Q Z)^T mean_c softmax(Z)) * temperature; it scales Norm(MLP(Z)). O(N C), not O(N C^2).
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads, 1))
        self.mlp = LocalMlp(channels)
        self.norm = nn.LayerNorm(channels, eps=EPS)

    def weights(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, 1, C)."""
        b, n, c = x.shape
        query = self.query(x).softmax(dim=1).reshape(b, n, self.heads, c // self.heads)
        prototype = x.softmax(dim=1).reshape(b, n, self.heads, c // self.heads).mean(dim=3, keepdim=True)
        return ((query * prototype).sum(dim=1).sigmoid() * self.temperature).reshape(b, 1, c)

    def forward(self, x: Tensor, h: int, w: int) -> Tensor:
        return self.weights(x) * self.norm(self.mlp(x, h, w))


class FanBlock(nn.Module):
    """Token attention, then channel attention, each after a norm and around a shortcut; (B, C, H, W) -> the same."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.attention = TokenAttention(channels, heads)
        self.gamma1 = nn.Parameter(torch.ones(channels))
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.channel_attention = ChannelAttention(channels, heads)
        self.gamma2 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = x + self.gamma1 * self.attention(self.norm1(x))
        x = x + self.gamma2 * self.channel_attention(self.norm2(x), h, w)
        return x.transpose(1, 2).unflatten(2, (h, w))


class PositionEncoding(nn.Module):
    """Adds a learned projection of the sines and cosines of row and column (relative to the size) to (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(2 * WAVES, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        rows = waves(h, x.device)[:, :, None].expand(-1, -1, w)
        columns = waves(w, x.device)[:, None, :].expand(-1, h, -1)
        return x + self.projection(torch.cat([rows, columns])[None])


def waves(count: int, device: torch.device) -> Tensor:
    """(WAVES, count): sine and cosine of the place along an axis, scaled to 0..2 pi, at falling frequencies."""
    place = torch.arange(1, count + 1, device=device) / count * (2 * torch.pi)
    frequencies = 10000.0 ** (-torch.arange(WAVES // 2, device=device) * 2 / WAVES)
    angle = frequencies[:, None] * place
    return torch.cat([angle.sin(), angle.cos()])


class FAN(nn.Module):
    """(B, 3, H, W) -> maps at strides 4, 8, 16, 32 with `channels` = width * (1, 2, 3, 3) channels.

    Defaults are FAN-S-Hybrid's sizes; `blocks` are two ConvNeXt stages and two of attention. H and W must be multiples
    of 32. Attention at stride 16 costs (H W / 256)^2.
    """

    def __init__(self, blocks: tuple[int, int, int, int] = (3, 3, 7, 3), width: int = 128) -> None:
        super().__init__()
        self.channels = (width, 2 * width, 3 * width, 3 * width)
        c4, c8, c16, c32 = self.channels
        heads = max(1, c16 // HEAD_CHANNELS)
        if c16 % heads:
            raise ValueError(
                f"FAN width {width}: {c16} channels do not split into {heads} heads; take a multiple of 16"
            )
        self.stem = nn.Sequential(nn.Conv2d(3, c4, 4, 4), ChannelNorm(c4))
        self.stage1 = nn.Sequential(*(ConvNeXtBlock(c4) for _ in range(blocks[0])))
        self.down2 = nn.Sequential(ChannelNorm(c4), nn.Conv2d(c4, c8, 2, 2))
        self.stage2 = nn.Sequential(*(ConvNeXtBlock(c8) for _ in range(blocks[1])))
        self.down3 = nn.Sequential(nn.Conv2d(c8, c16, 2, 2), PositionEncoding(c16))
        self.stage3 = nn.Sequential(*(FanBlock(c16, heads) for _ in range(blocks[2])))
        self.down4 = nn.Sequential(nn.Conv2d(c16, c32, 3, 2, 1), ChannelNorm(c32))
        self.stage4 = nn.Sequential(*(FanBlock(c32, heads) for _ in range(blocks[3])))
        self.norm3, self.norm4 = ChannelNorm(c16), ChannelNorm(c32)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_transformer(module)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        stride4 = self.stage1(self.stem(x))
        stride8 = self.stage2(self.down2(stride4))
        stride16 = self.stage3(self.down3(stride8))
        stride32 = self.stage4(self.down4(stride16))
        return stride4, stride8, self.norm3(stride16), self.norm4(stride32)
