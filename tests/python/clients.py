"""Drives the Python clients of editors through the scenes. Packages: editors.txt beside this file."""

import asyncio
import json
import os
import shutil
import sys
import tempfile

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
import ollama
import openai
from langchain_openai import OpenAI as LangChain
from mistralai.client import Mistral

from driver import SNIPPETS, every_scene

litellm.suppress_debug_info = True


def marked(prefix, suffix):
    return prefix if suffix is None else f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"


def asked(prefix, suffix, tokens):
    return {"model": "any", "prompt": prefix, "suffix": suffix, "max_tokens": tokens, "temperature": 0}


class OpenAi:
    """With all its defaults."""

    async def whole(_, url, key, *hole):
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=key) as sdk:
            yield (await sdk.completions.create(**asked(*hole))).choices[0].text

    async def stream(_, url, key, *hole):
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=key) as sdk:
            async for chunk in await sdk.completions.create(**asked(*hole), stream=True):
                if chunk.choices[0].text:
                    yield chunk.choices[0].text


class Ollama:
    def asked(prefix, suffix, tokens):
        options = {"num_predict": tokens, "temperature": 0}
        return {"model": "any", "prompt": prefix, "suffix": suffix, "options": options}

    async def whole(_, url, key, *hole):
        client = ollama.AsyncClient(host=url, headers={"authorization": f"Bearer {key}"})
        yield (await client.generate(**Ollama.asked(*hole))).response

    async def stream(_, url, key, *hole):
        client = ollama.AsyncClient(host=url, headers={"authorization": f"Bearer {key}"})
        async for part in await client.generate(**Ollama.asked(*hole), stream=True):
            if part.response:
                yield part.response


class MistralAi:
    async def whole(_, url, key, *hole):
        async with Mistral(api_key=key, server_url=url) as client:
            yield (await client.fim.complete_async(**asked(*hole))).choices[0].message.content

    async def stream(_, url, key, *hole):
        async with Mistral(api_key=key, server_url=url) as client:
            async for event in await client.fim.stream_async(**asked(*hole)):
                if event.data.choices[0].delta.content:
                    yield event.data.choices[0].delta.content


class LiteLlm:
    def asked(url, key, *hole):
        at = {"model": "text-completion-openai/any", "api_base": url + "/v1", "api_key": key}
        return {**asked(*hole), **at}

    async def whole(_, *request):
        yield (await litellm.atext_completion(**LiteLlm.asked(*request))).choices[0].text

    async def stream(_, *request):
        async for chunk in await litellm.atext_completion(**LiteLlm.asked(*request), stream=True):
            if chunk.choices[0].text:
                yield chunk.choices[0].text


class LangChainOpenAi:
    def model(url, key, tokens):
        return LangChain(base_url=url + "/v1", api_key=key, model="any", max_tokens=tokens, temperature=0)

    async def whole(_, url, key, prefix, suffix, tokens):
        yield await LangChainOpenAi.model(url, key, tokens).ainvoke(marked(prefix, suffix))

    async def stream(_, url, key, prefix, suffix, tokens):
        async for text in LangChainOpenAi.model(url, key, tokens).astream(marked(prefix, suffix)):
            if text:
                yield text


class Llm:
    """The command, with the configuration that `codeseal proxy --editor llm` prints."""

    async def run(scene, key, prefix, suffix, tokens, *flags):
        with tempfile.TemporaryDirectory() as directory:
            shutil.copy(f"{SNIPPETS}/{scene}/llm", f"{directory}/extra-openai-models.yaml")
            # What `llm keys set codeseal` writes.
            with open(f"{directory}/keys.json", "w") as keys:
                json.dump({"codeseal": key}, keys)
            environment = {**os.environ, "LLM_USER_PATH": directory}
            options = ["-o", "max_tokens", str(tokens), "-o", "temperature", "0", "--no-log", *flags]
            command = [sys.executable, "-m", "llm", "-m", "codeseal", *options, marked(prefix, suffix)]
            pipe = asyncio.subprocess.PIPE
            # No standard input: llm adds what it reads there to the prompt.
            process = await asyncio.create_subprocess_exec(
                *command, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
            )
            try:
                text = b""
                while piece := await process.stdout.read(4096):
                    text += piece
                    # The command ends its output with a line end of its own.
                    if complete := text[:-1]:
                        text = text[-1:]
                        yield complete.decode()
                said = (await process.stderr.read()).decode()
                if await process.wait() != 0:
                    raise RuntimeError(said)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def whole(scene, _, key, *hole):
        async for text in Llm.run(scene, key, *hole, "--no-stream"):
            yield text

    async def stream(scene, _, key, *hole):
        async for text in Llm.run(scene, key, *hole):
            yield text


async def main():
    clients = {
        "openai-py": OpenAi, "ollama-py": Ollama, "mistral": MistralAi, "litellm": LiteLlm,
        "langchain": LangChainOpenAi, "llm": Llm,
    }
    for name, client in clients.items():
        if not sys.argv[1:] or name in sys.argv[1:]:
            await every_scene(name, whole=client.whole, stream=client.stream)


asyncio.run(main())
