"""vLLM: its environment, models, launch and cold start."""
