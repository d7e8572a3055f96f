"""A loaded model with the storages of its sessions and the executor of their work: what every driver goes by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.checkpoint.loader import LoadedModel, LoadedVisionLanguage
from engine.conversation.executor import Executor
from engine.conversation.naming import make_namer
from engine.conversation.session import SessionPool, SessionState
from engine.conversation.transcriber import Transcriber
from engine.model.transfer import upload
from engine.processing.image import ImageProcessor
from engine.processing.tokens import RowBuilder, TokenRow


class ServedModel:
    """Any model of the family, at work. :class:`~engine.conversation.streaming.StreamingModel` is one that can be
    called.

    What a driver asks of a MiniCPM-V model is to ``See``, ``Feed`` and ``Decode``.
    """

    def __init__(
        self,
        loaded: LoadedVisionLanguage,
        *,
        sessions: int = 1,
        context: int | None = None,
        rows: int | None = None,
        builder: RowBuilder | None = None,
        transcriber: Transcriber | None = None,
    ) -> None:
        """``sessions`` and ``context`` bound the storages, see :class:`~engine.conversation.session.SessionPool`;
        ``rows`` keeps their results apart to the last bit, see :class:`~engine.conversation.executor.Executor`;
        ``builder`` makes token rows, one of the model's own if None; ``transcriber`` reads what people say, for
        captions."""
        self.loaded, self.config, self.model = loaded, loaded.config, loaded.model
        self.tokenizer = loaded.tokenizer
        self.builder = builder or RowBuilder(loaded.tokenizer, loaded.config)
        self.images = ImageProcessor(loaded.config.image)
        self.pool = SessionPool(loaded.model, sessions=sessions, context=context)
        vocos = loaded.vocos if isinstance(loaded, LoadedModel) else None
        self.executor = Executor(
            loaded.model,
            vocos,
            self.pool,
            self.builder.stop,
            rows=rows,
            namer=make_namer(loaded),
            transcriber=transcriber,
        )

    def open(self, seed: int = 0) -> SessionState:
        """A new session."""
        return self.pool.open(seed)

    @torch.inference_mode()
    def merge(self, row: TokenRow, pictures: Sequence[Tensor], sounds: Sequence[Tensor]) -> Tensor:
        """Embeddings [T, hidden] of a row; pictures [S, queries, hidden] and sounds [N, hidden] fill its blanks."""
        device = self.model.device
        embeds = self.model.llm.embed(upload(torch.from_numpy(row.ids.copy()), device))
        if pictures:
            places = torch.cat([torch.arange(first, last) for first, last in row.image_bounds.tolist()])
            embeds[upload(places, device)] = torch.cat(list(pictures)).flatten(0, 1).to(embeds.dtype)
        if sounds:
            places = torch.cat([torch.arange(first, last) for first, last in row.audio_bounds.tolist()])
            vectors = torch.cat(list(sounds))[: len(places)]
            embeds[upload(places[: len(vectors)], device)] = vectors.to(embeds.dtype)
        return embeds

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embeddings [T, hidden] of token ids."""
        return self.model.llm.embed(upload(torch.tensor(list(ids)), self.model.device))

    def blank_seen(self) -> Tensor:
        """A mask bool [V] of ids that the repetition penalty counts: none yet."""
        return torch.zeros(self.config.llm.vocab_size, dtype=torch.bool, device=self.model.device)
