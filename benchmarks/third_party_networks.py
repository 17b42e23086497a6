"""Real networks of other people: by which way du/dt is had, and what a step costs.

    pip install timm diffusers transformers einops x-transformers denoising-diffusion-pytorch vit-pytorch
    python benchmarks/third_party_networks.py

Each is small, with random weights, made a network u(z, r, t, labels) by as little as possible: the times go in beside
its own. `objective.derivative: auto` chooses; what it chose is held against forward-mode differentiation of the whole
batch with the same random numbers. The cost is that of a step in units of flow matching, taken turn by turn as in
step_cost.py.
A package that is not installed is left out.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from meanflow_core.derivative import DerivativeError, predict, record
from meanflow_core.derivative.forward_mode import forward_mode
from meanflow_core.derivative.query import Query
from meanflow_core.nets.embedding import randomise_

N, M = 16, 4
IMAGE = (4, 16, 16)
CLASSES = 10


class Adapted(nn.Module):
    """A network of somebody else's as u(z, r, t, labels)."""

    def __init__(
        self, net: nn.Module, call: Callable[..., Any], shape: tuple[int, ...] = IMAGE, width: int = 0
    ) -> None:
        super().__init__()
        self.net, self.call, self.shape = net, call, shape
        self.times = nn.Linear(2, width or shape[0])

    def forward(self, z: Tensor, r: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        told = torch.tanh(self.times(torch.stack([t, t - r], dim=-1)))
        u: Tensor = self.call(self.net, z, told, t, labels)
        return u


def on_channels(z: Tensor, told: Tensor) -> Tensor:
    return z + told.reshape(*told.shape, *[1] * (z.dim() - 2))


def told_by_text(net: nn.Module, call: Callable[[Any, Tensor, Tensor, Tensor], Tensor]) -> Adapted:
    """A network that is told its class by three words of 32 numbers: `call(net, z, text, t)`."""
    both = nn.ModuleDict({"net": net, "text": nn.Embedding(CLASSES + 1, 3 * 32)})

    def with_text(f: Any, z: Tensor, told: Tensor, t: Tensor, y: Any) -> Tensor:
        return call(f["net"], on_channels(z, told), f["text"](y).unflatten(1, (3, 32)), t)

    return Adapted(both, with_text)


def timm_vit(**options: Any) -> Adapted:
    """A SiT-like network of timm's blocks: patches, blocks, and patches back by einsum."""
    from timm.layers import Mlp
    from timm.models.vision_transformer import Attention

    class Block(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
            self.attn = Attention(width, num_heads=heads, qkv_bias=True)
            self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
            self.mlp = Mlp(width, 4 * width, act_layer=lambda: nn.GELU(approximate="tanh"), drop=0)
            self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

        def forward(self, x: Tensor, c: Tensor) -> Tensor:
            shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, dim=1)
            x = x + gate1.unsqueeze(1) * self.attn(self.norm1(x) * (1 + scale1.unsqueeze(1)) + shift1.unsqueeze(1))
            return x + gate2.unsqueeze(1) * self.mlp(self.norm2(x) * (1 + scale2.unsqueeze(1)) + shift2.unsqueeze(1))

    class SiT(nn.Module):
        def __init__(self, width: int = 256, depth: int = 6, heads: int = 4, patch: int = 2) -> None:
            super().__init__()
            self.patch, self.width = patch, width
            self.embed = nn.Conv2d(4, width, patch, patch)
            self.label = nn.Embedding(CLASSES + 1, width)
            self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
            self.norm, self.out = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, patch * patch * 4)

        def forward(self, x: Tensor, told: Tensor, labels: Tensor | None) -> Tensor:
            c = told if labels is None else told + self.label(labels)
            x = self.embed(x).flatten(2).transpose(1, 2)
            for block in self.blocks:
                x = block(x, c)
            x, p = self.out(self.norm(x)), self.patch
            h = w = int(x.shape[1] ** 0.5)
            x = x.reshape(shape=(x.shape[0], h, w, p, p, 4))
            x = torch.einsum("nhwpqc->nchpwq", x)
            return x.reshape(shape=(x.shape[0], 4, h * p, h * p))

    side = options.pop("side", 16)
    net = SiT(**options)
    return Adapted(net, lambda f, z, c, t, y: f(z, c, y), (4, side, side), net.width)


