"""Fine-tuning in the published data format: LoRA adapters in peft's layout, or all weights."""
