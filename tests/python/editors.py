"""Asks a `codeseal proxy` through the client libraries of editors, and prints what each got as a line of JSON.

The first argument is the proxy's address, such as http://127.0.0.1:8012. Packages: editors.txt beside this file.
"""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import ollama
import openai
from langchain_openai import OpenAI as LangChain
from mistralai.client import Mistral

base = sys.argv[1]
prefix, suffix, tokens = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n", 12
sdk = openai.OpenAI(base_url=base + "/v1", api_key="none", timeout=60)
mistral = Mistral(api_key="none", server_url=base)
local = ollama.Client(host=base)
litellm.suppress_debug_info = True


def streamed(chunks):
    """The text of a stream of OpenAI's completions, and why it ended."""
    text, finish = "", None
    for chunk in chunks:
        for choice in chunk.choices:
            text += choice.text or ""
            finish = choice.finish_reason or finish
    assert finish, "the stream has no end"
    return text


def refused():
    """The status of an error, and the code in its body."""
    try:
        sdk.completions.create(model="any", prompt=prefix, temperature=9)
    except openai.APIStatusError as error:
        return [error.status_code, error.code]
    return None


asked = {"model": "any", "prompt": prefix, "suffix": suffix, "max_tokens": tokens, "temperature": 0}
calls = {
    "openai": lambda: sdk.completions.create(**asked).choices[0].text,
    "openai stream": lambda: streamed(sdk.completions.create(**asked, stream=True)),
    "openai models": lambda: [model.id for model in sdk.models.list()],
    "openai error": refused,
    "ollama": lambda: local.generate(
        model="any", prompt=prefix, suffix=suffix, options={"num_predict": tokens, "temperature": 0}
    ).response,
    "ollama stream": lambda: "".join(
        part.response
        for part in local.generate(
            model="any", prompt=prefix, suffix=suffix, stream=True, options={"num_predict": tokens, "temperature": 0}
        )
    ),
    "mistral": lambda: mistral.fim.complete(**asked).choices[0].message.content,
    "mistral stream": lambda: "".join(
        event.data.choices[0].delta.content or "" for event in mistral.fim.stream(**asked)
    ),
    "litellm": lambda: litellm.text_completion(
        **{**asked, "model": "text-completion-openai/any"}, api_base=base + "/v1", api_key="none"
    )
    .choices[0]
    .text,
    "langchain": lambda: LangChain(
        base_url=base + "/v1", api_key="none", model="any", max_tokens=tokens, temperature=0
    ).invoke(f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"),
}
for name, call in calls.items():
    print(json.dumps({"client": name, "got": call()}), flush=True)
