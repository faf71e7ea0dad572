"""What all Python drivers share: the scenes, the reports, and the way through both. See tests/node/driver.mjs."""

import asyncio
import json
import os
import urllib.request

SCENES = json.loads(os.environ["CODESEAL_SCENES"])
SNIPPETS = os.environ["CODESEAL_SNIPPETS"]
CONDUCTOR = os.environ["CODESEAL_CONDUCTOR"]
# A prompt whose completion has no end: what a client cancels is still being made.
ENDLESS = os.environ["CODESEAL_ENDLESS"]
SUFFIX = "\n\nprint(add(1, 2))\n"
TOKENS = 12
MANY_TOKENS = 4000


def report(**fields):
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(CONDUCTOR + "/report", json.dumps(fields).encode(), headers)
    urllib.request.urlopen(request).close()


async def until(load):
    """Returns when the server works on a request ("running"), or on none ("idle")."""
    await asyncio.to_thread(lambda: urllib.request.urlopen(f"{CONDUCTOR}/wait/{load}").close())


def prefix(client, form):
    """Each client and form has a prompt of its own, so that no answer is one that the proxy has predicted before."""
    return f"# {client}, {form}\ndef add(a, b):\n    return "


def described(error):
    status = getattr(error, "status_code", None)
    code = getattr(error, "code", None)
    return {
        "name": type(error).__name__,
        "status": status if isinstance(status, int) and status > 0 else None,
        "code": code if isinstance(code, str) else None,
        "message": str(error),
    }


async def every_scene(client, **forms):
    """Takes a client through all scenes.

    `forms` are functions named "whole" and "stream" of (scene, url, key, prefix, suffix, tokens) that return an async
    iterator of text.
    """
    for scene, at in SCENES.items():
        for form, ask in forms.items():
            # Only streams are cut.
            if scene == "cut" and form != "stream":
                continue
            shown, error = "", None
            try:
                async for text in ask(scene, at["url"], at["key"], prefix(client, form), SUFFIX, TOKENS):
                    shown += text
            except Exception as raised:
                error = described(raised)
            await asyncio.to_thread(report, client=client, scene=scene, form=form, shown=shown, error=error)
    for form, ask in forms.items():
        await cancelled(client, form, ask)


async def cancelled(client, form, ask):
    """Cancels the task that waits for the client: its connection has to be closed by that."""
    at, begun = SCENES["good"], asyncio.Event()

    async def asking():
        async for _ in ask("good", at["url"], at["key"], ENDLESS, None, MANY_TOKENS):
            begun.set()

    task = asyncio.create_task(asking())
    if form == "stream":
        await begun.wait()
    await until("running")
    task.cancel()
    error = None
    try:
        await task
    except (Exception, asyncio.CancelledError) as raised:
        error = described(raised)
    await until("idle")
    await asyncio.to_thread(report, client=client, scene="cancelled", form=form, error=error)
