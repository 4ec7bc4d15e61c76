"""Derive the name and shape of every tensor of a checkpoint from its config.

Files are checked against this layout before a framework reads them; random weights use it too.
Shapes are in PyTorch order, as in the file: a convolution is O, I, kH, kW. Mirrors diffusers'
UNet2DConditionModel, AutoencoderTiny and AutoencoderKL and transformers' CLIPTextModel.
"""

from collections.abc import Iterator

from .config.controlnet import ControlNetConfig
from .config.text_encoder import CLIPTextConfig
from .config.unet import UNetConfig
from .config.vae import KLVAEConfig, TinyVAEConfig, VAEConfig

Layout = dict[str, tuple[int, ...]]
Entry = tuple[str, tuple[int, ...]]


def _conv(
    name: str, inputs: int, outputs: int, kernel: int = 3, bias: bool = True
) -> Iterator[Entry]:
    yield f"{name}.weight", (outputs, inputs, kernel, kernel)
    if bias:
        yield f"{name}.bias", (outputs,)


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Iterator[Entry]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _norm(name: str, channels: int) -> Iterator[Entry]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def _resnet(name: str, inputs: int, outputs: int, time_embed_dim: int = 0) -> Iterator[Entry]:
    yield from _norm(f"{name}.norm1", inputs)
    yield from _conv(f"{name}.conv1", inputs, outputs)
    if time_embed_dim:
        yield from _linear(f"{name}.time_emb_proj", time_embed_dim, outputs)
    yield from _norm(f"{name}.norm2", outputs)
    yield from _conv(f"{name}.conv2", outputs, outputs)
    if inputs != outputs:
        yield from _conv(f"{name}.conv_shortcut", inputs, outputs, kernel=1)


def _attention(
    name: str, channels: int, cross_attention_dim: int, bias: bool = False
) -> Iterator[Entry]:
    yield from _linear(f"{name}.to_q", channels, channels, bias)
    yield from _linear(f"{name}.to_k", cross_attention_dim, channels, bias)
    yield from _linear(f"{name}.to_v", cross_attention_dim, channels, bias)
    yield from _linear(f"{name}.to_out.0", channels, channels)


def _transformer(name: str, c: UNetConfig, block: int, only_cross: bool) -> Iterator[Entry]:
    channels, cross = c.block_out_channels[block], c.cross_attention_dim
    yield from _norm(f"{name}.norm", channels)
    for project in ("proj_in", "proj_out"):
        if c.use_linear_projection:
            yield from _linear(f"{name}.{project}", channels, channels)
        else:
            yield from _conv(f"{name}.{project}", channels, channels, kernel=1)
    for i in range(c.transformer_layers_per_block[block]):
        inner = f"{name}.transformer_blocks.{i}"
        yield from _norm(f"{inner}.norm1", channels)
        yield from _attention(f"{inner}.attn1", channels, cross if only_cross else channels)
        yield from _norm(f"{inner}.norm2", channels)
        yield from _attention(f"{inner}.attn2", channels, cross)
        yield from _norm(f"{inner}.norm3", channels)
        yield from _linear(f"{inner}.ff.net.0.proj", channels, 8 * channels)
        yield from _linear(f"{inner}.ff.net.2", 4 * channels, channels)


def up_resnet_channels(c: UNetConfig, level: int) -> list[tuple[int, int, int]]:
    """Return (hidden, skip, output) channels of each resnet of `up_blocks.level`.

    The up path pops the skips in reverse order.
    """
    channels = c.block_out_channels[::-1]
    outputs = channels[level]
    inputs = channels[min(level + 1, len(channels) - 1)]
    layers = c.layers_per_block[::-1][level] + 1
    previous = channels[max(level - 1, 0)]
    return [
        (previous if j == 0 else outputs, inputs if j == layers - 1 else outputs, outputs)
        for j in range(layers)
    ]


def skip_channels(c: UNetConfig) -> tuple[int, ...]:
    """Return the channels of the skips, in the order of the down path.

    A ControlNet adds its residuals to these skips.
    """
    last = len(c.block_out_channels) - 1
    skips = [c.block_out_channels[0]]
    for i, channels in enumerate(c.block_out_channels):
        skips += [channels] * (c.layers_per_block[i] + (i < last))
    return tuple(skips)


