"""Builds the two tokenizers of the checkpoint.

*Language model*: byte-level BPE in Qwen's layout, trained so that a word of the grammar is one token; any other text is
encoded in pieces, down to bytes. *Talker*: text to phones, all inside ``tokenizer.json``: its normalizer replaces known
words by the phones of their pronunciation and spells the others with letter-to-sound rules, so that the same encode
call as for the official WordPiece tokenizer gives one id per phone. A phone is written as one character outside ASCII:
decoded ids encode to themselves.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from engine.mini.sound.pronunciation import LETTER_SOUNDS, PHONES, spelled
from engine.mini.world import grammar
from engine.mini.world.known_words import heard_words, lexicon_words
from engine.mini.world.vocabulary import NAMES, number

LLM_SPECIALS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<image>", "</image>", "<ref>", "</ref>", "<box>", "</box>",
    "<quad>", "</quad>", "<point>", "</point>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<unit>", "</unit>",
    "<|audio_start|>", "<|audio|>", "<|audio_end|>", "<|spk_bos|>", "<|spk|>", "<|spk_eos|>", "<|tts_bos|>",
    "<|tts_eos|>", "<|listen|>", "<|speak|>", "<|interrupt|>", "<|vad_start|>", "<|vad_end|>", "<reserved_43>",
    "<reserved_53>",
]  # fmt: skip
TTS_SPECIALS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[Stts]",
    "[Ptts]",
    "[Etts]",
    "[spk_emb]",
    "[Sbreak]",
    "[Pbreak]",
    "[Ebreak]",
    "[uv_break]",
    "[v_break]",
    "[lbreak]",
    "[llbreak]",
    "[undefine]",
    "[laugh]",
]

TTS_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]",
    "sep_token": "[SEP]", "mask_token": "[MASK]", "additional_special_tokens": TTS_SPECIALS[5:],
    "clean_up_tokenization_spaces": False,
}  # fmt: skip
"""``tokenizer_config.json`` of a talker that reads phones."""
SPEECH = "<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{% set said = message['role'] == 'assistant' %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}{% if said %}{{ '" + SPEECH + "' }}{% endif %}"
    "{{ message['content'] }}{% if said %}{{ '<|tts_eos|>' }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n" + SPEECH + "' }}{% endif %}"
)
"""Every answer that mini learnt from was spoken, so that a written one begins and ends as a spoken one does."""

PROMPT_TEXT = (
    "You are a helpful assistant. You can accept video, audio and text input and output voice and text. ",
    "You can accept audio and text input and output voice and text.",
    "Clone the voice in the provided audio prompt.", "As an assistant, you will speak using this voice style.",
    "Try to role-play the character based on the audio prompt above.", "Use the <reserved_53> voice.",
    "user\n", "assistant\n", "system\n",
)  # fmt: skip
SEEING_TEXT = (
    "I see a and nothing. The is a shape in the middle on the left on the right at the top at the bottom of the "
    "picture. It is light. It is dark. It is the number. It is the letter. There are no shapes. There is one shape. "
    "I saw before. Yes, it changed. Now I see. No, it did not change. It is still. what colour was on camera before "
    "did it change is there what has changed color colours colors shapes circles squares triangles stars hearts "
    "crosses rectangles nothing anything big small face hand person photo picture paper camera show showing hold "
    "holding"
)


FIRST_WORDS_VOCAB = 2560
"""Ids of the trained byte pairs and the special tokens; those of :func:`add_words` follow."""


def build_llm_tokenizer(folder: Path, vocab_size: int = FIRST_WORDS_VOCAB) -> Tokenizer:
    """Writes ``tokenizer.json`` and ``tokenizer_config.json``. Id 0 is a token that no text uses, since the decoding of
    answers drops it. Raises ValueError when a word of the grammar does not fit ``vocab_size`` as one token."""
    words = lexicon_words()
    lines = [f" {w}" for w in words] + words + [w.capitalize() for w in words]
    lines += [*PROMPT_TEXT * 3, *SEEING_TEXT.split(), *(" " + w for w in SEEING_TEXT.split())]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = read_figures()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(LLM_SPECIALS), min_frequency=1, special_tokens=["<reserved_0>"],
        show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    rng = random.Random(0)
    answers = [grammar.turn(rng, grammar.Memory(name="anna")).answer for _ in range(2000)]
    spaced = [f" {w}" for w in words for _ in range(3)]
    tokenizer.train_from_iterator(lines + answers + spaced, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in LLM_SPECIALS])
    split = [w for w in words if w.isalpha() and len(tokenizer.encode(" " + w).ids) > 1]
    if split:
        raise ValueError(f"vocab_size {vocab_size} is too small: {len(split)} words are split, such as {split[:9]}")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2TokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False,
        "add_prefix_space": False, "chat_template": CHAT_TEMPLATE, "additional_special_tokens": LLM_SPECIALS,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    return tokenizer


def single_tokens() -> list[str]:
    """Texts that shall be one token each: what is heard, names as they are written, and what is said about pictures. To
    say a word again is one decision then; in pieces, "Martin" begins as "Mary" does."""
    said = {*SEEING_TEXT.replace(".", "").replace(",", "").split(), *heard_words()}
    return [f" {word}" for word in sorted({w for w in said if w.isalpha()} | {n.capitalize() for n in NAMES})]


def add_words(tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Joins the pieces of every one of ``texts`` to one token; the ids that there are stay. Raises ValueError when the
    ids reach ``vocab_size``."""
    for text in texts:
        pieces = tokenizer.encode(text).tokens
        if len(pieces) == 1:
            continue
        document = json.loads(tokenizer.to_str())
        vocab, merges = document["model"]["vocab"], document["model"]["merges"]
        # A special token that the model does not know itself gets the next id whenever the file is read.
        vocab.update({token["content"]: token["id"] for token in document["added_tokens"]})
        count, joined = tokenizer.get_vocab_size(), pieces[0]
        for piece in pieces[1:]:
            merges.append([joined, piece])
            joined += piece
            if joined not in vocab:
                vocab[joined] = count
                count += 1
        if count > vocab_size:
            raise ValueError(f"vocab_size {vocab_size} is too small: there is no room for {text!r}")
        tokenizer = Tokenizer.from_str(json.dumps(document))
    return tokenizer