def timm_features(name: str) -> Adapted:
    """A classifier of timm's between two linear layers."""
    import timm

    net = timm.create_model(name, pretrained=False, num_classes=48, in_chans=4)
    size = net.default_cfg["input_size"][-1]
    head = nn.Linear(48, 4 * 16 * 16)
    both = nn.ModuleDict({"net": net, "head": head})

    def call(f: Any, z: Tensor, c: Tensor, t: Tensor, y: Any) -> Tensor:
        x = nn.functional.interpolate(on_channels(z, c), size=(size, size), mode="bilinear")
        return f["head"](f["net"](x)).reshape(-1, *IMAGE)

    return Adapted(both, call)


def diffusers_unet2d(side: int = 16, widths: tuple[int, int] = (32, 64), **options: Any) -> Adapted:
    """ADM's U-Net where `options` say scale_shift."""
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=side,
        in_channels=4,
        out_channels=4,
        block_out_channels=widths,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **options,
    )
    return Adapted(net, lambda f, z, c, t, y: f(on_channels(z, c), t, class_labels=None).sample, (4, side, side))


def diffusers_conditional(**options: Any) -> Adapted:
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    if options.get("checkpointing"):
        net.enable_gradient_checkpointing()
    return told_by_text(net, lambda f, z, text, t: f(z, t, encoder_hidden_states=text).sample)


def diffusers_dit(side: int = 16, width: int = 64, depth: int = 3) -> Adapted:
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=width // 4,
        in_channels=4,
        num_layers=depth,
        sample_size=side,
        num_embeds_ada_norm=1000,
    )

    def call(f: Any, z: Tensor, c: Tensor, t: Tensor, y: Any) -> Tensor:
        return f(on_channels(z, c), timestep=t, class_labels=y).sample

    return Adapted(net, call, (4, side, side))


def diffusers_sd3() -> Adapted:
    from diffusers import SD3Transformer2DModel

    net = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
    )

    def call(f: Any, z: Tensor, text: Tensor, t: Tensor) -> Tensor:
        return f(z, encoder_hidden_states=text, pooled_projections=text[:, :2].flatten(1), timestep=t).sample

    return told_by_text(net, call)


def diffusers_pixart() -> Adapted:
    from diffusers import PixArtTransformer2DModel

    net = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        cross_attention_dim=64,
        sample_size=16,
        caption_channels=32,
    )
    added = {"resolution": None, "aspect_ratio": None}
    return told_by_text(net, lambda f, z, text, t: f(z, text, timestep=t, added_cond_kwargs=added).sample)


def diffusers_unet1d() -> Adapted:
    from diffusers import UNet1DModel

    net = UNet1DModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        extra_in_channels=64,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
    )
    return Adapted(net, lambda f, z, c, t, y: f(on_channels(z, c), t).sample, (4, 64))


def lucidrains_unet(**options: Any) -> Adapted:
    from denoising_diffusion_pytorch import Unet

    net = Unet(16, channels=4, dim_mults=(1, 2), flash_attn=False, **options)
    return Adapted(net, lambda f, z, c, t, y: f(on_channels(z, c), t))


def lucidrains_unet1d() -> Adapted:
    from denoising_diffusion_pytorch import Unet1D

    return Adapted(Unet1D(16, channels=4, dim_mults=(1, 2)), lambda f, z, c, t, y: f(on_channels(z, c), t), (4, 64))


def karras_unet() -> Adapted:
    from denoising_diffusion_pytorch import KarrasUnet

    net = KarrasUnet(image_size=16, dim=32, dim_max=64, channels=4, num_downsamples=2, attn_res=(8,), fourier_dim=16)
    return Adapted(net, lambda f, z, c, t, y: f(on_channels(z, c), t))