def _down_and_middle(c: UNetConfig) -> Iterator[Entry]:
    """Yield the tensors of the down path and the middle, the half that a ControlNet copies."""
    channels, time, last = c.block_out_channels, c.time_embed_dim, len(c.block_out_channels) - 1
    yield from _conv("conv_in", c.in_channels, channels[0])
    yield from _linear("time_embedding.linear_1", channels[0], time)
    yield from _linear("time_embedding.linear_2", time, time)
    for i, kind in enumerate(c.down_block_types):
        name = f"down_blocks.{i}"
        for j in range(c.layers_per_block[i]):
            yield from _resnet(
                f"{name}.resnets.{j}", channels[i - 1 if i and j == 0 else i], channels[i], time
            )
            if kind == "CrossAttnDownBlock2D":
                yield from _transformer(f"{name}.attentions.{j}", c, i, c.only_cross_attention[i])
        if i < last:
            yield from _conv(f"{name}.downsamplers.0.conv", channels[i], channels[i])
    if c.mid_block:
        for j in range(2):
            yield from _resnet(f"mid_block.resnets.{j}", channels[-1], channels[-1], time)
        yield from _transformer("mid_block.attentions.0", c, last, only_cross=False)


def _controlnet(c: ControlNetConfig) -> Iterator[Entry]:
    yield from _down_and_middle(c.unet)
    name, widths = "controlnet_cond_embedding", c.embedding
    yield from _conv(f"{name}.conv_in", c.conditioning_channels, widths[0])
    for i, width in enumerate(widths[:-1]):
        yield from _conv(f"{name}.blocks.{2 * i}", width, width)
        yield from _conv(f"{name}.blocks.{2 * i + 1}", width, widths[i + 1])
    yield from _conv(f"{name}.conv_out", widths[-1], c.unet.block_out_channels[0])
    for i, channels in enumerate(skip_channels(c.unet)):
        yield from _conv(f"controlnet_down_blocks.{i}", channels, channels, kernel=1)
    yield from _conv(
        "controlnet_mid_block",
        c.unet.block_out_channels[-1],
        c.unet.block_out_channels[-1],
        kernel=1,
    )


def _unet(c: UNetConfig) -> Iterator[Entry]:
    channels, time, last = c.block_out_channels, c.time_embed_dim, len(c.block_out_channels) - 1
    yield from _down_and_middle(c)
    for i, kind in enumerate(c.up_block_types):
        name = f"up_blocks.{i}"
        for j, (hidden, skip, outputs) in enumerate(up_resnet_channels(c, i)):
            yield from _resnet(f"{name}.resnets.{j}", hidden + skip, outputs, time)
            if kind == "CrossAttnUpBlock2D":
                yield from _transformer(
                    f"{name}.attentions.{j}", c, last - i, c.only_cross_attention[last - i]
                )
        if i < last:
            yield from _conv(f"{name}.upsamplers.0.conv", outputs, outputs)
    yield from _norm("conv_norm_out", channels[0])
    yield from _conv("conv_out", channels[0], c.out_channels)


def _tiny_block(name: str, channels: int) -> Iterator[Entry]:
    for i in (0, 2, 4):
        yield from _conv(f"{name}.conv.{i}", channels, channels)


def _tiny_vae(c: TinyVAEConfig) -> Iterator[Entry]:
    width, n = c.encoder_block_out_channels[0], 0
    for stage, count in enumerate(c.num_encoder_blocks):
        yield from _conv(f"encoder.layers.{n}", 3 if stage == 0 else width, width, bias=stage == 0)
        for i in range(count):
            yield from _tiny_block(f"encoder.layers.{n + 1 + i}", width)
        n += 1 + count
    yield from _conv(f"encoder.layers.{n}", width, c.latent_channels)
    width, n, last = c.decoder_block_out_channels[0], 2, len(c.num_decoder_blocks) - 1
    yield from _conv("decoder.layers.0", c.latent_channels, width)  # layers.1 is the activation
    for stage, count in enumerate(c.num_decoder_blocks):
        for i in range(count):
            yield from _tiny_block(f"decoder.layers.{n + i}", width)
        n += count + (stage < last)  # an upsampling layer holds no tensors
        yield from _conv(
            f"decoder.layers.{n}", width, 3 if stage == last else width, bias=stage == last
        )
        n += 1


