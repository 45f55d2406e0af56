"""Answers of a model behind a server that speaks OpenAI's protocol (`decoding.engine=openai` and `vllm`)."""
