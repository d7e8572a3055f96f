"""Names what is drawn in a picture: another model of the family is asked, and believed where it is certain."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.checkpoint.loader import LoadedModel, LoadedVisionLanguage
from engine.config_naming import NamingConfig
from engine.conversation.message import Prepared
from engine.conversation.session import SessionState
from engine.conversation.sight import Found, Sight, ThingFinder, in_words, is_same
from engine.conversation.work import Name, Step
from engine.errors import NotFiniteError
from engine.model.transfer import upload
from engine.processing.image import ImageProcessor, ImageSlices, pad_slices
from engine.processing.tokens import ImageSlot, RowBuilder

MOST_TOKENS = 16
"""Of a caption."""


def tell_pictures(
    state: SessionState, prepared: Prepared, builder: RowBuilder, config: NamingConfig | None
) -> Step[Prepared]:
    """The message with what the language model is to be told of each of its pictures."""
    if config is None:
        return prepared
    turn = state.book.turn + any(kind == "open" for kind, _ in prepared.kinds)
    rows: list[list[int]] = []
    for _, found in prepared.found:
        state.sight, told = yield from look(state.sight, found, turn, config)
        rows.append([builder.marks.image_start, *builder.typed(told), builder.marks.image_end] if told else [])
    return prepared.with_told(rows)


def look(before: Sight, found: Found, turn: int, config: NamingConfig) -> Step[tuple[Sight, str]]:
    """What is seen in ``turn`` in a picture in which things were found, and what the language model is to be told:
    nothing where it was told so in this turn already.

    Things are named when they come, and again when they have changed. That there is nothing to name is told once, when
    they are gone: it would only disturb a talk about something else.
    """
    words = before.words
    if not is_same(found, before.found):
        names = []
        for thing in found:
            names.append((yield Name(thing.slices)))
        words = in_words(found, names)
    told = config.told.format(words) if words else config.unclear if before.told else ""
    known = told == before.told and (not words or turn == before.turn)
    return Sight(found, words, told, turn), "" if known else told


def make_namer(loaded: LoadedVisionLanguage) -> PictureNamer | None:
    """What names pictures for a model without eyes; None for any other."""
    if not isinstance(loaded, LoadedModel) or loaded.namer is None or loaded.config.naming is None:
        return None
    return PictureNamer(loaded.namer, loaded.config.naming)


def make_finder(loaded: LoadedModel) -> ThingFinder | None:
    """What prepares pictures for it."""
    return None if loaded.namer is None else ThingFinder(ImageProcessor(loaded.namer.config.image))


class PictureNamer:
    """Asks the other model. Keeps nothing of any call."""

    def __init__(self, loaded: LoadedVisionLanguage, config: NamingConfig) -> None:
        """Raises TokenizerError for a tokenizer that lacks a token."""
        self._model, self._config, self._tokenizer = loaded.model, config, loaded.tokenizer
        builder = RowBuilder(loaded.tokenizer, loaded.config)
        self._stops = frozenset(builder.stop)
        self._row = builder([config.before, ImageSlot(), config.after])
        self._arena = self._model.llm.model.arena(slots=1, capacity=len(self._row) + MOST_TOKENS)

    @torch.inference_mode()
    def __call__(self, slices: ImageSlices) -> str:
        """The name of a thing in a picture; empty where the model is not certain of it. Raises NotFiniteError."""
        model = self._model
        patches, sizes = pad_slices([slices])
        seen = model.see(upload(patches.to(model.dtype), model.device), sizes)
        embeds = model.llm.embed(upload(torch.from_numpy(self._row.ids.copy()), model.device))
        [(first, last)] = self._row.image_bounds.tolist()
        embeds[first:last] = seen[0].to(embeds.dtype)
        ids, least = list[int](), 0.0
        while len(ids) < MOST_TOKENS:
            token, chance = self._draw(embeds, len(self._row) + len(ids) - 1 if ids else 0)
            least = min(least, chance)
            if token in self._stops:
                return self._name(self._tokenizer.decode(ids)) if least >= self._config.least_log_probability else ""
            ids.append(token)
            embeds = model.llm.embed(torch.tensor([token], device=model.device))
        return ""

    def _draw(self, embeds: Tensor, start: int) -> tuple[int, float]:
        """The likeliest token after ``embeds`` [T, hidden] at ``start``, and its log-probability."""
        cache = self._arena.place([0], [start], [len(embeds)])
        scores = self._model.llm.logits(self._model.llm(embeds[None], cache=cache)[0, -1]).float()
        if not scores.isfinite().all():
            raise NotFiniteError
        best, token = scores.log_softmax(-1).max(-1)
        return int(token), float(best)

    def _name(self, caption: str) -> str:
        config, caption = self._config, caption.strip()
        name = caption.removeprefix(config.begins).removesuffix(config.ends)
        return name if caption == config.begins + name + config.ends and name != config.nothing else ""