def read_figures() -> normalizers.Normalizer:
    """Figures and signs as the words that the model knows: people type ``3+4`` and say ``three plus four``."""
    signs = {r"\+": " plus ", "[-−–]": " minus ", "[x×*·]": " times "}
    rules = [normalizers.Replace(Regex(rf"(?<=[0-9])\s*{sign}\s*(?=[0-9])"), word) for sign, word in signs.items()]
    figures = (*range(21), *range(30, 101, 10))
    rules += [normalizers.Replace(Regex(rf"\b{n}\b"), number(n)) for n in figures]
    return normalizers.Sequence([normalizers.NFC(), *rules])


def build_tts_tokenizer(folder: Path, lexicon: dict[str, list[str]]) -> Tokenizer:
    """Writes the talker's tokenizer. ``lexicon`` gives the phones of every known word."""
    rules: list[normalizers.Normalizer] = [normalizers.NFKC(), normalizers.Lowercase()]
    # Among other single letters "a" is the name of a letter, elsewhere the article.
    rules.append(normalizers.Replace(Regex(r"(?<=\b[b-z] )a\b|\ba(?= [b-z]\b)"), spelled(["EY"])))
    for word, phones in sorted(lexicon.items(), key=lambda item: -len(item[0])):
        if not re.search(r"[^a-z']", word):
            rules.append(normalizers.Replace(Regex(rf"\b{word}\b"), spelled(phones)))
    rules += [normalizers.Replace(letters, spelled(phones)) for letters, phones in LETTER_SOUNDS]
    rules += [normalizers.Replace(Regex(r"[;:，、]"), ","), normalizers.Replace(Regex(r"[。！!]"), ".")]
    known = "".join(PHONES.values())
    rules.append(normalizers.Replace(Regex(rf"[^{known},.?]"), ""))
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(rules)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    symbols = [*TTS_SPECIALS, *PHONES.values(), ",", ".", "?"]
    tokenizer.model = models.WordLevel({s: i for i, s in enumerate(symbols)}, unk_token="[UNK]")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in TTS_SPECIALS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TTS_TOKENIZER, indent=1))
    return tokenizer
