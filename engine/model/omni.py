"""The whole MiniCPM-o 2.6: eyes, ears, language and voice in one module tree with the official keys."""

from __future__ import annotations

from engine.config import OmniConfig
from engine.model.audio import AudioEncoder, AudioProjector
from engine.model.tts import ConditionalChatTTS
from engine.model.vision import SiglipVisionTower
from engine.model.vision_language import VisionLanguageModel
from engine.model.word_decoder import WordDecoder


class OmniModel(VisionLanguageModel):
    """MiniCPM-o 2.6 without its vocoder, which is a module and a file of its own (:mod:`engine.model.vocos`).

    ``reader`` is None in the official model: a part of those that understand by reading words.
    """

    config: OmniConfig
    vpm: SiglipVisionTower

    def __init__(self, config: OmniConfig) -> None:
        super().__init__(config)
        self.apm = AudioEncoder(config.audio)
        self.audio_projection_layer = AudioProjector(config.audio.ffn_dim // 4, config.llm.hidden_size)
        self.tts = ConditionalChatTTS(config.tts, config.dvae)
        self.reader = None if config.reader is None else WordDecoder(config.reader)

    def join(self) -> None:
        """See :meth:`engine.model.decoder.Decoder.join`."""
        super().join()
        self.apm.join()
        self.tts.model.join()
