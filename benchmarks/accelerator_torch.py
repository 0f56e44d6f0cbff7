"""The peer's side of `benchmarks.accelerator`: a function for each part."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.accelerator_common import BEAMS, CAPTIONS, END, TOKENS, WORDS, draw, seconds_of


def peak_torch() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 1e9


def torch_pair(dtype: Any) -> Any:
    """The peer's ViT-B/16 with GPT-2 small on the GPU."""
    import torch
    import transformers

    ids = {"bos_token_id": END, "eos_token_id": END}
    drops = {name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    torch.manual_seed(0)
    model = transformers.VisionEncoderDecoderModel(
        encoder=transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False),
        decoder=transformers.GPT2LMHeadModel(
            transformers.GPT2Config(add_cross_attention=True, **drops, **ids)
        ),
    )
    model.config.update({"decoder_start_token_id": END, "pad_token_id": END})
    return model.to("cuda", dtype)


def torch_inputs(images: np.ndarray, dtype: Any) -> Any:
    import torch

    pixels = torch.from_numpy(images).cuda().permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.to(dtype)


def torch_wait(_: Any) -> None:
    import torch

    torch.cuda.synchronize()


def torch_step(model: Any, loss_of: Callable[[Any], Any]) -> Callable[[], Any]:
    """A call that makes one update of a compiled model in bfloat16."""
    import torch

    torch.set_float32_matmul_precision("high")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5, fused=True)
    compiled = torch.compile(model)

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = loss_of(compiled)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        return loss

    return step


def training_peer(batch: int) -> dict[str, float]:
    import torch

    images, tokens = draw(batch)
    model = torch_pair(torch.float32).train()
    pixels = torch_inputs(images, torch.float32)
    labels = torch.from_numpy(tokens[:, 0, 1:]).long().cuda()
    step = torch_step(model, lambda model: model(pixel_values=pixels, labels=labels).loss)
    start = time.perf_counter()
    torch_wait(step())
    first = time.perf_counter() - start
    seconds = seconds_of(step, torch_wait)
    return {"seconds": seconds, "first call s": first, "memory GB": peak_torch()}


def cached_peer(batch: int) -> dict[str, float]:
    """A pre-norm transformer decoder of torch, equally wide, with features repeated by caption."""
    import torch
    from torch import nn

    class Peer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Sequential(nn.LayerNorm(1280), nn.Linear(1280, 256), nn.Dropout(0.1))
            self.tokens, self.positions = nn.Embedding(WORDS, 256), nn.Embedding(TOKENS, 256)
            options = {"batch_first": True, "norm_first": True, "activation": "gelu"}
            layer = nn.TransformerDecoderLayer(256, 4, 1024, 0.1, **options)
            self.decoder = nn.TransformerDecoder(layer, 2, nn.LayerNorm(256))

        def forward(self, features: Any, tokens: Any) -> Any:
            memory = self.project(features).repeat_interleave(CAPTIONS, 0)
            x = self.tokens(tokens[:, :-1])
            x = x + self.positions.weight
            mask = nn.Transformer.generate_square_subsequent_mask(TOKENS, device=x.device)
            x = self.decoder(x, memory, tgt_mask=mask, tgt_is_causal=True)
            logits = x @ self.tokens.weight.T
            return nn.functional.cross_entropy(
                logits.float().flatten(0, 1), tokens[:, 1:].flatten()
            )

    _, tokens = draw(batch, CAPTIONS, WORDS)
    tokens = torch.from_numpy(tokens).flatten(0, 1).long().cuda()
    features = torch.randn(batch, 49, 1280, device="cuda")
    step = torch_step(Peer().cuda().train(), lambda model: model(features, tokens))
    return {"seconds": seconds_of(step, torch_wait)}


def encoders_peer(batch: int, name: str) -> dict[str, float]:
    import torch

    if name == "vit_b16":
        import transformers

        model = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
        features = lambda model, x: model(pixel_values=x).last_hidden_state  # noqa: E731
    else:
        import torchvision

        whole = getattr(torchvision.models, name)(weights=None)
        # Without pooling and classifier.
        model = (
            whole.features
            if name == "mobilenet_v2"
            else torch.nn.Sequential(*list(whole.children())[:-2])
        )
        features = lambda model, x: model(x)  # noqa: E731
    model = model.eval().to("cuda", torch.bfloat16).to(memory_format=torch.channels_last)
    images = torch.from_numpy(draw(batch)[0]).cuda()
    compiled = torch.compile(model)

    @torch.inference_mode()
    def encode() -> Any:
        pixels = images.permute(0, 3, 1, 2).to(torch.bfloat16) / 127.5 - 1
        return features(compiled, pixels)

    return {"seconds": seconds_of(encode, torch_wait)}


def captions_peer(batch: int) -> dict[str, float]:
    import torch

    model = torch_pair(torch.bfloat16).eval()
    pixels = torch_inputs(draw(batch)[0], torch.bfloat16)
    options = {"num_beams": BEAMS, "do_sample": False, "suppress_tokens": [END]}
    ids = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    lengths = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "decoder_start_token_id": END}

    @torch.inference_mode()
    def generate() -> Any:
        return model.generate(pixel_values=pixels, **options, **ids, **lengths)

    return {"seconds": seconds_of(generate, torch_wait)}
