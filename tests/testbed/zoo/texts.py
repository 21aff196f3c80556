"""Tokenizers and text encoders of a few thousand weights, made from a corpus of a few lines.

Every tokenizer is built from a vocabulary in memory and saved as `tokenizer.json`, so that neither sentencepiece nor
protobuf is needed to read it back. Weights are random; `weights(seed)` makes each component the same in every run.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

CORPUS = (
    "a red fox jumps over a small river at night",
    "a painting of a green bird that sings in a tree",
    "two boats sail on a calm sea below white clouds",
    "an old man walks a black dog along the road",
    "a slow video of waves that roll onto the beach in the evening",
    "blurry, low quality, dark, noisy picture",
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:",
    "Describe the video by detailing the following aspects: the main content and theme, actions, events, behaviors, "
    "temporal relationships, physical movement changes, camera angles and transitions",
    "system user assistant model 0 1 2 3 4 5 6 7 8 9 . , : ; ! ?",
)

_TURNS = (
    "{% for m in messages %}OPEN{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endif %}CLOSE\n{% endfor %}"
    "{% if add_generation_prompt %}OPENassistant\n{% endif %}"
)


@contextmanager
def weights(seed: int) -> Iterator[None]:
    """Random weights drawn inside depend on `seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _byte_pairs(special: list[str], *, words: bool = False) -> dict[str, Any]:
    """Vocabulary and merges of a byte-level BPE trained on the corpus; the special tokens come first.

    `words` trains on words whose end is marked (CLIP's way) in place of words that begin with a space.
    """
    suffix = {"end_of_word_suffix": "</w>"} if words else {}
    tokenizer = Tokenizer(models.BPE(**suffix))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not words)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), bytes_]) if words else bytes_
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        **suffix,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def _pieces(size: int = 32) -> list[tuple[str, float]]:
    """A unigram vocabulary: the corpus's words by frequency, and every printable character as a last resort."""
    words = Counter(word for line in CORPUS for word in line.split())
    total = sum(words.values())
    pieces: dict[str, float] = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, "▁": -4.0}
    pieces |= {f"▁{word}": math.log(count / total) for word, count in sorted(words.items())}
    pieces |= {chr(code): -float(size) for code in range(33, 127)}
    return list(pieces.items())


# -- CLIP ---------------------------------------------------------------------------------------------------------


def clip_tokenizer(length: int = 77) -> Any:
    start, end = "<|startoftext|>", "<|endoftext|>"
    pairs = _byte_pairs([start, end], words=True)
    return CLIPTokenizer(**pairs, bos_token=start, eos_token=end, pad_token=end, unk_token=end, model_max_length=length)


def clip_text(seed: int, width: int = 32, *, projection: bool = False) -> Any:
    config = CLIPTextConfig(
        vocab_size=700,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        hidden_act="gelu",
    )
    with weights(seed):
        return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


# -- T5 -----------------------------------------------------------------------------------------------------------


def t5_tokenizer(length: int = 64) -> Any:
    return T5Tokenizer(vocab=_pieces(), extra_ids=0, model_max_length=length)


def byt5_tokenizer() -> Any:
    return ByT5Tokenizer()


def t5_text(seed: int, width: int = 32) -> Any:
    config = T5Config(
        vocab_size=512,
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    with weights(seed):
        return T5EncoderModel(config).eval()


# -- Qwen ---------------------------------------------------------------------------------------------------------

_QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
_QWEN_ROPE = {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"}
_QWEN_SIZE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 704,
}


def qwen_tokenizer() -> Any:
    tokenizer = Qwen2Tokenizer(
        **_byte_pairs(_QWEN_SPECIAL),
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=[*_QWEN_SPECIAL[3:], "<|im_start|>"],
        model_max_length=2048,
    )
    tokenizer.chat_template = _TURNS.replace("OPEN", "<|im_start|>").replace("CLOSE", "<|im_end|>")
    return tokenizer


def qwen25_vl(seed: int) -> Any:
    config = Qwen2_5_VLConfig(
        text_config=_QWEN_SIZE | {"rope_scaling": _QWEN_ROPE, "rope_theta": 1e6},
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
        vision_start_token_id=3,
        vision_end_token_id=4,
        image_token_id=5,
        bos_token_id=None,
        eos_token_id=2,
    )
    with weights(seed):
        return Qwen2_5_VLForConditionalGeneration(config).eval()


def qwen25_text(seed: int) -> Any:
    with weights(seed):
        return Qwen2_5_VLTextModel(
            Qwen2_5_VLTextConfig(**_QWEN_SIZE, rope_scaling=_QWEN_ROPE, rope_theta=1e6, pad_token_id=0)
        ).eval()


def qwen3(seed: int, *, head: bool, layers: int = 2) -> Any:
    config = Qwen3Config(**_QWEN_SIZE | {"num_hidden_layers": layers}, head_dim=8, max_position_embeddings=1024)
    with weights(seed):
        return (Qwen3ForCausalLM if head else Qwen3Model)(config).eval()


# -- Gemma --------------------------------------------------------------------------------------------------------

_GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]


def gemma_tokenizer() -> Any:
    """Gemma's tokenizer spells words with `▁` for a space: single characters suffice here."""
    alphabet = [chr(code) for code in range(33, 127)]
    vocabulary = [*_GEMMA_SPECIAL, "▁", "\n", *alphabet]
    tokenizer = GemmaTokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)},
        merges=[],
        extra_special_tokens=_GEMMA_SPECIAL[-2:],
        model_max_length=1024,
    )
    tokenizer.chat_template = _TURNS.replace("OPEN", "<start_of_turn>").replace("CLOSE", "<end_of_turn>")
    return tokenizer


_GEMMA_SIZE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 128,
}


def gemma2(seed: int) -> Any:
    with weights(seed):
        return Gemma2Model(Gemma2Config(**_GEMMA_SIZE, sliding_window=64, attn_implementation="eager")).eval()


def gemma3(seed: int) -> Any:
    config = Gemma3Config(
        text_config=_GEMMA_SIZE | {"sliding_window": 64, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
        boi_token_index=125,
        eoi_token_index=126,
        image_token_index=127,
    )
    with weights(seed):
        return Gemma3ForConditionalGeneration(config).eval()