def lucidrains_vit(name: str) -> Adapted:
    import vit_pytorch
    from vit_pytorch.simple_vit import SimpleViT

    options = {"image_size": 16, "patch_size": 4, "num_classes": 4 * 16 * 16, "dim": 64, "depth": 3, "heads": 4}
    if name == "vit":
        net: Any = vit_pytorch.ViT(mlp_dim=128, channels=4, dropout=0.1, emb_dropout=0.1, **options)
    else:
        net = SimpleViT(mlp_dim=128, channels=4, **options)
    return Adapted(net, lambda f, z, c, t, y: f(on_channels(z, c)).reshape(-1, *IMAGE))


def x_transformer(**options: Any) -> Adapted:
    from x_transformers import ContinuousTransformerWrapper, Encoder

    layers = Encoder(dim=64, depth=3, heads=4, **options)
    net = ContinuousTransformerWrapper(dim_in=8, dim_out=8, max_seq_len=32, attn_layers=layers)
    return Adapted(net, lambda f, z, c, t, y: f(z + c[:, None]), (32, 8), 8)


def bert() -> Adapted:
    from transformers import BertConfig, BertModel

    sizes = BertConfig(vocab_size=32, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128)
    net = BertModel(sizes, add_pooling_layer=False)
    return Adapted(net, lambda f, z, c, t, y: f(inputs_embeds=z + c[:, None]).last_hidden_state, (24, 64), 64)


def gpt2() -> Adapted:
    from transformers import GPT2Config, GPT2Model

    net = GPT2Model(GPT2Config(vocab_size=32, n_positions=32, n_embd=64, n_layer=3, n_head=4))
    return Adapted(
        net, lambda f, z, c, t, y: f(inputs_embeds=z + c[:, None], use_cache=False).last_hidden_state, (24, 64), 64
    )