def _kl_mid_block(name: str, channels: int, attention: bool) -> Iterator[Entry]:
    for i in range(2):
        yield from _resnet(f"{name}.resnets.{i}", channels, channels)
    if attention:
        yield from _norm(f"{name}.attentions.0.group_norm", channels)
        yield from _attention(f"{name}.attentions.0", channels, channels, bias=True)


def _kl_vae(c: KLVAEConfig) -> Iterator[Entry]:
    channels, last = c.block_out_channels, len(c.block_out_channels) - 1
    yield from _conv("encoder.conv_in", 3, channels[0])
    for i, outputs in enumerate(channels):
        for j in range(c.layers_per_block):
            inputs = channels[max(i - 1, 0)] if j == 0 else outputs
            yield from _resnet(f"encoder.down_blocks.{i}.resnets.{j}", inputs, outputs)
        if i < last:
            yield from _conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", outputs, outputs)
    yield from _kl_mid_block("encoder.mid_block", channels[-1], c.mid_block_add_attention)
    yield from _norm("encoder.conv_norm_out", channels[-1])
    yield from _conv("encoder.conv_out", channels[-1], 2 * c.latent_channels)
    if c.use_quant_conv:
        yield from _conv("quant_conv", 2 * c.latent_channels, 2 * c.latent_channels, kernel=1)
    if c.use_post_quant_conv:
        yield from _conv("post_quant_conv", c.latent_channels, c.latent_channels, kernel=1)
    yield from _conv("decoder.conv_in", c.latent_channels, channels[-1])
    yield from _kl_mid_block("decoder.mid_block", channels[-1], c.mid_block_add_attention)
    for i, outputs in enumerate(channels[::-1]):
        for j in range(c.layers_per_block + 1):
            inputs = channels[::-1][max(i - 1, 0)] if j == 0 else outputs
            yield from _resnet(f"decoder.up_blocks.{i}.resnets.{j}", inputs, outputs)
        if i < last:
            yield from _conv(f"decoder.up_blocks.{i}.upsamplers.0.conv", outputs, outputs)
    yield from _norm("decoder.conv_norm_out", channels[0])
    yield from _conv("decoder.conv_out", channels[0], 3)


def _clip_text(c: CLIPTextConfig) -> Iterator[Entry]:
    yield "embeddings.token_embedding.weight", (c.vocab_size, c.hidden_size)
    yield "embeddings.position_embedding.weight", (c.max_position_embeddings, c.hidden_size)
    for i in range(c.num_hidden_layers):
        name = f"encoder.layers.{i}"
        yield from _norm(f"{name}.layer_norm1", c.hidden_size)
        for project in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{name}.self_attn.{project}", c.hidden_size, c.hidden_size)
        yield from _norm(f"{name}.layer_norm2", c.hidden_size)
        yield from _linear(f"{name}.mlp.fc1", c.hidden_size, c.intermediate_size)
        yield from _linear(f"{name}.mlp.fc2", c.intermediate_size, c.hidden_size)
    yield from _norm("final_layer_norm", c.hidden_size)


def unet_layout(config: UNetConfig) -> Layout:
    """Return the layout of `unet/`, in network order."""
    return dict(_unet(config))


def controlnet_layout(config: ControlNetConfig) -> Layout:
    """Return the layout of a ControlNet, in network order."""
    return dict(_controlnet(config))


def vae_layout(config: VAEConfig) -> Layout:
    """Return the layout of `vae/`, for either kind of VAE."""
    return dict(_tiny_vae(config) if isinstance(config, TinyVAEConfig) else _kl_vae(config))


def text_encoder_layout(config: CLIPTextConfig) -> Layout:
    """Return the layout of `text_encoder/`, without the optional `text_model.` prefix."""
    return dict(_clip_text(config))


def parameter_count(layout: Layout) -> int:
    """Count the scalars in a layout."""
    total = 0
    for shape in layout.values():
        size = 1
        for n in shape:
            size *= n
        total += size
    return total
