"""The OpenAI-compatible gateway: admission queue, streaming relay, stage clock, metrics."""
