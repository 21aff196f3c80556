"""Trains the bundled model: a small FLUX pipeline that draws coloured handwritten digits, on the CPU.

The result is an ordinary diffusers `FluxPipeline` folder of 6 MB (CLIP and T5 text encoders, Flux transformer,
AutoencoderKL, flow-matching scheduler; 2.9 million parameters). The bundled weights were made by two runs on two cores:

    python docs/digits/train.py --out first --vae-minutes 4 --transformer-minutes 15 --threads 2
    python docs/digits/train.py --out digits --resume first --seed 11 --transformer-minutes 15.5 \
        --latents 24000 --learning-rate 9e-4 --threads 2

Runs are bounded by wall clock, so a second run makes a model like it, not the same bytes. The data come with
scikit-learn; nothing is downloaded. With `--vae-minutes 0.03 --transformer-minutes 0.03 --latents 200` it shows in a
minute that everything runs.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  the name that everyone knows
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from digits import COLOR_NAMES, COLORS, GROUND_NAMES, GROUNDS, SIZE, Digits, prompt
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

TOKENS = 16
VAE_BATCH, ENCODE_BATCH, TRANSFORMER_BATCH = 24, 100, 64

log = logging.getLogger("digits")


def make_tokenizers(folder: Path) -> tuple[CLIPTokenizer, T5Tokenizer]:
    """Vocabularies of the prompts' own words. CLIP's is trained, T5's has one piece for each word."""
    chance = random.Random(0)
    texts = [prompt(d, c, g, chance) for _ in range(12) for d in range(10) for c in COLORS for g in GROUNDS]
    texts += ["abcdefghijklmnopqrstuvwxyz 0123456789 , . ! ? - ' \" : ; ( )"] * 4
    return _clip_tokenizer(folder / "tokenizer", texts), _t5_tokenizer(texts)


def _clip_tokenizer(folder: Path, texts: list[str]) -> CLIPTokenizer:
    start, end = "<|startoftext|>", "<|endoftext|>"
    pieces = Tokenizer(models.BPE(unk_token=end, end_of_word_suffix="</w>"))
    pieces.normalizer = normalizers.Lowercase()
    pieces.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[start, end],
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    pieces.model.save(str(folder))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "bos_token": start}
    config |= {"eos_token": end, "unk_token": end, "pad_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder)


def _t5_tokenizer(texts: list[str]) -> T5Tokenizer:
    space = "\u2581"
    words = sorted({word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())})
    characters = sorted({character for text in texts for character in text + text.upper()} - {" "})
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(space + form, -4.0) for word in words for form in sorted({word, word.capitalize()})]
    vocabulary += [(space, -6.0), *((character, -9.0) for character in characters)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def build(folder: Path) -> FluxPipeline:
    """The untrained pipeline."""
    clip_tokenizer, t5_tokenizer = make_tokenizers(folder)
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=clip_tokenizer.bos_token_id,
            eos_token_id=clip_tokenizer.eos_token_id,
            pad_token_id=clip_tokenizer.pad_token_id,
            hidden_act="gelu",
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer),
            d_model=96,
            d_kv=24,
            d_ff=192,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=t5_tokenizer.pad_token_id,
            eos_token_id=t5_tokenizer.eos_token_id,
        )
    )
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 24, 32, 32),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=96,
        pooled_projection_dim=64,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    # Blocks that change nothing at first learn faster.
    for name, parameter in transformer.named_parameters():
        if (".norm" in name and ".linear." in name) or name.startswith(("proj_out", "norm_out.linear")):
            torch.nn.init.zeros_(parameter)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15),
        vae=vae,
        text_encoder=clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )


@dataclass
class Clock:
    """How much of a time box is used."""

    minutes: float

    def __post_init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    @property
    def share(self) -> float:
        return self.seconds / (self.minutes * 60)


def learning_rate(share: float, highest: float) -> float:
    """A warm-up over 3 % of the time, then a cosine down to 2 % of the highest."""
    warm_up = 0.03
    if share < warm_up:
        return highest * share / warm_up
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, (share - warm_up) / (1 - warm_up))))
    return highest * (0.98 * fall + 0.02)


def smoothed(average: float | None, value: float) -> float:
    return value if average is None else 0.98 * average + 0.02 * value


