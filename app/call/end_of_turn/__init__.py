"""Whether a person who has fallen silent is done, as somebody who listens would say."""

from app.call.end_of_turn.judge import EndOfTurn, SoundJudge

__all__ = ["EndOfTurn", "SoundJudge"]
