"""Captions of the pictures, and the tokenizer that is trained on them."""

import json
import random
from pathlib import Path

from tokenizers import pre_tokenizers, trainers
from transformers import CLIPTokenizer

from explorer.training.data import STYLES, Emoji, Item, is_held_out, well_known_names

MAX_LENGTH = 16  # tokens, with start and end
VOCABULARY_SIZE = 9000  # more merges than the captions need, so that each of their words becomes one token
START, END = "<|startoftext|>", "<|endoftext|>"


def list_labels(item: Item) -> tuple[str, ...]:
    """List the item's name and the other everyday words for it."""
    return item.name, *well_known_names().get(item.name, ())


def draw_caption(item: Item, rng: random.Random, tags: float = 0.2, bare: float = 0.3) -> str:
    """Draw a random caption: "3d dog", "dog", or one followed by tags; `tags` and `bare` are the shares of these."""
    label = rng.choice(list_labels(item))
    kind = rng.random()
    if kind < bare:
        return label
    if kind < bare + tags and item.tags:
        extra = rng.sample(item.tags, min(len(item.tags), rng.randint(1, 2)))
        return " ".join((item.style, label, *extra))
    return f"{item.style} {label}"


def draw_keywords(item: Item, rng: random.Random) -> str:
    """Draw a caption without the name: one to three tags, by which unseen names find their neighbours."""
    if not item.tags:
        return item.name
    return " ".join(rng.sample(item.tags, min(len(item.tags), rng.randint(1, 3))))


def list_texts(emoji: Emoji) -> list[str]:
    """List every text that the tokenizer learns from; the held-out names are not among them."""
    seen = [item for item in emoji.items if not is_held_out(item.name)]
    return [*STYLES, *(text for item in seen for text in (*list_labels(item), *item.tags))]


def list_words(emoji: Emoji) -> list[str]:
    """List the words of the captions of `emoji`, sorted: what a model trained on it has ever read."""
    texts = [*STYLES, *(text for item in emoji.items for text in (*list_labels(item), *item.tags))]
    return sorted({word for text in texts for word in split_words(text)})


def split_words(text: str) -> list[str]:
    """Split a text into words as the tokenizer does, in lower case."""
    backend = CLIPTokenizer().backend_tokenizer
    pieces = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
    return [text.lower()[start:end] for _, (start, end) in pieces]


def train_tokenizer(texts: list[str], vocabulary: int = VOCABULARY_SIZE, length: int = MAX_LENGTH) -> CLIPTokenizer:
    """Train a CLIPTokenizer whose merges make every word of `texts` one token."""
    backend = CLIPTokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        special_tokens=[START, END],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(m) for m in model["merges"]]
    # an unknown token would be the end token, at which the text is pooled: so every byte must be known
    for byte in sorted(pre_tokenizers.ByteLevel.alphabet()):
        for token in (byte, f"{byte}</w>"):
            vocab.setdefault(token, len(vocab))
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=length,
    )


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load the tokenizer saved in `folder`."""
    return CLIPTokenizer.from_pretrained(folder)