def train_vae(vae: AutoencoderKL, data: Digits, minutes: float) -> tuple[int, float]:
    """Steps taken and the smoothed mean squared error of reconstructions in -1..1."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.0)
    vae.train()
    clock, step, error = Clock(minutes), 0, None
    while clock.share < 1:
        for group in optimizer.param_groups:
            group["lr"] = max(2e-5, learning_rate(clock.share, 2e-3))
        pictures, _ = data.batch(VAE_BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=data.generator)
            drawn = vae.decode(posterior.mean + torch.exp(0.5 * posterior.logvar) * noise).sample
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        divergence = 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).mean()
        difference = drawn.float() - pictures
        squared = difference.pow(2).mean()
        _descend(optimizer, difference.abs().mean() + squared + 2e-3 * divergence, list(vae.parameters()))
        error = smoothed(error, squared.item())
        if step % 100 == 0:
            log.info("vae step %d, %.0f s, squared error %.4f", step, clock.seconds, error)
        step += 1
    return step, error or 0.0


@torch.no_grad()
def encode(vae: AutoencoderKL, data: Digits, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (count, 4, 8, 8) and what they show (count, 3)."""
    vae.eval()
    latents, shown = [], []
    for _ in range(count // ENCODE_BATCH):
        pictures, attributes = data.batch(ENCODE_BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(pictures).latent_dist.mean.float())
        shown.append(attributes)
    return torch.cat(latents), torch.cat(shown)


def train_transformer(
    pipeline: FluxPipeline, latents: torch.Tensor, shown: torch.Tensor, minutes: float, rate: float, data: Digits
) -> tuple[int, float]:
    """Trains transformer and both text encoders together by flow matching; leaves their moving averages in place."""
    trained = (pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2)
    parameters = [parameter for module in trained for parameter in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    averages = [parameter.detach().clone() for parameter in parameters]
    positions = image_positions(latents.shape[2] // 2, latents.shape[3] // 2)
    tokens, chance = pack(latents), random.Random(1)
    for module in trained:
        module.train()
    clock, step, average = Clock(minutes), 0, None
    while clock.share < 1:
        for group in optimizer.param_groups:
            group["lr"] = max(1e-5, learning_rate(clock.share, rate))
        chosen = torch.randint(len(tokens), (TRANSFORMER_BATCH,), generator=data.generator)
        texts = [
            # Some without a prompt, so that guidance has something to compare with.
            "" if chance.random() < 0.04 else prompt(digit, COLOR_NAMES[color], GROUND_NAMES[ground], chance)
            for digit, color, ground in shown[chosen].tolist()
        ]
        # Mostly 16 tokens, sometimes more, so that other paddings do not surprise it.
        length = TOKENS if chance.random() < 0.9 else chance.choice((24, 32, 64, 128))
        loss = flow_loss(pipeline, tokens[chosen], texts, length, positions, data.generator)
        _descend(optimizer, loss, parameters)
        with torch.no_grad():
            torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - min(0.998, (1 + step) / (10 + step)))
        average = smoothed(average, loss.item())
        if step % 100 == 0:
            log.info("transformer step %d, %.0f s, loss %.4f", step, clock.seconds, average)
        step += 1
    with torch.no_grad():
        for parameter, mean in zip(parameters, averages, strict=True):
            parameter.copy_(mean)
    return step, average or 0.0


def flow_loss(
    pipeline: FluxPipeline,
    clean: torch.Tensor,
    texts: list[str],
    length: int,
    positions: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity, at times drawn from a shifted logit-normal distribution."""
    padding = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    clip_ids = pipeline.tokenizer(texts, max_length=TOKENS, **padding).input_ids
    t5_ids = pipeline.tokenizer_2(texts, max_length=length, **padding).input_ids
    times = torch.sigmoid(torch.randn(len(clean), generator=generator) * 1.1)
    shift = math.exp(0.7)
    times = shift * times / (1 + (shift - 1) * times)
    noise = torch.randn(clean.shape, generator=generator)
    mixed = (1 - times)[:, None, None] * clean + times[:, None, None] * noise
    with torch.autocast("cpu", torch.bfloat16):
        velocity = pipeline.transformer(
            hidden_states=mixed,
            timestep=times,
            encoder_hidden_states=pipeline.text_encoder_2(t5_ids).last_hidden_state,
            pooled_projections=pipeline.text_encoder(clip_ids).pooler_output,
            txt_ids=torch.zeros(length, 3),
            img_ids=positions,
            return_dict=False,
        )[0]
    return F.mse_loss(velocity.float(), noise - clean)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) -> (n, h/2 * w/2, 4c): patches of 2x2 as tokens, in FLUX's order."""
    n, c, h, w = latents.shape
    patches = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, (h // 2) * (w // 2), c * 4)


def image_positions(rows: int, columns: int) -> torch.Tensor:
    positions = torch.zeros(rows, columns, 3)
    positions[..., 1] += torch.arange(rows)[:, None]
    positions[..., 2] += torch.arange(columns)[None]
    return positions.reshape(rows * columns, 3)


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[torch.Tensor]) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained pipeline")
    parser.add_argument("--resume", type=Path, help="a trained pipeline: go on with its transformer and text encoders")
    parser.add_argument("--vae-minutes", type=float, default=4.0, help="not used with --resume")
    parser.add_argument("--transformer-minutes", type=float, default=15.0)
    parser.add_argument(
        "--latents", type=int, default=20_000, help="pictures encoded for the transformer to learn from"
    )
    parser.add_argument("--learning-rate", type=float, default=1.5e-3, help="highest rate of the transformer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    data = Digits(torch.Generator().manual_seed(arguments.seed))

    if arguments.resume:
        pipeline = FluxPipeline.from_pretrained(arguments.resume, dtype=torch.float32)
        record = json.loads((arguments.resume / "training.json").read_text())
    else:
        pipeline = build(arguments.out)
        steps, error = train_vae(pipeline.vae, data, arguments.vae_minutes)
        record = {"vae_steps": steps, "vae_mse": error}
    latents, shown = encode(pipeline.vae, data, arguments.latents)
    if not arguments.resume:
        pipeline.vae.register_to_config(scaling_factor=1.0 / latents.std().item(), shift_factor=latents.mean().item())
    latents = (latents - pipeline.vae.config.shift_factor) * pipeline.vae.config.scaling_factor
    steps, loss = train_transformer(
        pipeline, latents, shown, arguments.transformer_minutes, arguments.learning_rate, data
    )
    record |= {"resumed_steps" if arguments.resume else "dit_steps": steps, "dit_loss": loss}

    for module in (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.vae, pipeline.transformer):
        # By way of bfloat16, so that both types hold the very same weights.
        module.eval().to(torch.bfloat16).to(torch.float16)
    pipeline.save_pretrained(arguments.out)
    (arguments.out / "training.json").write_text(json.dumps(record))
    log.info("%s: %s", arguments.out, record)


if __name__ == "__main__":
    main()