def torch_encoder() -> Adapted:
    layer = nn.TransformerEncoderLayer(64, 4, 128, 0.1, batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    return Adapted(net, lambda f, z, c, t, y: f(z + c[:, None]), (24, 64), 64)


NETWORKS: dict[str, Callable[[], Adapted]] = {
    "SiT 6 x 256 of timm's Attention and Mlp, 4x16x16": timm_vit,
    "timm vit_tiny_patch16_224, 64 wide": lambda: timm_features("test_vit"),
    "timm test_convnext": lambda: timm_features("test_convnext"),
    "timm test_resnet (BatchNorm)": lambda: timm_features("test_resnet"),
    "diffusers UNet2DModel": diffusers_unet2d,
    "diffusers UNet2DModel, scale_shift, dropout 0.1": lambda: diffusers_unet2d(
        resnet_time_scale_shift="scale_shift", dropout=0.1
    ),
    "diffusers UNet2DConditionModel": diffusers_conditional,
    "diffusers UNet2DConditionModel, checkpointing": lambda: diffusers_conditional(checkpointing=True),
    "diffusers DiTTransformer2DModel": diffusers_dit,
    "diffusers SD3Transformer2DModel": diffusers_sd3,
    "diffusers PixArtTransformer2DModel": diffusers_pixart,
    "diffusers UNet1DModel": diffusers_unet1d,
    "denoising-diffusion-pytorch Unet": lucidrains_unet,
    "denoising-diffusion-pytorch Unet1D": lucidrains_unet1d,
    "denoising-diffusion-pytorch KarrasUnet (EDM2)": karras_unet,
    "vit-pytorch ViT, dropout 0.1": lambda: lucidrains_vit("vit"),
    "vit-pytorch SimpleViT": lambda: lucidrains_vit("simple"),
    "x-transformers Encoder, rotary, RMSNorm": lambda: x_transformer(rotary_pos_emb=True, use_rmsnorm=True),
    "x-transformers Encoder, flash, GLU, dropout": lambda: x_transformer(
        attn_flash=True, ff_glu=True, attn_dropout=0.1, ff_dropout=0.1
    ),
    "transformers BertModel, dropout 0.1": bert,
    "transformers GPT2Model, dropout 0.1 (causal)": gpt2,
    "torch TransformerEncoder, dropout 0.1": torch_encoder,
}
LARGER: dict[str, Callable[[], Adapted]] = {
    "SiT 6 x 256 of timm's Attention and Mlp, 4x32x32": lambda: timm_vit(side=32),
    "diffusers DiTTransformer2DModel 6 x 256, 4x32x32": lambda: diffusers_dit(32, 256, 6),
    "diffusers UNet2DModel 64-128, scale_shift (ADM), 4x32x32": lambda: diffusers_unet2d(
        32, (64, 128), resnet_time_scale_shift="scale_shift"
    ),
}


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z, dz = torch.randn(2, N, *shape, generator=generator)
    t = 0.3 + 0.6 * torch.rand(N, generator=generator)
    r = torch.where(torch.arange(N) < M, t * torch.rand(N, generator=generator), t)
    return z, dz, r, t, torch.randint(CLASSES, (N,), generator=generator)


def error_of(net: nn.Module, shape: tuple[int, ...], u: Tensor, du: Tensor) -> tuple[float, float]:
    """How far u and du/dt are off: against a plain pass, and forward mode of the whole batch with the same draw."""
    z, dz, r, t, labels = inputs(shape)
    torch.manual_seed(0)
    with torch.no_grad():
        plain = net(z, r, t, labels)
    torch.manual_seed(0)
    _, whole = forward_mode(net, Query(z, r, t, labels, dz, 0.0, 1.0))
    gaps = [(one - other).norm() / other.norm() for one, other in ((u.detach(), plain), (du, whole[:M]))]
    return float(gaps[0]), float(gaps[1])


def cost(net: nn.Module, shape: tuple[int, ...], turns: int) -> tuple[float, float, float]:
    """Median and quartiles of a step's time over that of flow matching."""
    z, dz, r, t, labels = inputs(shape)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-6)

    def step(differentiate: bool) -> float:
        start = time.process_time()
        if differentiate:
            u, du = predict(net, z, r, t, labels, direction=dz[:M], others=lambda rest: dz[M:])
            target = torch.cat([dz[:M] - (t - r)[:M].reshape(-1, *[1] * len(shape)) * du, dz[M:]])
        else:
            u, target = net(z, t, t, labels), dz
        (u - target).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        return time.process_time() - start

    for differentiate in (False, True, False, True):
        step(differentiate)
    ratios = []
    for turn in range(turns):
        if turn % 2:
            base, full = step(False), step(True)
        else:
            full, base = step(True), step(False)
        ratios.append(full / base)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return middle, low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--only", help="networks whose name contains this")
    parser.add_argument("--larger", action="store_true", help="the larger ones alone")
    parser.add_argument("--no-cost", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print("| network | du/dt by | u off by | du/dt off by | step / flow matching |\n|---|---|---|---|---|")
    carried = wrong = tried = 0
    for name, make in (LARGER if options.larger else NETWORKS).items():
        if options.only and options.only not in name:
            continue
        try:
            torch.manual_seed(0)
            adapted = make()
        except ImportError as error:
            print(f"| {name} | not installed: {error.name} | | | |")
            continue
        shape = adapted.shape
        net = randomise_(adapted).train()
        z, dz, r, t, labels = inputs(shape)
        tried += 1
        try:
            torch.manual_seed(0)
            u, du = predict(net, z, r, t, labels, direction=dz[:M], others=lambda rest, dz=dz: dz[M:])
        except DerivativeError as error:
            print(f"| {name} | refused: {error} | | | |", flush=True)
            continue
        except Exception as error:
            print(f"| {name} | it fails by itself: {type(error).__name__}: {str(error)[:200]} | | | |", flush=True)
            continue
        line = record(net)[0]
        way = line.removeprefix("du/dt by ").partition(" ")[0]
        torch.manual_seed(0)
        u, du = predict(net, z, r, t, labels, direction=dz[:M], others=lambda rest, dz=dz: dz[M:])
        off, off_du = error_of(net, shape, u, du)
        carried += way in ("dual", "row_dual")
        wrong += off > 1e-4 or off_du > 1e-3
        price = "" if options.no_cost else "{:.2f} ({:.2f}-{:.2f})".format(*cost(net, shape, options.turns))
        why = "" if way in ("dual", "row_dual") else f" ({line.rpartition('; not ')[2] or line})"
        print(f"| {name} | `{way}`{why} | {off:.0e} | {off_du:.0e} | {price} |", flush=True)
    print(f"\n{carried} of {tried} carried beside the one forward pass, {wrong} wrong; torch {torch.__version__}")


if __name__ == "__main__":
    main()
