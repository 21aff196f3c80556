"""Text encoders and tokenizers that the zoo's families do not have."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from testbed.zoo import texts
from testbed.zoo.texts import weights

_SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_LETTERS = [chr(code) for code in range(33, 127)]


def glm(seed: int) -> Any:
    config = GlmConfig(
        **_SMALL,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=704,
        pad_token_id=0,
        eos_token_id=2,
        max_position_embeddings=2048,
    )
    with weights(seed):
        return GlmModel(config).eval()


def llama(seed: int, *, head: bool) -> Any:
    config = LlamaConfig(
        **_SMALL,
        num_key_value_heads=2,
        vocab_size=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        max_position_embeddings=512,
    )
    with weights(seed):
        return (LlamaForCausalLM if head else LlamaModel)(config).eval()


def llama_tokenizer() -> Any:
    """A letter is a token, and a token goes before all."""
    vocabulary = {piece: index for index, piece in enumerate(["<pad>", "<s>", "</s>", "<unk>", *_LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def bert(seed: int) -> Any:
    with weights(seed):
        return BertModel(BertConfig(**_SMALL | {"hidden_size": 32}, vocab_size=128, max_position_embeddings=128)).eval()


def bert_tokenizer() -> Any:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_LETTERS[:20]]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, model_max_length=77)


def t5(seed: int) -> dict[str, Any]:
    return {"text_encoder": texts.t5_text(seed), "tokenizer": texts.t5_tokenizer()}


def siglip(seed: int) -> dict[str, Any]:
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    with weights(seed):
        encoder = SiglipVisionModel(config).eval()
    return {"image_encoder": encoder, "feature_extractor": SiglipImageProcessor(size={"height": 32, "width": 32})}
