"""Answers of a model behind a server that speaks OpenAI's protocol (`decoding.engine=openai` and `vllm`).

`openai_engine` asks any such server about sentences, `vllm_engine` starts one for a model of ours. Both, and teachers,
use `client`, which sends the requests, and `responses`, which reads what comes back.
"""
